"""The operations of the register machine (see box.py): each a loop over the n elements of a tile, compiled one by one as programs need them.

A register holds float32 ("f": all floats up to 32 bits, their values on the grid of their format), float64 ("d"), int32 ("w": bool and the integers whose
values it has) or int64 ("i": int64, uint32, and uint64 by its bits). Functions take (d, a, b, c, imm, n): addresses of the result and of up to three arguments, an immediate, a count.

The float32 functions are own polynomials; their error bounds are those of csrc/cpu/vmath.h, from which the coefficients come, and
tests/kernels/test_vmath.py holds them here too. Those that are rare go through float64 and the C library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32 as F
from numba import float64 as D
from numba import int32 as I
from numba import int64 as L
from numba import uint64 as U

from .intrinsics import at, bits_f32, bits_f64, exact, f32_bits, f64_bits, inline

INF = math.inf
NAN = math.nan


# ----------------------------------------------------------------------------------------------------------- float32: elementary functions
@inline
def fabs(x: Any) -> Any:
    return bits_f32(I(f32_bits(x) & I(0x7FFFFFFF)))


@inline
def copysign(magnitude: Any, sign: Any) -> Any:
    return bits_f32(I(f32_bits(magnitude) | I(f32_bits(sign) & I(-0x80000000))))


@inline
def exp2i(i: Any) -> Any:
    """2^i for i in [-126, 127]."""
    return bits_f32(I(I(i + I(127)) << I(23)))


@inline
def rounded(z: Any) -> Any:
    """The integer that adding 1.5 * 2^23 has rounded to."""
    return I(f32_bits(z) - I(0x4B400000))


@inline
def scale2(x: Any, i: Any) -> Any:
    """x * 2^i for i in [-252, 254]."""
    half = I(i >> I(1))
    return x * exp2i(half) * exp2i(I(i - half))


@inline
def exp32(x: Any) -> Any:
    y = F(-104.5) if x < F(-104.5) else x
    y = F(89.0) if y > F(89.0) else y
    z = y * F(1.44269504088896341) + F(12582912.0)
    n = z - F(12582912.0)
    r = y - n * F(0.693359375)
    r = r + n * F(2.12194440e-4)
    p = F(8.369088098e-03) + r * F(1.395083534e-03)
    p = F(1.666651718e-01) + r * (F(4.166620064e-02) + r * p)
    p = F(1.0) + r * (F(1.0) + r * (F(5.000000097e-01) + r * p))
    return scale2(p, rounded(z))


@inline
def expm1_reduced(r: Any) -> Any:
    p = F(8.333272374e-03) + r * (F(1.394129927e-03) + r * F(1.991457766e-04))
    p = F(5.000000047e-01) + r * (F(1.666666682e-01) + r * (F(4.166635117e-02) + r * p))
    return p * (r * r) + r


@inline
def expm1_32(x: Any) -> Any:
    y = F(-30.0) if x < F(-30.0) else x
    y = F(89.0) if y > F(89.0) else y
    z = y * F(1.44269504088896341) + F(12582912.0)
    n = z - F(12582912.0)
    r = y - n * F(0.693359375)
    p = expm1_reduced(r + n * F(2.12194440e-4))
    half = exp2i(I(rounded(z) - I(1)))
    return p if n == F(0.0) else (half * p + (half - F(0.5))) * F(2.0)


@inline
def log_core(u: Any, c_over_u: Any) -> Any:
    tiny = u < F(1.17549435e-38)
    v = u * F(8388608.0) if tiny else u
    bits = I(f32_bits(v) - I(0x3F3504F3))
    e = I(bits >> I(23))
    f = bits_f32(I(I(bits & I(0x007FFFFF)) + I(0x3F3504F3))) - F(1.0)
    n = F(e) - (F(23.0) if tiny else F(0.0))
    p = F(1.188816297e-01) + f * (F(-1.167565120e-01) + f * F(6.746638249e-02))
    p = F(-1.666799584e-01) + f * (F(1.421955228e-01) + f * (F(-1.240558906e-01) + f * p))
    p = F(3.333331260e-01) + f * (F(-2.500000960e-01) + f * (F(2.000211866e-01) + f * p))
    s = f * f
    y = p * f * s - F(0.5) * s + (n * F(-2.12194440e-4) + c_over_u)
    return n * F(0.693359375) + (f + y)


@inline
def log32(x: Any) -> Any:
    y = log_core(x, F(0.0))
    y = x if x == F(INF) else y
    y = F(-INF) if x == F(0.0) else y
    return F(NAN) if (x < F(0.0)) | (x != x) else y


@inline
def log1p_32(x: Any) -> Any:
    u = x + F(1.0)
    y = log_core(u, (x - (u - F(1.0))) / u)
    y = x if (x == F(INF)) | (x == F(0.0)) else y
    y = F(-INF) if x == F(-1.0) else y
    return F(NAN) if (x < F(-1.0)) | (x != x) else y


@inline
def tanh32(x: Any) -> Any:
    a = fabs(x)
    a = (F(10.0) if a > F(10.0) else a) * F(-2.0)
    z = a * F(1.44269504088896341) + F(12582912.0)
    n = z - F(12582912.0)
    r = a - n * F(0.693359375)
    p = expm1_reduced(r + n * F(2.12194440e-4))
    s = exp2i(rounded(z))
    m = s * p + (s - F(1.0))
    y = copysign(fabs(m) / (m + F(2.0)), x)
    return y if x == x else x


@inline
def sigmoid32(x: Any) -> Any:
    e = exp32(-fabs(x))
    return (e if x < F(0.0) else F(1.0)) / (e + F(1.0))


@inline
def silu32(x: Any) -> Any:
    e = exp32(-fabs(x))
    return (x * e if x < F(0.0) else x) / (e + F(1.0))


@inline
def softplus32(x: Any) -> Any:
    e = exp32(-fabs(x))
    u = e + F(1.0)
    y = e if u == F(1.0) else log_core(u, (e - (u - F(1.0))) / u)
    return (x if x > F(0.0) else F(0.0)) + y


@inline
def erf32(x: Any) -> Any:
    a = fabs(x)
    a = F(4.0) if a > F(4.0) else a
    s = a * a
    p = F(1.128214101e-01) + s * (F(-2.677891444e-02) + s * (F(5.011969584e-03) + s * F(-6.090390145e-04)))
    small = x + x * (F(1.283791538e-01) + s * (F(-3.761252331e-01) + s * p))
    q = F(2.290603087e-02) + a * (F(-3.219975404e-03) + a * F(2.145950101e-04))
    q = F(-1.128519953e00) + a * (F(-6.356993684e-01) + a * (F(-1.052868542e-01) + a * q))
    large = copysign(F(1.0) - exp32(q * a), x)
    y = large if a > F(0.9) else small
    return y if x == x else x


@inline
def exp2_reduced(r: Any, z: Any) -> Any:
    p = F(5.550733747e-02) + r * (F(9.671512910e-03) + r * F(1.326472689e-03))
    return scale2(F(1.0) + r * (F(6.931469776e-01) + r * (F(2.402224208e-01) + r * p)), rounded(z))


@inline
def exp2_32(x: Any) -> Any:
    """2^x for x <= 127."""
    y = F(-160.0) if x < F(-160.0) else x
    z = y + F(12582912.0)
    return exp2_reduced(y - (z - F(12582912.0)), z)


@inline
def gelu_erf32(x: Any) -> Any:
    v = F(-6.0) if x < F(-6.0) else x
    a = fabs(v)
    a = F(5.66) if a > F(5.66) else a
    r = F(-1.52976179e-04) + a * (F(3.23696840e-05) + a * F(-2.24958649e-06))
    r = F(-5.25649749e-02) + a * (F(7.16588600e-03) + a * (F(-2.16569155e-04) + a * r))
    r = F(-1.15110743e00) + a * (F(-4.59186852e-01) + a * r)
    z = a * r + F(12582912.0)
    f = a * r - (z - F(12582912.0))
    t = exp2_reduced(f, z) if a < F(5.66) else F(0.0)
    y = v * F(0.5) * (t if v < F(0.0) else F(2.0) - t)
    return y if x == x else x


@inline
def gelu_tanh32(x: Any) -> Any:
    b = F(-20.0) if x < F(-20.0) else x
    b = F(20.0) if b > F(20.0) else b
    u = b * (b * b * F(0.0713548162716 * -1.44269504088896341) + F(1.59576912160573 * -1.44269504088896341))
    y = x / (exp2_32(F(126.0) if u > F(126.0) else u) + F(1.0))
    return F(-0.0) if x < F(-20.0) else y


# ------------------------------------------------------------------------------------------------------------------------------ float64
@inline
def copysign64(magnitude: Any, sign: Any) -> Any:
    return bits_f64((f64_bits(magnitude) & L(0x7FFFFFFFFFFFFFFF)) | (f64_bits(sign) & L(-0x8000000000000000)))


@inline
def sigmoid64(x: Any) -> Any:
    e = math.exp(-abs(x))
    return (e if x < 0.0 else 1.0) / (e + 1.0)


@inline
def gelu_erf64(x: Any) -> Any:
    return -0.0 if x == -INF else x * (0.5 * math.erfc(-x * math.sqrt(0.5)))


@inline
def gelu_tanh64(x: Any) -> Any:
    return -0.0 if x == -INF else x * sigmoid64(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


@inline
def mod64(x: Any, y: Any) -> Any:
    r = np.fmod(x, y)
    if r != 0.0:
        return r + y if (r < 0.0) != (y < 0.0) else r
    return copysign64(r, y)


def _atanh(x: float) -> float:
    return copysign64(0.5 * math.log1p(2.0 * abs(x) / (1.0 - abs(x))), x) if abs(x) <= 1.0 else NAN


FLOAT64: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x, "abs": lambda x: abs(x), "sign": lambda x: 1.0 if x > 0.0 else (-1.0 if x < 0.0 else x), "ceil": lambda x: np.ceil(x),
    "floor": lambda x: np.floor(x), "round": lambda x: np.rint(x), "trunc": lambda x: np.trunc(x), "sqrt": lambda x: np.sqrt(x),
    "rsqrt": lambda x: 1.0 / np.sqrt(x), "recip": lambda x: 1.0 / x, "add": lambda x, y: x + y, "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y, "div": lambda x, y: x / y, "pow": lambda x, y: x**y, "mod": lambda x, y: mod64(x, y),
    "fmod": lambda x, y: np.fmod(x, y), "max": lambda x, y: x if (x > y) | (x != x) else y, "min": lambda x, y: x if (x < y) | (x != x) else y,
    "exp": lambda x: math.exp(x), "expm1": lambda x: math.expm1(x), "log": lambda x: math.log(x), "log1p": lambda x: math.log1p(x),
    "sin": lambda x: math.sin(x), "cos": lambda x: math.cos(x), "tan": lambda x: math.tan(x), "asin": lambda x: math.asin(x),
    "acos": lambda x: math.acos(x), "atan": lambda x: math.atan(x), "sinh": lambda x: math.sinh(x), "cosh": lambda x: math.cosh(x),
    "tanh": lambda x: math.tanh(x), "asinh": lambda x: math.asinh(x), "acosh": lambda x: math.acosh(x), "atanh": _atanh,
    "erf": lambda x: math.erf(x), "relu": lambda x: 0.0 if x < 0.0 else x, "sigmoid": lambda x: sigmoid64(x),
    "softplus": lambda x: (x if x > 0.0 else (0.0 if x == x else x)) + math.log1p(math.exp(-abs(x))), "silu": lambda x: x * sigmoid64(x),
    "gelu_erf": lambda x: gelu_erf64(x), "gelu_tanh": lambda x: gelu_tanh64(x),
}  # fmt: skip


def _by_way_of_f64(op: str) -> Callable[..., Any]:
    wide = inline(FLOAT64[op])
    if FLOAT64[op].__code__.co_argcount == 2:
        return lambda x, y: F(wide(D(x), D(y)))
    return lambda x: F(wide(D(x)))


FLOAT32: dict[str, Callable[..., Any]] = {
    **{op: _by_way_of_f64(op) for op in FLOAT64},
    "neg": lambda x: -x, "abs": lambda x: fabs(x), "sign": lambda x: F(1.0) if x > F(0.0) else (F(-1.0) if x < F(0.0) else x),
    "ceil": lambda x: np.ceil(x), "floor": lambda x: np.floor(x), "round": lambda x: np.rint(x), "trunc": lambda x: np.trunc(x),
    "sqrt": lambda x: np.sqrt(x), "rsqrt": lambda x: F(1.0) / np.sqrt(x), "recip": lambda x: F(1.0) / x, "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y,
    "max": lambda x, y: x if (x > y) | (x != x) else y, "min": lambda x, y: x if (x < y) | (x != x) else y,
    "relu": lambda x: F(0.0) if x < F(0.0) else x, "exp": lambda x: exp32(x), "expm1": lambda x: expm1_32(x), "log": lambda x: log32(x),
    "log1p": lambda x: log1p_32(x), "tanh": lambda x: tanh32(x), "erf": lambda x: erf32(x), "sigmoid": lambda x: sigmoid32(x),
    "softplus": lambda x: softplus32(x), "silu": lambda x: silu32(x), "gelu_erf": lambda x: gelu_erf32(x), "gelu_tanh": lambda x: gelu_tanh32(x),
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------------- integers
@inline
def idiv(x: Any, y: Any) -> Any:
    """Truncating; x / 0 is 0 and lowest / -1 is lowest."""
    z = L(1) if (y == 0) | (y == -1) else y
    q = x // z
    q = q + L(1) if (q * z != x) & ((x < 0) != (z < 0)) else q
    q = -x if y == -1 else q
    return L(0) if y == 0 else q


@inline
def udiv(x: Any, y: Any) -> Any:
    z = U(1) if y == 0 else U(y)
    return L(0) if y == 0 else L(U(x) // z)


@inline
def ifmod(x: Any, y: Any) -> Any:
    return L(0) if (y == 0) | (y == -1) else x - idiv(x, y) * y


@inline
def imod(x: Any, y: Any) -> Any:
    r = ifmod(x, y)
    return r + y if (r != 0) & ((r < 0) != (y < 0)) else r


@inline
def ipow(x: Any, y: Any) -> Any:
    """By squaring, with wrap. A negative exponent gives 1/x**|y| truncated."""
    if y < 0:
        return L(1) if x == 1 else ((L(-1) if y & 1 else L(1)) if x == -1 else L(0))
    return upow(x, y)


@inline
def upow(x: Any, y: Any) -> Any:
    r, base, left = L(1), x, U(y)
    while left != U(0):
        if left & U(1):
            r = r * base
        base = base * base
        left = left >> U(1)
    return r


INT: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x, "abs": lambda x: -x if x < 0 else x, "sign": lambda x: L(x > 0) - L(x < 0), "ceil": lambda x: x, "floor": lambda x: x,
    "round": lambda x: x, "trunc": lambda x: x, "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
    "div": lambda x, y: idiv(x, y), "mod": lambda x, y: imod(x, y), "fmod": lambda x, y: ifmod(x, y), "pow": lambda x, y: ipow(x, y),
    "max": lambda x, y: max(x, y), "min": lambda x, y: min(x, y), "relu": lambda x: max(x, L(0)), "recip": lambda x: idiv(L(1), x),
    "band": lambda x, y: x & y, "bor": lambda x, y: x | y, "bxor": lambda x, y: x ^ y, "bnot": lambda x: ~x,
    "land": lambda x, y: L((x != 0) & (y != 0)), "lor": lambda x, y: L((x != 0) | (y != 0)), "lxor": lambda x, y: L((x != 0) != (y != 0)),
    "lnot": lambda x: L(x == 0),
    # uint64
    "abs_u": lambda x: x, "sign_u": lambda x: L(x != 0), "div_u": lambda x, y: udiv(x, y),
    "mod_u": lambda x, y: L(0) if y == 0 else x - udiv(x, y) * y, "pow_u": lambda x, y: upow(x, y),
    "max_u": lambda x, y: x if U(x) > U(y) else y, "min_u": lambda x, y: x if U(x) < U(y) else y, "relu_u": lambda x: x,
    "recip_u": lambda x: L(x == 1),
}  # fmt: skip

PREDICATES: dict[str, Callable[..., Any]] = {  # of any class; L(...) of a comparison is 0 or 1
    "eq": lambda x, y: L(x == y), "ne": lambda x, y: L(x != y), "lt": lambda x, y: L(x < y), "le": lambda x, y: L(x <= y),
    "gt": lambda x, y: L(x > y), "ge": lambda x, y: L(x >= y), "isnan": lambda x: L(x != x), "isinf_pos": lambda x: L(x == INF),
    "isinf_neg": lambda x: L(x == -INF), "nonzero": lambda x: L(x != 0),
    "lt_u": lambda x, y: L(U(x) < U(y)), "le_u": lambda x, y: L(U(x) <= U(y)), "gt_u": lambda x, y: L(U(x) > U(y)),
    "ge_u": lambda x, y: L(U(x) >= U(y)),
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------------------- conversions
@inline
def trunc64(x: Any) -> Any:
    inside = (x >= -9223372036854775808.0) & (x < 9223372036854775808.0)
    y = L(x if inside else 0.0)
    return y if inside else L(-0x8000000000000000)


@inline
def trunc32(x: Any) -> Any:
    inside = (x >= -2147483648.0) & (x < 2147483648.0)
    y = L(x if inside else 0.0)
    return y if inside else L(-0x80000000)


@inline
def trunc_u(x: Any) -> Any:
    """To uint64: values below 2^63 as to int64, those of [2^63, 2^64) by their bits, larger ones and NaN 2^63."""
    high = (x >= 9223372036854775808.0) & (x < 18446744073709551616.0)
    upper = trunc64(x - 9223372036854775808.0 if high else 0.0)
    return upper ^ L(-0x8000000000000000) if high else trunc64(x)


@exact
def odd(x: Any) -> Any:
    """float64 to float32, rounded to odd: rounding that to any shorter format is rounding x once."""
    y = F(x)
    if x != x or D(y) == x:
        return y
    if abs(D(y)) > abs(x):
        y = bits_f32(I(f32_bits(y) - I(1)))
    return bits_f32(I(f32_bits(y) | I(1)))


@inline
def to_bf16(x: Any) -> Any:
    u = f32_bits(x)
    r = I(I(u + I(0x7FFF) + I(I(u >> I(16)) & I(1))) & I(-0x10000))
    return bits_f32(r) if x == x else bits_f32(I(I(u & I(-0x10000)) | I(0x400000)))


@exact
def to_f16(x: Any) -> Any:
    """On the grid of float16: adding and subtracting 1.5 * 2^(e + 13) rounds to it."""
    a = fabs(x)
    e = I(f32_bits(a) >> I(23))
    e = I(113) if e < I(113) else e
    e = I(143) if e > I(143) else e
    magic = bits_f32(I(I(e + I(13)) << I(23))) * F(1.5)
    r = (a + magic) - magic
    r = F(INF) if r > F(65504.0) else r
    return copysign(r if x == x else x, x)


def _signed(bits: int) -> Callable[..., Any]:
    shift = 64 - bits
    return lambda x: (x << L(shift)) >> L(shift)


def _unsigned(bits: int) -> Callable[..., Any]:
    mask = (1 << bits) - 1
    return lambda x: x & L(mask)


def _clamp(lo: int, hi: int) -> Callable[..., Any]:
    return lambda x: min(max(x, L(lo)), L(hi))


def _clamp_u(hi: int) -> Callable[..., Any]:
    """Of a uint64, to a range that ends below 2^63."""
    return lambda x: L(hi) if (x < 0) | (x > L(hi)) else x


def _saturate(lo: int, hi: int) -> Callable[..., Any]:
    """Of a float64: half to even, clamped; NaN gives lo."""
    low, high = float(lo), float(hi)
    unsigned = hi >= 1 << 63

    def to(x: Any) -> Any:
        v = np.rint(x)
        inside = (v > low) & (v < high)
        y = trunc_u(v) if unsigned else trunc64(v if inside else 0.0)
        return y if inside else (L(last) if v >= high else L(lo))

    last = hi - (1 << 64) if unsigned else hi
    return to


def _saturate_f(lo: int, hi: int) -> Callable[..., Any]:
    """Of a float32 to at most 16 bits; NaN gives lo."""
    low, high = float(lo), float(hi)

    def to(x: Any) -> Any:
        v = np.rint(x)
        v = v if v > F(low) else F(low)
        v = F(high) if v > F(high) else v
        return I(v)

    return to


def _range(bits: int, signed: int) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


CONVERT: dict[str, tuple[Callable[..., Any], Any, Any]] = {  # name -> (function, type of the argument, type of the result)
    "f_d": (lambda x: D(x), F, D), "d_f": (lambda x: F(x), D, F), "d_f_odd": (lambda x: odd(x), D, F), "i_f": (lambda x: F(x), L, F),
    "i_d": (lambda x: D(x), L, D), "w_f": (lambda x: F(x), I, F), "w_d": (lambda x: D(x), I, D), "w_i": (lambda x: x, I, L), "i_w": (lambda x: x, L, I), "u_f": (lambda x: F(U(x)), L, F), "u_d": (lambda x: D(U(x)), L, D), "f_i64": (lambda x: trunc64(D(x)), F, L),
    "f_w": (lambda x: trunc32(D(x)), F, I), "f_u": (lambda x: trunc_u(D(x)), F, L), "d_i64": (lambda x: trunc64(x), D, L),
    "d_w": (lambda x: trunc32(x), D, I), "d_u": (lambda x: trunc_u(x), D, L), "bf16": (lambda x: to_bf16(x), F, F),
    "f16": (lambda x: to_f16(x), F, F),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------------ factories
def _loop(fn: Callable[..., Any], result: Any, arguments: tuple[Any, ...]) -> Callable[..., int]:
    g = inline(fn)
    n_args = fn.__code__.co_argcount
    wide = [L if X == I else X for X in arguments]  # functions of integers are written for int64; LLVM narrows what it can
    if n_args == 1:
        (X,), (A,) = arguments, wide

        def one(d, a, b, c, imm, n):
            x, y = at(a, X), at(d, result)
            for i in range(n):
                y[i] = result(g(A(x[i])))
            return 0

        return one
    if n_args == 2:
        (X, Y), (A, B) = arguments, wide

        def two(d, a, b, c, imm, n):
            x, z, y = at(a, X), at(b, Y), at(d, result)
            for i in range(n):
                y[i] = result(g(A(x[i]), B(z[i])))
            return 0

        return two
    (X, Y, Z), (A, B, C) = arguments, wide

    def three(d, a, b, c, imm, n):
        x, z, t, y = at(a, X), at(b, Y), at(c, Z), at(d, result)
        for i in range(n):
            y[i] = result(g(A(x[i]), B(z[i]), C(t[i])))
        return 0

    return three


_CLASS = {"f": F, "d": D, "i": L, "w": I}
_TABLES = {"f": FLOAT32, "d": FLOAT64, "i": INT, "w": INT}


def op(kind: str, name: str) -> Callable[..., int]:
    """An operation whose arguments and result are of one class."""
    X = _CLASS[kind]
    fn = _TABLES[kind][name]
    return _loop(fn, X, (X,) * fn.__code__.co_argcount)


def test(kind: str, name: str) -> Callable[..., int]:
    """A predicate or comparison of one class: 0 or 1, as a bool is held."""
    fn, X = PREDICATES[name], _CLASS[kind]
    return _loop(fn, I, (X,) * fn.__code__.co_argcount)


def where(kind: str) -> Callable[..., int]:
    """c ? x : y."""
    X = _CLASS[kind]
    return _loop(lambda c, x, y: x if c != 0 else y, X, (I, X, X))


def convert(name: str) -> Callable[..., int]:
    """A conversion between classes, or to a shorter float format."""
    fn, X, Y = CONVERT[name]
    return _loop(fn, Y, (X,))


def wrap(kind: str, bits: int, signed: int) -> Callable[..., int]:
    """Keep the low bits."""
    X = _CLASS[kind]
    return _loop(_signed(bits) if signed else _unsigned(bits), X, (X,))


def saturate(kind: str, bits: int, signed: int) -> Callable[..., int]:
    """cast_sat to an integer type, from a class; "u": from uint64."""
    lo, hi = _range(bits, signed)
    result = I if hi < 1 << 31 else L
    if kind == "u":
        return _loop(_clamp_u(hi), result, (L,)) if hi < 1 << 63 else _loop(lambda x: x, L, (L,))
    if kind in ("i", "w"):
        return _loop(_clamp(lo, min(hi, (1 << 63) - 1)), result, (_CLASS[kind],))
    return _loop(_saturate_f(lo, hi), I, (F,)) if kind == "f" else _loop(_saturate(lo, hi), result, (D,))


def shift(kind: str, name: str, bits: int) -> Callable[..., int]:
    """shl, shr (of signed integers) or shr_u; a count outside of the width gives 0."""
    left, logical = name == "shl", name == "shr_u"

    def fn(x: Any, y: Any) -> Any:
        inside = (y >= 0) & (y < bits)
        n = y if inside else L(0)
        r = x << n if left else (L(U(x) >> U(n)) if logical else x >> n)
        return r if inside else L(0)

    X = _CLASS[kind]
    return _loop(fn, X, (X, X))


def fill(kind: str) -> Callable[..., int]:
    """imm: the bits of a double (the integer itself for classes i and w), in all elements."""
    X = _CLASS[kind]
    whole = kind in ("i", "w")

    def run(d, a, b, c, imm, n):
        y = at(d, X)
        v = X(imm) if whole else X(bits_f64(imm))
        for i in range(n):
            y[i] = v
        return 0

    return run


def copy(nbytes: int) -> Callable[..., int]:
    """One register to another."""
    X = F if nbytes == 4 else L

    def run(d, a, b, c, imm, n):
        x, y = at(a, X), at(d, X)
        for i in range(n):
            y[i] = x[i]
        return 0

    return run


# ------------------------------------------------------------------------------------------------------------------ 8- and 4-bit floats
# E, M, bias, largest finite code, code of infinity (or -1), code of NaN, has a negative zero
FORMATS = {
    "float8_e4m3fn": (4, 3, 7, 0x7E, -1, 0x7F, True),
    "float8_e4m3fnuz": (4, 3, 8, 0x7F, -1, 0x80, False),
    "float8_e5m2": (5, 2, 15, 0x7B, 0x7C, 0x7E, True),
    "float8_e5m2fnuz": (5, 2, 16, 0x7F, -1, 0x80, False),
    "float4_e2m1fn": (2, 1, 1, 0x7, -1, 0x8, True),
}


def encoder(name: str, mode: str) -> Callable[..., Any]:
    """float32 to the code of a short format, to nearest even. mode "saturate": what is beyond becomes the largest value; "wrap": infinity or NaN."""
    if name == "float8_e8m0fnu":
        last = 254 if mode == "saturate" else 255

        def power(x: Any) -> Any:
            """Up, to the next power of two, ignoring the sign."""
            u = f32_bits(x)
            e = L(I(u >> I(23)) & I(0xFF))
            return e + L(1) if (I(u & I(0x7FFFFF)) != I(0)) & (e < last) else e

        return inline(power)
    E, M, bias, most, inf, nan, negative_zero = FORMATS[name]
    drop, sign_at = 23 - M, E + M
    least = (128 - bias) << 23
    magic = (128 - bias - M + 23) << 23
    lost = inf if inf >= 0 else nan
    over = most if mode == "saturate" or name == "float4_e2m1fn" else lost

    def encode(x: Any) -> Any:
        u = L(f32_bits(x)) & L(0xFFFFFFFF)
        a = u & L(0x7FFFFFFF)
        normal = ((a + L((1 << (drop - 1)) - 1) + ((a >> L(drop)) & L(1))) >> L(drop)) - L((127 - bias) << M)
        subnormal = L(f32_bits(bits_f32(I(a)) + bits_f32(I(magic)))) - L(magic)
        code = subnormal if a < L(least) else normal
        code = L(over) if code > L(most) else code
        code = L(over) if a == L(0x7F800000) else code
        sign = (u >> L(31)) << L(sign_at)
        signed = L(0) if (not negative_zero) & (code == 0) else code | sign
        return L(nan) if a > L(0x7F800000) else signed

    return exact(encode)


def short(name: str, mode: str) -> Callable[..., int]:
    """Round to a format of up to 8 bits; imm: the address of its 256 values in float32."""
    encode = encoder(name, mode)

    def run(d, a, b, c, imm, n):
        x, y, table = at(a, F), at(d, F), at(imm, F)
        for i in range(n):
            y[i] = table[encode(x[i])]
        return 0

    return run
