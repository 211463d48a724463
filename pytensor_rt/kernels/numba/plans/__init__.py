"""How each kernel of the vocabulary is carried out on device "numba": one module per family, each with a function `kernel_name(b: Builder)`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..build import Builder, no_overlap

if TYPE_CHECKING:
    from ....lowering.tensor import Launch, Tensor

# kernel -> the module that plans it with a function of the kernel's name (`map`: map_)
FAMILIES: dict[str, str] = {
    "map": "elementwise", "reduce": "reductions", "arg_reduce": "reductions", "scan": "reductions", "quantize_stats": "reductions",
    "softmax": "rows", "normalize": "rows", "gemm": "linear", "conv": "convolution", "conv_transpose": "convolution",
    "deform_conv": "convolution", "col2im": "windows", "pool": "windows", "max_unpool": "windows", "resample": "sampling",
    "grid_sample": "sampling", "roi_align": "sampling", "gather": "indexing", "scatter": "indexing", "nonzero": "selection",
    "compress": "selection", "unique": "selection", "topk": "selection", "nms": "selection", "attention": "attention",
    "recurrent": "recurrent", "fft": "signal", "random": "signal", "linear_algebra": "signal", "tree_ensemble": "trees",
    "linear_attention": "linear_attention",
}  # fmt: skip


def plan_launch(launch: Launch, threads: int = 1, overlaps: Callable[[Tensor, Tensor], bool] = no_overlap) -> Builder:
    """The calls that carry out one launch, and the scratch they need. Raises UnsupportedError for what the device cannot do."""
    b = Builder(launch, threads, overlaps)
    if any(o is not None and o.size for o in launch.outs):
        name = launch.kernel
        getattr(import_module(f".{FAMILIES[name]}", __package__), "map_" if name == "map" else name)(b)
    return b
