"""8-bit gemm with exact sums in int32, and the int8 precision of float32 gemm.

A is rows of units of 32 bits, B panels of such units: four bytes with instructions of kind "vnni", of which A's are unsigned and B's signed (the others are
shifted by 128, and so are their zero points), or two 16-bit integers ("madd", "plain"). With a' and b' the values there,

    sum (a' - za)(b' - zb) = sum a'b' - za * (column's sum of b') - zb * (row's sum of a' - K * za)

A panel: [units][NR] of 32 bits, then NR float32 scales (int8 precision only), then NR int32 sums of columns. Beside every row of A lie 8 bytes: int32 za and
what zb is multiplied by, or (int8 precision) its float32 scale and int32 za.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32 as F
from numba import int32 as I
from numba import types
from numba.extending import intrinsic

from .gemm_tile import panel_columns
from .intrinsics import at, exact_sum, inline, invoke, stack
from .vectors import BYTES, Vector, fma, lanes, splat, vadd, vload, vmax, vmin, vmul, vstore, vsub, vsum

NR = panel_columns(types.int32)
LEAST = 2.0**-100  # ranges below count as zero: their reciprocals would not be finite
LARGEST = 3.4028234663852886e38
NAN = float("nan")


def _stored(kind: str) -> tuple[Any, Any, int]:
    """Elements of A's and B's units, and their number per unit."""
    return (types.uint8, types.int8, 4) if kind == "vnni" else (types.int16, types.int16, 2)


def _shift(kind: str, dtype: str, signed: bool) -> int:
    """What is added to values of a dtype that must be signed, or not."""
    if kind != "vnni" or (dtype == "int8") == signed:
        return 0
    return -128 if signed else 128


@intrinsic
def floats(typingctx: Any, x: Any) -> Any:
    """An int32 vector as float32."""
    vector = Vector(types.float32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], context.get_value_type(vector))

    return vector(x), codegen


def rows(kind: str, dtype: str) -> Callable[..., int]:
    """Units of rows of A. Words: 0 a  1 row stride  2 k stride  3 M  4 K  5 out, or 0: only what lies beside the rows is wanted  6 bytes from row to row
    7 where to put that, or 0  8 zero points of dtype, or 0  9 their row stride  10 batch axes, and for each: size, steps of a and of the zero points.

    Strides in bytes. A unit of work is a row of A."""
    stored, _, per = _stored(kind)
    size = stored.bitwidth // 8
    element = types.int8 if dtype == "int8" else types.uint8
    shift = _shift(kind, dtype, signed=False)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        k_all, step = w[4], w[2]
        units = (k_all + per - 1) // per
        for unit in range(begin, end):
            left = unit // w[3]
            m = unit - left * w[3]
            a, z = w[0] + m * w[1], w[8] + m * w[9]
            for d in range(w[10] - 1, -1, -1):
                q = left // w[11 + 3 * d]
                i = left - q * w[11 + 3 * d]
                left = q
                a += i * w[12 + 3 * d]
                z += i * w[13 + 3 * d]
            if w[5] != 0:
                x, y = at(a, element), at(w[5] + unit * w[6], stored)
                if step == 1:
                    for k in range(k_all):
                        y[k] = stored(I(x[k]) + I(shift))
                else:
                    for k in range(k_all):
                        y[k] = stored(I(x[k * step]) + I(shift))
                for k in range(k_all, units * per):
                    y[k] = stored(0)
            if w[7] != 0:
                x, beside = at(a, element), at(w[7] + 8 * unit, I)
                total = I(0)
                if step == 1:
                    for k in range(k_all):
                        total = I(total + I(x[k]))
                else:
                    for k in range(k_all):
                        total = I(total + I(x[k * step]))
                zero = I(at(z, element)[0]) if w[8] != 0 else I(0)
                beside[0] = I(zero + I(shift))
                beside[1] = I(total - I(I(k_all) * zero))  # the shifts cancel out
        return 0

    assert size * per == 4
    return kernel


@inline
def scale_of(width: Any, steps: Any, finite: Any) -> Any:
    """(steps / width, width / steps): (0, 0) for what counts as zero, (0, NaN) for what is not finite."""
    inverse, scale = F(0.0), F(0.0)
    if not (finite and width <= F(LARGEST)):
        scale = F(NAN)
    elif width >= F(LEAST):
        inverse, scale = steps / width, width / steps
    return inverse, scale


def quantise(kind: str) -> Callable[..., int]:
    """Rows of float32 A as unsigned bytes with a scale and a zero point each. Words as those of `rows`, without 8 and 9 (0)."""
    stored, _, per = _stored(kind)
    n = lanes(types.float32)

    @inline
    def extent(a, whole, k_all, step, home):  # type: ignore[no-untyped-def]
        """Smallest and largest value (and 0), and something that is NaN if a value is not finite. The first `whole` values are dense."""
        low, high, odd = splat(F(0.0)), splat(F(0.0)), splat(F(0.0))
        nothing = splat(F(0.0))
        for k in range(0, whole, n):
            v = vload(a + 4 * k, F)
            low, high, odd = vmin(v, low), vmax(v, high), fma(v, nothing, odd)
        least, most, total = F(0.0), F(0.0), vsum(odd)
        vstore(home, low)
        vstore(home + 64, high)
        lows, highs = at(home, F), at(home + 64, F)
        for j in range(n):
            least = lows[j] if lows[j] < least else least
            most = highs[j] if highs[j] > most else most
        for k in range(whole, k_all):
            v = at(a + k * step, F)[0]
            least, most, total = (v if v < least else least), (v if v > most else most), total + v * F(0.0)
        return least, most, total

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        home = stack(128)
        k_all, step = w[4], w[2]
        units = (k_all + per - 1) // per
        for unit in range(begin, end):
            left = unit // w[3]
            a = w[0] + (unit - left * w[3]) * w[1]
            for d in range(w[10] - 1, -1, -1):
                q = left // w[11 + 3 * d]
                a += (left - q * w[11 + 3 * d]) * w[12 + 3 * d]
                left = q
            low, high, odd = extent(a, k_all // n * n if step == 4 else 0, k_all, step, home)
            width = high - low
            inverse, scale = scale_of(width, F(255.0), odd == F(0.0))
            zero = I(np.rint(-low * inverse))
            y = at(w[5] + unit * w[6], stored)
            if inverse > F(0.0):
                if step == 4:
                    x = at(a, F)
                    for k in range(k_all):
                        y[k] = stored(min(max(I(I(np.rint(x[k] * inverse)) + zero), I(0)), I(255)))
                else:
                    for k in range(k_all):
                        y[k] = stored(min(max(I(I(np.rint(at(a + k * step, F)[0] * inverse)) + zero), I(0)), I(255)))
            else:
                for k in range(k_all):
                    y[k] = stored(0)
            for k in range(k_all, units * per):
                y[k] = stored(0)
            at(w[7] + 8 * unit, F)[0] = scale
            at(w[7] + 8 * unit, I)[1] = zero
        return 0

    return kernel


def pack(kind: str, dtype: str) -> Callable[..., int]:
    """Panels of B: int8, uint8, or float32 that is quantised to int8 with a scale per column. Words: 0 b  1 bk  2 bn (bytes)  3 K  4 N  5 out  6 bytes of a
    panel  7 panels of a matrix  8 batch axes, then size and step of each. A unit is a panel."""
    _, stored, per = _stored(kind)
    quantised = dtype == "float32"
    element = {"int8": types.int8, "uint8": types.uint8, "float32": F}[dtype]
    shift = 0 if quantised else _shift(kind, dtype, signed=True)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        bk, bn, k_all = w[1], w[2], w[3]
        units = (k_all + per - 1) // per
        for unit in range(begin, end):
            matrix = unit // w[7]
            panel = unit - matrix * w[7]
            b = w[0] + panel * NR * bn
            for d in range(w[8] - 1, -1, -1):
                q = matrix // w[9 + 2 * d]
                b += (matrix - q * w[9 + 2 * d]) * w[10 + 2 * d]
                matrix = q
            columns = min(NR, w[4] - panel * NR)
            out = w[5] + unit * w[6]
            y = at(out, stored)
            for i in range(units * NR * per):
                y[i] = stored(0)
            scales, sums = at(out + units * (4 * NR), F), at(out + (units + 1) * (4 * NR), I)
            odd = at(out + (units + 1) * (4 * NR), F)
            for j in range(NR):
                sums[j] = I(0)
                scales[j] = F(0.0)
            if quantised:
                for k in range(k_all):
                    for j in range(columns):
                        v = at(b + k * bk + j * bn, element)[0]
                        m = -v if v < F(0.0) else v
                        scales[j] = m if m > scales[j] else scales[j]
                        odd[j] = odd[j] + v * F(0.0)
            if quantised:
                for j in range(columns):
                    inverse, scale = scale_of(scales[j], F(127.0), odd[j] == F(0.0))
                    total = I(0)
                    if inverse > F(0.0):
                        for k in range(k_all):
                            u = I(np.rint(at(b + k * bk + j * bn, element)[0] * inverse))
                            y[((k // per) * NR + j) * per + k % per] = stored(u)
                            total = I(total + u)
                    scales[j], sums[j] = scale, total
            else:
                for k in range(k_all):
                    for j in range(columns):
                        u = I(I(at(b + k * bk + j * bn, element)[0]) + I(shift))
                        y[((k // per) * NR + j) * per + k % per] = stored(u)
                        sums[j] = I(sums[j] + u)
        return 0

    return kernel


def blocks(mode: str) -> Callable[..., int]:
    """C = A B, and what makes it the result: "int32" (zero points, if any), "float32" (the same, converted), "linear" (then times a factor and plus a
    term per column, if given), "scaled" (the int8 precision).

    Words: 0 M  1 N  2 units of K  3 rows of a block  4 row groups  5 panels of a block  6 panel groups  7 panels  8 a  9 row stride
    10 gemm_tile.dots  11 b  12 bytes of a panel  13 what lies beside the rows of A, or 0  14 int32 zero points of columns, or 0
    15 results of a block (slots)  16 step  17 row stride  18 y, or 0  19 its row stride  20 the program  21 box.run  22 float32 factors  23 terms, or 0
    24 batch axes, and for each: size, steps of a, of b, of words 13, 14 and 18
    Strides in bytes. A unit is a block: unit = (batch * row groups + row group) * panel groups + panel group.
    """
    scaled, linear = mode == "scaled", mode == "linear"
    Y = I if mode == "int32" else F

    @inline
    def whole_row(c, to, scale, za, rest, zb, data, factors, terms):  # type: ignore[no-untyped-def]
        """One row of a panel that has all its columns: from sums of products to the result."""
        for j in range(0, 4 * NR, BYTES):
            x = vload(c + j, I)
            if za != 0:
                x = vsub(x, vmul(splat(za), vload(data + 4 * NR + j, I)))
            if zb != 0:
                x = vsub(x, vmul(splat(rest), vload(zb + j, I)))
            if scaled:
                vstore(to + j, vmul(floats(x), vmul(splat(scale), vload(data + j, F))))
            elif linear:
                v = vmul(floats(x), vload(factors + j, F))
                vstore(to + j, vadd(v, vload(terms + j, F)) if terms != 0 else v)
            elif mode == "float32":
                vstore(to + j, floats(x))
            else:
                vstore(to + j, x)

    @inline
    def part_of_row(c, to, columns, scale, za, rest, zb, data, factors, terms):  # type: ignore[no-untyped-def]
        """The same for some columns."""
        scales, sums = at(data, F), at(data + 4 * NR, I)
        for j in range(columns):
            x = I(at(c, I)[j] - I(za * sums[j]))
            if zb != 0:
                x = I(x - I(at(zb, I)[j] * rest))
            if scaled:
                at(to, F)[j] = F(x) * (scale * scales[j])
            elif linear:
                v = F(x) * at(factors, F)[j]
                at(to, F)[j] = exact_sum(v, at(terms, F)[j]) if terms != 0 else v
            else:
                at(to, Y)[j] = Y(x)

    @inline
    def settle(c, pitch, to, to_pitch, m, columns, beside, zb, data, factors, terms):  # type: ignore[no-untyped-def]
        """m rows of one panel, which may be written where they are. `data`: what lies behind the panel's units."""
        for i in range(m):
            scale, za, rest = F(0.0), I(0), I(0)
            if scaled:
                scale, za = at(beside + 8 * i, F)[0], at(beside + 8 * i, I)[1]
            elif beside != 0:
                za, rest = at(beside + 8 * i, I)[0], at(beside + 8 * i, I)[1]
            if columns == NR:
                whole_row(c + i * pitch, to + i * to_pitch, scale, za, rest, zb, data, factors, terms)
            else:
                part_of_row(c + i * pitch, to + i * to_pitch, columns, scale, za, rest, zb, data, factors, terms)

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        width = 4 * NR
        held, pitch = w[15] + slot * w[16], w[17]
        for unit in range(begin, end):
            rest = unit // w[6]
            p0 = (unit - rest * w[6]) * w[5]
            batch = rest // w[4]
            m0 = (rest - batch * w[4]) * w[3]
            p1, m = min(w[7], p0 + w[5]), min(w[3], w[0] - m0)
            a, b, beside, zb, y = w[8] + m0 * w[9], w[11], w[13], w[14], w[18]
            left = batch
            for d in range(w[24] - 1, -1, -1):
                x = 25 + 6 * d
                q = left // w[x]
                i = left - q * w[x]
                left = q
                a += i * w[x + 1]
                b += i * w[x + 2]
                if w[13] != 0:
                    beside += i * w[x + 3]
                if w[14] != 0:
                    zb += i * w[x + 4]
                if w[18] != 0:
                    y += i * w[x + 5]
            if beside != 0:
                beside += 8 * m0
            invoke(w[10], (m, p1 - p0, w[2], a, w[9], 4, b + p0 * w[12], w[12], width, held, pitch, 0))
            for p in range(p0, p1):
                columns = min(NR, w[1] - p * NR)
                z = zb + p * width if zb != 0 else zb
                f, t = w[22], w[23]
                if linear:
                    f += p * width
                    if t != 0:
                        t += p * width
                c, to, to_pitch = held + (p - p0) * width, y + m0 * w[19] + p * width, w[19]
                if y == 0:
                    to, to_pitch = c, pitch
                if mode != "int32" or beside != 0 or y != 0:
                    settle(c, pitch, to, to_pitch, m, columns, beside, z, b + p * w[12] + w[2] * width, f, t)
            if y == 0:
                r = batch * w[0] + m0
                invoke(w[21], (w[20], r, r + m, p0 * NR, min(w[1], p1 * NR), held, pitch, 0, 0))
        return 0

    return kernel
