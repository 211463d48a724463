"""Loads and stores of the register machine: between memory of any dtype and strides, and registers (see vm.py).

Functions take (register, address, row stride, column stride, rows, columns, imm): strides in bytes; the register is filled row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import float32 as F
from numba import float64 as D
from numba import int32 as I
from numba import int64 as L
from numba import types
from numba.extending import intrinsic

from .. import code
from . import vm
from .intrinsics import at, bits_f32, f32_bits, inline
from .vm import encoder


@intrinsic
def _hardware_value(typingctx: Any, h: Any) -> Any:
    """float16 bits to float32, by the CPU's instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _hardware_bits(typingctx: Any, x: Any) -> Any:
    """float32 to float16 bits, rounded to nearest even, by the CPU's instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


HARDWARE = "+f16c" in code.cpu()[1].split(",")  # without the instruction, LLVM would call a function of the compiler's own library


@inline
def f16_value(h: Any) -> Any:
    """The float32 value of float16 bits."""
    h = I(h)
    m = I(h & I(0x7FFF))
    scaled = bits_f32(I(m << I(13))) * F(5.192296858534828e33)  # 2^112
    special = bits_f32(I(I(m << I(13)) | I(0x7F800000)))
    y = special if m >= I(0x7C00) else scaled
    return bits_f32(I(f32_bits(y) | I(I(h & I(0x8000)) << I(16))))


@inline
def f16_bits(x: Any) -> Any:
    """The bits of a float32 that is on the grid of float16."""
    u = f32_bits(x)
    a = I(u & I(0x7FFFFFFF))
    small = I(f32_bits(bits_f32(a) + F(0.5)) - I(0x3F000000))  # below 2^-14: the unit in the last place of 0.5 is 2^-24
    m = small if a < I(0x38800000) else I(I(a >> I(13)) - I(112 << 10))
    m = I(0x7C00) if a == I(0x7F800000) else m
    m = I(I(0x7E00) | I(I(a >> I(13)) & I(0x3FF))) if a > I(0x7F800000) else m
    return I(m | I(I(u >> I(16)) & I(0x8000)))


@inline
def bf16_value(h: Any) -> Any:
    return bits_f32(I(I(h) << I(16)))


@inline
def bf16_bits(x: Any) -> Any:
    return I(I(f32_bits(x) >> I(16)) & I(0xFFFF))


_DIRECT = {
    "float32": (F, types.float32), "float64": (D, types.float64), "int8": (I, types.int8), "uint8": (I, types.uint8), "bool": (I, types.uint8),
    "int16": (I, types.int16), "uint16": (I, types.uint16), "int32": (I, types.int32), "uint32": (L, types.uint32), "int64": (L, types.int64),
    "uint64": (L, types.int64),
}  # fmt: skip


@inline
def hardware_value(h: Any) -> Any:
    return _hardware_value(types.uint16(h))


@inline
def hardware_bits(x: Any) -> Any:
    return I(_hardware_bits(x))


_HALF = {"float16": (hardware_value, hardware_bits) if HARDWARE else (f16_value, f16_bits), "bfloat16": (bf16_value, bf16_bits)}


def _loads(register: Any, element: Any, value: Callable[..., Any]) -> Callable[..., int]:
    size, wide = element.bitwidth // 8, register.bitwidth // 8

    def run(r, address, rs, cs, rows, cols, imm):
        for i in range(rows):
            y = at(r + i * cols * wide, register)
            x = at(address + i * rs, element)
            if cs == size:
                for j in range(cols):
                    y[j] = value(x[j], imm)
            elif cs == 0:
                v = value(x[0], imm)
                for j in range(cols):
                    y[j] = v
            else:
                for j in range(cols):
                    y[j] = value(at(address + i * rs + j * cs, element)[0], imm)
        return 0

    return run


def load(dtype: str) -> Callable[..., int]:
    """From memory of a dtype. For the 8-, 4- and 2-bit formats, imm is the address of their 256 values."""
    if dtype in _DIRECT:
        register, element = _DIRECT[dtype]
        return _loads(register, element, inline(lambda x, imm: register(x)))
    if dtype in _HALF:
        value = _HALF[dtype][0]
        return _loads(F, types.uint16, inline(lambda x, imm: value(x)))
    register = F if "float" in dtype else I
    return _loads(register, types.uint8, inline(lambda x, imm: at(imm, register)[L(x)]))


def load_f(dtype: str) -> Callable[..., int]:
    """From memory of an integer dtype that class "w" holds, as float32."""
    element = _DIRECT[dtype][1]
    return _loads(F, element, inline(lambda x, imm: F(x)))


def to_f16() -> Callable[..., int]:
    """A register operation (see vm.py): float32 rounded to float16's grid."""
    if HARDWARE:
        return vm._loop(lambda x: _hardware_value(_hardware_bits(x)), F, (F,))
    return vm.convert("f16")


def store(dtype: str) -> Callable[..., int]:
    """To memory of a dtype. The values are on its grid already, except those of the 8-bit floats, which are rounded (and wrap) here."""
    if dtype in _DIRECT:
        register, element = _DIRECT[dtype]
        bits = inline(lambda x: element(x))
    elif dtype in _HALF:
        register, element = F, types.uint16
        half = _HALF[dtype][1]
        bits = inline(lambda x: element(half(x)))
    elif "float" in dtype:
        register, element = F, types.uint8
        encode = encoder(dtype, "wrap")
        bits = inline(lambda x: element(encode(x)))
    else:  # 4- and 2-bit integers: the low bits of a byte
        register, element = I, types.uint8
        mask = 3 if dtype.endswith("2") else 15
        bits = inline(lambda x: element(x & I(mask)))
    return _stores(register, element, bits)


def store_sat(dtype: str) -> Callable[..., int]:
    """float32 to memory of an integer dtype of 8 or 16 bits: rounded half to even, clamped; NaN gives the lowest value."""
    element = _DIRECT[dtype][1]
    to = inline(vm._saturate_f(*vm._range(element.bitwidth, int(not dtype.startswith("u")))))
    return _stores(F, element, inline(lambda x: element(to(x))))


def _stores(register: Any, element: Any, bits: Callable[..., Any]) -> Callable[..., int]:
    size, wide = element.bitwidth // 8, register.bitwidth // 8

    def run(r, address, rs, cs, rows, cols, imm):
        for i in range(rows):
            x = at(r + i * cols * wide, register)
            y = at(address + i * rs, element)
            if cs == size:
                for j in range(cols):
                    y[j] = bits(x[j])
            else:
                for j in range(cols):
                    at(address + i * rs + j * cs, element)[0] = bits(x[j])
        return 0

    return run
