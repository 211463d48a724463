"""The normalize kernel against NumPy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from . import harness
from .harness import run, strided

A = np.ndarray[Any, Any]
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 4e-3, "bfloat16": 3e-2}
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def reference(op: str, x: A, axes: tuple[int, ...], epsilon: float, scale: A | None, bias: A | None) -> tuple[A, A, A]:
    x = x.astype(np.float64)
    mean = x.mean(axes, keepdims=True) if op == "layer" else np.zeros_like(x.mean(axes, keepdims=True))
    inv = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    y = (x - mean) * inv
    if scale is not None:
        y = y * scale.astype(np.float64)
    if bias is not None:
        y = y + bias.astype(np.float64)
    return y, mean, inv


def check(
    op: str, x: A, axes: tuple[int, ...], scale: A | None = None, bias: A | None = None, out: Any = None, statistics: bool = False
) -> None:
    small = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    results = []
    for threads in (1, 2):
        outs: list[Any] = [out if out is not None else (x.shape, x.dtype)]
        outs += [(small, np.float32), (small, np.float32)] if statistics else [None, None]
        got = run("normalize", [x, scale, bias], outs, {"op": op, "axes": axes, "epsilon": 1e-5}, threads=threads)
        results.append([g.copy() for g in got if g is not None])
    for a, b in zip(*results):
        assert a.tobytes() == b.tobytes()
    want = reference(op, x, axes, 1e-5, scale, bias)
    tol = TOLERANCE[x.dtype.name]
    for g, w in zip(results[0], want):
        np.testing.assert_allclose(g.astype(np.float64), w, rtol=tol, atol=tol)


@pytest.mark.parametrize("op", ["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_axes_and_strides(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(1)
    shapes = [(5,), (3, 7), (4, 64), (2, 3, 50), (3, 40, 35), (2, 4, 5, 6), (1, 8, 1, 33)]
    for shape in shapes:
        for k in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), k):
                x = (rng.standard_normal(shape) * 2 + 1).astype(dtype)
                kept = [n if rng.integers(2) else 1 for n in shape]
                scale = np.broadcast_to(rng.standard_normal(kept).astype(dtype), shape)
                bias = strided(rng, rng.standard_normal(shape).astype(dtype))
                check(op, x, axes, scale, bias, statistics=dtype != np.float64)
                check(op, strided(rng, x), axes, scale, None, strided(rng, np.zeros(shape, dtype)))


def test_usual_forms() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6, 10, 768)).astype(np.float32)
    row = [np.broadcast_to(rng.standard_normal(768).astype(np.float32), x.shape) for _ in range(2)]
    check("layer", x, (2,), *row)
    check("rms", x, (2,), row[0])
    check("layer", x.astype(np.float16), (2,), *[r.astype(np.float16) for r in row])
    images = rng.standard_normal((2, 8, 4, 9, 11)).astype(np.float32)  # group norm: [N, G, C/G, H, W]
    channel = [np.broadcast_to(rng.standard_normal((8, 4, 1, 1)).astype(np.float32), images.shape) for _ in range(2)]
    check("layer", images, (2, 3, 4), *channel)
    last = np.ascontiguousarray(images.transpose(0, 3, 4, 1, 2)).transpose(0, 3, 4, 1, 2)  # channels-last memory
    check("layer", last, (2, 3, 4), *channel)
    check("layer", last.reshape(2, 32, 9, 11), (2, 3), *[c.reshape(2, 32, 9, 11) for c in channel])


def test_large_sets_and_offsets() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((2, 70_000)) + 100).astype(np.float32)
    y, mean, inv = run("normalize", [x, None, None], [(x.shape, np.float32), ((2, 1), np.float32), ((2, 1), np.float32)],
                       {"op": "layer", "axes": (1,), "epsilon": 1e-5})  # fmt: skip
    want = reference("layer", x, (1,), 1e-5, None, None)
    np.testing.assert_allclose(y, want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean, want[1], rtol=1e-7)
    np.testing.assert_allclose(inv, want[2], rtol=1e-6)
    check("layer", rng.standard_normal((3, 80_000)).astype(np.float16), (1,))


def cut_sets() -> list[tuple[str, A, tuple[int, ...]]]:
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((1, 20, 61, 64)) * 2 + 3).astype(np.float32)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = rng.standard_normal((2, 3, 90_000)).astype(np.float16)
    return [("pieces in 2", x, (1, 2, 3)), ("lanes in 2", last, (2, 3)), ("pieces in 2", last, (0, 1, 2, 3)), ("pieces in 2", wide, (2,))]


@pytest.mark.parametrize("op", ["layer", "rms"])
def test_large_sets_are_cut(op: str) -> None:
    rng = np.random.default_rng(7)
    for _, x, axes in cut_sets():
        channel = np.broadcast_to(rng.standard_normal(x.shape[1:2] + (1,) * (x.ndim - 2)).astype(x.dtype), x.shape)
        check(op, x, axes, channel, rng.standard_normal(x.shape).astype(x.dtype), statistics=True)
        check(op, strided(rng, x), axes, None, channel, strided(rng, np.zeros(x.shape, x.dtype)))


def test_ways() -> None:
    if harness.device is not None:
        pytest.skip("it asks the C++ engine which strategy it chose")
    for want, x, axes in cut_sets():
        describe: list[str] = []
        run(
            "normalize",
            [x, None, None],
            [(x.shape, x.dtype), None, None],
            {"op": "layer", "axes": axes, "epsilon": 1e-5},
            describe=describe,
        )
        assert describe == [want + " segments"]


def channels_last_groups(rng: np.random.Generator, n: int, groups: int, width: int, pixels: int, dtype: Any) -> A:
    """[n, groups, width, pixels] whose channels lie next to each other."""
    x = (rng.standard_normal((n, pixels, groups, width)) * 2 + 1).astype(dtype)
    return x.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("op", ["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_channels_last(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(12)
    for n, groups, width, pixels in (
        (2, 4, 2, 9),
        (1, 32, 3, 40),
        (3, 5, 7, 300),
        (1, 3, 100, 50),
        (1, 2, 128, 8),
        (2, 2, 129, 9),
        (1, 40, 2, 5_000),
    ):
        x = channels_last_groups(rng, n, groups, width, pixels, dtype)
        channel = np.broadcast_to(rng.standard_normal((groups, width, 1)).astype(dtype), x.shape)
        group = np.broadcast_to(rng.standard_normal((groups, 1, 1)).astype(dtype), x.shape)
        out = np.empty((n, pixels, groups, width), dtype).transpose(0, 2, 3, 1)
        check(op, x, (2, 3), channel, channel, out)
        check(op, x, (2, 3), channel, None)
        check(op, x, (2, 3), group, channel, out, statistics=dtype != np.float64)


def test_ways_of_groups() -> None:
    if harness.device is not None:
        pytest.skip("it asks the C++ engine which strategy it chose")
    rng = np.random.default_rng(13)
    for width, pixels, want in (
        (2, 9, "groups of lanes"),
        (128, 9, "groups of lanes"),
        (129, 9, "pieces"),
        (8, 40_000, "groups of lanes in 19 segments"),
    ):
        x = channels_last_groups(rng, 1, 2, width, pixels, np.float32)
        describe: list[str] = []
        out = np.empty((1, pixels, 2, width), np.float32).transpose(0, 2, 3, 1)
        run("normalize", [x, None, None], [out, None, None], {"op": "layer", "axes": (2, 3), "epsilon": 1e-5}, describe=describe)
        assert describe == [want]


def test_columns_a_page_apart() -> None:
    """Rows of a block that fall on the same cache lines are copied."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 70, 1024)).astype(np.float32)
    channel = np.broadcast_to(rng.standard_normal((70, 1)).astype(np.float32), x.shape)
    check("layer", x, (1,), channel, channel, statistics=True)
    check("rms", x[:, :, :100], (1,), channel[:, :, :100])


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(np.float32)], ids=str)
@pytest.mark.parametrize("size", [1 << 14, 1 << 15, 1 << 16, 1 << 17])
def test_converted_sets_on_both_sides_of_what_is_kept(size: int, dtype: np.dtype[Any]) -> None:
    """What has to be converted or gathered is kept from one pass to the next, or the set is cut for the threads: never both."""
    rng = np.random.default_rng(size)
    for count in (1, 3):
        for n in (size - 64, size, size + 64):
            x = (rng.standard_normal((count, n)) + 1).astype(dtype)
            check("layer", x, (1,))
            check("rms", strided(rng, x), (1,))
            image = (rng.standard_normal((count, n // 64, 64)) + 1).astype(dtype)  # channels last, alone and in groups
            check("layer", image.swapaxes(1, 2), (2,))
            check("layer", image.reshape(count, n // 64, 16, 4).transpose(0, 2, 3, 1), (2, 3))


def test_what_many_elements_share_costs_no_precision() -> None:
    rng = np.random.default_rng(9)
    slack = 1 if harness.device is None else 10  # other devices do not correct the means of blocks
    for shape, axes in (((3, 20_000), (1,)), ((5_000, 20), (0,)), ((1, 8, 100, 100), (1, 2, 3))):
        x = (rng.standard_normal(shape) * 0.1 + 1000).astype(np.float32)
        small = tuple(1 if a in axes else n for a, n in enumerate(shape))
        _, mean, inv = run("normalize", [x, None, None], [(shape, np.float32), (small, np.float32), (small, np.float32)],
                           {"op": "layer", "axes": axes, "epsilon": 1e-9})  # fmt: skip
        want = reference("layer", x, axes, 1e-9, None, None)
        np.testing.assert_allclose(mean, want[1], rtol=1e-7 * slack)
        np.testing.assert_allclose(inv, want[2], rtol=1e-6 * slack)


def test_what_is_not_finite_stays_in_its_set() -> None:
    rng = np.random.default_rng(10)
    for layout in ("rows", "pieces", "lanes"):
        x = rng.standard_normal((4, 9_000)).astype(np.float32)
        x = x[:, :50] if layout == "rows" else x if layout == "pieces" else np.ascontiguousarray(x[:, :200].T).T
        x[1, 7], x[2, 40] = np.nan, np.inf
        y, mean, _ = run("normalize", [x, None, None], [(x.shape, np.float32), ((4, 1), np.float32), None],
                         {"op": "layer", "axes": (1,), "epsilon": 1e-5})  # fmt: skip
        assert np.isnan(mean[1, 0]) and mean[2, 0] == np.inf and np.isnan(y[1:3]).all()
        np.testing.assert_allclose(y[[0, 3]], reference("layer", x[[0, 3]], (1,), 1e-5, None, None)[0], rtol=2e-5, atol=2e-5)


def test_empty_axis_gives_nan_statistics() -> None:
    y, mean, inv = run("normalize", [np.zeros((2, 0), np.float32), None, None], [((2, 0), np.float32), ((2, 1), np.float32), ((2, 1), np.float32)],
                       {"op": "layer", "axes": (1,), "epsilon": 1e-5})  # fmt: skip
    assert y.size == 0 and np.isnan(mean).all() and np.isnan(inv).all()


def test_programs() -> None:
    from pytensor_rt.lowering.expr import relu

    rng = np.random.default_rng(4)
    for axes in ((2,), (0,), (1, 2), (0, 2)):
        a, b, c = (strided(rng, rng.standard_normal((6, 37, 40)).astype(np.float32)) for _ in range(3))
        row = np.broadcast_to(rng.standard_normal(40).astype(np.float32), a.shape)
        want = np.maximum(reference("layer", a + b, axes, 1e-5, row, None)[0] + c, 0)
        results = [
            run("normalize", [np.empty(a.shape, np.float32), row, None], [(a.shape, np.float32), None, None],
                {"op": "layer", "axes": axes, "epsilon": 1e-5}, prologue=lambda x, y: x + y, pro_ins=[a, b],
                epilogue=lambda acc, z: relu(acc + z), epi_ins=[c], threads=t)[0]
            for t in (1, 2)
        ]  # fmt: skip
        assert results[0].tobytes() == results[1].tobytes()
        np.testing.assert_allclose(results[0], want, rtol=2e-5, atol=2e-5)


def test_epilogue_in_place() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((30, 96)).astype(np.float32)
    for axes in ((1,), (0,), (0, 1)):
        out = rng.standard_normal(x.shape).astype(np.float32)
        want = reference("layer", x, axes, 1e-5, None, None)[0] + out
        (y, _, _) = run("normalize", [x, None, None], [out, None, None], {"op": "layer", "axes": axes, "epsilon": 1e-5},
                        epilogue=lambda acc, r: acc + r, epi_ins=[out])  # fmt: skip
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
