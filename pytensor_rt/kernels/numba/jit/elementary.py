"""Elementary functions of float32 and float64, and the operations of the register machine (vm.py) on floats by name.

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

from .intrinsics import bits_f32, bits_f64, f32_bits, f64_bits, inline

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
