"""`gemm` with a constant integer b and b_scale: weights are exactly (b - zero) * scale in float32, the sums have the bound of test_gemm.py."""

from __future__ import annotations

import os
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels import ref
from pytensor_rt.lowering import expr as E

from . import harness
from .harness import run, strided
from .test_gemm import check, exact, magnitude, normal, same_bits

Array = np.ndarray[Any, Any]
I4, U4, BF16 = (np.dtype(getattr(ml_dtypes, n)) for n in ("int4", "uint4", "bfloat16"))
FORMATS: list[Any] = [np.dtype(np.int8), np.dtype(np.uint8), I4, U4, "pairs"]


def weights(rng: np.random.Generator, k: int, n: int, form: Any, block: int, zeros: str, dtype: Any = np.float32) -> tuple[Any, ...]:
    """(b, zero, scale, the float32 weights): scale [blocks, n]; zeros: "none", "float", or in b's format "same" or "one" for all."""
    blocks = -(-k // block) if block else 1
    rows = np.arange(k) // (block or max(1, k))
    low, high = {"pairs": (0, 15), I4: (-8, 7), U4: (0, 15)}.get(form, (-128, 127) if form == np.int8 else (0, 255))
    q, z = rng.integers(low, high + 1, (k, n)), rng.integers(low, high + 1, (blocks, n))
    scale = rng.uniform(0.01, 0.1, (blocks, n)).astype(dtype)
    if zeros == "one":
        z[:] = z.flat[0]
    shift = {"none": np.zeros((1, n)), "float": z + 0.25}.get(zeros, z)
    w = (q.astype(np.float32) - shift.astype(np.float32)[rows % len(shift)]) * scale.astype(np.float32)[rows]

    def stored(x: Array) -> Array:
        if form != "pairs":
            return x.astype(form)
        x = np.concatenate([x, np.zeros((len(x) % 2, n), x.dtype)])
        return (x[::2] | x[1::2] << 4).astype(np.uint8)

    zero = None if zeros == "none" else shift.astype(np.float32) if zeros == "float" else stored(z)
    return stored(q), zero, scale, w


def gemm(a: Array, b: Array, zero: Array | None, scale: Array, y: Any, form: Any, block: int, **options: Any) -> Array:
    params = {"block": block, "pairs": int(isinstance(form, str))}
    (out,) = run("gemm", [a, b, None, zero, scale], [y], params, consts=[1, 3, 4] if zero is not None else [1, 4], **options)
    return out


@pytest.mark.parametrize("zeros", ["none", "float", "same", "one"])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_shapes_and_blocks(form: Any, zeros: str) -> None:
    rng = np.random.default_rng(1)
    for m, n, k, block in [
        (1, 5, 3, 0), (1, 70, 64, 16), (2, 33, 7, 2), (3, 40, 65, 32), (4, 100, 64, 1), (5, 31, 9, 4), (15, 65, 47, 16), (1, 32, 2100, 128),
        (29, 48, 2100, 32), (6, 129, 1537, 0), (1, 64, 101, 3),
    ]:  # fmt: skip
        b, zero, scale, w = weights(rng, k, n, form, block, zeros)
        a = normal(rng, (m, k), np.float32)
        y = gemm(a, b, zero, scale, ((m, n), np.float32), form, block)
        check(y, exact(a, w), magnitude(a, w), k)
        params = {"block": block, "pairs": int(isinstance(form, str))}
        (oracle,) = ref.execute("gemm", [a, b, None, zero, scale], [((m, n), np.dtype(np.float32))], params)
        assert oracle is not None
        check(oracle, exact(a, w), magnitude(a, w), k)


def test_int8_weights_times_rows_in_int8() -> None:
    rng = np.random.default_rng(7)
    for m, n, k, per_column in [(1, 5, 3, True), (3, 70, 64, False), (4, 33, 101, True), (17, 65, 300, True), (40, 96, 1030, False)]:
        b, _, scale, w = weights(rng, k, n, np.dtype(np.int8), 0, "none")
        if not per_column:
            scale = scale[:, :1].copy()
            w = b.astype(np.float32) * scale
        b = strided(rng, b)
        a = normal(rng, (2, m, k), np.float32)
        wide = [np.broadcast_to(x, (2, *x.shape)) for x in (b, scale)]
        ins, params, told = [a, wide[0], None, None, wide[1]], {"precision": "int8", "alpha": 0.5}, list[str]()
        y = [run("gemm", ins, [((2, m, n), np.float32)], params, consts=[1, 4], threads=t, describe=told)[0] for t in (1, 2)]
        assert same_bits(*y)
        if harness.device:  # free to multiply floats
            check(y[0], 0.5 * exact(a, w), magnitude(a, w), k)
            continue
        assert told[0].startswith("int8 of ")
        (oracle,) = ref.execute("gemm", ins, [((2, m, n), np.dtype(np.float32))], params)
        np.testing.assert_allclose(y[0], oracle, rtol=4 * 2.0**-24, atol=0)


def in_16_bits(a: Array, block: int) -> Array:
    """What spec.py's precision int16 makes of a, as float64."""
    out = np.zeros(a.shape)
    for k in range(0, a.shape[-1], block or a.shape[-1]):
        x = a[..., k : k + block] if block else a
        most = np.abs(x).max(axis=-1, keepdims=True)
        used = most >= np.float32(2.0**-100)
        inverse = np.where(used, np.float32(32639) / np.where(used, most, np.float32(1)), np.float32(0))
        out[..., k : k + x.shape[-1]] = np.rint(x * inverse).astype(np.float64) * np.where(used, most / np.float32(32639), np.float32(0))
    return out


@pytest.mark.parametrize("zeros", ["none", "float", "same", "one"])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rows_in_16_bits(form: Any, zeros: str) -> None:
    rng = np.random.default_rng(11)
    for m, n, k, block in [
        (1, 5, 3, 0), (1, 70, 64, 16), (2, 33, 7, 0), (3, 40, 65, 32), (4, 100, 64, 8), (5, 31, 9, 4), (15, 65, 47, 24), (1, 32, 2100, 128),
        (29, 48, 2100, 32), (6, 129, 300, 0), (1, 64, 100, 256), (19, 40, 513, 256),
    ]:  # fmt: skip
        b, zero, scale, w = weights(rng, k, n, form, block, zeros)
        batch = int(rng.integers(1, 3))
        a = strided(rng, normal(rng, (batch, m, k), np.float32) * rng.choice(np.float32([1e-4, 1, 1e3]), (batch, m, 1)))
        a[0, 0, : min(k, block or k)] = 0
        r = normal(rng, (batch, m, n), np.float32)
        wide = [None if x is None else np.broadcast_to(x, (batch, *x.shape)) for x in (b, zero, scale)]
        params = {"block": block, "pairs": int(isinstance(form, str)), "precision": "int16"}
        told: list[str] = []
        ys = [
            run("gemm", [a, wide[0], None, *wide[1:]], [((batch, m, n), np.float32)], params, threads=t, describe=told,
                consts=[1, 3, 4] if zero is not None else [1, 4], epilogue=lambda acc, x: E.relu(acc + x), epi_ins=[r])[0]
            for t in (1, 2)
        ]  # fmt: skip
        assert same_bits(*ys)
        digits = bool(told) and "int16 by" in told[0]
        takes = zeros != "float" and block % 8 == 0 and (block or k) <= (4096 if form in ("pairs", I4, U4) else 256)
        bytes_are_fast = not harness.device and (os.environ.get("PTRT_ISA") or harness.ISAS[0]) == "v4x"
        assert digits == (takes and bytes_are_fast)
        x = in_16_bits(np.ascontiguousarray(a), block) if digits else a.astype(np.float64)
        check(ys[0], np.maximum(x @ w.astype(np.float64) + r, 0), magnitude(np.abs(x), w) + np.abs(r), k)


def test_rows_in_16_bits_that_are_not_finite() -> None:
    rng = np.random.default_rng(12)
    b, _, scale, _ = weights(rng, 64, 8, "pairs", 32, "none")
    a = np.ones((3, 64), np.float32)
    a[0, 40], a[1, 3] = np.nan, np.inf
    params = {"block": 32, "pairs": 1, "precision": "int16"}
    (y,) = run("gemm", [a, b, None, None, scale], [((3, 8), np.float32)], params, consts=[1, 4])
    assert not np.isfinite(y[0]).any()
    assert not np.isfinite(y[1]).all()
    assert np.isfinite(y[2]).all()


@pytest.mark.parametrize("m", [1, 3, 9, 40])
def test_same_bits_as_float32_weights(m: int) -> None:
    """One block: the additions of the float32 kernel with b packed, in the same order. Few rows multiply their sum by the scale."""
    rng = np.random.default_rng(2)
    for form in FORMATS:
        b, zero, scale, w = weights(rng, 300, 96, form, 0, "same")
        if m < 5:
            integers = np.rint(w / scale)
            scale = np.exp2(np.floor(np.log2(scale)))
            w = integers * scale
        a = normal(rng, (m, 300), np.float32)
        (dense,) = run("gemm", [a, w], [((m, 96), np.float32)], consts=[1])
        assert same_bits(gemm(a, b, zero, scale, ((m, 96), np.float32), form, 0), dense)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_strides_batches_threads_epilogues(form: Any) -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        m, n, k = (int(x) for x in rng.integers(1, 70, 3))
        block = int(rng.choice([0, 1, 8, 32]))
        batch = tuple(int(x) for x in rng.integers(1, 4, int(rng.integers(0, 3))))
        b, zero, scale, w = weights(rng, k, n, form, block, str(rng.choice(["none", "float", "same", "one"])))
        a, r = strided(rng, normal(rng, (*batch, m, k), np.float32)), normal(rng, (*batch, m, n), np.float32)
        wide = lambda x: None if x is None else np.broadcast_to(strided(rng, x), (*batch, *x.shape))  # noqa: B023
        operands = [wide(x) for x in (b, zero, scale)]
        ys = [
            gemm(a, *operands, strided(rng, r), form, block, threads=t, epilogue=lambda acc, x: E.relu(acc) + x, epi_ins=[r])
            for t in (1, 2)
        ]
        assert same_bits(np.ascontiguousarray(ys[0]), np.ascontiguousarray(ys[1]))
        check(np.ascontiguousarray(ys[0]), np.maximum(exact(a, w), 0) + r, magnitude(a, w) + np.abs(r), k)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BF16], ids=str)
def test_16_bit_operands(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    for m in (1, 20):
        b, zero, scale, w = weights(rng, 64, 50, "pairs", 16, "same", dtype)
        a = normal(rng, (m, 64), dtype)
        y = gemm(a, b, zero, scale, ((m, 50), dtype), "pairs", 16)
        check(y, exact(a, w), magnitude(a, w), 64)


def test_empty_sum_and_refusals() -> None:
    rng = np.random.default_rng(5)
    b, _, scale, _ = weights(rng, 8, 6, np.dtype(np.int8), 4, "none")
    a = normal(rng, (3, 8), np.float32)
    assert not gemm(a[:, :0], b[:0], None, scale[:1], np.full((3, 6), 7, np.float32), np.dtype(np.int8), 0).any()
    for operands, block, why in [
        ((b, None, scale), 3, "blocks"), ((b, None, scale), 0, "blocks"), ((b[:7], None, scale), 4, "shapes"),
        ((b, scale[:, :2], scale), 4, "broadcast"), ((b.astype(np.int32), None, scale), 4, "integer b"), ((b, None, scale[:, :3]), 4, "broadcast"),
    ]:  # fmt: skip
        with pytest.raises(Exception, match=f"gemm: .*{why}"):
            gemm(a, *operands, ((3, 6), np.float32), np.dtype(np.int8), block)
