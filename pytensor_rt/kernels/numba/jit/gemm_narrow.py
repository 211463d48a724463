"""Constant B kept in 16, 8 or 4 bits: panels in the stored format, and functions that fetch rows of a panel as float32 (see gemm_pack.py).

Stored panels: 16 bits: [k][NR], or for products of pairs [k / 2][NR][2]. 8 bits: [k][NR] bytes. 4 bits: [ceil(k / 2)][NR] bytes, the even k in the low half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float32 as F
from numba import int32 as I
from numba import types
from numba.extending import intrinsic

from .gemm_tile import panel_columns
from .intrinsics import at, inline
from .memory import bf16_bits, bf16_value, f16_bits, f16_value
from .vectors import BYTES, Vector, splat, vload, vmul, vstore, vsub
from .vm import to_bf16, to_f16

NR = panel_columns(types.float32)
_VALUES = {"float16": f16_value, "bfloat16": bf16_value}
_ELEMENTS = {"float16": types.uint16, "bfloat16": types.uint16, "float32": types.float32}


def fetch_half(dtype: str) -> Callable[..., int]:
    """From panels of float16 or bfloat16, for CPUs that cannot widen float16. Words: 0 address  1 bytes of a panel. `origin`: bytes."""
    value = _VALUES[dtype]

    def fetch(w, origin, panel, k0, k, out):  # type: ignore[no-untyped-def]
        x, y = at(w[0] + origin + panel * w[1] + k0 * (2 * NR), types.uint16), at(out, F)
        for i in range(k * NR):
            y[i] = value(x[i])
        return 0

    return fetch


def pack_half(source: str, dtype: str, per: int) -> Callable[..., int]:
    """Packs constants of dtype `source` (float32, which is rounded, or `dtype` itself); `per`: values of k side by side, of which K is a multiple. Words: 0 address  1 bk  2 bn (bytes)  3 K  4 N  5 out  6 panels of
    a matrix  7 batch axes, then size and bytes of each. A unit is a panel."""
    element = _ELEMENTS[source]
    if source == "float32":
        bits = inline(lambda x: bf16_bits(to_bf16(x))) if dtype == "bfloat16" else inline(lambda x: f16_bits(to_f16(x)))
    else:
        bits = inline(lambda x: I(x))

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        for unit in range(begin, end):
            matrix = unit // w[6]
            panel = unit - matrix * w[6]
            source_at = w[0] + panel * NR * w[2]
            for d in range(w[7] - 1, -1, -1):
                q = matrix // w[8 + 2 * d]
                source_at += (matrix - q * w[8 + 2 * d]) * w[9 + 2 * d]
                matrix = q
            columns = min(NR, w[4] - panel * NR)
            y = at(w[5] + unit * w[3] * (2 * NR), types.uint16)
            for k in range(w[3]):
                for j in range(columns):
                    y[(k // per * NR + j) * per + k % per] = types.uint16(bits(at(source_at + k * w[1] + j * w[2], element)[0]))
                for j in range(columns, NR):
                    y[(k // per * NR + j) * per + k % per] = types.uint16(0)
        return 0

    return kernel


def pack_bytes(fold: int) -> Callable[..., int]:
    """Packs bytes: rows of B as they are (fold 1), or two rows of 4-bit values into one (fold 2).

    Words: 0 address  1 bk  2 bn (bytes)  3 rows of B  4 N  5 out  6 bytes of a panel. A unit is a panel.
    """

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        for unit in range(begin, end):
            columns = min(NR, w[4] - unit * NR)
            source = w[0] + unit * NR * w[2]
            y = at(w[5] + unit * w[6], types.uint8)
            for k in range(w[6] // NR):
                for j in range(columns):
                    if fold == 1:
                        y[k * NR + j] = at(source + k * w[1] + j * w[2], types.uint8)[0]
                    else:
                        v = I(at(source + 2 * k * w[1] + j * w[2], types.uint8)[0]) & I(15)
                        if 2 * k + 1 < w[3]:
                            v |= (I(at(source + (2 * k + 1) * w[1] + j * w[2], types.uint8)[0]) & I(15)) << I(4)
                        y[k * NR + j] = types.uint8(v)
                for j in range(columns, NR):
                    y[k * NR + j] = types.uint8(0)
        return 0

    return kernel


def integers(builder: Any, form: str, high: bool, address: Any, kind: Any) -> Any:
    """Code that loads a float32 vector (LLVM type `kind`) of stored integers; of 4 bits: the low or the high halves of that many bytes."""
    narrow, whole = (ir.VectorType(ir.IntType(n), kind.count) for n in (8, 32))

    def all_of(n: int) -> Any:
        return ir.Constant(whole, [n] * kind.count)

    v = builder.load(builder.inttoptr(address, ir.PointerType(narrow)), align=1)
    if form == "int8":
        return builder.sitofp(builder.sext(v, whole), kind)
    v = builder.zext(v, whole)
    if form.endswith("int4"):
        v = builder.lshr(v, all_of(4)) if high else builder.and_(v, all_of(15))
    if form == "int4":
        v = builder.sub(builder.xor(v, all_of(8)), all_of(8))
    return builder.sitofp(v, kind)


def _load_integers(form: str, high: bool) -> Any:
    """An intrinsic (address) -> float32 vector, as `integers`."""

    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        vector = Vector(types.float32)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return integers(builder, form, high, args[0], context.get_value_type(vector))

        return vector(types.int64), codegen

    return load


def fetch_scaled(form: str) -> Callable[..., int]:
    """(b - zero) * scale of panels of int8, uint8, int4 or uint4.

    Words: 0 values  1 bytes of a panel  2 scales [blocks][NR] float32  3 bytes of their panel  4 zeros, alike, or 0  5 bytes  6 values of k per block
    """
    narrow = form.endswith("int4")
    low, high = _load_integers(form, False), _load_integers(form, True)
    half = BYTES // 4  # bytes of a vector's stored values
    row = 4 * NR

    @inline
    def one(x, k, z0, z1, s0, s1, y):  # type: ignore[no-untyped-def]
        """Row k, to y."""
        if narrow:
            at_row = x + (k >> 1) * NR
            if k & 1:
                vstore(y, vmul(vsub(high(at_row), z0), s0))
                vstore(y + BYTES, vmul(vsub(high(at_row + half), z1), s1))
            else:
                vstore(y, vmul(vsub(low(at_row), z0), s0))
                vstore(y + BYTES, vmul(vsub(low(at_row + half), z1), s1))
        else:
            vstore(y, vmul(vsub(low(x + k * NR), z0), s0))
            vstore(y + BYTES, vmul(vsub(low(x + k * NR + half), z1), s1))

    @inline
    def rows(x, z0, z1, s0, s1, k0, k1, y):  # type: ignore[no-untyped-def]
        """Rows k0 .. k1 of one block."""
        k = k0
        if narrow:
            if k & 1 and k < k1:
                one(x, k, z0, z1, s0, s1, y)
                k += 1
            while k + 2 <= k1:
                at_row, to = x + (k >> 1) * NR, y + (k - k0) * row
                vstore(to, vmul(vsub(low(at_row), z0), s0))
                vstore(to + BYTES, vmul(vsub(low(at_row + half), z1), s1))
                vstore(to + 2 * BYTES, vmul(vsub(high(at_row), z0), s0))
                vstore(to + 3 * BYTES, vmul(vsub(high(at_row + half), z1), s1))
                k += 2
        while k < k1:
            one(x, k, z0, z1, s0, s1, y + (k - k0) * row)
            k += 1

    def fetch(w, origin, panel, k0, k, out):  # type: ignore[no-untyped-def]
        x = w[0] + panel * w[1]
        done, end = k0, k0 + k
        while done < end:
            block = done // w[6]
            stop = min(end, (block + 1) * w[6])
            scale, y = w[2] + panel * w[3] + block * row, out + (done - k0) * row
            s0, s1 = vload(scale, F), vload(scale + BYTES, F)
            if w[4] != 0:
                zero = w[4] + panel * w[5] + block * row
                rows(x, vload(zero, F), vload(zero + BYTES, F), s0, s1, done, stop, y)
            else:
                nothing = splat(F(0.0))
                rows(x, nothing, nothing, s0, s1, done, stop, y)
            done = stop
        return 0

    return fetch
