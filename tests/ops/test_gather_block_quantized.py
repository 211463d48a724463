"""com.microsoft GatherBlockQuantized against onnxruntime, bit for bit, and against the definition where that has no kernel."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, both, run, session

Array = np.ndarray[Any, Any]
NAME = "GatherBlockQuantized"
INT4 = (ml_dtypes.int4, ml_dtypes.uint4)
FLOATS = (
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float4_e2m1fn,
)  # fmt: skip


def numbers(dtype: Any, *shape: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    low, high = {ml_dtypes.int4: (-8, 8), ml_dtypes.uint4: (0, 16), np.uint8: (0, 256)}.get(dtype, (-4, 5))
    return rng.integers(low, high, shape).astype(dtype)


def scales(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(7).uniform(0.1, 1, shape).astype(dtype)


def indices(n: int, shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-n, n, shape).astype(dtype)


def same(feeds: dict[str, Any], **attrs: Any) -> Array:
    """Ours; equal to onnxruntime's, with the indices as an input and as a constant."""
    got: Any = None
    for fixed in (("x", "s", "z"), ("x", "s", "z", "i")):
        constants: Any = lambda given, fixed=fixed: [k for k in fixed if k in given]
        for ours, theirs in both(NAME, feeds, constants=constants, **attrs):
            np.testing.assert_array_equal(ours, theirs)
            got = ours
    return got


INDEX_SHAPES: list[tuple[int, ...]] = [(6,), (2, 3), (), (0,), (1, 1, 4)]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bytes(bits: int, zeros: bool, dtype: Any) -> None:
    """Of several integers each: whole blocks and a last one that is cut off, blocks that end within a byte of zero points, more axes."""
    for block, columns, middle in product((16, 32), (32, 48, 40), ((), (3,))):
        blocks, each = -(-columns // block), 8 // bits
        x = numbers(np.uint8, 5, *middle, columns // each)
        z = {"z": numbers(np.uint8, 5, *middle, -(-blocks // each), seed=1)} if zeros else {}
        for k, shape in enumerate(INDEX_SHAPES):
            i = indices(5, shape, np.int32 if k % 2 else np.int64)
            got = same({"x": x, "i": i, "s": scales(5, *middle, blocks, dtype=dtype)} | z, bits=bits, block_size=block, quantize_axis=-1)
            assert got.shape == (*shape, *middle, columns)


@pytest.mark.parametrize("data", INT4)
@pytest.mark.parametrize("zeros", [False, True])
def test_four_bit_integers(data: Any, zeros: bool) -> None:
    """Along every pair of axes, which may be one."""
    for dims, gather, quantize in product(((5, 33, 6), (16, 20, 40)), (0, 1, 2, -2), (0, 1, 2, -1)):
        grid = tuple(-(-n // 16) if k == quantize % 3 else n for k, n in enumerate(dims))
        z = {"z": numbers(data, *grid, seed=1)} if zeros else {}
        for k, shape in enumerate(INDEX_SHAPES[:4]):
            i = indices(dims[gather], shape, np.int64 if k % 2 else np.int32)
            attrs = {"block_size": 16, "gather_axis": gather, "quantize_axis": quantize}
            same({"x": numbers(data, *dims), "i": i, "s": scales(*grid)} | z, **attrs)
    assert same({"x": numbers(data, 3, 140), "i": np.array([2, 0]), "s": scales(3, 2)}).shape == (2, 140)  # the attributes' defaults


@pytest.mark.parametrize("data", FLOATS)
def test_small_floats(data: Any) -> None:
    """Scales may be broadcast, and block_size 0 is a block of the whole axis."""
    for dims, gather, quantize in product(((5, 33, 6),), (0, 1, 2), (0, 1, 2)):
        for block, shared in product((0, 16), (False, True)):
            grid = tuple((-(-n // 16) if block else 1) if k == quantize else 1 if shared and k != 1 else n for k, n in enumerate(dims))
            i = indices(dims[gather], (2, 3), np.int64)
            attrs = {"block_size": block, "gather_axis": gather, "quantize_axis": quantize}
            same({"x": numbers(data, *dims), "i": i, "s": scales(*grid)}, **attrs)


def test_indices_out_of_range_give_zeros() -> None:
    i = np.array([4, 5, -5, -6, 1 << 31, -(1 << 40)])
    got = same({"x": numbers(np.uint8, 5, 16), "i": i, "s": scales(5, 2)}, block_size=16)
    assert not got[[1, 3, 4, 5]].any() and got[[0, 2]].any()
    x, s = numbers(ml_dtypes.int4, 33, 7, 20), scales(3, 7, 20)
    for gather in (0, 1, 2):
        same({"x": x, "i": np.array([[40, 1], [-40, 0]], np.int32), "s": s}, block_size=16, quantize_axis=0, gather_axis=gather)
    got = same({"x": numbers(ml_dtypes.int4, 3, 40, 6), "i": np.array([9, -1]), "s": scales(3, 3, 6)}, block_size=16, gather_axis=2)
    assert not got[..., 0].any()
    large = numbers(ml_dtypes.int4, 3, 64, 6)
    same({"x": large, "i": np.array([9, -1]), "s": scales(3, 4, 6)}, block_size=16, gather_axis=2)  # whole blocks ahead of the indices
    x = np.full((2, 16), np.inf).astype(ml_dtypes.float8_e5m2)
    (got,) = run(NAME, {"x": x, "i": np.array([3, 0]), "s": scales(2, 1)}, block_size=16, **MS)
    assert (got[0] == 0).all() and np.isinf(got[1]).all()
    (got,) = run(NAME, {"x": numbers(np.uint8, 0, 8), "i": np.array([0, 3]), "s": scales(0, 1)}, block_size=16, **MS)
    assert got.shape == (2, 16) and not got.any()


def test_vectors_and_bfloat16() -> None:
    """What the schema has and onnxruntime lacks."""
    x, s, i = numbers(ml_dtypes.int4, 33), scales(3, dtype=ml_dtypes.bfloat16), np.array([[32, -33], [16, 15]])
    (got,) = run(NAME, {"x": x, "i": i, "s": s}, block_size=16, quantize_axis=0, **MS)
    want = (x.astype(np.float32) * np.repeat(s.astype(np.float32), 16)[:33])[i].astype(ml_dtypes.bfloat16)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    x8 = numbers(np.uint8, 5, 20, 6)
    (got,) = run(NAME, {"x": x8, "i": i[:, 0] % 5, "s": scales(5, 2, 6)}, block_size=16, bits=8, **MS)
    np.testing.assert_array_equal(got, ((x8 - np.float32(128)) * scales(5, 2, 6).repeat(16, 1)[:, :20])[i[:, 0] % 5])


def test_one_session_takes_indices_of_any_shape() -> None:
    feeds = {"x": numbers(np.uint8, 100, 64), "i": np.zeros((1, 1), np.int64), "s": scales(100, 4)}
    s = session(NAME, feeds, constants=("x", "s"), block_size=32, **MS)
    q = np.stack([feeds["x"] & 15, feeds["x"] >> 4], -1).reshape(100, 128) - np.float32(8)
    for shape in ((1, 1), (1, 7), (3, 5), (1, 1), (0, 4)):
        i = indices(100, shape, np.int64)
        np.testing.assert_array_equal(s.run(None, {"i": i})[0], (q * feeds["s"].repeat(32, 1))[i])


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({}, {"block_size": 24}, "block_size must be a power of 2 and at least 16, got 24"),
        ({}, {"block_size": 0}, "block_size must be a power of 2 and at least 16, got 0"),
        ({}, {"bits": 3}, "bits must be 2, 4 or 8 for data of uint8, got 3"),
        ({"x": numbers(ml_dtypes.int4, 5, 32)}, {"bits": 8}, "bits must be 4 for data of int4, got 8"),
        ({"x": numbers(np.uint8, 5, 16).astype(np.int32)}, {}, "data must be uint8, int4, uint4, float4 or float8, got int32"),
        ({"z": numbers(np.uint8, 5, 2)}, {}, r"expected zero points of shape \[5, 1\], got \[5, 2\]"),
        ({"z": numbers(ml_dtypes.uint4, 5, 2)}, {}, "zero points must be uint8 as the data, got uint4"),
        ({"s": scales(5, 3)}, {}, r"expected scales of shape \[5, 2\], got \[5, 3\]"),
        ({"s": scales(1, 2)}, {}, r"expected scales of shape \[5, 2\], got \[1, 2\]"),
        ({}, {"gather_axis": 1}, "gather_axis must be 0 for data of uint8, got 1"),
        ({}, {"quantize_axis": 0}, "packed data is not gathered along quantize_axis"),
        ({}, {"quantize_axis": 2}, "axis 2 is out of range for rank 2"),
        ({"x": numbers(ml_dtypes.float8_e5m2, 5, 32), "z": numbers(np.uint8, 5, 1)}, {}, "zero points do not go with data of float8_e5m2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_so(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds: dict[str, Any] = {"x": numbers(np.uint8, 5, 16), "i": np.array([1, 2]), "s": scales(5, 2)}
    with pytest.raises(rt.PlanError, match=rf"\[com.microsoft.GatherBlockQuantized\] 'n': {message}"):
        run(NAME, {**feeds, **change}, **{"block_size": 16, **MS, **attrs})
