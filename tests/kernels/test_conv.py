"""The `conv` kernel against a float64 reference: every path, layout, dtype, pads, dilations and groups."""

from __future__ import annotations

import math
import os
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.lowering.expr import Var, cast_sat, gelu_erf, max_, min_, relu, sigmoid, silu, tanh, where

from . import conv_reference as ref
from .harness import ISAS, run, strided

Array = np.ndarray[Any, Any]


def tolerance_of(dtype: Any, terms: int) -> float:
    """Relative to max|ref|: a sequential sum of `terms` products walks about sqrt(terms) half units in the last place; 16-bit results add the
    rounding of the result itself."""
    unit = 2.0**-53 if np.dtype(dtype) == np.float64 else 2.0**-24
    return max(8.0, terms**0.5) * unit + {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(np.dtype(dtype).name, 0.0)


# F(4) multiplies rounding by the weights of its transforms (5, 4 on the way in, 8 on the way out): 2e-5 of the largest result for data of unit
# variance, as DESIGN's prototype measured 4e-6 .. 1.1e-5.
WINOGRAD_TOLERANCE = 2e-5


def channels_last(a: Array) -> Array:
    """The same logical array with channel stride 1."""
    order = (0, *range(2, a.ndim), 1)
    return a.transpose(order).copy().transpose((0, a.ndim - 1, *range(1, a.ndim - 1)))


def layout(rng: np.random.Generator, a: Array, kind: str) -> Array:
    if kind == "first":
        return a.copy()
    return channels_last(a) if kind == "last" else strided(rng, a)


def data(rng: np.random.Generator, shape: Any, dtype: Any = np.float32) -> Array:
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def check(
    rng: np.random.Generator, xs: Any, ws: Any, strides: Any = None, dilations: Any = None, pads: Any = None, group: int = 1, *,
    dtype: Any = np.float32, lx: str = "last", ly: str = "last", bias: bool = True, const: bool = True, describe: list[str] | None = None,
    tolerance: float | None = None,
) -> None:  # fmt: skip
    n = len(xs) - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * 2 * n
    x, w = layout(rng, data(rng, xs, dtype), lx), data(rng, ws, dtype)
    b = data(rng, ws[0], dtype) if bias else None
    out = [ref.out_size(xs[2 + k], ws[2 + k], strides[k], dilations[k], pads[k], pads[n + k]) for k in range(n)]
    want = ref.conv(x, w, b, strides, dilations, pads, group)
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    results = []
    says = [] if describe is None else describe
    for threads in (1, 2):
        y = layout(rng, np.zeros((xs[0], ws[0], *out), dtype), ly)
        run("conv", [x, w, b], [y], params, threads=threads, consts=(1, 2) if const else (), describe=says)
        results.append(np.array(y))
    if tolerance is None:
        tolerance = tolerance_of(dtype, int(np.prod(ws[1:]))) + (WINOGRAD_TOLERANCE if says[-1].startswith("winograd F(4,3)") else 0)
    assert results[0].tobytes() == results[1].tobytes(), "threads must not change bits"
    scale = max(1e-3, float(np.abs(want).max(initial=0)))
    error = float(np.abs(results[0].astype(np.float64) - want).max(initial=0)) / scale
    assert error <= tolerance, error


CASES = [
    # x shape, w shape, strides, dilations, pads, group
    ((1, 16, 9, 11), (32, 16, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((2, 5, 10, 7), (7, 5, 3, 3), [2, 2], [1, 1], [0, 1, 2, 1], 1),
    ((1, 3, 19, 21), (20, 3, 7, 7), [2, 2], [1, 1], [3, 3, 3, 3], 1),
    ((1, 1, 17, 16), (5, 1, 5, 4), [1, 3], [2, 1], [4, 0, 1, 3], 1),
    ((2, 24, 6, 6), (40, 24, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ((1, 24, 7, 9), (40, 24, 1, 1), [2, 3], [1, 1], [0, 0, 0, 0], 1),
    ((1, 24, 7, 9), (3, 24, 1, 1), [1, 1], [1, 1], [1, 0, 2, 1], 1),
    ((1, 12, 8, 8), (18, 4, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 3),
    ((1, 12, 8, 8), (66, 6, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 2),
    ((2, 6, 40), (9, 6, 5), [2], [3], [6, 2], 1),
    ((1, 1, 700), (33, 1, 64), [8], [1], [0, 0], 1),
    ((1, 4, 5, 6, 7), (10, 4, 3, 2, 3), [1, 2, 1], [2, 1, 1], [2, 0, 1, 2, 1, 1], 1),
    ((2, 4, 4, 5, 6), (6, 2, 2, 2, 2), [2, 1, 2], [1, 2, 1], [1, 1, 0, 0, 1, 0], 2),
    ((1, 2, 3, 3), (1, 2, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 2, 1, 1), (2, 2, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 8, 5, 70), (8, 8, 3, 3), [1, 1], [3, 5], [3, 5, 3, 5], 1),
    ((3, 1024, 4, 4), (8, 1024, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ((1, 1024, 5, 5), (40, 1024, 3, 3), [2, 2], [1, 1], [1, 1, 1, 1], 1),
]

DEPTHWISE = [
    ((1, 32, 14, 14), (32, 1, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 32),
    ((2, 35, 15, 17), (35, 1, 3, 3), [2, 2], [1, 1], [0, 0, 1, 1], 35),
    ((1, 80, 7, 7), (80, 1, 7, 7), [1, 1], [1, 1], [3, 3, 3, 3], 80),
    ((1, 5, 20, 40), (5, 1, 5, 5), [1, 2], [2, 3], [4, 5, 4, 7], 5),
    ((1, 130, 30, 29), (130, 1, 5, 5), [1, 1], [1, 1], [2, 2, 2, 2], 130),
    ((1, 48, 50), (48, 1, 31), [1], [1], [15, 15], 48),
    ((1, 48, 50), (48, 1, 4), [1], [1], [3, 0], 48),
    ((1, 3, 6, 50), (3, 1, 2, 9), [1, 1], [1, 1], [3, 20, 3, 20], 3),
]
NARROW = [  # groups of two, four or eight channels share a vector
    ((1, 32, 9, 21), (32, 4, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 8),
    ((2, 16, 7, 5), (16, 8, 3, 2), [2, 1], [1, 2], [1, 0, 1, 1], 2),
    ((1, 48, 6, 17), (48, 2, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 24),
    ((1, 80, 13), (80, 8, 5), [2], [1], [2, 2], 10),
    ((1, 32, 3, 4, 5), (32, 4, 3, 3, 3), [1, 2, 1], [1, 1, 1], [1, 1, 1, 1, 1, 1], 8),
    ((1, 24, 9, 9), (24, 4, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 6),  # not a multiple of 16 channels
]
FEW_OUTPUTS = [
    ((1, 32, 20, 21), (1, 32, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ((2, 21, 9, 10), (2, 21, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 40, 9, 10), (3, 40, 1, 1), [2, 1], [1, 1], [0, 0, 0, 0], 1),
    ((1, 64, 8, 9), (4, 64, 3, 2), [1, 2], [2, 1], [1, 0, 1, 1], 1),
    ((1, 100, 60), (1, 100, 7), [1], [1], [3, 3], 1),
]
CASES += DEPTHWISE + NARROW + FEW_OUTPUTS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lx,ly", [("first", "first"), ("last", "last"), ("any", "any"), ("first", "last")])
def test_layouts(case: Any, lx: str, ly: str) -> None:
    check(np.random.default_rng(0), *case, lx=lx, ly=ly)


@pytest.mark.parametrize("case", CASES[:14] + DEPTHWISE + NARROW)
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtypes(case: Any, dtype: Any) -> None:
    check(np.random.default_rng(1), *case, dtype=dtype)
    check(np.random.default_rng(1), *case, dtype=dtype, lx="any", ly="any", bias=False, const=False)


@pytest.mark.parametrize("case", CASES[:12] + DEPTHWISE + NARROW)
def test_weights_that_are_not_constant(case: Any) -> None:
    check(np.random.default_rng(2), *case, const=False)


@pytest.mark.parametrize("xt", [np.uint8, np.int8])
@pytest.mark.parametrize("wt", [np.uint8, np.int8])
@pytest.mark.parametrize("case", CASES[:14] + DEPTHWISE + NARROW)
def test_integers_are_exact(case: Any, xt: Any, wt: Any) -> None:
    rng = np.random.default_rng(3)
    xs, ws, strides, dilations, pads, group = case
    n = len(xs) - 2
    x, w = layout(rng, data(rng, xs, xt), str(rng.choice(["first", "last", "any"]))), strided(rng, data(rng, ws, wt))
    b = rng.integers(-1000, 1000, ws[0]).astype(np.int32)
    out = [ref.out_size(xs[2 + k], ws[2 + k], strides[k], dilations[k], pads[k], pads[n + k]) for k in range(n)]
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    for x_zero, w_zero in ((None, None), (np.array(5, xt), np.array(3, wt)), (np.array(100, xt), data(rng, ws[0], wt))):
        want = ref.conv(
            x, w, b, strides, dilations, pads, group, 0 if x_zero is None else int(x_zero), 0 if w_zero is None else w_zero.astype(np.int64)
        )
        for consts in ((1, 4), (1,), ()):
            y = layout(rng, np.zeros((xs[0], ws[0], *out), np.int32), str(rng.choice(["first", "last"])))
            run("conv", [x, w, b, x_zero, w_zero], [y], params, threads=2, consts=consts)
            np.testing.assert_array_equal(y, want)


def test_random_shapes() -> None:
    rng = np.random.default_rng(4)
    for _ in range(150):
        n = int(rng.integers(1, 4))
        group = int(rng.choice([1, 1, 1, 2, 3, 8]))
        c, m = group * int(rng.integers(1, 20)), group * int(rng.integers(1, 40))
        if group == 8:
            c = m = group * int(rng.choice([2, 4, 8]))
        xs = (int(rng.integers(1, 3)), c, *(int(v) for v in rng.integers(1, 14, n)))
        kernel = [int(v) for v in rng.integers(1, 5, n)]
        strides, dilations = ([int(v) for v in rng.integers(1, 4, n)] for _ in range(2))
        pads = [int(v) for v in rng.integers(0, 4, 2 * n)]
        for k in range(n):  # the window must fit
            pads[n + k] += max(0, (kernel[k] - 1) * dilations[k] + 1 - xs[2 + k] - pads[k] - pads[n + k])
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        check(
            rng,
            xs,
            (m, c // group, *kernel),
            strides,
            dilations,
            pads,
            group,
            lx=lx,
            ly=ly,
            const=bool(rng.integers(2)),
            bias=bool(rng.integers(2)),
        )


def test_random_depthwise_shapes() -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        n = int(rng.integers(1, 3))
        c = int(rng.integers(2, 80))
        xs = (int(rng.integers(1, 3)), c, *(int(v) for v in rng.integers(1, 40, n)))
        kernel = [int(v) for v in rng.integers(1, 8, n)]
        strides, dilations = ([int(v) for v in rng.integers(1, 4, n)] for _ in range(2))
        pads = [int(v) for v in rng.integers(0, 8, 2 * n)]
        for k in range(n):
            pads[n + k] += max(0, (kernel[k] - 1) * dilations[k] + 1 - xs[2 + k] - pads[k] - pads[n + k])
        lx, ly = (str(v) for v in rng.choice(["last", "last", "any"], 2))
        check(rng, xs, (c, 1, *kernel), strides, dilations, pads, c, lx=lx, ly=ly, const=bool(rng.integers(2)), bias=bool(rng.integers(2)))


def test_few_channels_go_plane_by_plane() -> None:
    """Columns as lanes: every layout, stride and dilation, windows larger than the image, padding and window rows that no image row is under."""
    rng = np.random.default_rng(27)
    for turn in range(120):
        n, group = int(rng.choice([1, 2, 2, 2])), int(rng.choice([1, 1, 2, 3]))
        c, m = (group * int(rng.integers(1, 5 if group == 1 else 2)) for _ in range(2))
        kernel = [int(v) for v in rng.integers(1, 9, n)]
        kernel[-1] = max(kernel[-1], 3)
        strides, dilations = ([int(v) for v in rng.choice([1, 1, 1, 2, 3], n)] for _ in range(2))
        pads = [int(v) for v in rng.integers(0, 9, 2 * n)]
        size = [int(v) for v in rng.integers(1, 30, n)]
        size[-1] = (
            int(rng.integers(280, 900)) * strides[-1]
            if n == 1
            else int(rng.integers(20, 90)) * strides[-1] + (kernel[-1] - 1) * dilations[-1]
        )
        if n == 2:
            size[0] = max(size[0], (260 // 20 + 1) * strides[0] + (kernel[0] - 1) * dilations[0])
        says: list[str] = []
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        ws = (m, c // group, *kernel)
        check(
            rng, (int(rng.integers(1, 3)), c, *size), ws, strides, dilations, pads, group, lx=lx, ly=ly, bias=bool(turn % 2), describe=says
        )
        assert says[0].startswith("planes"), says


def test_images_of_one_pixel_are_pixels_of_one_image() -> None:
    rng = np.random.default_rng(28)
    for turn in range(60):
        n, rank, group = int(rng.integers(2, 20)), int(rng.integers(1, 4)), int(rng.choice([1, 1, 1, 2, 16]))
        c, m = (group * int(rng.integers(1, 70)) for _ in range(2))
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        strides = [1] * rank if turn % 3 else [2] * rank
        check(
            rng, (n, c, *[1] * rank), (m, c // group, *[1] * rank), strides, [1] * rank, [0] * 2 * rank, group, lx=lx, ly=ly,
            bias=bool(turn % 2), const=bool(turn % 5),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "dilations", "strides"), [((20, 40), [50_000, 1], [1, 1]), ((20, 40), [1, 50_000], [1, 1]), ((60_000, 40), [1, 1], [7000, 1])]
)
def test_few_channels_under_windows_too_far_apart_to_stage(size: Any, dilations: list[int], strides: list[int]) -> None:
    reach = [2 * d for d in dilations]
    pads = [r // 2 for r in reach] * 2
    says: list[str] = []
    check(np.random.default_rng(30), (1, 1, *size), (1, 1, 3, 3), strides, dilations, pads, describe=says)
    assert not says[0].startswith("planes"), says


def winograd_tolerance(f: int, c: int) -> float:
    """F(2)'s transforms only add and halve: the direct form's bound, twice."""
    return WINOGRAD_TOLERANCE if f == 4 else 2 * tolerance_of(np.float32, 9 * c)


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize(
    "n,c,m,h,w,pads,f",
    [
        (1, 16, 16, 14, 14, [1, 1, 1, 1], 4), (2, 32, 48, 17, 23, [1, 1, 1, 1], 4), (1, 20, 37, 40, 61, [0, 2, 1, 0], 4),
        (1, 64, 64, 56, 56, [1, 1, 1, 1], 4), (1, 96, 33, 13, 150, [1, 1, 1, 1], 4), (1, 128, 64, 7, 7, [1, 1, 1, 1], 4),
        (3, 17, 18, 5, 9, [2, 2, 2, 2], 4), (1, 24, 16, 6, 6, [0, 0, 0, 0], 2), (1, 256, 272, 7, 7, [1, 1, 1, 1], 2),
        (11, 20, 40, 14, 11, [1, 1, 1, 1], 4), (20, 130, 150, 5, 5, [1, 1, 1, 1], 2), (1, 130, 260, 33, 25, [1, 1, 1, 1], 4),
    ],
)  # fmt: skip
def test_winograd(n: int, c: int, m: int, h: int, w: int, pads: list[int], f: int, lx: str, ly: str) -> None:
    rng, says = np.random.default_rng(7), []  # type: ignore[var-annotated]
    check(rng, (n, c, h, w), (m, c, 3, 3), pads=pads, lx=lx, ly=ly, describe=says, tolerance=winograd_tolerance(f, c))
    assert all(s.startswith(f"winograd F({f},3)") for s in says)


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize(
    "n,c,m,h,w,group", [(1, 96, 96, 28, 28, 2), (2, 96, 256, 13, 50, 2), (1, 144, 144, 57, 30, 3), (5, 64, 64, 20, 9, 2)]
)
def test_winograd_of_groups(n: int, c: int, m: int, h: int, w: int, group: int, lx: str, ly: str) -> None:
    rng, says = np.random.default_rng(17), []  # type: ignore[var-annotated]
    check(rng, (n, c, h, w), (m, c // group, 3, 3), pads=[1] * 4, group=group, lx=lx, ly=ly, describe=says, tolerance=WINOGRAD_TOLERANCE)
    assert all(s.startswith("winograd F(4,3)") for s in says)


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize(
    "xs,ws,strides,dilations,pads,axis",
    [
        ((2, 16, 100), (16, 16, 3), [1], [1], [1, 1], 2), ((1, 24, 200), (37, 24, 4), [1], [1], [3, 0], 2),
        ((1, 40, 700), (18, 40, 5), [1], [1], [2, 2], 2), ((1, 300, 90), (80, 300, 7), [1], [1], [3, 3], 2),
        ((1, 17, 150), (33, 17, 6), [1], [3], [7, 8], 2), ((3, 16, 301), (16, 16, 3), [1], [2], [2, 2], 2),
        ((1, 20, 9, 40), (20, 20, 1, 7), [1, 1], [1, 1], [0, 0, 3, 3], 3), ((1, 20, 40, 9), (20, 20, 7, 1), [1, 1], [1, 1], [3, 0, 3, 0], 2),
        ((2, 32, 14, 15), (48, 32, 5, 5), [1, 1], [1, 1], [2, 2, 2, 2], 3), ((1, 16, 30, 31), (16, 16, 3, 3), [2, 1], [1, 1], [1, 1, 1, 1], 3),
        ((1, 16, 30, 31), (16, 16, 3, 3), [1, 2], [1, 1], [1, 1, 1, 1], 2), ((1, 16, 40, 26), (20, 16, 3, 2), [1, 1], [2, 2], [2, 1, 2, 1], 2),
        ((1, 16, 31, 50), (16, 16, 4, 3), [2, 1], [3, 2], [0, 5, 9, 1], 3), ((1, 16, 7, 130), (16, 16, 3, 5), [1, 1], [1, 1], [0, 0, 0, 0], 3),
    ],
)  # fmt: skip
def test_winograd_along_one_axis(xs: Any, ws: Any, strides: Any, dilations: Any, pads: Any, axis: int, lx: str, ly: str) -> None:
    rng, says = np.random.default_rng(13), []  # type: ignore[var-annotated]
    check(rng, xs, ws, strides, dilations, pads, lx=lx, ly=ly, describe=says, tolerance=2e-5)
    k = ws[axis]
    assert all(s.startswith(f"winograd F({9 - k},{k}) along axis {axis}") for s in says), says


def test_winograd_along_one_axis_on_random_shapes() -> None:
    rng, fired = np.random.default_rng(14), 0
    for _ in range(40):
        n = int(rng.integers(1, 3))
        xs = (int(rng.integers(1, 4)), int(rng.integers(16, 60)), *(int(v) for v in rng.integers(20, 60, n)))
        kernel = [int(v) for v in rng.integers(1, 8, n)]
        strides, dilations = ([int(v) for v in rng.integers(1, 3, n)] for _ in range(2))
        pads = [int(v) for v in rng.integers(0, 8, 2 * n)]
        lx, ly = (str(v) for v in rng.choice(["last", "first", "any"], 2))
        says: list[str] = []
        dtype = [np.float32, np.float16][int(rng.integers(2))]
        tolerance = 2e-5 if dtype == np.float32 else tolerance_of(dtype, 1) + 2e-5
        check(rng, xs, (int(rng.integers(16, 70)), xs[1], *kernel), strides, dilations, pads, lx=lx, ly=ly, dtype=dtype, describe=says,
              tolerance=tolerance, bias=bool(rng.integers(2)))  # fmt: skip
        fired += "along axis" in says[0]
    assert fired > 15


def test_windows_that_mostly_lie_in_the_padding_go_tap_by_tap() -> None:
    rng, fired = np.random.default_rng(21), 0
    atrous = [((2, 40, 14, 14), (70, 40, 3, 3), d) for d in (12, 13, 36)] + [((1, 16, 5, 300), (20, 16, 3, 3), 5)]
    for xs, ws, d in atrous:
        for ly in ("last", "first", "any"):
            says: list[str] = []
            check(rng, xs, ws, [1, 1], [d, d], [d] * 4, ly=ly, describe=says)
            assert all(s.startswith("tap by tap") for s in says), says
    for _ in range(60):
        n = int(rng.integers(1, 4))
        size = [int(v) for v in rng.integers(2, 40 if n < 3 else 9, n)]
        kernel, strides = ([int(v) for v in rng.integers(1, 4, n)] for _ in range(2))
        dilations = [int(rng.integers(1, 2 * s)) for s in size]
        pads = [int(rng.integers(0, 1 + d * (k - 1))) for k, d in zip(kernel * 2, dilations * 2)]
        for k in range(n):
            pads[n + k] += max(0, (kernel[k] - 1) * dilations[k] + 1 - size[k] - pads[k] - pads[n + k])
        says = []
        c, m = (int(v) for v in rng.integers(16, 50, 2))
        check(rng, (int(rng.integers(1, 3)), c, *size), (m, c, *kernel), strides, dilations, pads, describe=says, bias=bool(rng.integers(2)),
              tolerance=WINOGRAD_TOLERANCE)  # fmt: skip
        fired += says[0].startswith("tap by tap")
    assert fired > 15


def test_winograd_takes_16_bit_types_and_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, says = np.random.default_rng(8), []  # type: ignore[var-annotated]
    for dtype in (np.float16, ml_dtypes.bfloat16):
        check(rng, (1, 32, 16, 16), (32, 32, 3, 3), pads=[1] * 4, dtype=dtype, describe=says)
    monkeypatch.setenv("PTRT_WINOGRAD", "0")
    check(rng, (1, 32, 16, 16), (32, 32, 3, 3), pads=[1] * 4, describe=says)
    assert [s.split()[0] for s in says] == ["winograd"] * 4 + ["direct"] * 2


EPILOGUES: dict[str, tuple[Any, Any, list[str]]] = {  # program, reference, operands: r = full shape, b = per channel
    "relu": (lambda a: relu(a), lambda a: np.maximum(a, 0), []),
    "bias relu6": (lambda a, b: min_(max_(a + b, 0.0), 6.0), lambda a, b: np.clip(a + b, 0, 6), ["b"]),
    "scale bias residual relu": (lambda a, b, r: relu(a * 0.5 + b + r), lambda a, b, r: np.maximum(a * 0.5 + b + r, 0), ["b", "r"]),
    "relu residual": (lambda a, r: relu(a) + r, lambda a, r: np.maximum(a, 0) + r, ["r"]),
    "silu": (lambda a: silu(a), lambda a: a / (1 + np.exp(-a)), []),
    "silu residual": (lambda a, r: silu(a) + r, lambda a, r: a / (1 + np.exp(-a)) + r, ["r"]),
    "x sigmoid(x)": (lambda a, b: (a + b) * sigmoid(a + b), lambda a, b: (a + b) / (1 + np.exp(-a - b)), ["b"]),
    "sigmoid(x) x": (lambda a: sigmoid(a) * a, lambda a: a / (1 + np.exp(-a)), []),
    "sigmoid clamp": (lambda a: min_(max_(sigmoid(a), 0.25), 0.5), lambda a: np.clip(1 / (1 + np.exp(-a)), 0.25, 0.5), []),
    "sigmoid residual gate": (lambda a, r: (sigmoid(a) + r) * (a * 0.125), lambda a, r: (1 / (1 + np.exp(-a)) + r) * a / 8, ["r"]),
    "tanh residual relu": (lambda a, r: relu(tanh(a) + r), lambda a, r: np.maximum(np.tanh(a) + r, 0), ["r"]),
    "tanh relu residual": (lambda a, r: relu(tanh(a)) + r, lambda a, r: np.maximum(np.tanh(a), 0) + r, ["r"]),
    "relu silu": (lambda a: silu(relu(a)), lambda a: np.maximum(a, 0) / (1 + np.exp(-np.maximum(a, 0))), []),
    "residual silu": (lambda a, r: silu(a + r), lambda a, r: (a + r) / (1 + np.exp(-a - r)), ["r"]),
    "hard sigmoid": (lambda a: min_(max_(a * 0.2 + 0.5, 0), 1), lambda a: np.clip(a * 0.2 + 0.5, 0, 1), []),
    "hard swish": (lambda a: a * min_(max_(a * (1 / 6) + 0.5, 0), 1), lambda a: a * np.clip(a / 6 + 0.5, 0, 1), []),
    "hard swish residual": (
        lambda a, r: a * min_(max_(a * (1 / 6) + 0.5, 0), 1) + r,
        lambda a, r: a * np.clip(a / 6 + 0.5, 0, 1) + r,
        ["r"],
    ),
    "leaky": (lambda a, b: where(a + b < 0, (a + b) * 0.1, a + b), lambda a, b: np.where(a + b < 0, (a + b) * 0.1, a + b), ["b"]),
    "not quite leaky": (lambda a: where(a < 1, a * 0.1, a), lambda a: np.where(a < 1, a * 0.1, a), []),
    "relu scaled": (lambda a, b: relu(a + b) * b + b, lambda a, b: np.maximum(a + b, 0) * b + b, ["b"]),
    "relu scaled residual": (lambda a, b, r: relu(a) * b + b + r, lambda a, b, r: np.maximum(a, 0) * b + b + r, ["b", "r"]),
    "clip scaled residual relu": (
        lambda a, b, r: relu(min_(max_(a, -1.0), 6.0) * b + r),
        lambda a, b, r: np.maximum(np.clip(a, -1, 6) * b + r, 0),
        ["b", "r"],
    ),
    "silu scaled": (lambda a, b: silu(a) * b + b, lambda a, b: a / (1 + np.exp(-a)) * b + b, ["b"]),
    "silu scaled residual relu": (
        lambda a, b, r: relu(silu(a) * b + b + r),
        lambda a, b, r: np.maximum(a / (1 + np.exp(-a)) * b + b + r, 0),
        ["b", "r"],
    ),
    "relu scaled twice": (lambda a, b: relu(relu(a) * b + b) * b, lambda a, b: np.maximum(np.maximum(a, 0) * b + b, 0) * b, ["b"]),
    "gelu": (gelu_erf, lambda a: a * 0.5 * (1 + np.vectorize(math.erf)(a * 0.5**0.5)), []),
}
PATHS = [  # one case for every path
    ((2, 24, 9, 11), (40, 24, 3, 3), [2, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 40, 9, 11), (70, 40, 1, 1), [1, 1], [1, 1], [0, 0, 0, 0], 1),
    ((1, 34, 15, 20), (34, 1, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 34),
    ((1, 32, 18, 15), (50, 32, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((2, 32, 7, 7), (40, 32, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 40, 9, 11), (34, 40, 3, 3), [1, 1], [8, 9], [8, 9, 8, 9], 1),
    ((1, 12, 50), (42, 6, 5), [1], [1], [2, 2], 2),
    ((1, 64, 9, 11), (2, 64, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 1),
    ((1, 4, 3, 6, 7), (10, 4, 3, 2, 3), [1, 1, 1], [1, 1, 1], [1, 0, 1, 1, 1, 1], 1),
    ((2, 20, 150), (34, 20, 5), [1], [2], [4, 4], 1),
    ((1, 3, 21, 37), (3, 1, 5, 3), [1, 1], [1, 1], [2, 1, 2, 1], 3),
    ((1, 32, 9, 11), (32, 4, 3, 3), [1, 1], [1, 1], [1, 1, 1, 1], 8),
]


def check_epilogue(name: str, case: Any, ly: str, tolerance: float, places: tuple[bool, ...] = (False, True)) -> None:
    """One of EPILOGUES, the residual elsewhere or (True) in the output's own memory. `tolerance`: of the sums before it, over the largest."""
    rng = np.random.default_rng(9)
    xs, ws, strides, dilations, pads, group = case
    fn, np_fn, kinds = EPILOGUES[name]
    x, w, b = data(rng, xs), data(rng, ws), data(rng, ws[0])
    plain = ref.conv(x, w, b, strides, dilations, pads, group)
    per_channel, residual = data(rng, ws[0]).reshape((1, -1) + (1,) * (len(xs) - 2)), data(rng, plain.shape)
    want = np_fn(plain, *(per_channel if k == "b" else residual for k in kinds))
    if "scaled" in name:  # so are the errors
        tolerance = tolerance * max(1.0, float(np.abs(per_channel).max())) ** (2 if "twice" in name else 1)
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    for in_place in places:
        y = layout(rng, residual, ly)
        r = y if in_place else layout(rng, residual, str(rng.choice(["first", "last", "any"])))
        operands = [np.broadcast_to(per_channel, plain.shape) if k == "b" else r for k in kinds]
        run("conv", [layout(rng, x, ly), w, b], [y], params, epilogue=fn, epi_ins=operands, consts=(1, 2), threads=2)
        np.testing.assert_allclose(y, want, rtol=0, atol=tolerance * np.abs(plain).max())


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("case", PATHS)
def test_epilogues(case: Any, name: str) -> None:
    tolerance = 2e-5 if case in (PATHS[3], PATHS[-1]) else tolerance_of(np.float32, int(np.prod(case[1][1:]))) + 2.0**-21
    for ly in ("last", "first", "any"):
        check_epilogue(name, case, ly, tolerance)


FIRES = {"silu": "silu", "silu residual": "silu", "x sigmoid(x)": "silu", "sigmoid(x) x": "silu", "sigmoid clamp": "sigmoid", "tanh residual relu": "tanh",
         "hard sigmoid": "hard_sigmoid", "hard swish": "hard_swish", "hard swish residual": "hard_swish", "leaky": "leaky", "gelu": "gelu_erf",
         "relu scaled": "scaled", "relu scaled residual": "scaled", "silu scaled": "silu, then scaled",
         "silu scaled residual relu": "silu, then scaled"}  # fmt: skip


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("case", PATHS[:6])
def test_activations_are_applied_while_results_are_in_cache(case: Any, name: str) -> None:
    rng = np.random.default_rng(12)
    xs, ws, strides, dilations, pads, group = case
    fn, _, kinds = EPILOGUES[name]
    out = [ref.out_size(xs[2 + k], ws[2 + k], strides[k], dilations[k], pads[k], pads[len(strides) + k]) for k in range(len(strides))]
    y = channels_last(np.zeros((xs[0], ws[0], *out), np.float32))
    per_channel = np.broadcast_to(data(rng, ws[0]).reshape((1, -1, 1, 1)), y.shape)
    operands = [per_channel if k == "b" else channels_last(data(rng, y.shape)) for k in kinds]
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    told: list[str] = []
    x, w = channels_last(data(rng, xs)), data(rng, ws)
    run("conv", [x, w], [y], params, epilogue=fn, epi_ins=operands, consts=(1,), describe=told)
    assert told[0].partition(", then ")[2] == FIRES.get(name, "")


def test_narrow_groups_share_a_vector() -> None:
    rng = np.random.default_rng(11)
    for c, lanes in ((2, 8), (4, 8), (8, 16)):
        x, w, y = channels_last(data(rng, (1, 32, 9, 12))), data(rng, (32, c, 3, 3)), channels_last(np.zeros((1, 32, 9, 12), np.float32))
        told: list[str] = []
        run("conv", [x, w], [y], {"strides": [1, 1], "dilations": [1, 1], "pads": [1] * 4, "group": 32 // c}, consts=(1,), describe=told)
        wide = {"v3": 8, "v4": 16, "v4x": 16}.get(os.environ.get("PTRT_ISA") or ISAS[0], 4)
        assert (f"groups of {c} side by side" in told[0]) == (wide >= lanes), told


def test_epilogues_change_the_dtype() -> None:
    rng = np.random.default_rng(10)
    case: Any
    for case in PATHS:
        xs, ws, strides, dilations, pads, group = case
        params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
        x, w = data(rng, xs, np.uint8), data(rng, ws, np.int8)
        want = ref.conv(x, w, None, strides, dilations, pads, group, 3)
        y = channels_last(np.zeros(want.shape, np.int8))
        scaled = lambda a: cast_sat(
            Var(a.builder, a.builder.emit("cast", (a.index,), np.dtype(np.float32)), np.dtype(np.float32)) * 0.001, np.dtype(np.int8)
        )
        run("conv", [channels_last(x), w, None, np.array(3, np.uint8)], [y], params, epilogue=scaled, acc_dtype=np.int32, consts=(1, 3))
        np.testing.assert_array_equal(y, np.clip(np.rint(want.astype(np.float32) * np.float32(0.001)), -128, 127))
        h, hw = data(rng, xs, np.float16), data(rng, ws, np.float16)
        want = ref.conv(h, hw, None, strides, dilations, pads, group)
        z = channels_last(np.zeros(want.shape, np.float16))
        run("conv", [h, hw], [z], params, epilogue=lambda a: relu(a), consts=(1,))
        np.testing.assert_allclose(z, np.maximum(want, 0), rtol=0, atol=2.0**-10 * np.abs(want).max())


def test_empty_inputs_give_the_bias() -> None:
    rng = np.random.default_rng(5)
    check(rng, (1, 0, 4, 4), (5, 0, 3, 3), pads=[1, 1, 1, 1])
    check(rng, (1, 3, 0, 4), (5, 3, 3, 3), pads=[2, 1, 2, 1])
