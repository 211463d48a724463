"""Kernel `nms` (ONNX NonMaxSuppression): every batch and class selects on its own into scratch; the selections are then joined in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float32 as F
from numba import int32 as I
from numba import int64 as L
from numba import uint32 as K

from .intrinsics import at, bits_f32, exact, f32_bits, inline
from .keys import key_of
from .sort import sorter
from .status import fail

COUNT = 5  # of ../../messages.py
BLOCK = 16
sort = sorter(K)
key = key_of("float32", K)


@inline
def lower(a: Any, b: Any) -> Any:
    return b if b < a else a


@inline
def upper(a: Any, b: Any) -> Any:
    return b if a < b else a


@exact
def overlapped(kept: Any, stride: Any, y0: Any, x0: Any, y1: Any, x1: Any, area: Any, limit: Any) -> Any:
    """Does the box overlap one of BLOCK kept ones by more than the limit? `kept` is the address of their y0; x0, y1, x1 and area follow, `stride` apart."""
    ky0, kx0, ky1 = at(kept, F), at(kept + 4 * stride, F), at(kept + 8 * stride, F)
    kx1, ka = at(kept + 12 * stride, F), at(kept + 16 * stride, F)
    found = I(0)
    for j in range(BLOCK):
        h = lower(y1, ky1[j]) - upper(y0, ky0[j])
        v = lower(x1, kx1[j]) - upper(x0, kx0[j])
        both = (h if h > F(0) else F(0)) * (v if v > F(0) else F(0))
        total = area + ka[j] - both
        found |= I((both > F(0)) & (area > F(0)) & (ka[j] > F(0)) & (total > F(0)) & (both / total > limit))
    return found != I(0)


def select() -> Callable[..., int]:
    """A unit is a batch and class.

    Words: 0 boxes, 1 scores, 2 to 4 steps of boxes, 5 to 7 of scores (in bytes), 8 classes, 9 boxes of a batch, 10 most of a class, 11 center_point_box, 12 bits
    of the float32 IOU threshold, 13 has_score_threshold, 14 bits of that, 15 numbers selected (int32, `most` per unit), 16 their counts (int64), 17 scratch,
    18 bytes of a slot.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        n_boxes, most, stride = w[9], w[10], w[10] + BLOCK
        keys = w[17] + slot * w[18]
        index, keys2, index2 = keys + 4 * n_boxes, keys + 8 * n_boxes, keys + 12 * n_boxes
        kept = keys + 16 * n_boxes
        limit, threshold, has_threshold = bits_f32(I(w[12])), bits_f32(I(w[14])), w[13] != 0
        box_step, s = w[3], w[4]
        for task in range(begin, end):
            batch = task // w[8]
            scores = w[1] + batch * w[5] + (task - batch * w[8]) * w[6]
            boxes = w[0] + batch * w[2]
            ka, ia = at(keys, K), at(index, K)
            n = L(0)
            for i in range(n_boxes):
                v = at(scores + i * w[7], F)[0]
                ka[n] = K(K(0xFFFFFFFF) ^ key(f32_bits(v)))
                ia[n] = K(i)
                n += L((v == v) & ((not has_threshold) | (v > threshold)))
            order = at(index2 if sort(keys, index, keys2, index2, n, 4) != 0 else index, K)
            picked = at(w[15] + 4 * task * most, I)
            y0s, x0s, y1s = at(kept, F), at(kept + 4 * stride, F), at(kept + 8 * stride, F)
            x1s, areas = at(kept + 12 * stride, F), at(kept + 16 * stride, F)
            m = L(0)
            for c in range(n):
                if m >= most:
                    break
                p = boxes + L(order[c]) * box_step
                a, b, d, e = at(p, F)[0], at(p + s, F)[0], at(p + 2 * s, F)[0], at(p + 3 * s, F)[0]
                if w[11] != 0:
                    hx, hy = d * F(0.5), e * F(0.5)
                    x0, x1, y0, y1 = a - hx, a + hx, b - hy, b + hy
                else:
                    y0, y1, x0, x1 = lower(a, d), upper(a, d), lower(b, e), upper(b, e)
                area = (y1 - y0) * (x1 - x0)
                suppressed = False
                first = L(0)
                while first < m and not suppressed:
                    suppressed = overlapped(kept + 4 * first, stride, y0, x0, y1, x1, area, limit)
                    first += BLOCK
                if suppressed:
                    continue
                if m % BLOCK == 0:  # boxes not there yet have no area
                    for i in range(m, m + BLOCK):
                        y0s[i], x0s[i], y1s[i], x1s[i], areas[i] = F(0), F(0), F(0), F(0), F(0)
                y0s[m], x0s[m], y1s[m], x1s[m], areas[m] = y0, x0, y1, x1, area
                picked[m] = I(order[c])
                m += 1
            at(w[16], L)[task] = m
        return 0

    return kernel


def join() -> Callable[..., int]:
    """Rows (batch, class, box) of all selections. Of one unit.

    Words: 0 status, 1 numbers selected, 2 their counts, 3 tasks, 4 most of a task, 5 classes, 6 selected, 7 and 8 its steps in bytes, 9 its rows, 10 n.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        counts = at(w[2], L)
        n = L(0)
        for task in range(w[3]):
            picked = at(w[1] + 4 * task * w[4], I)
            if n + counts[task] > w[9]:
                return fail(w[0], COUNT, 0, n + counts[task], 0)
            batch = task // w[5]
            for i in range(counts[task]):
                row = w[6] + n * w[7]
                at(row, L)[0] = batch
                at(row + w[8], L)[0] = task - batch * w[5]
                at(row + 2 * w[8], L)[0] = L(picked[i])
                n += 1
        at(w[10], L)[0] = n
        return 0

    return kernel
