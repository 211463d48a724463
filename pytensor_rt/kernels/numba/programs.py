"""Elementwise programs (lowering/expr.py) as words of the register machine in jit/box.py.

Every instruction's result is brought to its dtype at once: a float16 product is computed in float32 and rounded to float16's grid, an int8 sum wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...dtypes import BOOL, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, DType, is_float
from ...errors import UnsupportedError
from .build import Block, Fn, Table, View, Word, f64

Program = Sequence[tuple[str, tuple[Any, ...], DType]]
TILE = 512
REGISTERS = 65536  # bytes of jit/box.py's register file
KEPT = 16384  # bytes of registers that are kept in the first-level cache
_LOADED_AS_FLOAT = (I8, U8, I16, U16, I32)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_WIDENED = ("add", "sub", "mul", "neg", "abs", "div", "pow", "bnot", "shl", "recip", "ceil", "floor", "round", "trunc")
_FLOAT_ONLY = {
    "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "erf", "sigmoid", "softplus", "silu", "gelu_erf", "gelu_tanh",
}  # fmt: skip


def kind_of(dtype: DType) -> str:
    """The class of register that holds a dtype: "f" float32, "d" float64, "w" int32, "i" int64. Raises UnsupportedError for complex numbers and strings."""
    if dtype == F64:
        return "d"
    if dtype.kind in "cO":
        raise UnsupportedError(f"device 'numba' cannot compute with {dtype}")
    return "f" if is_float(dtype) else "i" if dtype in (I64, U64, U32) else "w"


def width(dtype: DType) -> tuple[int, int]:
    """Bits of an integer dtype, and whether it is signed."""
    if dtype.kind == "V":
        return (2 if dtype.name.endswith("2") else 4), int(not dtype.name.startswith("u"))
    return 8 * dtype.itemsize, int(dtype.kind == "i")


@lru_cache(maxsize=32)
def _values(dtype: DType) -> Table:
    """The 256 values of a format of up to 8 bits, as registers hold them."""
    codes = np.arange(256, dtype=np.uint8)
    if dtype.name.startswith("float4"):
        codes &= 15
    with np.errstate(all="ignore"):
        held = codes.view(dtype).astype(np.float32 if is_float(dtype) else np.int32)
    return Table(held, ("values", dtype.name))


def is_short(dtype: DType) -> bool:
    """A float of at most 8 bits?"""
    return is_float(dtype) and dtype not in (F16, F32, F64) and dtype.name != "bfloat16"  # float8_e5m2 has kind "f"


def has_table(dtype: DType) -> bool:
    """Is it loaded by looking up its 256 values: floats of up to 8 bits, integers of 4 and 2?"""
    return is_short(dtype) or (dtype.kind == "V" and dtype.name != "bfloat16")


@dataclass
class _Step:
    kind: str  # op, load, acc, iota
    fn: str
    args: tuple[int, ...]
    imm: Word
    size: int  # bytes of the result's elements
    operand: int = 0


class _Translator:
    """Instructions of the vocabulary to steps of the machine. Values are numbers of steps."""

    def __init__(self, program: Program, dtypes: Sequence[DType], acc: DType | None) -> None:
        self.steps: list[_Step] = []
        self._constants: dict[int, Any] = {}  # value -> what it is, as an array of rank 0
        self._memo: dict[Any, int] = {}
        held: list[tuple[int, DType]] = []
        for op, args, dtype in program:
            held.append((self._instruction(op, args, dtype, held, dtypes, acc), dtype))
        self.result = held[-1]

    def step(self, fn: str, args: tuple[int, ...], size: int, imm: Word = 0, kind: str = "op", operand: int = 0) -> int:
        key = (fn, args, imm if isinstance(imm, int) else id(imm), kind, operand)
        if key not in self._memo:
            self._memo[key] = len(self.steps)
            self.steps.append(_Step(kind, fn, args, imm, size, operand))
        return self._memo[key]

    def _instruction(
        self, op: str, args: Any, dtype: DType, held: list[tuple[int, DType]], dtypes: Sequence[DType], acc: DType | None
    ) -> int:
        if op == "load":
            return self.load(args[0], dtypes[args[0]])
        if op == "acc":
            assert acc is not None, "`acc` outside of an epilogue"
            return self.step(
                f"memory.load[:{_dtype_name(acc)}]", (), _size(acc), kind="acc", imm=acc.itemsize, operand=int(_is_register(acc))
            )
        if op == "const":
            return self._constant(args[0], dtype)
        if op == "iota":
            i = self.step("iota", (), 8, kind="iota", operand=args[0])
            return self.cast(i, I64, dtype)
        values = [held[a] for a in args]
        if op == "id":
            number: int = values[0][0]
            return number
        if op in ("cast", "cast_wrap"):
            return self.cast(values[0][0], values[0][1], dtype, wrap=op == "cast_wrap")
        if op == "cast_sat":
            return self._cast_sat(values[0][0], values[0][1], dtype)
        return self._apply(op, values, dtype)

    def load(self, number: int, dtype: DType) -> int:
        table: Word = _values(dtype) if has_table(dtype) else 0
        return self.step(f"memory.load[:{_dtype_name(dtype)}]", (), _size(dtype), table, kind="load", operand=number)

    def _constant(self, value: Any, dtype: DType) -> int:
        from ..ref.opcodes import constant

        return self._fill(constant(value, dtype))

    def _fill(self, v: Any) -> int:
        """A value of rank 0, of any dtype, in all elements."""
        kind = kind_of(v.dtype)
        whole = kind in ("i", "w")
        imm = int(v.astype(np.int64)) if whole else f64(float(v))
        at = self.step(f"vm.fill[{kind}]", (), _size(v.dtype), imm)
        self._constants[at] = v
        return at

    def _apply(self, op: str, values: list[tuple[int, DType]], dtype: DType) -> int:
        args = tuple(v for v, _ in values)
        source = values[0][1]
        if op in _COMPARISONS or op in ("isnan", "isinf_pos", "isinf_neg"):
            name = f"{op}_u" if source == U64 and op in ("lt", "le", "gt", "ge") else op
            return self.step(f"vm.test[{kind_of(source)},{name}]", args, 4)
        if op == "where":
            return self.step(f"vm.where[{kind_of(dtype)}]", args, _size(dtype))
        kind = kind_of(dtype)
        if (
            op == "sub"
            and dtype == F32
            and args[1] in self._constants
            and float(self._constants[args[1]]) == 0.0
            and not np.signbit(self._constants[args[1]])
        ):
            return args[0]  # x - 0 is x, whatever x
        if kind in ("f", "d"):
            if op in ("band", "bor", "bxor", "bnot", "shl", "shr", "land", "lor", "lxor", "lnot"):
                raise UnsupportedError(f"map: {op} of {dtype}")
            return self._grid(self.step(f"vm.op[{kind},{op}]", args, _size(dtype)), dtype)
        if op in ("land", "lor", "lxor", "lnot"):
            return self.step(f"vm.op[{kind},{op}]", args, _size(dtype))
        if dtype == BOOL:
            name = {"add": "bor", "mul": "band", "max": "bor", "min": "band", "bnot": "lnot", "sub": "bxor", "pow": "bor"}.get(op, op)
            return self.step(f"vm.op[w,{name}]", args, 4)
        if op in _FLOAT_ONLY:
            wide = tuple(self.cast(v, t, F64) for v, t in values)
            return self.cast(self.step(f"vm.op[d,{op}]", wide, 8), F64, dtype)
        bits, _ = width(dtype)
        if op in ("shl", "shr"):
            name = "shr_u" if op == "shr" and dtype == U64 else op
            r = self.step(
                f"vm.shift[{kind},{name},{8 * dtype.itemsize if dtype.kind == 'V' and op == 'shr' else bits}]", args, _size(dtype)
            )
        else:
            unsigned = dtype == U64 and op in ("abs", "sign", "div", "mod", "fmod", "pow", "max", "min", "relu", "recip")
            name = {"fmod": "mod"}.get(op, op) + "_u" if unsigned else op
            r = self.step(f"vm.op[{kind},{name}]", args, _size(dtype))
        return self._wrapped(r, dtype) if op in _WIDENED else r

    def _wrapped(self, v: int, dtype: DType) -> int:
        """An integer result brought to the width of its dtype, which is that of its register for int32, int64 and uint64."""
        bits, signed = width(dtype)
        return v if dtype in (I32, I64, U64) else self.step(f"vm.wrap[{kind_of(dtype)},{bits},{signed}]", (v,), _size(dtype))

    def _grid(self, v: int, dtype: DType, mode: str = "wrap") -> int:
        """A float32 or float64 result on the grid of its dtype."""
        if dtype in (F32, F64):
            return v
        if dtype == F16:
            return self.step("memory.to_f16", (v,), 4)
        if dtype.name == "bfloat16":
            return self.step("vm.convert[bf16]", (v,), 4)
        return self.step(f"vm.short[{dtype.name},{mode}]", (v,), 4, _values(dtype))

    def cast(self, v: int, source: DType, dtype: DType, wrap: bool = False) -> int:
        """ONNX Cast."""
        if source == dtype:
            return v
        if v in self._constants:
            from ..ref.casts import cast

            return self._fill(cast(self._constants[v], dtype, saturate=not wrap))
        a, b = kind_of(source), kind_of(dtype)
        if dtype == BOOL:
            return self.step(f"vm.test[{a},nonzero]", (v,), 4)
        if b in ("i", "w"):
            if a in ("i", "w"):
                return self._wrapped(v if a == b else self.step(f"vm.convert[{a}_{b}]", (v,), _size(dtype)), dtype)
            if dtype == U64:
                return self.step(f"vm.convert[{a}_u]", (v,), 8)
            return self._wrapped(self.step(f"vm.convert[{a}_{'i64' if b == 'i' else 'w'}]", (v,), _size(dtype)), dtype)
        if a in ("i", "w"):
            c = "u" if source == U64 else a
            if b == "d":
                return self.step(f"vm.convert[{c}_d]", (v,), 8)
            step = self.steps[v]
            if step.kind in ("load", "acc") and source in _LOADED_AS_FLOAT:  # the load converts
                imm = step.imm
                v = self.step(f"memory.load_f[:{source.name}]", (), 4, imm, step.kind, step.operand if step.kind == "load" else 0)
            else:
                v = self.step(f"vm.convert[{c}_f]", (v,), 4)
            return self._grid(v, dtype, "wrap" if wrap else "saturate")
        if b == "d":
            return self.step("vm.convert[f_d]", (v,), 8)
        if a == "d":
            v = self.step(f"vm.convert[{'d_f' if dtype == F32 else 'd_f_odd'}]", (v,), 4)
        return self._grid(v, dtype, "wrap" if wrap else "saturate")

    def _cast_sat(self, v: int, source: DType, dtype: DType) -> int:
        if is_float(dtype) or dtype == BOOL:
            return self.cast(v, source, dtype)
        bits, signed = width(dtype)
        kind = kind_of(source)
        if v in self._constants:
            from ..ref.casts import cast_sat

            return self._fill(cast_sat(self._constants[v], dtype))
        if kind == "f" and bits > 16:
            v, kind = self.step("vm.convert[f_d]", (v,), 8), "d"
        if source == U64:
            kind = "u"
        return self.step(f"vm.saturate[{kind},{bits},{signed}]", (v,), _size(dtype))


def _dtype_name(dtype: DType) -> str:
    return str(dtype.name)


def _size(dtype: DType) -> int:
    return 4 if kind_of(dtype) in ("f", "w") else 8


def _is_register(dtype: DType) -> bool:
    """Does memory of this dtype look like a register of its class?"""
    return dtype in (F32, F64, I32, I64, U64)


def operands_of(program: Program) -> list[int]:
    """The numbers of the operands a program loads."""
    return sorted({args[0] for op, args, _ in program if op == "load"})


def block(
    shape: Sequence[int],
    program: Program,
    operands: Sequence[View | None],
    out: View | None,
    out_dtype: DType,
    acc: DType | None = None,
    iota: Sequence[Sequence[int]] = (),
    in_place: bool = False,
) -> Block:
    """The words of a program over a box of at least two axes, [outer..., R, C].

    Operands and `out` have strides over these axes (their shape is not looked at); without `out`, the result goes where the caller of the machine says.
    acc: the dtype of the accumulator that the caller hands in. iota[k]: the coefficients that make an index along original axis k of the box's coordinates.
    in_place: the output may be the memory of an operand.
    """
    assert len(shape) >= 2
    used = operands_of(program)
    translated = _Translator(program, [o.dtype if o is not None else F32 for o in operands], acc)
    steps = list(translated.steps)
    result, dtype = translated.result
    assert dtype == out_dtype, f"the program gives {dtype}, but {out_dtype} was declared"
    store = f"memory.store[:{_dtype_name(out_dtype)}]"
    if steps[result].fn.startswith("vm.saturate[f,") and out_dtype in (I8, U8, I16, U16):  # the store saturates
        store, (result,) = f"memory.store_sat[:{_dtype_name(out_dtype)}]", steps[result].args
    live = _live(steps, result)
    register, n_registers, pinned = _allocate(steps, live, result)
    size = max([4, *(steps[k].size for k in live)])
    tile = min(TILE, max(64, KEPT // (size * max(1, n_registers)) // 16 * 16))
    tile = min(tile, REGISTERS // (size * max(1, n_registers)))
    if n_registers > 256 or tile < 1:
        raise UnsupportedError(f"device 'numba': a program that needs {n_registers} registers")
    # operands: 0 is the output, then the loaded ones, then the iotas
    table: list[Word] = []
    numbers: dict[Any, int] = {}
    n_outer = len(shape) - 2

    def entry(address: Word, item: int, strides: Sequence[int]) -> None:
        *outer, rs, cs = [int(s) * item for s in strides]
        table.extend([address, item, cs, rs, *outer])

    entry(out.address if out is not None else 0, out_dtype.itemsize, out.strides if out is not None else [0] * len(shape))
    for n, k in enumerate(used, 1):
        v = operands[k]
        assert v is not None
        numbers["load", k] = n
        entry(v.address, v.dtype.itemsize, v.strides)
    for k in sorted({steps[s].operand for s in live if steps[s].kind == "iota"}):
        numbers["iota", k] = len(used) + 1 + sum(1 for key in numbers if key[0] == "iota")
        entry(0, 1, iota[k])
    constants: list[Word] = []
    instructions: list[Word] = []
    for s in live:
        step = steps[s]
        if s in pinned:
            constants += [0, Fn(step.fn), register[s], 0, 0, 0, step.imm, 0]
        elif step.kind == "op":
            args = [register[a] for a in step.args] + [0] * (3 - len(step.args))
            instructions += [0, Fn(step.fn), register[s], *args, step.imm, 0]
        elif step.kind == "load":
            v = operands[step.operand]
            assert v is not None
            instructions += [
                5 if _is_register(v.dtype) and step.fn.startswith("memory.load[") else 1,
                Fn(step.fn),
                register[s],
                numbers["load", step.operand],
                0,
                0,
                step.imm,
                0,
            ]
        elif step.kind == "acc":
            table_of: Word = _values(acc) if acc is not None and has_table(acc) else 0
            instructions += [3, Fn(step.fn), register[s], step.operand, 0, 0, step.imm, table_of]
        else:
            instructions += [4, 0, register[s], numbers["iota", step.operand], 0, 0, 0, 0]
    instructions += [2, Fn(store), register[result], 0, 0, 0, 0, 0]
    straight = register[result] if _is_register(out_dtype) and not in_place and steps[result].kind == "op" and result not in pinned else -1
    head = 11 + n_outer
    at_instructions = head + len(table)
    at_constants = at_instructions + len(instructions)
    return Block([
        len(instructions) // 8, n_outer, shape[-2], shape[-1], tile, size * tile, head, at_instructions, at_constants, len(constants) // 8, straight,
        *map(int, shape[:-2]), *table, *instructions, *constants,
    ])  # fmt: skip


def _live(steps: list[_Step], result: int) -> list[int]:
    """The steps the result needs, in order."""
    needed = {result}
    for k in range(result, -1, -1):
        if k in needed:
            needed.update(steps[k].args)
    return sorted(needed)


def _allocate(steps: list[_Step], live: list[int], result: int) -> tuple[dict[int, int], int, set[int]]:
    """A register for every value: constants keep theirs; others are given away after their last use, never to the instruction that uses them."""
    last: dict[int, int] = {result: len(steps)}
    for k in live:
        for a in steps[k].args:
            last[a] = max(last.get(a, 0), k)
    pinned = {k for k in live if steps[k].fn.startswith("vm.fill")}
    register: dict[int, int] = {}
    free: list[int] = []
    count = 0
    for k in sorted(pinned):
        register[k] = count
        count += 1
    for k in live:
        if k in pinned:
            continue
        if free and k != result:  # the result may lie in the output's own memory, which has no room for anything else
            register[k] = free.pop()
        else:
            register[k], count = count, count + 1
        free += {register[a] for a in steps[k].args if last[a] == k and a not in pinned}
    return register, count, pinned


def program_cost(program: Program, elements: int) -> float:
    """Nanoseconds a program takes over so many elements, roughly."""
    slow = sum(op in _FLOAT_ONLY or op in ("pow", "mod", "fmod") for op, _, _ in program)
    return elements * (0.15 * len(program) + 1.0 * slow)
