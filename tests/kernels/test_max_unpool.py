"""The max_unpool kernel: it undoes what pool's indices recorded."""

from __future__ import annotations

import numpy as np
import pytest

from .harness import run, strided


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64"])
def test_scatter(dtype: str) -> None:
    rng = np.random.default_rng(1)
    for small, shape, size in (((2, 3, 4), (2, 3, 8), (2, 3, 8)), ((1, 2, 3, 3), (1, 2, 6, 7), (1, 2, 8, 9)), ((0, 3), (2, 3), (2, 3))):
        x = rng.integers(1, 100, small).astype(dtype)
        indices = rng.choice(int(np.prod(shape)), small, replace=False).astype(np.int64)
        want = np.zeros(size, dtype)
        inner = np.zeros(shape, dtype)
        inner.reshape(-1)[indices.reshape(-1)] = x.reshape(-1)
        want[tuple(slice(0, n) for n in shape)] = inner
        for threads in (1, 2):
            out = strided(rng, np.ones(size, dtype))
            (y,) = run("max_unpool", [strided(rng, x), strided(rng, indices)], [out], {"reference_shape": shape}, threads=threads)
            np.testing.assert_array_equal(y, want)


def test_inverse_of_pool() -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 8, 6)).astype(np.float32)
    window = {"kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    y, where = run("pool", [x], [((2, 3, 4, 3), np.float32), ((2, 3, 4, 3), np.int64)], {"op": "max", **window})
    (back,) = run("max_unpool", [y, where], [(x.shape, np.float32)], {"reference_shape": x.shape})
    blocks = x.reshape(2, 3, 4, 2, 3, 2).max((3, 5), keepdims=True)
    np.testing.assert_array_equal(back, np.where(x.reshape(2, 3, 4, 2, 3, 2) == blocks, blocks, 0).reshape(x.shape))


def test_positions_are_checked() -> None:
    x = np.ones((1, 1, 2), np.float32)
    for bad in (8, -9, 2**40):
        with pytest.raises(Exception, match="max_unpool"):
            run("max_unpool", [x, np.array([[[0, bad]]], np.int64)], [((1, 1, 8), np.float32)], {"reference_shape": (1, 1, 8)})
    with pytest.raises(Exception, match="outside the output"):
        run("max_unpool", [x, np.array([[[0, 7]]], np.int64)], [((1, 1, 4), np.float32)], {"reference_shape": (1, 1, 8)})


def test_planes() -> None:
    """Planes are filled side by side where every position is in its own; one elsewhere makes all of it go in order."""
    rng = np.random.default_rng(3)
    shape = (2, 3, 6, 8)
    for dtype in ("float32", "int8", "float64", "complex128"):
        x = rng.integers(1, 100, (2, 3, 3, 4)).astype(dtype)
        base = 48 * np.arange(6).reshape(2, 3, 1, 1)
        inside = base + rng.integers(0, 48, x.shape)  # the last of equal positions counts
        outside = inside.copy()
        outside[0, 0, 0, 1] = 287
        negative = inside - 288
        for positions in (inside, outside, negative):
            want = np.zeros(288, dtype)
            for value, p in zip(x.reshape(-1), positions.reshape(-1)):
                want[p] = value
            for threads in (1, 2):
                describe: list[str] = []
                (y,) = run("max_unpool", [x, positions], [(shape, dtype)], {"reference_shape": shape}, threads=threads, describe=describe)
                np.testing.assert_array_equal(y, want.reshape(shape))
                assert describe in ([], ["planes"])  # (other devices say nothing)
