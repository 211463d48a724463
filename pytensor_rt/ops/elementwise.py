"""Elementwise ops: each is an expression, recorded as `map` and fused with its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import BOOL, F32, I32, from_code, is_float
from ..lowering import expr as e
from ..lowering.expr import Var
from ..lowering.recorder import broadcast_shapes
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .quantize import shift_saturate
from .registry import MICROSOFT, op


def _simple(name: str, fn: Callable[..., Var]) -> None:
    """An op whose inputs broadcast and whose attributes (legacy broadcast, axis, consumed_inputs) mean nothing to the expression."""

    programs: dict[Any, Any] = {}

    def rule(t: Tracer, *xs: Tensor, **attrs: Any) -> Tensor:
        return t.map(fn, *(_legacy_broadcast(t, xs, attrs) if attrs else xs), programs=programs)

    rule.__name__ = name.lower()
    op(name)(rule)


def _legacy_broadcast(t: Tracer, xs: tuple[Tensor, ...], attrs: dict[str, Any]) -> tuple[Tensor, ...]:
    """Opset < 7: with broadcast=1 and axis, b's axes line up with a's starting at `axis`."""
    axis = attrs.get("axis")
    if not attrs.get("broadcast") or axis is None or len(xs) != 2:
        return xs
    a, b = xs
    trailing = a.ndim - (axis + a.ndim if axis < 0 else axis) - b.ndim
    return a, t.reshape(b, (*b.shape, *(1,) * trailing))


for _name, _fn in {
    "Add": e.add, "Sub": e.sub, "Mul": e.mul, "Div": e.div, "Neg": e.neg, "Abs": e.abs_, "Sign": e.sign, "Ceil": e.ceil, "Floor": e.floor,
    "Round": e.round_, "Sqrt": e.sqrt, "Reciprocal": e.recip, "Exp": e.exp, "Log": e.log, "Sin": e.sin, "Cos": e.cos, "Tan": e.tan,
    "Asin": e.asin, "Acos": e.acos, "Atan": e.atan, "Sinh": e.sinh, "Cosh": e.cosh, "Tanh": e.tanh, "Asinh": e.asinh, "Acosh": e.acosh,
    "Atanh": e.atanh, "Erf": e.erf, "Relu": e.relu, "Sigmoid": e.sigmoid, "Softplus": e.softplus, "IsNaN": e.isnan,
    "And": e.land, "Or": e.lor, "Xor": e.lxor, "Not": e.lnot, "BitwiseAnd": e.band, "BitwiseOr": e.bor, "BitwiseXor": e.bxor,
    "BitwiseNot": e.bnot, "Less": lambda a, b: a < b, "LessOrEqual": lambda a, b: a <= b, "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b, "Mish": lambda v: v * e.tanh(e.softplus(v)), "Softsign": lambda v: v / (e.abs_(v) + 1),
}.items():  # fmt: skip
    _simple(_name, _fn)


@op("Where", since=9)
def where(t: Tracer, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if _is_string(a):
        shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
        return t.host(lambda c, p, q: (np.where(c, p, q),), [condition, a, b], [(shape, a.dtype)])[0]
    return t.map(e.where, condition, a, b)


@op("Equal")
def equal(t: Tracer, a: Tensor, b: Tensor, **attrs: Any) -> Tensor:
    if _is_string(a):
        return t.host(lambda p, q: (np.asarray(p == q, np.bool_),), [a, b], [(broadcast_shapes([a.shape, b.shape]), BOOL)])[0]
    return t.map(lambda p, q: p == q, *_legacy_broadcast(t, (a, b), attrs))


def _is_string(x: Tensor) -> bool:
    return x.dtype.kind == "O"


@op("Pow")
def pow_(t: Tracer, a: Tensor, b: Tensor, **attrs: Any) -> Tensor:
    a, b = _legacy_broadcast(t, (a, b), attrs)
    if b.known and b.size == 1 and is_float(a.dtype) and b.value is not None:
        k = float(b.value.reshape(-1)[0])
        if a.ndim >= b.ndim:
            if k == 2.0:
                return t.map(lambda x: x * x, a)
            if k == 3.0:
                return t.map(lambda x: x * x * x, a)
            if k == 0.5:
                return t.map(e.sqrt, a)
    return t.map(lambda x, y: e.pow_(x, e.cast(y, x.dtype)) if x.dtype == y.dtype or is_float(x.dtype) else _int_pow(x, y), a, b)


def _int_pow(x: Var, y: Var) -> Var:
    """Integer base with another exponent dtype: a float exponent computes in double and truncates back."""
    from ..dtypes import F64

    if is_float(y.dtype):
        return e.cast(e.pow_(e.cast(x, F64), e.cast(y, F64)), x.dtype)
    power: Var = e.pow_(x, e.cast(y, x.dtype))
    return power


@op("Mod")
def mod(t: Tracer, a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return t.map(e.fmod if fmod else e.mod, a, b)


@op("BitShift", since=11)
def bit_shift(t: Tracer, a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Opset 28's rule for amounts that are negative or too large: 0, or -1 for a right shift of a negative number."""
    if direction == "LEFT":
        return t.map(e.shl, a, b)
    if a.dtype.kind == "u":
        return t.map(e.shr, a, b)
    last = 8 * a.dtype.itemsize - 1  # shifts in copies of the sign only
    return t.map(lambda x, k: e.shr(x, e.where(e.lor(k < 0, k > last), last, k)), a, b)


@op("BitCast", since=26)
def bit_cast(t: Tracer, x: Tensor, *, to: int) -> Tensor:
    """The same bits as another type of the same width."""
    dtype = from_code(to)
    if x.dtype.kind == "O" or dtype.kind == "O":
        t.fail("strings have no bits to cast")
    if _bits(x.dtype) != _bits(dtype):
        t.fail(f"{x.dtype} has {_bits(x.dtype)} bits, {dtype} has {_bits(dtype)}")
    return t.host(lambda v: (_reinterpret(v, dtype),), [x], [(x.shape, dtype)])[0] if x.dtype != dtype else x


def _bits(dtype: Any) -> int:
    narrow = next((n for n in (2, 4) if dtype.name.startswith((f"int{n}", f"uint{n}", f"float{n}_")) and dtype.kind == "V"), 0)
    return narrow or 8 * int(dtype.itemsize)


def _reinterpret(v: Any, dtype: Any) -> Any:
    v = np.array(v, order="C")
    if dtype == BOOL:
        return v.view(np.uint8) != 0
    if _bits(dtype) < 8:  # one element per byte, only its low bits count; signed ones are stored sign-extended
        sign = 1 << (_bits(dtype) - 1)
        raw = v.view(np.uint8) & (2 * sign - 1)
        return ((raw ^ sign) - sign if dtype.name.startswith("int") else raw).astype(np.uint8).view(dtype)
    return v.view(dtype)


def _fold(name: str, fn: Callable[[Var, Var], Var]) -> None:
    @op(name)
    def rule(t: Tracer, x: Tensor, *more: Tensor, **_: Any) -> Tensor:
        def all_of(v: Var, *rest: Var) -> Var:
            for r in rest:
                v = fn(v, r)
            return v

        return t.map(all_of, x, *more) if more else x


for _name, _fn in {"Max": e.max_, "Min": e.min_, "Sum": e.add}.items():
    _fold(_name, _fn)


@op("Mean")
def mean(t: Tracer, *xs: Tensor, **_: Any) -> Tensor:
    def average(v: Var, *rest: Var) -> Var:
        for r in rest:
            v = v + r
        return v / len(xs)

    return t.map(average, *xs)


@op("Clip")
def clip(
    t: Tracer,
    x: Tensor,
    lo: Tensor | None = None,
    hi: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
    **_: Any,
) -> Tensor:
    operands: list[Tensor] = [x]
    bounds: list[tuple[str, int, float | None]] = []
    for name, bound, attr in (("max", lo, min), ("min", hi, max)):
        if bound is not None:
            bounds.append((name, len(operands), None))
            operands.append(bound)
        elif attr is not None:
            bounds.append((name, 0, attr))

    def clamp(*vs: Var) -> Var:
        v = vs[0]
        for name, k, attr in bounds:
            v = e.emit(name, v, vs[k] if attr is None else attr)
        return v

    return t.map(clamp, *operands) if bounds else x


# ------------------------------------------------------------------------------------------------------------------ activations
@op("LeakyRelu")
def leaky_relu(t: Tracer, x: Tensor, *, alpha: float = 0.01, **_: Any) -> Tensor:
    return t.map(lambda v: e.where(v < 0, v * alpha, v), x)


@op("PRelu")
def prelu(t: Tracer, x: Tensor, slope: Tensor, **_: Any) -> Tensor:
    if t.node.opset < 7 and slope.ndim == 1 and x.ndim > 1 and slope.shape[0] != 1:
        slope = t.reshape(slope, (slope.shape[0], *(1,) * (x.ndim - 2)))
    return t.map(lambda v, s: e.where(v < 0, v * s, v), x, slope)


@op("Elu")
def elu(t: Tracer, x: Tensor, *, alpha: float = 1.0, **_: Any) -> Tensor:
    return t.map(lambda v: e.where(v < 0, e.expm1(v) * alpha, v), x)


@op("Celu")
def celu(t: Tracer, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return t.map(lambda v: e.max_(v, 0) + e.min_(e.expm1(v / alpha) * alpha, 0), x)


@op("Selu")
def selu(t: Tracer, x: Tensor, *, alpha: float | None = None, gamma: float | None = None, **_: Any) -> Tensor:
    a = alpha if alpha is not None else (1.6732 if t.node.opset < 6 else 1.67326319217681884765625)
    g = gamma if gamma is not None else (1.0507 if t.node.opset < 6 else 1.05070102214813232421875)
    return t.map(lambda v: e.where(v > 0, v, e.expm1(v) * a) * g, x)


@op("ThresholdedRelu")
def thresholded_relu(t: Tracer, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return t.map(lambda v: e.where(v > alpha, v, 0), x)


@op("HardSigmoid")
def hard_sigmoid(t: Tracer, x: Tensor, *, alpha: float = 0.2, beta: float = 0.5, **_: Any) -> Tensor:
    return t.map(lambda v: e.min_(e.max_(v * alpha + beta, 0), 1), x)


@op("HardSwish")
def hard_swish(t: Tracer, x: Tensor) -> Tensor:
    return t.map(lambda v: v * e.min_(e.max_(v * (1 / 6) + 0.5, 0), 1), x)


@op("Shrink")
def shrink(t: Tracer, x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return t.map(lambda v: e.where(v < -lambd, v + bias, e.where(v > lambd, v - bias, v - v)), x)


@op("Gelu", domain=MICROSOFT)
@op("Gelu")
def gelu(t: Tracer, x: Tensor, *, approximate: str = "none") -> Tensor:
    return t.map(e.gelu_tanh if approximate == "tanh" else e.gelu_erf, x)


@op("Swish")
def swish(t: Tracer, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return t.map(e.silu if alpha == 1.0 else lambda v: v * e.sigmoid(v * alpha), x)


@op("IsInf")
def is_inf(t: Tracer, x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return t.map(lambda v: e.lor(e.isinf_pos(v), e.isinf_neg(v)), x)
    if not detect_negative and not detect_positive:
        return t.full(x.shape, False, BOOL)
    return t.map(e.isinf_pos if detect_positive else e.isinf_neg, x)


# ------------------------------------------------------------------------------------------------------------------ casts
@op("Cast")
def cast(t: Tracer, x: Tensor, *, to: int, saturate: int = 1, **_: Any) -> Tensor:
    dtype = from_code(to) if isinstance(to, int) else np.dtype(str(to).lower())
    if x.dtype == dtype:
        return x
    if dtype.kind == "O" or _is_string(x):
        return t.host(lambda a: (_cast_string(a, dtype),), [x], [(x.shape, dtype)])[0]
    if not saturate and "float8" in dtype.name:
        return t.map(lambda v: e.emit("cast_wrap", v, dtype=dtype), x)
    return t.cast(x, dtype)


@op("CastLike")
def cast_like(t: Tracer, x: Tensor, like: Tensor, **attrs: Any) -> Tensor:
    from ..dtypes import code_of

    return cast(t, x, to=code_of(like.dtype), **attrs)


def _cast_string(a: Any, dtype: Any) -> Any:
    a = np.asarray(a)
    if dtype.kind == "O":

        def text(v: Any) -> str:
            if isinstance(v, (np.floating, float)):
                f = float(v)
                return "NaN" if math.isnan(f) else ("INF" if f > 0 else "-INF") if math.isinf(f) else str(v)
            return str(v)

        out = np.empty(a.shape, object)
        out.reshape(-1)[:] = [text(v) for v in a.reshape(-1)]
        return out
    return (
        np.array([float(v) if dtype.kind in "fV" else int(v) if dtype.kind != "b" else bool(v) for v in a.reshape(-1)])
        .astype(dtype)
        .reshape(a.shape)
    )


# ------------------------------------------------------------------------------------------------------------------ quantisation
def blocked(t: Tracer, q: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """scale or zero point, broadcast to x: per tensor, per axis, or in blocks of that many elements along the axis (the last may be cut off)."""
    if q.ndim == 0 or (q.ndim == 1 and q.shape[0] == 1 and block == 0):
        return t.reshape(q, ())
    a = axis + x.ndim if axis < 0 else axis
    if block == 0 and q.ndim == 1:
        return t.reshape(q, (q.shape[0], *(1,) * (x.ndim - a - 1)))
    if block == 0 and q.shape == x.shape:
        return q
    if block == 0:
        block = -(-x.shape[a] // q.shape[a])
    fine = q.unsqueeze(a + 1).expand((*q.shape[: a + 1], block, *q.shape[a + 1 :]))
    whole = t.reshape(fine, (*q.shape[:a], q.shape[a] * block, *q.shape[a + 1 :]))
    return whole.slice(a, 0, x.shape[a])


@op("QuantizeLinear", domain=MICROSOFT)
@op("QuantizeLinear")
def quantize_linear(
    t: Tracer, x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0, saturate: int = 1,
    precision: int = 0,
) -> Tensor:  # fmt: skip
    dtype = zero.dtype if zero is not None else from_code(output_dtype) if output_dtype else from_code(2)
    s = blocked(t, scale, x, axis, block_size)
    fp = F32 if x.dtype.kind == "i" else x.dtype

    def quotient(v: Var, k: Var) -> Var:
        w = from_code(precision) if precision else k.dtype if is_float(k.dtype) and k.dtype.itemsize >= 4 else fp
        w = F32 if not is_float(w) or w.itemsize < 4 else w
        return e.cast(v, w) / e.cast(k, w)

    if is_float(dtype):
        name = "cast" if saturate or "float8" not in dtype.name else "cast_wrap"
        return t.map(lambda v, k: e.emit(name, quotient(v, k), dtype=dtype), x, s)
    if zero is None:
        return t.map(lambda v, k: e.cast_sat(quotient(v, k), dtype), x, s)
    z = blocked(t, zero, x, axis, block_size)
    return t.map(lambda v, k, o: shift_saturate(quotient(v, k), o, dtype), x, s, z)


@op("DequantizeLinear", domain=MICROSOFT)
@op("DequantizeLinear")
def dequantize_linear(
    t: Tracer, x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    out = from_code(output_dtype) if output_dtype else scale.dtype
    s = blocked(t, scale, x, axis, block_size)
    if zero is None:
        return t.map(lambda v, k: e.cast(e.cast(v, F32) * e.cast(k, F32), out), x, s)
    z = blocked(t, zero, x, axis, block_size)

    def dequantize(v: Var, k: Var, o: Var) -> Var:
        if is_float(v.dtype):
            return e.cast(e.cast(v, F32) * e.cast(k, F32), out)
        if v.dtype.itemsize <= 2:  # differences of these are exact in float32
            return e.cast((e.cast(v, F32) - e.cast(o, F32)) * e.cast(k, F32), out)
        return e.cast(e.cast(e.cast(v, I32) - e.cast(o, I32), F32) * e.cast(k, F32), out)

    return t.map(dequantize, x, s, z)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(t: Tracer, x: Tensor) -> tuple[Tensor, ...]:
    u8 = from_code(2)
    scale, zero = t.record("quantize_stats", [x], [((), F32), ((), u8)])
    # Where the scale is 0, so is the zero point and what the quotients round to. The choice is between scalars, made once and not per element.
    y = t.map(lambda v, s, z: shift_saturate(v / e.where(s == 0, 1.0, s), z, u8), x, scale, zero)
    return y, scale, zero
