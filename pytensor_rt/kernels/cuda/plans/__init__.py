"""How each kernel of the vocabulary is launched on a CUDA device: one module per family, each with a `plan(launch) -> list[Call]`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ....lowering.tensor import Launch
    from ..build import Call
    from ..manifest import Entry

# kernel -> the module that plans it with a function of the kernel's name (`map`: map_)
FAMILIES: dict[str, str] = {
    "map": "elementwise", "reduce": "rows", "arg_reduce": "rows", "scan": "scan", "softmax": "normalize", "normalize": "normalize",
    "quantize_stats": "rows", "gemm": "linear", "conv": "convolution", "conv_transpose": "convolution", "deform_conv": "convolution",
    "col2im": "convolution", "pool": "windows", "max_unpool": "windows", "resample": "sampling", "grid_sample": "sampling",
    "roi_align": "sampling", "gather": "indexing", "scatter": "indexing", "nonzero": "selection", "compress": "selection",
    "unique": "selection", "topk": "selection", "nms": "selection", "attention": "attention", "recurrent": "recurrent", "fft": "signal",
    "random": "signal", "linear_algebra": "signal", "tree_ensemble": "trees", "linear_attention": "linear_attention",
}  # fmt: skip


def plan_launch(launch: Launch) -> list[Call]:
    """The calls that carry out one launch, in order. Raises UnsupportedError for what the device cannot do."""
    name = launch.kernel
    if all(o is None or o.size == 0 for o in launch.outs):
        return []
    plan = getattr(import_module(f".{FAMILIES[name]}", __package__), "map_" if name == "map" else name)
    calls: list[Call] = plan(launch)
    return calls


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for every kernel of the backend: (kernel, what is special about the launch, launch)."""
    for family in sorted(set(FAMILIES.values())):
        yield from import_module(f".{family}", __package__).samples()


def entries() -> dict[str, Entry]:
    """The manifest: every kernel of the backend by name."""
    out: dict[str, Entry] = {}
    for family in sorted(set(FAMILIES.values())):
        for e in import_module(f".{family}", __package__).ENTRIES:
            assert e.name not in out, e.name
            out[e.name] = e
    return out
