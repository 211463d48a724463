"""Plan → the flat int64 words that `csrc/core/program.cpp` decodes. Floats travel as the bits of a double.

Layout: [n_buffers, n_launches], then per buffer (kind, value, nbytes), the number of groups of strands and per group (n_strands, first launch,
the end of each strand), then per launch a header of nine counts (kernel, ins, outs, prologue
operands, epilogue operands, parameter words, body, prologue and epilogue lengths) and the dtype of the kernel's own result, its operands,
parameters and programs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..dtypes import BOOL, DType, code_of, is_float
from ..kernels.spec import OPCODES, SPECS, Param
from ..lowering.tensor import Launch, Tensor

ARENA, CONST, INPUT, OUTPUT = 0, 1, 2, 3


def float_bits(x: float) -> int:
    """The bits of a double as a signed 64-bit integer."""
    return int(struct.unpack("<q", struct.pack("<d", float(x)))[0])


def encode_params(params: dict[str, Any], spec: tuple[Param, ...]) -> list[int]:
    """The parameter words of a launch, in the order of its spec. Raises KeyError for a missing parameter without a default."""
    out: list[int] = []
    for p in spec:
        v = params.get(p.name, p.default)
        if v is None:
            raise KeyError(f"parameter {p.name!r} is required")
        if p.kind == "int":
            out.append(v if isinstance(v, int) else int(v))
        elif p.kind == "float":
            out.append(float_bits(v))
        elif p.kind == "ints":
            out.append(len(v))
            out.extend(v)
        elif p.kind == "floats":
            out.append(len(v))
            out.extend(float_bits(x) for x in v)
        else:
            out.append(p.choices.index(v))
    return out


def encode_program(program: Iterable[tuple[str, tuple[Any, ...], DType]]) -> list[int]:
    """Six words per instruction: opcode, dtype, three arguments, immediate."""
    out: list[int] = []
    for op, args, dtype in program:
        code, _ = OPCODES[op]
        imm = 0
        a: tuple[Any, ...] = args
        if op == "const":
            a = ()
            v = args[0]
            if is_float(dtype):
                imm = float_bits(v)
            elif dtype == BOOL:
                imm = int(bool(v))
            else:
                imm = int(v)
                if imm >= 1 << 63:
                    imm -= 1 << 64
        out += (code, code_of(dtype), *a, *(-1,) * (3 - len(a)), imm)
    return out


def encode_operand(t: Tensor | None, buffers: dict[Any, int], hollow: bool = False) -> list[int]:
    """One operand; `hollow`: it stands for a prologue and has no memory."""
    if t is None:
        return [-1]
    shape = t.shape
    return [-2 if hollow else buffers[t.buffer], t.offset, code_of(t.dtype), len(shape), *shape, *t.strides]


def encode_launch(launch: Launch, buffers: dict[Any, int]) -> list[int]:
    """One launch; `buffers` numbers the buffers."""
    spec = SPECS[launch.kernel]
    params = encode_params(launch.params, spec.params)
    programs = [word for e in (launch.body, launch.prologue, launch.epilogue) if e for word in encode_program(e)]
    acc = launch.acc_dtype or next(o.dtype for o in launch.outs if o is not None)
    out = [spec.id, len(launch.ins), len(launch.outs), len(launch.pro_ins), len(launch.epi_ins), len(params)]
    out += [len(launch.body), len(launch.prologue), len(launch.epilogue), code_of(acc)]
    for k, t in enumerate(launch.ins):
        out += encode_operand(t, buffers, hollow=k == 0 and bool(launch.prologue))
    for t in (*launch.outs, *launch.pro_ins, *launch.epi_ins):
        out += encode_operand(t, buffers)
    return out + params + programs


def encode_plan(
    table: list[int], launches: list[Launch], buffers: dict[Any, int], strands: Iterable[tuple[int, tuple[int, ...]]] = ()
) -> list[int]:
    """All words. `table`: three per buffer; `strands`: (first launch, the end of each)."""
    groups = [(len(ends), begin, *ends) for begin, ends in strands]
    code = [len(table) // 3, len(launches), *table, len(groups), *(w for group in groups for w in group)]
    for launch in launches:
        code += encode_launch(launch, buffers)
    return code


def words(values: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)
