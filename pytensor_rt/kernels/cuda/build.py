"""Kernel calls under construction: the translation unit, the argument structure and what its pointers refer to.

A kernel takes one structure `Args` by value. Its fields are declared here in the order in which the planner adds them, so the C++ text and the
packed bytes cannot disagree; the compiler's own size of it is checked when the module is loaded. A variant of a kernel is a source text: equal
texts are compiled once, so whatever is no reason for other machine code (sizes, strides, constants) is a field.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...dtypes import DType
from ...errors import UnsupportedError
from ...lowering.tensor import Buffer, Launch, Tensor
from ..axes import reach
from .manifest import Entry
from .source import body, register_type, scalar_format, scalar_value, type_of

MAX_ARGS = 4096  # bytes of parameters that every architecture takes
NARROW = (1 << 31) - (1 << 17)  # what 32-bit indices may reach: the loads of a last, partial block count beyond the end


@dataclass(frozen=True)
class Operand:
    """The memory of a tensor: a buffer and an offset in bytes."""

    buffer: Buffer
    offset: int


@dataclass(frozen=True)
class Scratch:
    """Memory that lives for one launch, at an offset in bytes of the plan's scratch."""

    offset: int


@dataclass(frozen=True, eq=False)
class Table:
    """Constant data of the planner's own making, uploaded at bind. `key`, if given, identifies it over all plans of a session."""

    data: np.ndarray[Any, Any]
    key: Any = None


@dataclass(frozen=True)
class Status:
    """The words in which a kernel reports bad data: errors.WORDS of them, see csrc/cuda/status.cuh."""


Pointer = Operand | Scratch | Table | Status


@dataclass(frozen=True)
class Call:
    """One launch of a compiled kernel."""

    entry: Entry
    source: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # bytes of dynamic shared memory
    args: bytes
    pointers: tuple[tuple[int, Pointer], ...]  # (byte position in args, what it points to)
    scratch: int = 0  # bytes of scratch the launch needs


@dataclass
class _Field:
    declaration: str
    format: str
    values: list[Any]
    pointer: Pointer | None = None


@dataclass
class Builder:
    """Builds the calls of one launch. Add fields and functions, then `call`."""

    launch: Launch
    entry: Entry
    wide: bool = False  # 64-bit indices
    fields: list[_Field] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # macros and types, before Args
    functions: list[str] = field(default_factory=list)  # after Args
    last: list[str] = field(default_factory=list)  # after the functions

    # ----------------------------------------------------------------------------------------------------------------- declarations
    def define(self, name: str, value: object) -> None:
        """A compile-time constant: `constexpr auto NAME = value`."""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        self.lines.append(f"constexpr auto {name} = {text};")

    def type(self, name: str, dtype: DType) -> None:
        """A storage type."""
        self.lines.append(f"using {name} = {type_of(dtype)};")

    def scalar(self, name: str, ctype: str, value: Any) -> None:
        """A field of one of i32 u32 i64 u64 f32 f64 bool idx."""
        if ctype == "idx":
            self.fields.append(_Field(f"Idx {name};", "q" if self.wide else "i", [int(value)]))
            return
        formats = {"i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f32": "f", "f64": "d", "bool": "?"}
        self.fields.append(_Field(f"{ctype} {name};", formats[ctype], [value]))

    def array(self, name: str, ctype: str, values: Sequence[Any]) -> None:
        """A field of several values; at least one is declared, because C++ has no empty arrays."""
        formats = {"i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f32": "f", "f64": "d", "idx": "q" if self.wide else "i"}
        held = list(values) or [0]
        kind = "Idx" if ctype == "idx" else ctype
        self.fields.append(_Field(f"{kind} {name}[{len(held)}];", f"{len(held)}{formats[ctype]}", held))

    def sizes(self, name: str, values: Sequence[int]) -> None:
        """Sizes to divide by: an array of Divider (view.cuh)."""
        held = list(values) or [1]
        if self.wide:
            self.fields.append(_Field(f"Divider {name}[{len(held)}];", f"{len(held)}q", held))
        else:
            words = [w for n in held for w in divider(n)]
            self.fields.append(_Field(f"Divider {name}[{len(held)}];", f"{len(words)}I", words))

    def pointer(self, name: str, ctype: str, target: Pointer) -> None:
        """A field of type `ctype*`."""
        self.fields.append(_Field(f"{ctype}* {name};", "Q", [0], target))

    def view(self, name: str, t: Tensor, strides: Sequence[int]) -> None:
        """A field View<T, rank> over axes with these strides, and a function `at_NAME(a, c)`: the element's index at coordinates c."""
        n = len(strides)
        self.pointer(f"{name}_data", type_of(t.dtype), operand(t))
        self.array(f"{name}_stride", "idx", strides)
        terms = [f"c[{i}]" if s == 1 else f"c[{i}] * a.{name}_stride[{i}]" for i, s in enumerate(strides) if s != 0]
        text = " + ".join(terms) or "0"
        self.functions.append(f"__forceinline__ Idx at_{name}(const Args& a, const Idx (&c)[{max(1, n)}]) {{ return {text}; }}")

    def loader(self, name: str, t: Tensor, strides: Sequence[int]) -> None:
        """A view and a function `load_NAME(a, c)`: the element at coordinates c, as a register."""
        self.view(name, t, strides)
        self.functions.append(
            f"__forceinline__ {register_type(t.dtype)} load_{name}(const Args& a, const Idx (&c)[{max(1, len(strides))}]) "
            f"{{ return value_of(a.{name}_data[at_{name}(a, c)]); }}"
        )

    def program(
        self,
        name: str,
        program: Sequence[tuple[str, tuple[Any, ...], DType]],
        tensors: Sequence[Tensor],
        strides: Sequence[Sequence[int]],
        rank: int,
        acc: DType | None = None,
        iota: Sequence[Sequence[int]] | None = None,
        passed: bool = False,
    ) -> None:
        """A function `NAME(a, c[, acc])` that evaluates a program at coordinates c over `rank` axes.

        `strides` are the operands' strides over those axes; `iota` the coefficients with which an original axis is made of the coordinates.
        With `passed`, the caller has loaded the operands: they are parameters, in the order of their numbers, after c.
        """
        loads: dict[int, str] = {}
        parameters = ""
        if passed:
            loads = {k: f"x{k}" for k in used_operands(program)}
            parameters = "".join(f", const {register_type(tensors[k].dtype)} {x}" for k, x in loads.items())

        def load(k: int, dtype: DType) -> str:
            if k not in loads:
                loads[k] = f"load_{name}{k}(a, c)"
                self.loader(f"{name}{k}", tensors[k], strides[k])
            return loads[k]

        def axis(k: int) -> str:
            coefficients = iota[k] if iota is not None else [int(i == k) for i in range(rank)]
            self.array(f"{name}_axis{k}", "idx", coefficients)
            return " + ".join(f"i64(c[{i}]) * a.{name}_axis{k}[{i}]" for i, m in enumerate(coefficients) if m) or "i64(0)"

        def constant(value: Any, dtype: DType) -> str:
            ctype, fmt = scalar_format(dtype)
            at = f"{name}_const{len(self.fields)}"
            self.fields.append(_Field(f"{ctype} {at};", fmt, [scalar_value(value, dtype)]))
            return f"a.{at}"

        statements = body(program, load, axis, constant)
        last = program[-1][2]
        signature = f"const Args& a, const Idx (&c)[{max(1, rank)}]{parameters}" + (
            f", const {register_type(acc)} acc" if acc is not None else ""
        )
        self.functions.append(
            f"__forceinline__ {register_type(last)} {name}({signature}) {{\n  "
            + "\n  ".join(statements)
            + f"\n  return r{len(program) - 1};\n}}"
        )

    def output(self, rank: int, strides: Sequence[int], epi_strides: Sequence[Sequence[int]], acc: DType | None = None) -> None:
        """`store_y(a, c, v)`: v, of the kernel's own result type Acc, through the epilogue into output 0, of type Y."""
        launch = self.launch
        y = launch.outs[0]
        assert y is not None
        own = acc or launch.acc_dtype or y.dtype
        self.type("Y", y.dtype)
        self.type("Acc", own)
        self.view("y", y, strides)
        if launch.epilogue:
            self.program("epilogue", launch.epilogue, launch.epi_ins, epi_strides, rank, own)
            value = "epilogue(a, c, rounded<Acc>(v))"
        else:
            value = "op::cast<Y, Acc>(v)"
        self.functions.append(
            f"__forceinline__ void store_y(const Args& a, const Idx (&c)[{max(1, rank)}], const Value<Acc> v) "
            f"{{ a.y_data[at_y(a, c)] = stored<Y>({value}); }}"
        )

    def finish(self, text: str) -> None:
        """A function that may use all others."""
        self.last.append(text)

    def status(self) -> None:
        """The field through which `fail(a, ...)` of status.cuh reports bad data."""
        self.pointer("status", "u64", Status())

    # ------------------------------------------------------------------------------------------------------------------------ result
    def call(
        self, grid: tuple[int, int, int] | int, block: int | tuple[int, int, int] | None = None, shared: int = 0, scratch: int = 0
    ) -> Call:
        """The finished call. `block` defaults to the manifest's."""
        entry = self.entry
        g = (grid, 1, 1) if isinstance(grid, int) else grid
        threads = block if block is not None else entry.threads
        b = (threads, 1, 1) if isinstance(threads, int) else threads
        if max(g[1:]) > 65535 or g[0] >= 1 << 31:
            raise UnsupportedError(f"kernel {entry.name}: a grid of {g} blocks is too large for a CUDA device")
        args, pointers = _pack(self.fields)
        if len(args) > MAX_ARGS:
            raise UnsupportedError(f"kernel {entry.name}: {len(args)} bytes of arguments; a CUDA kernel takes {MAX_ARGS}")
        lines = [
            f"using Idx = {'long long' if self.wide else 'int'};",
            f"constexpr int THREADS = {entry.threads};",
            '#include "view.cuh"',
            *self.lines,
        ]
        lines += ["struct Args {", *[f"  {f.declaration}" for f in self.fields], "};", *self.functions, *self.last]
        source = "\n".join(['#include "ops.cuh"', *lines, f'#include "{entry.source}"', ""])
        return Call(entry, source, g, b, shared, args, pointers, scratch)


def used_operands(program: Sequence[tuple[str, tuple[Any, ...], DType]]) -> list[int]:
    """The numbers of the operands a program loads."""
    return sorted({args[0] for op, args, _ in program if op == "load"})


def operand(t: Tensor) -> Operand:
    """The first element of a tensor."""
    return Operand(t.buffer, int(t.offset) * t.dtype.itemsize)


def is_wide(*tensors: Tensor | None, sizes: Sequence[int] = ()) -> bool:
    """Must indices be 64 bits wide? True if an operand reaches an element beyond NARROW, or one of `sizes` (of scratch, of a grid) does."""
    held = [t for t in tensors if t is not None]
    return max([0, *sizes, *(max(reach(t.shape, t.strides), int(t.size)) for t in held)]) > NARROW


def divider(n: int) -> tuple[int, int, int]:
    """(n, multiplier, shift) with which view.cuh divides 31-bit numbers by n (Granlund and Montgomery 1994)."""
    shift = (n - 1).bit_length()
    return n, ((1 << 32) * ((1 << shift) - n)) // n + 1 & 0xFFFFFFFF, shift


def _pack(fields: list[_Field]) -> tuple[bytes, tuple[tuple[int, Pointer], ...]]:
    """The bytes of the fields, aligned as C++ aligns them."""
    out = bytearray()
    pointers = []
    most = 1
    for f in fields:
        align = struct.calcsize(f.format.lstrip("0123456789"))
        most = max(most, align)
        out += bytes(-len(out) % align)
        if f.pointer is not None:
            pointers.append((len(out), f.pointer))
        out += struct.pack(f"={f.format}", *f.values)
    out += bytes(-len(out) % most)
    return bytes(out) or bytes(1), tuple(pointers)
