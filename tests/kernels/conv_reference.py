"""What `conv` and `conv_transpose` mean, written as plainly as NumPy allows: float64 (or exact int64) sums, one tap at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def out_size(n: int, k: int, s: int, d: int, p0: int, p1: int) -> int:
    return (n + p0 + p1 - (k - 1) * d - 1) // s + 1


def conv(
    x: Array,
    w: Array,
    b: Array | None,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    group: int = 1,
    x_zero: int = 0,
    w_zero: Any = 0,
) -> Array:
    """ONNX Conv-11 (ConvInteger-10 with zero points) of x [N, C, d...] and w [M, C/group, k...]."""
    exact = x.dtype.kind in "iu"
    acc: Any = np.int64 if exact else np.float64
    n_sp = x.ndim - 2
    x = x.astype(acc) - x_zero
    w = w.astype(acc) - np.reshape(np.broadcast_to(w_zero, w.shape[:1]), (-1,) + (1,) * (w.ndim - 1))
    x = np.pad(x, [(0, 0), (0, 0), *((pads[k], pads[k + n_sp]) for k in range(n_sp))])
    out = [(x.shape[2 + k] - (w.shape[2 + k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(n_sp)]
    m, cg = w.shape[0], w.shape[1]
    y = np.zeros((x.shape[0], m, *out), acc)
    for g in range(group):
        xs = x[:, g * cg : (g + 1) * cg]
        ws = w[g * (m // group) : (g + 1) * (m // group)]
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            window = tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, dilations, out, strides))
            y[:, g * (m // group) : (g + 1) * (m // group)] += np.einsum(
                "nc...,mc->nm...", xs[(slice(None), slice(None), *window)], ws[(..., *tap)]
            )
    if b is not None:
        y += b.astype(acc).reshape((-1,) + (1,) * n_sp)
    return y


def conv_transpose(
    x: Array, w: Array, b: Array | None, out: list[int], strides: list[int], dilations: list[int], pads: list[int], group: int = 1
) -> Array:
    """ONNX ConvTranspose-11 of x [N, C, d...] and w [C, M/group, k...] into spatial shape `out`."""
    n_sp = x.ndim - 2
    cg, mg = x.shape[1] // group, w.shape[1]
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = np.zeros((x.shape[0], mg * group, *out))
    for g in range(group):
        for i in itertools.product(*(range(n) for n in x.shape[2:])):
            for tap in itertools.product(*(range(k) for k in w.shape[2:])):
                o = tuple(i[k] * strides[k] + tap[k] * dilations[k] - pads[k] for k in range(n_sp))
                if all(0 <= o[k] < out[k] for k in range(n_sp)):
                    at = (slice(None), slice(g * mg, (g + 1) * mg), *o)
                    y[at] += x[(slice(None), slice(g * cg, (g + 1) * cg), *i)] @ w[(slice(g * cg, (g + 1) * cg), slice(None), *tap)]
    if b is not None:
        y += b.astype(np.float64).reshape((-1,) + (1,) * n_sp)
    return y
