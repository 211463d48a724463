"""The `conv_transpose` kernel against a float64 reference: phases, pads, dilations, groups, layouts, dtypes, epilogues."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.lowering.expr import relu, silu

from . import conv_reference as ref
from .harness import run
from .test_conv import data, layout, tolerance_of


def check(
    rng: np.random.Generator, xs: Any, ws: Any, strides: Any, dilations: Any, pads: Any, group: int, extra: Any = None, *,
    dtype: Any = np.float32, lx: str = "last", ly: str = "last", const: bool = True, bias: bool = True,
) -> None:  # fmt: skip
    n = len(xs) - 2
    extra = extra or [0] * n
    out = [(xs[2 + k] - 1) * strides[k] + (ws[2 + k] - 1) * dilations[k] + 1 - pads[k] - pads[n + k] + extra[k] for k in range(n)]
    x, w = layout(rng, data(rng, xs, dtype), lx), data(rng, ws, dtype)
    b = data(rng, ws[1] * group, dtype) if bias else None
    want = ref.conv_transpose(x, w, b, out, strides, dilations, pads, group)
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    results = []
    for threads in (1, 2):
        y = layout(rng, np.zeros(want.shape, dtype), ly)
        run("conv_transpose", [x, w, b], [y], params, threads=threads, consts=(1, 2) if const else ())
        results.append(np.array(y))
    assert results[0].tobytes() == results[1].tobytes()
    error = float(np.abs(results[0].astype(np.float64) - want).max()) / max(1e-3, float(np.abs(want).max()))
    assert error <= tolerance_of(dtype, xs[1] // group * int(np.prod(ws[2:]))), error


CASES = [
    # x shape, w shape, strides, dilations, pads, group, output_padding
    ((1, 32, 9, 10), (32, 40, 2, 2), [2, 2], [1, 1], [0, 0, 0, 0], 1, None),
    ((2, 7, 5, 6), (7, 5, 3, 3), [2, 2], [1, 1], [1, 1, 1, 1], 1, [1, 1]),
    ((1, 40, 5, 6), (40, 3, 4, 4), [2, 2], [1, 1], [1, 1, 1, 1], 1, None),  # few outputs of many channels: dot products
    ((1, 6, 5, 4), (6, 3, 4, 3), [1, 3], [2, 1], [2, 0, 1, 1], 1, [0, 2]),
    ((1, 12, 7, 5), (12, 5, 3, 3), [2, 1], [1, 1], [1, 1, 0, 1], 3, None),
    ((1, 8, 6, 7), (8, 1, 4, 4), [2, 2], [1, 1], [1, 1, 1, 1], 8, None),
    ((1, 16, 50), (16, 9, 16), [8], [1], [4, 4], 1, None),
    ((1, 4, 3, 4, 3), (4, 6, 3, 2, 3), [2, 2, 1], [1, 1, 2], [1, 0, 1, 0, 0, 2], 2, [1, 0, 0]),
    ((1, 3, 4, 4), (3, 2, 1, 1), [3, 2], [1, 1], [0, 0, 0, 0], 1, None),
    ((1, 5, 1, 1), (5, 70, 5, 4), [1, 1], [1, 1], [0, 0, 0, 0], 1, None),
    ((1, 5, 2, 2), (5, 2, 2, 2), [5, 4], [1, 1], [0, 0, 0, 0], 1, [3, 1]),
    ((2, 133, 7, 4), (133, 1, 2, 3), [3, 2], [1, 1], [0, 0, 0, 0], 1, None),  # the same, and phases without taps
    ((1, 64, 19), (64, 4, 9), [1], [1], [4, 4], 1, None),
    ((2, 50, 3, 4, 5), (50, 2, 3, 3, 3), [2, 2, 2], [1, 1, 2], [1, 1, 1, 0, 1, 0], 1, [0, 1, 1]),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
def test_layouts(case: Any, lx: str, ly: str) -> None:
    check(np.random.default_rng(0), *case, lx=lx, ly=ly)
    check(np.random.default_rng(0), *case, lx=lx, ly=ly, const=False, bias=False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_dtypes(case: Any, dtype: Any) -> None:
    check(np.random.default_rng(1), *case, dtype=dtype)


def test_random_shapes() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        n = int(rng.integers(1, 4))
        group = int(rng.choice([1, 1, 2, 3]))
        xs = (int(rng.integers(1, 3)), group * int(rng.integers(1, 8)), *(int(v) for v in rng.integers(1, 6, n)))
        kernel, strides, dilations = ([int(v) for v in rng.integers(1, 4, n)] for _ in range(3))
        full = [(xs[2 + k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 for k in range(n)]
        pads = [int(rng.integers(0, 1 + min(3, (full[k % n] - 1) // 2))) for k in range(2 * n)]
        extra = [int(rng.integers(0, strides[k])) for k in range(n)]
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        check(rng, xs, (xs[1], int(rng.integers(1, 40)), *kernel), strides, dilations, pads, group, extra, lx=lx, ly=ly)
        few, xs = int(rng.integers(1, 5)), (xs[0], int(rng.integers(20, 90)), *xs[2:])
        check(rng, xs, (xs[1], few, *kernel), strides, dilations, pads, 1, extra, lx=lx, ly=ly)


def test_groups_side_by_side() -> None:
    """Groups of few channels share vectors, of which the last need not be full."""
    rng = np.random.default_rng(4)
    for _ in range(60):
        n = int(rng.integers(1, 4))
        per, group = int(rng.choice([1, 1, 2, 3, 4, 8])), int(rng.integers(2, 45))
        xs = (int(rng.integers(1, 3)), per * group, *(int(v) for v in rng.integers(1, 6, n)))
        kernel, strides, dilations = ([int(v) for v in rng.integers(1, 5, n)] for _ in range(3))
        full = [(xs[2 + k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 for k in range(n)]
        pads = [int(rng.integers(0, 1 + min(3, (full[k % n] - 1) // 2))) for k in range(2 * n)]
        extra = [int(rng.integers(0, strides[k])) for k in range(n)]
        lx, ly = (str(v) for v in rng.choice(["first", "last", "any"], 2))
        check(rng, xs, (xs[1], per, *kernel), strides, dilations, pads, group, extra, lx=lx, ly=ly, const=bool(rng.integers(2)))


@pytest.mark.parametrize("ly", ["last", "first"])
def test_epilogues(ly: str) -> None:
    rng = np.random.default_rng(3)
    for xs, ws, strides, dilations, pads, group, _ in [*CASES[:7], ((1, 21, 6, 7), (21, 1, 4, 4), [2, 2], [1, 1], [1, 1, 1, 1], 21, None)]:
        n = len(xs) - 2
        out = [(xs[2 + k] - 1) * strides[k] + (ws[2 + k] - 1) * dilations[k] + 1 - pads[k] - pads[n + k] for k in range(n)]
        x, w = data(rng, xs), data(rng, ws)
        plain = ref.conv_transpose(x, w, None, out, strides, dilations, pads, group)
        residual = data(rng, plain.shape)
        params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
        for fn, want in (
            (lambda a, r: relu(a + r), np.maximum(plain + residual, 0)),
            (lambda a, r: silu(a) * r, plain / (1 + np.exp(-plain)) * residual),
        ):
            y = layout(rng, residual, ly)  # in place: the residual is the output's memory
            run("conv_transpose", [layout(rng, x, "last"), w], [y], params, epilogue=fn, epi_ins=[y], consts=(1,), threads=2)
            np.testing.assert_allclose(y, want, rtol=0, atol=3e-6 * max(1.0, float(np.abs(plain).max())) * 4)
