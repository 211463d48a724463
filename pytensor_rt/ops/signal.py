"""Fourier transforms and spectrograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import from_code
from ..errors import ExecutionError
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op
from .util import norm_axis


def _resized(t: Tracer, x: Tensor, axis: int, n: int) -> Tensor:
    """x cropped or zero-padded to size n along axis."""
    have = x.shape[axis]
    if have == n:
        return x
    if have > n:
        return x.slice(axis, 0, n)
    return t.concat([x, t.full((*x.shape[:axis], n - have, *x.shape[axis + 1 :]), 0, x.dtype)], axis)


def transform(t: Tracer, x: Tensor, axis: int, n: int, inverse: bool, onesided: bool) -> Tensor:
    """DFT of length n along a non-negative axis of x [..., 1 or 2]."""
    if n < 1:
        t.fail(f"a transform of length {int(n)}")
    params = {"axis": axis, "inverse": int(inverse), "onesided": int(onesided)}
    if onesided and inverse:  # from half a spectrum to a real signal
        return t.record("fft", [x], [((*x.shape[:axis], n, *x.shape[axis + 1 : -1], 1), x.dtype)], params)[0]
    if onesided:  # the kernel tells the length of a onesided transform by the size of x
        x = _resized(t, x, axis, n)
    size = n // 2 + 1 if onesided else n
    return t.record("fft", [x], [((*x.shape[:axis], size, *x.shape[axis + 1 : -1], 2), x.dtype)], params)[0]


def _dft(t: Tracer, x: Tensor, length: Tensor | None, axis: int, inverse: int, onesided: int) -> Tensor:
    if x.ndim < 2 or not 1 <= x.shape[-1] <= 2:
        t.fail(f"the last axis must have size 1 (real) or 2 (complex), got shape {list(map(int, x.shape))}")
    a = norm_axis(t, axis, x.ndim)
    if a == x.ndim - 1:
        t.fail("the last axis holds real and imaginary parts and cannot be transformed")
    if length is not None:
        n = t.item(length)
    else:
        n = 2 * (x.shape[a] - 1) if inverse and onesided else x.shape[a]
    return transform(t, x, a, n, bool(inverse), bool(onesided))


@op("DFT", since=17)
def dft_17(t: Tracer, x: Tensor, length: Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    return _dft(t, x, length, axis, inverse, onesided)


@op("DFT", since=20)
def dft(t: Tracer, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    return _dft(t, x, length, int(t.item(axis)) if axis is not None else -2, inverse, onesided)


@op("STFT", since=17)
def stft(
    t: Tracer, x: Tensor, step_in: Tensor, window: Tensor | None = None, length_in: Tensor | None = None, *, onesided: int = 1
) -> Tensor:
    """[batch, frames, bins, 2] of a signal [batch, length, 1 or 2]. The frames are overlapping views of the signal."""
    if x.ndim != 3:
        t.fail(f"expected a signal of shape [batch, length, 1 or 2], got rank {x.ndim}")
    batch, total, parts = x.shape
    step = t.item(step_in)
    n = t.item(length_in) if length_in is not None else window.shape[0] if window is not None else total
    if step < 1 or n < 1:
        t.fail(f"frame step {int(step)}, frame length {int(n)}")
    if window is not None and (window.ndim != 1 or window.shape[0] != n):
        t.fail(f"the window has shape {list(map(int, window.shape))}, expected the frame length {int(n)}")
    frames = (total - n) // step + 1
    if frames < 1 or batch == 0:
        bins = n // 2 + 1 if onesided else n
        return t.const(np.empty((int(batch), max(0, int(frames)), int(bins), 2), x.dtype))
    s = x.strides[1]
    strides = (x.strides[0], s * step if frames != 1 else 0, s if n != 1 else 0, x.strides[2])
    framed = x.view((batch, frames, n, parts), strides)
    if window is not None:
        framed = t.map(lambda v, w: v * w, framed, window.unsqueeze(1))
    return transform(t, framed, 2, n, False, bool(onesided))


@op("MelWeightMatrix", since=17)
def mel_weight_matrix(
    t: Tracer, bins_in: Tensor, length_in: Tensor, rate: Tensor, low: Tensor, high: Tensor, *, output_datatype: int = 1
) -> Tensor:
    bins, length = int(t.item(bins_in)), int(t.item(length_in))
    dtype = from_code(output_datatype)
    if bins < 0 or length < 0:
        t.fail(f"{bins} mel bins, transform length {length}")
    rows = length // 2 + 1

    def matrix(sample_rate: Any, lower: Any, upper: Any) -> tuple[Any, ...]:
        first, last = (2595.0 * np.log10(1.0 + np.float64(np.asarray(v).reshape(())) / 700.0) for v in (lower, upper))
        mels = first + np.arange(bins + 2) * ((last - first) / (bins + 2))
        hertz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
        edges = ((length + 1) * hertz // float(np.asarray(sample_rate).reshape(()))).astype(np.int64)
        if bins and not (edges.min() >= 0 and edges.max() <= rows):
            raise ExecutionError(f"[MelWeightMatrix]: the frequencies reach spectrogram bin {int(edges.max())} of {rows}")
        out = np.zeros((rows + 1, bins))
        for i in range(bins):
            left, center, right = edges[i : i + 3]
            if center == left:
                out[center, i] = 1.0
            else:
                out[left : center + 1, i] = np.arange(center - left + 1) / (center - left)
            if right > center:
                out[center:right, i] = np.arange(right - center, 0, -1) / (right - center)
        return (out[:rows].astype(dtype),)

    return t.host(matrix, [rate, low, high], [((rows, bins), dtype)])[0]
