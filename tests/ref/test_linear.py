"""gemm, determinant, attention, linear attention, conv, conv_transpose and col2im of the NumPy backend against onnx.reference or plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pytensor_rt.dtypes import F16, F32, F64, I8, I32, I64, U8, from_code
from pytensor_rt.kernels.ref import execute

from .onnx_oracle import check, onnx_run

RNG = np.random.default_rng(0)


def floats(*shape, dtype=F32):
    return RNG.standard_normal(shape).astype(dtype)


def test_gemm_floats():
    for shape_a, shape_b in (((3, 4), (4, 5)), ((2, 3, 4), (1, 4, 5)), ((2, 1, 3, 4), (1, 6, 4, 2))):
        a, b = floats(*shape_a), floats(*shape_b)
        check("gemm", [a, b], onnx_run("MatMul", [a, b]), {})
        check("gemm", [a, b], [0.5 * (a @ b)], {"alpha": 0.5})
    y = execute("gemm", [floats(2, 0), floats(0, 3)], [((2, 3), F32)], {})[0]
    assert y.tolist() == [[0, 0, 0], [0, 0, 0]]
    for dtype in (F16, from_code(16)):
        a, b = floats(3, 50, dtype=dtype), floats(50, 2, dtype=dtype)
        want = (a.astype(F64) @ b.astype(F64)).astype(F32).astype(dtype)
        assert (execute("gemm", [a, b], [((3, 2), dtype)], {})[0] == want).all()


@pytest.mark.parametrize("ta", [I8, U8])
@pytest.mark.parametrize("tb", [I8, U8])
def test_gemm_8_bit_is_exact(ta, tb):
    a, b = (RNG.integers(np.iinfo(t).min, np.iinfo(t).max + 1, s).astype(t) for t, s in ((ta, (2, 3, 40)), (tb, (2, 40, 5))))
    check("gemm", [a, b], [np.matmul(a.astype(I32), b.astype(I32))], {})
    az, bz = np.array(7).astype(ta), np.array(9).astype(tb)
    want = onnx_run("MatMulInteger", [a, b, az, bz])
    check("gemm", [a, b, np.broadcast_to(az, (2, 3, 1)), np.broadcast_to(bz, (2, 1, 5))], want, {})
    zeros = RNG.integers(0, 20, (1, 1, 5)).astype(tb)
    check("gemm", [a, b, None, np.broadcast_to(zeros, (2, 1, 5))], [np.matmul(a.astype(I32), b.astype(I32) - zeros)], {})


def test_gemm_integers_wrap():
    a = np.array([[2**62, 3]], I64)
    assert execute("gemm", [a, np.array([[4], [5]], I64)], [((1, 1), I64)], {})[0].tolist() == [[15]]


def test_epilogue_and_prologue():
    a, b, bias = floats(3, 4), floats(4, 5), floats(5)
    epilogue = (("acc", (), F32), ("load", (0,), F32), ("add", (0, 1), F32), ("relu", (2,), F32))
    want = np.maximum(a @ b + bias, 0)
    check("gemm", [a, b], [want], {}, epilogue=epilogue, epi_ins=[bias])
    a8, b8 = RNG.integers(-9, 9, (2, 3)).astype(I8), RNG.integers(-9, 9, (3, 2)).astype(I8)
    rescale = (("acc", (), I32), ("cast", (0,), F32), ("const", (0.5,), F32), ("mul", (1, 2), F32))
    check("gemm", [a8, b8], [(a8.astype(F32) @ b8.astype(F32)) * F32.type(0.5)], {}, epilogue=rescale, acc_dtype=I32)
    prologue = (("load", (0,), F32), ("load", (1,), F32), ("mul", (0, 1), F32))
    want = [(a * a[:1]).sum(axis=1, keepdims=True)]
    check("reduce", [None], want, {"op": "sum", "axes": (1,)}, prologue=prologue, pro_ins=[a, np.broadcast_to(a[:1], a.shape)])


def test_det():
    x = floats(2, 3, 4, 4)
    check("linear_algebra", [x], onnx_run("Det", [x]), {"op": "det"}, rtol=1e-4)
    assert execute("linear_algebra", [np.ones((2, 2), F32)], [((), F32)], {"op": "det"})[0] == 0


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention(heads, causal, mask, softcap):
    h, g = heads
    q, k, v = floats(2, h, 3, 8), floats(2, g, 5, 8), floats(2, g, 5, 6)
    m = {None: None, "bool": RNG.random((2, h, 3, 5)) < 0.7, "float": floats(2, h, 3, 5)}[mask]
    if m is not None and m.dtype == bool:
        m[..., 0] = True
    want = onnx_run("Attention", [q, k, v, m], is_causal=causal, softcap=softcap, scale=0.3)
    check("attention", [q, k, v, m], want, {"scale": 0.3, "causal": causal, "causal_offset": 0, "softcap": softcap})


def test_attention_of_invisible_keys():
    q, k, v = floats(2, 1, 3, 4), floats(2, 1, 5, 4), floats(2, 1, 5, 4)
    v[1, :, 2:] = np.nan  # beyond k_lengths: must not leak
    y = execute("attention", [q, k, v, None, np.array([0, 2])], [(q.shape, F32)], {"scale": 0.5})[0]
    assert (y[0] == 0).all()
    np.testing.assert_allclose(y[1], execute("attention", [q[1:], k[1:, :, :2], v[1:, :, :2]], [((1, 1, 3, 4), F32)], {"scale": 0.5})[0][0])
    y = execute("attention", [q, k, v], [(q.shape, F32)], {"scale": 0.5, "causal": 1, "causal_offset": -1})[0]
    assert (y[:, :, 0] == 0).all() and np.allclose(y[0, 0, 1], v[0, 0, 0])


GEOMETRY = [((1,), (1,), (0,)), ((2,), (1,), (1,)), ((1,), (2,), (2,)), ((3,), (2,), (1,))]


@pytest.mark.parametrize("group", [1, 2])
def test_conv(group):
    for spatial in (1, 2):
        for (s,), (d,), (p,) in GEOMETRY:
            x, w, b = floats(2, 4, *([9, 8][:spatial])), floats(6, 4 // group, *([3, 2][:spatial])), floats(6)
            attrs = {"strides": (s,) * spatial, "dilations": (d,) * spatial, "pads": (p,) * spatial + (p + 1,) * spatial, "group": group}
            check("conv", [x, w, b], onnx_run("Conv", [x, w, b], **attrs), attrs, rtol=1e-4)
    x, w = floats(1, 2, 4, 5, 6), floats(2, 2 // group, 2, 2, 3)
    want = np.zeros((1, 2, 3, 4, 4))
    for m, c, k in itertools.product(range(2), range(2 // group), np.ndindex(2, 2, 3)):
        base = (m // (2 // group)) * (2 // group)
        want[0, m] += x[0, base + c, k[0] : k[0] + 3, k[1] : k[1] + 4, k[2] : k[2] + 4].astype(F64) * w[(m, c, *k)]
    check("conv", [x, w], [want.astype(F32)], {"strides": (1,) * 3, "dilations": (1,) * 3, "pads": (0,) * 6, "group": group})


def test_conv_8_bit():
    x, w = RNG.integers(0, 256, (2, 4, 6, 6)).astype(U8), RNG.integers(-128, 128, (6, 2, 3, 3)).astype(I8)
    attrs = {"strides": (2, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 2}
    xz, wz = np.array(120, U8), np.array([1, -2, 3, 0, 5, 9], I8)
    shifted = onnx_run("Conv", [x.astype(F64) - 120, (w - wz.reshape(-1, 1, 1, 1).astype(I32)).astype(F64)], **attrs)[0]
    check("conv", [x, w, None, xz, wz], [shifted.astype(I32)], attrs)
    plain = onnx_run("Conv", [x.astype(F64), w.astype(F64)], **attrs)[0]
    bias = np.arange(6, dtype=I32)
    check("conv", [x, w, bias], [plain.astype(I32) + bias.reshape(-1, 1, 1)], attrs)


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(group):
    for spatial in (1, 2):
        for (s,), (d,), (p,) in GEOMETRY:
            for extra in range(s):
                x, w, b = floats(2, 4, *([5, 4][:spatial])), floats(4, 6 // group, *([3, 2][:spatial])), floats(6)
                attrs = {"strides": (s,) * spatial, "dilations": (d,) * spatial, "pads": (p, 0)[:spatial] * 2, "group": group}
                alone = {**attrs, "group": 1, "output_padding": (extra,) * spatial}  # onnx.reference gets groups wrong
                parts = zip(np.split(x, group, 1), np.split(w, group), np.split(b, group))
                want = np.concatenate([onnx_run("ConvTranspose", list(part), **alone)[0] for part in parts], 1)
                check("conv_transpose", [x, w, b], [want], attrs, rtol=1e-4)


def test_col2im():
    for (s,), (d,), (p,) in GEOMETRY:
        image, kernel = (9, 8), (3, 2)
        blocks = [(image[i] + 2 * p - d * (kernel[i] - 1) - 1) // s + 1 for i in range(2)]
        x = floats(2, 3 * 6, blocks[0] * blocks[1])
        attrs = {"strides": (s, s), "dilations": (d, d), "pads": (p, p, p, p)}
        want = onnx_run("Col2Im", [x, np.array(image), np.array(kernel)], **attrs)
        check("col2im", [x], want, {"kernel": kernel, **attrs}, rtol=1e-4)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("heads", [2, 4])
def test_linear_attention(rule, heads):
    b, n, steps, d, e = 2, 2, 5, 4, 3
    shapes = ((b, steps, heads * d), (b, steps, n * d), (b, steps, n * e), (b, n, d, e))
    q, k, v, state = (0.5 * floats(*s) for s in shapes)
    decay = -np.abs(floats(b, steps, n * d)) if rule.startswith("gated") else None
    beta = np.abs(floats(b, steps, n)) if rule.endswith("delta") else None
    ins = [q, k, v, state, decay, beta]
    y, present = onnx_run("LinearAttention", ins, 2, opset=27, q_num_heads=heads, kv_num_heads=n, update_rule=rule, scale=0.3)
    split = [
        x if x is None or x.ndim == 4 else x.reshape(b, steps, h, -1).transpose(0, 2, 1, 3) for x, h in zip(ins, (heads, n, n, 0, n, n))
    ]
    if split[5] is not None:
        split[5] = split[5][..., 0]
    wants = [y.reshape(b, steps, heads, e).transpose(0, 2, 1, 3), present[None]]
    check("linear_attention", split, wants, {"scale": 0.3, "delta": int(rule.endswith("delta"))})
