"""Kernel `attention` against a float64 reference and onnx.reference's Attention."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.kernels.harness import run, strided

Array = np.ndarray[Any, Any]
INF = np.inf


def reference(
    q: Array, k: Array, v: Array, mask: Array | None, lengths: Array | None, scale: float, causal: int = 0, causal_offset: int = 0,
    softcap: float = 0.0,
) -> Array:  # fmt: skip
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    share = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, share, 1), np.repeat(v, share, 1)
    x = np.einsum("bhsd,bhtd->bhst", q, k) * scale
    if softcap:
        x = softcap * np.tanh(x / softcap)
    if mask is not None:
        x = np.where(mask, x, -INF) if mask.dtype == bool else x + mask.astype(np.float64)
    s, t = np.arange(q.shape[2])[:, None], np.arange(k.shape[2])[None, :]
    if causal:
        x = np.where(t <= s + causal_offset, x, -INF)
    if lengths is not None:
        x = np.where(t < lengths[:, None, None, None], x, -INF)
    top = np.max(x, -1, keepdims=True, initial=-INF)
    e = np.exp(x - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    y: Array = (e / np.where(total == 0, 1, total)) @ v
    return y


def make(rng: np.random.Generator, b: int, h: int, g: int, s: int, t: int, d: int, e: int, dtype: Any = np.float32) -> list[Array]:
    return [rng.standard_normal(n).astype(dtype) for n in [(b, h, s, d), (b, g, t, d), (b, g, t, e)]]


def check(
    q: Array, k: Array, v: Array, mask: Array | None = None, lengths: Array | None = None, *, tolerance: float = 1e-5, **p: Any
) -> None:
    params = {"scale": q.shape[-1] ** -0.5 if q.shape[-1] else 1.0, "causal": 0, "causal_offset": 0, "softcap": 0.0, **p}
    shape = (*q.shape[:3], v.shape[3])
    want = reference(q, k, v, mask, lengths, **params)
    got = run("attention", [q, k, v, mask, lengths], [(shape, q.dtype)], params)[0]
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=tolerance)
    two = run("attention", [q, k, v, mask, lengths], [(shape, q.dtype)], params, threads=2)[0]
    assert got.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    "b,h,g,s,t,d,e",
    [
        (1, 1, 1, 1, 1, 1, 1), (2, 3, 3, 5, 7, 16, 16), (1, 12, 12, 128, 128, 64, 64), (1, 2, 2, 197, 197, 64, 64), (2, 4, 2, 17, 33, 20, 36),
        (1, 8, 1, 3, 50, 40, 8), (1, 4, 2, 1, 3000, 64, 64), (2, 8, 2, 1, 700, 48, 80), (1, 2, 2, 30, 1500, 32, 64), (1, 1, 1, 300, 20, 7, 9),
        (1, 2, 1, 5, 2100, 64, 128), (1, 6, 3, 1, 13, 5, 3),
    ],
)  # fmt: skip
def test_shapes(b: int, h: int, g: int, s: int, t: int, d: int, e: int) -> None:
    rng = np.random.default_rng(s * t)
    q, k, v = make(rng, b, h, g, s, t, d, e)
    check(q, k, v)
    check(q, k, v, causal=1, causal_offset=t - s, softcap=2.0)
    check(q, k, v, rng.random((b, h, s, t)) < 0.7, causal=1)
    lengths = rng.integers(0, t + 1, b)
    check(q, k, v, rng.standard_normal((b, h, s, t)).astype(np.float32), lengths, scale=0.3)


def test_masks_of_any_stride_and_dtype() -> None:
    rng = np.random.default_rng(1)
    for s, t in [(1, 90), (20, 1200), (33, 40)]:
        q, k, v = make(rng, 2, 4, 2, s, t, 24, 16)
        for dtype in (np.bool_, np.float32, np.float64, np.float16):
            for shape in [(2, 1, 1, t), (1, 1, s, t), (2, 4, s, t), (1, 4, s, 1), (1, 1, 1, 1)]:
                values = rng.standard_normal(shape)
                mask = np.broadcast_to((values > -0.5 if dtype is np.bool_ else values).astype(dtype), (2, 4, s, t))
                check(q, k, v, mask)
        check(q, k, v, strided(rng, rng.standard_normal((2, 4, s, t)).astype(np.float32)))
        lowest = np.where(rng.random((2, 4, s, t)) < 0.5, np.finfo(np.float32).min, 0).astype(np.float32)
        check(q, k, v, lowest)
        lowest[:, :, :, : t // 2] = -INF
        check(q, k, v, lowest)


def test_strided_operands() -> None:
    rng = np.random.default_rng(2)
    for s, t, d, e in [(1, 40, 16, 16), (9, 33, 32, 48), (20, 20, 5, 7), (2, 600, 64, 64)]:
        for _ in range(4):
            q, k, v = (strided(rng, a) for a in make(rng, 2, 4, 2, s, t, d, e))
            y = strided(rng, np.full((2, 4, s, e), np.nan, np.float32))
            got = run("attention", [q, k, v], [y], {"scale": 0.2})[0]
            np.testing.assert_allclose(got, reference(q, k, v, None, None, 0.2), rtol=1e-5, atol=1e-5)
        # heads as a trailing axis of one projected matrix, keys stored transposed
        qkv = rng.standard_normal((2, t, 3, 4, d)).astype(np.float32)
        q, k, v = (qkv[:, : s if i == 0 else t, i].transpose(0, 2, 1, 3) for i in range(3))
        check(q, k, v)
        check(q, np.ascontiguousarray(k.swapaxes(2, 3)).swapaxes(2, 3), v)


@pytest.mark.parametrize("dtype,tolerance", [(np.float64, 1e-13), (np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)])
def test_dtypes(dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    for s, t in [(1, 70), (40, 70), (16, 2500)]:
        q, k, v = make(rng, 2, 4, 2, s, t, 24, 40, dtype)
        check(q, k, v, tolerance=tolerance)
        check(q, k, v, rng.standard_normal((2, 4, s, t)).astype(dtype), causal=1, causal_offset=t - s, softcap=3.0, tolerance=tolerance)
        check(q, k, v, None, np.array([t - 9, 3]), tolerance=tolerance)
    for t, d, e in [(5, 64, 64), (300, 64, 20), (40, 7, 128)]:  # few queries of few and many keys, whole vectors and not
        q, k, v = make(rng, 2, 4, 2, 2, t, d, e, dtype)
        check(q, k, v, rng.random((2, 4, 2, t)) < 0.7, np.array([t, t // 2]), causal=1, causal_offset=t - 3, tolerance=tolerance)


def test_rows_without_visible_keys_are_zero() -> None:
    rng = np.random.default_rng(4)
    for s, t in [(1, 30), (20, 30), (40, 1100)]:
        q, k, v = make(rng, 2, 2, 2, s, t, 16, 16)
        mask = np.ones((2, 2, s, t), np.bool_)
        mask[0, 1, s // 2] = False
        got = run("attention", [q, k, v, mask, np.array([t, 0])], [((2, 2, s, 16), np.float32)], {"scale": 1.0})[0]
        assert not got[1].any() and not got[0, 1, s // 2].any() and np.isfinite(got).all()
        check(q, k, v, mask, np.array([t, -3]), causal=1, causal_offset=-2)
    q, k, v = make(rng, 1, 2, 2, 3, 0, 8, 8)
    check(q, k, v)


def test_masked_rows_as_a_composed_softmax_has_them() -> None:
    rng = np.random.default_rng(14)
    for s, t in [(1, 30), (20, 30), (40, 1100)]:
        q, k, v = make(rng, 2, 2, 2, s, t, 16, 16)
        mask = np.zeros((2, 2, s, t), np.float32)
        mask[0, 1, s // 2] = -INF
        mask[1, 0, s // 2, t // 3 :] = -INF
        got = run("attention", [q, k, v, mask], [((2, 2, s, 16), np.float32)], {"scale": 0.25, "masked_nan": 1})[0]
        want = reference(q, k, v, mask, None, 0.25)
        want[0, 1, s // 2] = np.nan
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    q, k, v = make(rng, 1, 2, 2, 3, 0, 8, 8)
    assert not run("attention", [q, k, v], [((1, 2, 3, 8), np.float32)], {"scale": 1.0, "masked_nan": 1})[0].any()


def test_few_queries_read_keys_and_values_in_place() -> None:
    rng = np.random.default_rng(15)
    for d, e in [(16, 16), (32, 48), (64, 64), (128, 128), (40, 20)]:
        q, k, v = make(rng, 1, 4, 2, 2, 700, d, e)
        how: list[str] = []
        got = run("attention", [q, k, v], [((1, 4, 2, e), np.float32)], {"scale": 0.2}, describe=how)[0]
        assert how == ["streaming"]
        np.testing.assert_allclose(got, reference(q, k, v, None, None, 0.2), rtol=1e-5, atol=1e-5)


def test_scales_of_any_sign() -> None:
    rng = np.random.default_rng(16)
    for s, t in [(2, 70), (20, 1100)]:
        q, k, v = make(rng, 1, 2, 1, s, t, 16, 16)
        for scale in (-0.7, 0.0, 40.0):
            check(q, k, v, scale=scale, tolerance=5e-5)


def test_exponential_over_its_whole_range() -> None:
    """Two keys with scores 0 and x <= 0 (in powers of two): the ratio of their weights is 2^x within the bound of vmath.h and three roundings."""
    n = 20_000
    x = np.sort(np.concatenate([np.linspace(-126, 0, n - 3), [-1e30, -300, -1e-30]])).astype(np.float32)
    k = np.stack([np.zeros(n, np.float32), x], 1).reshape(n, 1, 2, 1)
    v = np.broadcast_to(np.eye(2, dtype=np.float32), (n, 1, 2, 2))
    for queries in (1, 6):
        q = np.ones((n, 1, queries, 1), np.float32)
        y = run("attention", [q, k, v], [((n, 1, queries, 2), np.float32)], {"scale": math.log(2)})[0].astype(np.float64)
        want = np.exp2(x.astype(np.float64))[:, None]
        ratio = y[:, 0, :, 1] / y[:, 0, :, 0]
        assert (np.abs(ratio - want) <= 4 * np.spacing(np.maximum(want, 2.0**-126).astype(np.float32))).all()


def test_nan_and_infinity_stay_in_their_rows() -> None:
    rng = np.random.default_rng(5)
    for s in (2, 30):
        q, k, v = make(rng, 1, 1, 1, s, 40, 16, 16)
        q[0, 0, 1, 3] = np.nan
        got = run("attention", [q, k, v], [((1, 1, s, 16), np.float32)], {"scale": 1.0})[0]
        assert np.isnan(got[0, 0, 1]).all() and np.isfinite(np.delete(got, 1, 2)).all()


def test_epilogue() -> None:
    rng = np.random.default_rng(6)
    for s, t in [(1, 40), (37, 70), (300, 30)]:
        q, k, v = make(rng, 2, 4, 2, s, t, 24, 20)
        bias = np.broadcast_to(rng.standard_normal((1, 4, 1, 20)).astype(np.float32), (2, 4, s, 20))
        y = strided(rng, np.zeros((2, 4, s, 20), np.float32))
        got = run("attention", [q, k, v], [y], {"scale": 0.2}, epilogue=lambda acc, b: acc * b + b, epi_ins=[bias])[0]
        np.testing.assert_allclose(got, reference(q, k, v, None, None, 0.2) * bias + bias, rtol=1e-5, atol=1e-5)


def test_operator_of_onnx() -> None:
    onnx_reference = pytest.importorskip("onnx.reference")
    from onnx import TensorProto, helper

    rng = np.random.default_rng(7)
    q, k, v = make(rng, 2, 6, 3, 10, 14, 16, 24)
    mask = rng.standard_normal((10, 14)).astype(np.float32)
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], scale=0.3, softcap=1.5)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("q", "k", "v", "mask", "y")]
    model = helper.make_model(helper.make_graph([node], "g", info[:4], info[4:]), opset_imports=[helper.make_opsetid("", 23)])
    want = onnx_reference.ReferenceEvaluator(model).run(None, {"q": q, "k": k, "v": v, "mask": mask})[0]
    full = np.broadcast_to(mask, (2, 6, 10, 14))
    got = run("attention", [q, k, v, full], [(want.shape, np.float32)], {"scale": 0.3, "softcap": 1.5})[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
