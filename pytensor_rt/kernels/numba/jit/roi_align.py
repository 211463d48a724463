"""ONNX RoiAlign: the bilinear taps of a bin are listed, then applied to all channels. A unit is one row of bins of one region.

The words of `check` and `align` begin: 0 rois (float64)  1 batch indices (int64)  2 regions  3, 4 strides of the rois  5 stride of the batch indices
6 images  7, 8 bins along H and W  9 sampling ratio, or 0  10 spatial scale (a float)  11 half pixels?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float64, int64

from .elements import element
from .intrinsics import at, bits_f64, inline
from .status import fail
from .sums import combined_rows

BATCH_INDEX, REGION = 3, 4  # as ../../messages.py numbers them
MOST_SAMPLES = float(1 << 20)  # per bin and axis: more can only come from nonsense
LIST = 1024  # taps that are applied at once


@inline
def _span(w, region, axis, bins):  # type: ignore[no-untyped-def]
    """Of a region along an axis (0: W, 1: H): its start, the size of a bin, the number of samples of a bin (a float)."""
    rois = at(w[0], float64)
    scale = bits_f64(w[10])
    offset = 0.5 if w[11] != 0 else 0.0
    start = rois[region * w[3] + axis * w[4]] * scale - offset
    length = rois[region * w[3] + (axis + 2) * w[4]] * scale - offset - start
    if w[11] == 0:
        length = max(length, 1.0)
    size = length / float64(bins)
    return start, size, float64(w[9]) if w[9] > 0 else np.ceil(size)


def check() -> Callable[..., int]:
    """Are all batch indices in range and all regions of a sane size? One unit. Further words: 12 status."""

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        batches = at(w[1], int64)
        for region in range(w[2]):
            batch = batches[region * w[5]]
            if batch < 0 or batch >= w[6]:
                return fail(w[12], BATCH_INDEX, 0, batch, region)
            _, _, v = _span(w, region, 1, w[7])
            _, _, h = _span(w, region, 0, w[8])
            if not (v <= MOST_SAMPLES and h <= MOST_SAMPLES):
                return fail(w[12], REGION, 0, 0, region)
        return 0

    return kernel


@inline
def _taps(start, step, samples, k, size):  # type: ignore[no-untyped-def]
    """Sample k of a bin along one axis: (is it inside, the lower neighbour, the upper neighbour, its weight)."""
    p = start + (float64(k) + 0.5) * step / float64(samples)
    if not (p >= -1.0 and p <= float64(size)):
        return False, int64(0), int64(0), 0.0
    p = max(p, 0.0)
    low = int64(p)
    if low >= size - 1:
        return True, size - 1, size - 1, 0.0
    return True, low, low + 1, p - float64(low)


def align(name: str, C: Any, greatest: int, contiguous: int) -> Callable[..., int]:
    """Averages, or with `greatest` the maxima, of the samples of bins, in C. `contiguous`: channels are, in x.

    Further words, strides in elements: 12 x  13 y (of type C)  14, 15 scratch of the slots  16, 17 H and W  18 channels  19...22 strides of x
    23...26 strides of y. The scratch holds offsets and weights of LIST taps, then two rows of channels.
    """
    X, value = element(name, C)
    size, xsize = C.bitwidth // 8, X.bitwidth // 8
    combined = combined_rows(name, C)

    @inline
    def apply(w, base, count, fresh):  # type: ignore[no-untyped-def]
        """Adds what the listed taps give to the sums, or with `fresh` starts them."""
        channels = w[18]
        sums, other = base + 16 * LIST, base + 16 * LIST + channels * size
        place, factor, total = at(base, int64), at(base + 8 * LIST, C), at(sums, C)
        if greatest:
            for t in range(count):
                f, x = factor[t], at(place[t], X)
                if contiguous:
                    for c in range(channels):
                        v = f * value(x[c])
                        total[c] = v if (fresh and t == 0) or v > total[c] else total[c]
                else:
                    for c in range(channels):
                        v = f * value(x[c * w[20]])
                        total[c] = v if (fresh and t == 0) or v > total[c] else total[c]
        elif contiguous:
            if fresh:
                combined(sums, channels, count, base, base + 8 * LIST, 0)
            else:
                more = at(other, C)
                combined(other, channels, count, base, base + 8 * LIST, 0)
                for c in range(channels):
                    total[c] += more[c]
        else:
            for c in range(channels):
                a = C(0)
                for t in range(count):
                    a += factor[t] * value(at(place[t] + c * w[20] * xsize, X)[0])
                total[c] = a if fresh else total[c] + a

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        base = w[14] + slot * w[15]
        place, factor = at(base, int64), at(base + 8 * LIST, C)
        channels = w[18]
        total = at(base + 16 * LIST, C)
        for unit in range(begin, end):
            region = unit // w[7]
            row = unit - region * w[7]
            image = w[12] + at(w[1], int64)[region * w[5]] * w[19] * xsize
            vs, vstep, vn = _span(w, region, 1, w[7])
            hs, hstep, hn = _span(w, region, 0, w[8])
            tall, wide = max(0, int64(vn)), max(0, int64(hn))
            vs += float64(row) * vstep
            for column in range(w[8]):
                left = hs + float64(column) * hstep
                count, fresh, outside = int64(0), True, False
                for i in range(tall):
                    in_v, y0, y1, fv = _taps(vs, vstep, tall, i, w[16])
                    for j in range(wide):
                        in_h, x0, x1, fh = _taps(left, hstep, wide, j, w[17])
                        if not (in_v and in_h):
                            outside = True
                            continue
                        if count + 4 > LIST:
                            apply(w, base, count, fresh)
                            count, fresh = int64(0), False
                        place[count] = image + (y0 * w[21] + x0 * w[22]) * xsize
                        place[count + 1] = image + (y0 * w[21] + x1 * w[22]) * xsize
                        place[count + 2] = image + (y1 * w[21] + x0 * w[22]) * xsize
                        place[count + 3] = image + (y1 * w[21] + x1 * w[22]) * xsize
                        factor[count] = C((1.0 - fv) * (1.0 - fh))
                        factor[count + 1] = C((1.0 - fv) * fh)
                        factor[count + 2] = C(fv * (1.0 - fh))
                        factor[count + 3] = C(fv * fh)
                        count += 4
                none = fresh and count == 0
                if none:
                    for c in range(channels):
                        total[c] = C(0)
                elif count > 0:
                    apply(w, base, count, fresh)
                y = at(w[13] + (region * w[23] + row * w[25] + column * w[26]) * size, C)
                if greatest:
                    for c in range(channels):
                        v = total[c]
                        y[c * w[24]] = C(0) if outside and not none and not v > C(0) else v  # a sample outside is 0
                else:
                    samples = C(max(tall * wide, 1))
                    for c in range(channels):
                        y[c * w[24]] = total[c] / samples
        return 0

    return kernel
