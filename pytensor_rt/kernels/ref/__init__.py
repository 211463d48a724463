"""The NumPy implementation of every kernel in `spec.py`: folds constants while planning and is the oracle of the tests.

Obvious and exact rather than fast. Floats of any width accumulate in float64 and are rounded once to the output's dtype, so results are more
exact than any backend's; integers wrap in their own width. Importing this needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dtypes import DType

if TYPE_CHECKING:
    from .common import Array, Kernel, Out, Params, Program

# kernel -> the module that has a function of its name (map: map_kernel)
KERNELS: dict[str, str] = {
    "map": "opcodes", "reduce": "rows", "arg_reduce": "rows", "scan": "rows", "softmax": "rows", "normalize": "rows", "gemm": "linear",
    "conv": "convolution", "conv_transpose": "convolution", "gather": "indexing", "scatter": "indexing", "attention": "linear",
    "nonzero": "indexing", "compress": "indexing", "linear_algebra": "linear", "col2im": "convolution", "max_unpool": "indexing",
    "deform_conv": "sampling", "pool": "pooling", "recurrent": "recurrent", "resample": "sampling", "grid_sample": "sampling",
    "roi_align": "sampling", "topk": "selection", "unique": "selection", "nms": "selection", "fft": "signal", "random": "signal",
    "tree_ensemble": "signal", "quantize_stats": "signal", "linear_attention": "linear",
}  # fmt: skip


def kernel(name: str) -> Kernel:
    """The implementation of a kernel, imported on first use."""
    found: Kernel = getattr(import_module(f".{KERNELS[name]}", __package__), "map_kernel" if name == "map" else name)
    return found


def evaluate(program: Program, ins: Sequence[Array], acc: Array | None, shape: tuple[int, ...], dtype: DType) -> Array:
    """See opcodes.evaluate, which is imported on first use."""
    from . import opcodes

    return opcodes.evaluate(program, ins, acc, shape, dtype)


def execute(
    name: str,
    ins: Sequence[Array | None],
    outs: Sequence[Out | None],
    params: Params | None = None,
    body: Program = (),
    prologue: Program = (),
    pro_ins: Sequence[Array] = (),
    epilogue: Program = (),
    epi_ins: Sequence[Array] = (),
    acc_dtype: DType | None = None,
) -> list[Array | None]:
    """One launch with its prologue and epilogue. Outputs are given as (shape, dtype), or None where absent.

    With a prologue, ins[0] is only looked at for its shape and dtype. acc_dtype: the kernel's own result dtype when an epilogue changes it.
    """
    inputs: list[Any] = list(ins)
    results: list[Out | None] = [None if o is None else (tuple(o[0]), np.dtype(o[1])) for o in outs]
    first = results[0]
    if prologue:
        x = inputs[0]
        shape = np.broadcast_shapes(*[a.shape for a in pro_ins]) if x is None else x.shape
        inputs[0] = evaluate(prologue, pro_ins, None, shape, prologue[-1][2])
    if epilogue and first is not None and acc_dtype is not None:
        results[0] = (first[0], np.dtype(acc_dtype))
    y = kernel(name)(inputs, results, params or {}, body)
    if epilogue and first is not None:
        y[0] = evaluate(epilogue, epi_ins, y[0], *first)
    return y


__all__ = ["KERNELS", "evaluate", "execute", "kernel"]
