"""Quantised operators of com.microsoft, as onnxruntime's quantiser writes them: integers in and out, per-tensor scales and zero points.

Defined by onnxruntime's docs/ContribOperators.md; where that leaves the rounding open, the rules do what onnxruntime does on x86-64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import F32, F64, I32, U8, is_float, is_int
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from . import convolution
from .elementwise import blocked, dynamic_quantize_linear
from .linear import integer_product, matmul_like
from .movement import take
from .quantize import Params, dequantize, params, quantize, requantize, rescale, same, unpacked
from .reduction import reduce_axes
from .registry import MICROSOFT, op
from .util import norm_axes, norm_axis, to_channels_first, to_channels_last


# ------------------------------------------------------------------------------------------------------------------ elementwise
@op("QLinearAdd", domain=MICROSOFT)
def qlinear_add(
    t: Tracer, a: Tensor, a_scale: Tensor, a_zero: Tensor | None, b: Tensor, b_scale: Tensor, b_zero: Tensor | None, c_scale: Tensor,
    c_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """a + b, broadcast. Rounds after the zero point is added, so ties go to the even integer of the result.

    With this order of the sum, and the constant part in double, the results are those of onnxruntime's fused multiply-adds.
    """
    p, q, r = params(t, a_scale, a_zero, a.dtype), params(t, b_scale, b_zero, b.dtype), params(t, c_scale, c_zero, a.dtype)
    ra, rb = t.map(lambda s, k: s / k, p.scale, r.scale), t.map(lambda s, k: s / k, q.scale, r.scale)
    wide = [t.cast(v, F64) for v in (r.zero, ra, p.zero, rb, q.zero)]
    offset = t.map(lambda o, k, z, m, w: e.cast(o - (k * z + m * w), F32), *wide)
    return t.map(lambda v, k, w, m, o: e.cast_sat(o + e.cast(w, F32) * m + e.cast(v, F32) * k, a.dtype), a, ra, b, rb, offset)


@op("QLinearMul", domain=MICROSOFT)
def qlinear_mul(
    t: Tracer, a: Tensor, a_scale: Tensor, a_zero: Tensor | None, b: Tensor, b_scale: Tensor, b_zero: Tensor | None, c_scale: Tensor,
    c_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """a * b, broadcast. Rounds after the zero point is added, so ties go to the even integer of the result."""
    p, q, r = params(t, a_scale, a_zero, a.dtype), params(t, b_scale, b_zero, b.dtype), params(t, c_scale, c_zero, a.dtype)
    ratio = t.map(lambda s, k, m: s * k / m, p.scale, q.scale, r.scale)
    return t.map(
        lambda v, z, w, y, k, o: e.cast_sat((e.cast(v, F32) - z) * (e.cast(w, F32) - y) * k + o, a.dtype),
        a, p.zero, b, q.zero, ratio, r.zero,
    )  # fmt: skip


def _unary(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None, fn: Callable[[Var], Var]
) -> Tensor:
    return requantize(t, x, params(t, x_scale, x_zero, x.dtype), params(t, y_scale, y_zero, x.dtype), fn)


@op("QLinearSigmoid", domain=MICROSOFT)
def qlinear_sigmoid(t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None) -> Tensor:
    return _unary(t, x, x_scale, x_zero, y_scale, y_zero, e.sigmoid)


@op("QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_leaky_relu(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, *, alpha: float = 0.01
) -> Tensor:
    return _unary(t, x, x_scale, x_zero, y_scale, y_zero, lambda v: e.where(v < 0, v * alpha, v))


@op("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(
    t: Tracer,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
    *,
    opset: int,
    axis: int = -1,
) -> Tensor:
    """`opset` is the ai.onnx version whose Softmax is meant. onnxruntime rounds 1 / y_scale down to an integer, and so does this."""
    p, q = params(t, x_scale, x_zero, x.dtype), params(t, y_scale, y_zero, x.dtype)
    a = norm_axis(t, axis, x.ndim)
    flat = x if opset >= 13 else t.reshape(x, (size_of(x.shape[:a]), size_of(x.shape[a:])))
    real = t.map(lambda v, s: e.cast(v, F32) * s, flat, p.scale)
    y = t.record("softmax", [real], [(flat.shape, F32)], {"op": "softmax", "axis": a if opset >= 13 else 1})[0]
    return t.reshape(rescale(t, y, t.map(lambda s: e.floor(1 / s), q.scale), q.zero, q.dtype), x.shape)


@op("QLinearWhere", domain=MICROSOFT)
def qlinear_where(
    t: Tracer, condition: Tensor, x: Tensor, x_scale: Tensor, x_zero: Tensor, y: Tensor, y_scale: Tensor, y_zero: Tensor, z_scale: Tensor,
    z_zero: Tensor,
) -> Tensor:  # fmt: skip
    q = params(t, z_scale, z_zero, x.dtype)
    return t.map(
        e.where, condition, _anew(t, x, params(t, x_scale, x_zero, x.dtype), q), _anew(t, y, params(t, y_scale, y_zero, y.dtype), q)
    )


def _anew(t: Tracer, x: Tensor, p: Params, q: Params) -> Tensor:
    return x if same(p, q) else requantize(t, x, p, q)


@op("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(t: Tracer, y_scale: Tensor, y_zero: Tensor, *parts: Tensor, axis: int) -> Tensor:
    """parts: tensor, scale and zero point of every operand in turn."""
    if not parts or len(parts) % 3:
        t.fail("operands come as tensor, scale and zero point")
    q = params(t, y_scale, y_zero, y_zero.dtype)
    xs = [_anew(t, x, params(t, s, z, x.dtype), q) for x, s, z in zip(parts[::3], parts[1::3], parts[2::3])]
    return t.concat(xs, norm_axis(t, axis, xs[0].ndim))


# ---------------------------------------------------------------------------------------------------------------------- pooling
def _mean(t: Tracer, x: Tensor, p: Params, q: Params, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """The sum of the integers is exact in float32 up to 65,793 elements."""
    steps = reduce_axes(t, t.map(lambda v, z: e.cast(v, F32) - z, x, p.zero), "mean", axes, keepdims)
    return rescale(t, steps, t.map(lambda s, r: s / r, p.scale, q.scale), q.zero, q.dtype)


@op("QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_global_average_pool(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, channels_last: int = 0
) -> Tensor:
    """x [N, C, d...], or with channels_last [N, d..., C]."""
    axes = tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))
    return _mean(t, x, params(t, x_scale, x_zero, x.dtype), params(t, y_scale, y_zero, x.dtype), axes, True)


@op("QLinearReduceMean", domain=MICROSOFT)
def qlinear_reduce_mean(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, *, axes: Any, keepdims: int
) -> Tensor:
    chosen = norm_axes(t, axes, x.ndim) or tuple(range(x.ndim))
    return _mean(t, x, params(t, x_scale, x_zero, x.dtype), params(t, y_scale, y_zero, x.dtype), chosen, bool(keepdims))


@op("QLinearAveragePool", domain=MICROSOFT)
def qlinear_average_pool(
    t: Tracer, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, *, channels_last: int = 0,
    **attrs: Any,
) -> Tensor:  # fmt: skip
    """Averages of the real numbers; padding, where it counts, is 0. Attributes of ai.onnx AveragePool."""
    p, q = params(t, x_scale, x_zero, x.dtype), params(t, y_scale, y_zero, x.dtype)
    y = quantize(t, convolution.average_pool(t, dequantize(t, to_channels_first(x) if channels_last else x, p), **attrs), q)
    return to_channels_last(y) if channels_last else y


@op("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(t: Tracer, x: Tensor, **attrs: Any) -> Tensor:
    """MaxPool of x [N, d..., C]."""
    y: Tensor = convolution.max_pool(t, to_channels_first(x), **attrs)[0]
    return to_channels_last(y)


# ------------------------------------------------------------------------------------------------------- convolution and products
@op("QLinearConv", domain=MICROSOFT)
def qlinear_conv(t: Tracer, x: Tensor, *rest: Tensor | None, channels_last: int = 0, **attrs: Any) -> Tensor:
    """ai.onnx QLinearConv; with channels_last x and y are [N, d..., C], and w is [M, C / group, k...] all the same."""
    y = convolution.qlinear_conv(t, to_channels_first(x) if channels_last else x, *rest, **attrs)  # type: ignore[arg-type]
    return to_channels_last(y) if channels_last else y


def _one(t: Tracer, x: Tensor) -> Tensor:
    """Quantisation parameters per tensor or per column, broadcast to a product's columns."""
    return t.reshape(x, ()) if x.size == 1 else x


@op("QGemm", domain=MICROSOFT)
def qgemm(
    t: Tracer, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, c: Tensor | None = None,
    y_scale: Tensor | None = None, y_zero: Tensor | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    """alpha * a @ b + c: b may be quantised per column, c is int32 at alpha * a_scale * b_scale; float32 if y has no scale."""
    if a.ndim != 2 or b.ndim != 2:
        t.fail("operands must have rank 2")
    a, b = a.permute((1, 0)) if transA else a, b.permute((1, 0)) if transB else b
    acc = matmul_like(t, a, b, I32, a_zero, b_zero)
    if c is not None:
        acc = t.map(lambda v, w: v + w, acc, c)
    scale = t.map(lambda p, q: p * alpha * q, _one(t, a_scale), _one(t, b_scale))
    if y_scale is None:
        return t.map(lambda v, s: e.cast(v, F32) * s, acc, scale)
    if y_zero is None:
        t.fail("y_scale without y_zero_point")
    q = params(t, y_scale, y_zero, y_zero.dtype)
    return rescale(t, acc, t.map(lambda s, r: s / r, scale, q.scale), q.zero, q.dtype)


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    t: Tracer, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """NumPy's matmul of 8-bit operands, b per tensor or per column, as float."""
    if a_scale.size != 1 or (a_zero is not None and a_zero.size != 1):
        t.unsupported("quantisation of a by rows")
    return integer_product(t, a, b, a_scale, b_scale, a_zero, b_zero, bias)


@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    t: Tracer, a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """a, float32, is quantised as DynamicQuantizeLinear does; b is 8-bit, per tensor or per column."""
    q, scale, zero = dynamic_quantize_linear(t, a)
    return integer_product(t, q, b, scale, b_scale, zero, b_zero, bias)


@op("MatMulInteger16", domain=MICROSOFT)
def matmul_integer16(t: Tracer, a: Tensor, b: Tensor) -> Tensor:
    """NumPy's matmul of 16-bit integers, summed in 32 bits, which wrap."""
    return matmul_like(t, t.cast(a, I32), t.cast(b, I32))


# fmt: off
_FOUR_BIT_FLOATS = (  # what bitsandbytes' codes 0 to 15 stand for, at an absmax of 1
    ("FP4", [sign * v for sign in (1, -1) for v in (0, 0.005208333333, 0.666666667, 1, 0.333333333, 0.5, 0.166666667, 0.25)]),
    ("NF4", [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
             0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
             0.7229568362236023, 1]),
)
# fmt: on


@op("MatMulBnb4", domain=MICROSOFT)
def matmul_bnb4(
    t: Tracer,
    a: Tensor,
    b: Tensor,
    absmax: Tensor,
    *,
    K: int,
    N: int,
    block_size: int,
    quant_type: int,
    transB: int = 1,
    training_mode: int = 0,
) -> Tensor:
    """com.microsoft MatMulBnb4: a [..., K] times the transpose of a weight [N, K], or without transB a [..., N] times the weight.

    b: uint8 [ceil(N * K / 2)], FP4 (quant_type 0) or NF4 (1) codes of the weight in row-major order, the high half of a byte first; absmax [ceil(N *
    K / block_size)], of a's dtype: float32, float16 or bfloat16. Constant weights are dequantised once, to a's dtype.
    """
    if quant_type not in (0, 1):
        t.fail(f"quant_type must be 0 (FP4) or 1 (NF4), got {quant_type}")
    if block_size < 16 or block_size & (block_size - 1):
        t.fail(f"block_size must be a power of 2 and at least 16, got {block_size}")
    for what, p, size in (("B", b, -(-N * K // 2)), ("absmax", absmax, -(-N * K // block_size))):
        if p.size != size:
            t.fail(f"expected {what} of {size} elements for N = {N}, K = {K}, block_size = {block_size}, got {list(map(int, p.shape))}")

    def weight() -> Tensor:
        codes = t.map(lambda v, s: e.band(e.shr(v, s), 15), t.reshape(b, (b.size, 1)), t.const(np.array([4, 0], np.uint8)))
        codes = t.reshape(codes, (2 * b.size,)).slice(0, 0, N * K)
        values = take(t, t.const(np.array(_FOUR_BIT_FLOATS[quant_type][1], np.float32)), t.cast(codes, I32), 0)
        scale = blocked(t, t.reshape(absmax, (absmax.size,)), values, 0, block_size)
        return t.reshape(t.map(lambda v, s: e.cast(v * e.cast(s, F32), a.dtype), values, scale), (N, K))

    w = t.made_once("weight", (b, absmax), weight)
    return matmul_like(t, a, w.permute((1, 0)) if transB else w)


# ------------------------------------------------------------------------------------------------------------- tables of embeddings
def _places(t: Tracer, index: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
    """Where along an axis of size n the indices point, and which of them do; 0 for those that do not. None: all do."""
    inside: Any = lambda i: e.land(i >= -n, i < n)
    if index.known and all(-n <= i < n for i in t.ints(index)):
        return t.map(lambda i: e.where(i < 0, i + n, i), index), None
    return t.map(lambda i: e.where(inside(i), e.where(i < 0, i + n, i), 0), index), t.map(inside, index)


@op("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(
    t: Tracer, x: Tensor, index: Tensor, scale: Tensor, zero: Tensor | None = None, *, bits: int = 4, block_size: int = 128,
    quantize_axis: int = 1, gather_axis: int = 0,
) -> Tensor:  # fmt: skip
    """com.microsoft GatherBlockQuantized: ai.onnx Gather of (x - zero) * scale in scale's dtype, zeros where an index is out of range.

    x: int4, uint4, float4, float8, or uint8 that packs 8 / bits integers to a byte along the last axis, the low bits first; index: int32 or
    int64 of any shape; scale: float32, float16 or bfloat16, of x's shape with ceil(n / block_size) in place of n along quantize_axis (block_size
    0: 1), where x is float also 1 along other axes; zero: of scale's shape, x's dtype, packed like x. The default zero point is 0, or
    2^(bits - 1) of uint8.
    """
    g, a = norm_axis(t, gather_axis, x.ndim), norm_axis(t, quantize_axis, x.ndim)
    real = is_float(x.dtype)
    if not real and not (x.dtype == U8 or (is_int(x.dtype) and x.dtype.name in ("int4", "uint4"))):
        t.fail(f"data must be uint8, int4, uint4, float4 or float8, got {x.dtype}")
    if (block_size < 16 or block_size & (block_size - 1)) and not (real and block_size == 0):
        t.fail(f"block_size must be a power of 2 and at least 16{', or 0' if real else ''}, got {block_size}")
    if not real and bits not in ((2, 4, 8) if x.dtype == U8 else (4,)):
        t.fail(f"bits must be {'2, 4 or 8' if x.dtype == U8 else 4} for data of {x.dtype}, got {bits}")
    if real and zero is not None:
        t.fail(f"zero points do not go with data of {x.dtype}")
    each = 8 // bits if x.dtype == U8 else 1
    if x.dtype == U8 and g != 0:
        t.fail(f"gather_axis must be 0 for data of uint8, got {gather_axis}")
    if each > 1 and g in (a, x.ndim - 1):
        t.fail(
            f"packed data is not gathered along quantize_axis or the last axis, got gather_axis {gather_axis}, quantize_axis {quantize_axis}"
        )

    logical = (*x.shape[:-1], x.shape[-1] * each)
    grid = tuple(n if i != a else -(-n // block_size) if block_size else 1 for i, n in enumerate(logical))
    _check_grid(t, "scales", scale, grid, real)
    if zero is not None:
        if zero.dtype != x.dtype:
            t.fail(f"zero points must be {x.dtype} as the data, got {zero.dtype}")
        _check_grid(t, "zero points", zero, (*grid[:-1], -(-grid[-1] // each)), False)
    if logical[g] == 0:
        return t.full((*logical[:g], *index.shape, *logical[g + 1 :]), 0, scale.dtype)

    place, found = _places(t, index, logical[g])
    block_of = t.map(lambda i: e.div(i, block_size), place) if g == a and block_size else place

    def rows(p: Tensor, at: Tensor) -> Tensor:
        """p at the indices, or its only row in place of each."""
        if p.shape[g] != 1:
            return take(t, p, at, g)
        p = p.squeeze(g)
        for _ in index.shape:
            p = p.unsqueeze(g)
        return p

    y = take(t, x, place, g)
    if each > 1:
        y = unpacked(t, y, bits)
    shape = y.shape
    params = [rows(scale, block_of)]
    if zero is not None:
        z = rows(zero, block_of)
        params.append(unpacked(t, z, bits).slice(z.ndim - 1, 0, grid[-1]) if each > 1 else z)
    if g != a and block_size:
        k = a if a < g else a - 1 + index.ndim
        if shape[k] % block_size == 0:
            y = t.reshape(y, (*shape[:k], shape[k] // block_size, block_size, *shape[k + 1 :]))
            params = [p.unsqueeze(k + 1) for p in params]
        else:
            params = [blocked(t, p, y, k, block_size) for p in params]
    middle = 1 << (bits - 1) if x.dtype == U8 else 0
    behind = y.ndim - g - index.ndim - int(y.ndim > len(shape) and a < g)  # axes behind those of the indices
    inside = None if found is None else t.reshape(found, (*index.shape, *(1,) * behind))

    def real_numbers(v: Var, s: Var, *more: Var) -> Var:
        d = e.cast(v, F32)
        if zero is not None:
            d = d - e.cast(more[0], F32)
        elif middle:
            d = d - middle
        r = e.cast(d * e.cast(s, F32), scale.dtype)
        return r if inside is None else e.where(more[-1], r, 0)

    return t.reshape(t.map(real_numbers, y, *params, *([] if inside is None else [inside])), shape)


def _check_grid(t: Tracer, what: str, p: Tensor, shape: tuple[int, ...], broadcast: bool) -> None:
    """Fails unless p has this shape, or 1 in places if it may be broadcast."""
    if p.ndim != len(shape) or not all(n == m or (broadcast and n == 1) for n, m in zip(p.shape, shape)):
        t.fail(f"expected {what} of shape {list(map(int, shape))}, got {list(map(int, p.shape))}")
