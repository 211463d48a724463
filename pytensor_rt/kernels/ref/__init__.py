"""The NumPy implementation of every kernel in `spec.py`: folds constants while planning and is the oracle of the tests.

Obvious and exact rather than fast. Floats of any width accumulate in float64 and are rounded once to the output's dtype, so results are more
exact than any backend's; integers wrap in their own width. Importing this needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dtypes import DType
from . import convolution, indexing, linear, pooling, rows, sampling, selection, signal
from .common import Array, Kernel, Out, Params, Program, out_spec
from .opcodes import evaluate
from .recurrent import recurrent


def _map(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    shape, dtype = out_spec(outs)
    return [evaluate(body, [x for x in ins if x is not None], None, tuple(shape), dtype)]


KERNELS: dict[str, Kernel] = {
    "map": _map,
    "reduce": rows.reduce,
    "arg_reduce": rows.arg_reduce,
    "scan": rows.scan,
    "softmax": rows.softmax,
    "normalize": rows.normalize,
    "gemm": linear.gemm,
    "conv": convolution.conv,
    "conv_transpose": convolution.conv_transpose,
    "gather": indexing.gather,
    "scatter": indexing.scatter,
    "attention": linear.attention,
    "nonzero": indexing.nonzero,
    "compress": indexing.compress,
    "linear_algebra": linear.linear_algebra,
    "col2im": convolution.col2im,
    "max_unpool": indexing.max_unpool,
    "deform_conv": sampling.deform_conv,
    "pool": pooling.pool,
    "recurrent": recurrent,
    "resample": sampling.resample,
    "grid_sample": sampling.grid_sample,
    "roi_align": sampling.roi_align,
    "topk": selection.topk,
    "unique": selection.unique,
    "nms": selection.nms,
    "fft": signal.fft,
    "random": signal.random,
    "tree_ensemble": signal.tree_ensemble,
    "quantize_stats": signal.quantize_stats,
}


def execute(
    kernel: str,
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
    y = KERNELS[kernel](inputs, results, params or {}, body)
    if epilogue and first is not None:
        y[0] = evaluate(epilogue, epi_ins, y[0], *first)
    return y


__all__ = ["KERNELS", "Array", "Out", "Params", "Program", "evaluate", "execute"]
