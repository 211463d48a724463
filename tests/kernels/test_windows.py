"""Kernels `col2im` and `deform_conv` against loops over single elements."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pytensor_rt._native import LaunchError

from tests.kernels.harness import run, strided

Array = np.ndarray[Any, Any]


def col2im(x: Array, image: tuple[int, ...], kernel: tuple[int, ...], p: dict[str, Any]) -> Array:
    spatial = len(image)
    wide = x.astype(np.float64 if x.dtype.kind in "fV" else x.dtype)
    channels = x.shape[1] // int(np.prod(kernel))
    y = np.zeros((x.shape[0], channels, *image), wide.dtype)
    windows = [
        (image[i] + p["pads"][i] + p["pads"][spatial + i] - p["dilations"][i] * (kernel[i] - 1) - 1) // p["strides"][i] + 1
        for i in range(spatial)
    ]
    for k, offsets in enumerate(itertools.product(*(range(n) for n in kernel))):
        for w, window in enumerate(itertools.product(*(range(n) for n in windows))):
            at = tuple(window[i] * p["strides"][i] + offsets[i] * p["dilations"][i] - p["pads"][i] for i in range(spatial))
            if all(0 <= at[i] < image[i] for i in range(spatial)):
                y[(slice(None), slice(None), *at)] += wide[:, k :: int(np.prod(kernel)), w]
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8])
@pytest.mark.parametrize(
    "image,kernel,strides,dilations,pads",
    [
        ((5, 5), (1, 5), (1, 1), (1, 1), (0, 0, 0, 0)), ((7, 9), (3, 2), (2, 1), (1, 2), (1, 0, 0, 2)), ((20,), (4,), (3,), (2,), (5, 4)),
        ((4, 5, 6), (2, 1, 3), (1, 2, 2), (2, 1, 1), (0, 1, 1, 1, 0, 2)), ((1, 1), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    ],
)  # fmt: skip
def test_col2im(image: Any, kernel: Any, strides: Any, dilations: Any, pads: Any, dtype: Any) -> None:
    rng = np.random.default_rng(len(image))
    p = {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    n = len(image)
    windows = int(np.prod([(image[i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)]))
    x = strided(rng, rng.integers(-4, 5, (2, 3 * int(np.prod(kernel)), windows)).astype(dtype))
    y = strided(rng, np.zeros((2, 3, *image), dtype))
    got = run("col2im", [x], [y], p)[0]
    np.testing.assert_array_equal(got.astype(np.float64), col2im(x, image, kernel, p).astype(dtype).astype(np.float64))
    two = run("col2im", [x], [(y.shape, dtype)], p, threads=2)[0]
    np.testing.assert_array_equal(two, got)
    with pytest.raises(LaunchError, match="does not fit"):
        run("col2im", [np.zeros((2, 3 * int(np.prod(kernel)), windows + 1), dtype)], [(y.shape, dtype)], p)


def sample(plane: Array, at: Array) -> float:
    low = np.floor(at).astype(int)
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(at)):
        pos = low + corner
        if (pos >= 0).all() and (pos < plane.shape).all():
            total += plane[tuple(pos)] * np.prod([at[i] - low[i] if c else 1 - (at[i] - low[i]) for i, c in enumerate(corner)])
    return total


def deform_conv(x: Array, w: Array, offset: Array, b: Array | None, mask: Array | None, out: tuple[int, ...], p: dict[str, Any]) -> Array:
    x, w, offset = (a.astype(np.float64) for a in (x, w, offset))
    spatial, kernel, parts, group = x.ndim - 2, w.shape[2:], p["offset_group"], p["group"]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    taps = list(itertools.product(*(range(k) for k in kernel)))
    for n in range(x.shape[0]):
        for o in itertools.product(*(range(k) for k in out)):
            cols = np.zeros((x.shape[1], len(taps)))
            for c in range(x.shape[1]):
                part = c // (x.shape[1] // parts)
                for t, tap in enumerate(taps):
                    at = np.array([o[i] * p["strides"][i] + tap[i] * p["dilations"][i] - p["pads"][i] for i in range(spatial)], float)
                    at += [offset[(n, (part * len(taps) + t) * spatial + i, *o)] for i in range(spatial)]
                    cols[c, t] = sample(x[n, c], at) * (1.0 if mask is None else float(mask[(n, part * len(taps) + t, *o)]))
            for m in range(w.shape[0]):
                first = m // (w.shape[0] // group) * w.shape[1]
                y[(n, m, *o)] = (cols[first : first + w.shape[1]] * w[m].reshape(w.shape[1], -1)).sum() + (0 if b is None else float(b[m]))
    return y


@pytest.mark.parametrize("dtype,tolerance", [(np.float32, 1e-4), (np.float64, 1e-12), (np.float16, 2e-2)])
@pytest.mark.parametrize(
    "size,kernel,group,parts,strides,dilations,pads",
    [
        ((6, 7), (3, 3), 1, 1, (1, 1), (1, 1), (1, 1, 1, 1)), ((5, 8), (2, 3), 2, 1, (2, 1), (1, 2), (0, 1, 1, 2)),
        ((6, 5), (1, 2), 1, 2, (1, 2), (1, 1), (0, 0, 0, 0)), ((9,), (3,), 2, 4, (2,), (1,), (1, 1)), ((3, 150), (2, 2), 1, 1, (1, 1), (1, 1), (0, 0, 0, 0)),
        ((3, 4, 3), (2, 2, 1), 1, 1, (1, 1, 1), (1, 1, 1), (0, 0, 0, 0, 1, 1)),
    ],
)  # fmt: skip
def test_deform_conv(
    size: Any, kernel: Any, group: int, parts: int, strides: Any, dilations: Any, pads: Any, dtype: Any, tolerance: float
) -> None:
    rng = np.random.default_rng(sum(size))
    n, c, m, spatial = (1 if size[-1] > 100 else 2), 4, 6, len(size)
    p = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "offset_group": parts}
    out = tuple((size[i] + pads[i] + pads[spatial + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(spatial))
    taps = int(np.prod(kernel))

    def make(*shape: int) -> Array:
        return strided(rng, rng.standard_normal(shape).astype(dtype))

    x, w, b = make(n, c, *size), make(m, c // group, *kernel), make(m)
    offset = strided(rng, (rng.standard_normal((n, parts * taps * spatial, *out)) * 1.5).astype(dtype))
    mask = make(n, parts * taps, *out)
    for ins in ([x, w, offset, b, mask], [x, w, offset, None, None]):
        want = deform_conv(*ins, out, p)
        y = strided(rng, np.zeros((n, m, *out), dtype))
        got = run("deform_conv", ins, [y], p)[0]
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=tolerance * 4)
        two = run("deform_conv", ins, [(y.shape, dtype)], p, threads=2)[0]
        np.testing.assert_array_equal(two, got)
    if dtype is np.float32:
        res = make(n, m, *out)
        got = run("deform_conv", [x, w, offset, b, mask], [(res.shape, dtype)], p, epilogue=lambda acc, r: acc * 2 + r, epi_ins=[res])[0]
        np.testing.assert_allclose(got, deform_conv(x, w, offset, b, mask, out, p) * 2 + res, rtol=tolerance, atol=tolerance * 8)


def test_deform_conv_far_and_nan_offsets_read_nothing() -> None:
    x, w = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 1, 1), np.float32)
    offset = np.zeros((1, 2, 3, 3), np.float32)
    offset[0, 0] = np.array([[np.nan, np.inf, -np.inf], [1e30, -1e30, 3], [0, 0, 0]])
    p = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1, "offset_group": 1}
    got = run("deform_conv", [x, w, offset], [((1, 1, 3, 3), np.float32)], p)[0]
    np.testing.assert_array_equal(got[0, 0], [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
