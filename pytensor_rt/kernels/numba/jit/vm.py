"""The operations of the register machine (see box.py): each a loop over the n elements of a tile, compiled one by one as programs need them.

A register holds float32 ("f": all floats up to 32 bits, their values on the grid of their format), float64 ("d"), int32 ("w": bool and the integers whose
values it has) or int64 ("i": int64, uint32, and uint64 by its bits). Functions take (d, a, b, c, imm, n): addresses of the result and of up to three arguments, an immediate, a count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32 as F
from numba import float64 as D
from numba import int32 as I
from numba import int64 as L
from numba import uint64 as U

from .elementary import FLOAT32, FLOAT64, INF, copysign, fabs
from .intrinsics import at, bits_f32, bits_f64, exact, f32_bits, inline


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
