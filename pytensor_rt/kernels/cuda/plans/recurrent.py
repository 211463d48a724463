"""`recurrent`: the input products of many steps at once, then the steps: by one block per group of sequences where a layer is small, otherwise
with a call per step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ....dtypes import F16, F32, F64, I8, I32, U8, DType, from_code
from ....errors import UnsupportedError
from ....lowering.tensor import CONST, Launch, Tensor
from ...recurrent_operands import FUNCTIONS, GATES, Operands
from ..build import Builder, Call, Pointer, Scratch, Table, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .samples import launch, tensor

USUAL = {"lstm": (0, 1, 1), "gru": (0, 1), "rnn": (1,)}  # sigmoid, tanh
STRETCH_BYTES = 32 << 20  # of input products kept at a time, so that most stay in the L2 of a large device
RESIDENT_BYTES = 512 << 10  # of recurrent weights that one block reads in a step: more, and a call per step on many blocks is faster
STEP_UNITS = 16  # hidden units of a block that makes one step
RANGE_PARTS = 32  # blocks that look for the range of a quantised layer's input: one per lane of those who read what they found

RANGE = Entry("recurrent_range", "recurrent_range.cuh", 256)
INPUTS = Entry("recurrent_inputs", "recurrent_inputs.cuh", 128, registers=128)
PACK = Entry("recurrent_pack", "recurrent_pack.cuh", 256)
STEPS = Entry("recurrent_steps", "recurrent_steps.cuh", 512, registers=128)
ENTRIES = (RANGE, INPUTS, PACK, STEPS)


class Layer(NamedTuple):
    """A checked layer: T steps of N sequences, depth I, H hidden units."""

    cell: str
    dirs: int
    t: int
    n: int
    i: int
    h: int
    quantised: bool

    @property
    def gates(self) -> int:
        return GATES[self.cell]


class Mode(NamedTuple):
    """How the steps are run: see recurrent_steps.cuh."""

    resident: bool
    sequences: int  # of a block
    units: int
    parts: int  # of k
    packs: int
    held: int


class Memory:
    """Scratch, handed out piece by piece."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, count: int, itemsize: int) -> Scratch:
        at = self.bytes
        self.bytes += -(-count * itemsize // 256) * 256
        return Scratch(at)


def recurrent(launch: Launch) -> list[Call]:
    """y, y_h and y_c of a layer."""
    ins: list[Any] = [*launch.ins, *[None] * 12]
    o = Operands(*ins[:12])
    layer = _checked(launch, o)
    return _Plan(launch, layer, o).calls()


class _Plan:
    def __init__(self, launch: Launch, layer: Layer, o: Operands) -> None:
        self.launch, self.layer, self.o = launch, layer, o
        n = layer
        self.acc = F64 if o.x.dtype == F64 else F32
        self.stored = I8 if n.quantised else o.r.dtype  # of packed recurrent weights
        self.pack = 16 // self.stored.itemsize
        self.mode = self._mode()
        per_step = n.dirs * n.n * n.gates * n.h * self.acc.itemsize
        self.stretch = min(n.t, max(1, STRETCH_BYTES // per_step))
        state = n.dirs * n.n * n.h
        size = self.acc.itemsize
        memory = Memory()
        self.packed: Pointer
        count = n.dirs * self.mode.packs * n.gates * n.h * self.pack
        if o.r.buffer.kind == CONST:
            key = ("recurrent", id(o.r.buffer.data), o.r.offset, o.r.shape, o.r.strides, self.pack)
            self.packed = Table(_packed(o.r, layer, self.pack), key)
        else:
            self.packed = memory(count, self.stored.itemsize)
        self.sums = memory(n.dirs * self.stretch * n.n * n.gates * n.h, size)
        self.states, self.cells = memory(2 * state, size), memory(state, size)
        self.resets, self.updates = memory(state, size), memory(2 * state, size)
        self.ranges = memory(2 * RANGE_PARTS, 4)
        self.scratch = memory.bytes
        outs = [t for t in launch.outs if t is not None]
        self.wide = is_wide(*o, *outs, sizes=[self.scratch])

    def calls(self) -> list[Call]:
        n, out = self.layer, []
        if n.quantised and n.t > 0:
            out.append(self.range_call())
        if isinstance(self.packed, Scratch):
            out.append(self.pack_call())
        for first in range(0, max(1, n.t), max(1, self.stretch)):
            last = min(n.t, first + self.stretch)
            if last > first:
                out.append(self.inputs_call(first, last))
            if self.mode.resident or n.t == 0:
                out.append(self.steps_call(first, last, first))
                continue
            phases = (1, 2) if n.cell == "gru" and not self.launch.params.get("linear_before_reset", 0) else (3,)
            one = self.steps_call(first, first + 1, first)
            out += [_stepped(one, s, phase, s == 0, s + 1 == n.t) for s in range(first, last) for phase in phases]
        return out

    def _mode(self) -> Mode:
        n = self.layer
        packs = -(-n.h // self.pack)
        sequences = min(2 if self.acc == F64 else 4, 1 << (n.n - 1).bit_length())
        held = 0
        while sequences > 1 and sequences * n.h > STEPS.threads:
            sequences //= 2
        resident = n.h <= STEPS.threads and n.gates * n.h * n.h * self.stored.itemsize <= (
            RESIDENT_BYTES if n.t > 1 else RESIDENT_BYTES // 8
        )
        if n.quantised and n.n > sequences:
            resident = False  # the range of a step's states is that of the whole batch
        if n.t == 0:
            resident = n.h <= STEPS.threads
        if not resident:
            sequences = min(2 if self.acc == F64 else 4, 1 << (n.n - 1).bit_length())
        units = n.h if resident else min(STEP_UNITS, n.h)
        parts = max(1, min(STEPS.threads // units, packs))
        if resident and n.t > 1 and not n.quantised:
            held = min(-(-packs // parts), 12 // n.gates, 4)  # 48 registers
        return Mode(resident, sequences, units, parts, packs, held)

    # ----------------------------------------------------------------------------------------------------------------- calls
    def _lengths(self, b: Builder) -> None:
        lengths = self.o.lengths
        b.pointer("lengths", "i32", operand(lengths or self.o.x))
        b.scalar("lengths_stride", "idx", lengths.strides[0] if lengths is not None else 0)
        b.scalar("has_lengths", "i32", lengths is not None)
        b.scalar("all_steps", "i32", self.layer.t)
        b.status()

    def _strided(self, b: Builder, name: str, t: Tensor | None, dtype: DType, rank: int) -> None:
        """An operand of any strides, or a stand-in that is never read."""
        b.pointer(name, type_of(dtype), operand(t if t is not None else self.o.x))
        b.array(f"{name.removesuffix('_data')}_stride", "idx", (*t.strides, 0, 0, 0, 0)[:rank] if t is not None else (0,) * rank)

    def _per_channel(self, b: Builder, scale: Tensor | None, zero: Tensor | None) -> None:
        """Scales and zero points: [dirs] or [dirs, G*H]."""
        self._strided(b, "scale", scale, F32, 2)
        self._strided(b, "zero", zero, zero.dtype if zero is not None else U8, 2)

    def range_call(self) -> Call:
        n, x = self.layer, self.o.x
        b = Builder(self.launch, RANGE, self.wide)
        self._lengths(b)
        self._strided(b, "x_data", x, x.dtype, 3)
        b.sizes("size", (n.t, n.n, max(1, n.i)))
        b.pointer("ranges", "f32", self.ranges)
        return b.call(self._range_parts(), scratch=self.scratch)

    def _range_parts(self) -> int:
        n = self.layer
        return max(1, min(RANGE_PARTS, n.t * n.n * n.i // (4 * RANGE.threads)))

    def pack_call(self) -> Call:
        n, r = self.layer, self.o.r
        b = Builder(self.launch, PACK, self.wide)
        b.define("KQ", self.pack)
        b.type("R", r.dtype)
        b.type("P", self.stored)
        self._strided(b, "r_data", r, r.dtype, 3)
        if n.quantised:
            b.fields[-1].values = [r.strides[0], r.strides[2], r.strides[1]]
        total = n.dirs * self.mode.packs * n.gates * n.h
        b.sizes("size", (n.dirs, self.mode.packs, n.gates, n.h))
        b.scalar("hidden", "i32", n.h)
        b.scalar("total", "idx", total)
        b.pointer("packed", type_of(self.stored), self.packed)
        return b.call(-(-total // PACK.threads), scratch=self.scratch)

    def inputs_call(self, first: int, last: int) -> Call:
        n, o = self.layer, self.o
        rows, columns = (last - first) * n.n, n.gates * n.h
        w_strides = (o.w.strides[0], o.w.strides[2], o.w.strides[1]) if n.quantised else o.w.strides
        across = w_strides[1] == 1 and w_strides[2] != 1 and n.i > 1
        tiles = n.dirs * -(-columns // 64)
        per_thread = next((m for m in (1, 2) if rows <= 8 * m), 4)
        if self.acc == F32 and rows > 32 and tiles * -(-rows // 64) >= 256:
            per_thread = 8
        grid = (n.dirs, -(-rows // (8 * per_thread)), -(-columns // 64))
        b = Builder(self.launch, INPUTS, self.wide)
        b.type("X", o.x.dtype)
        b.type("W", o.w.dtype)
        b.type("A", self.acc)
        b.define("QUANT", n.quantised)
        b.define("TM", per_thread)
        b.define("WEIGHTS_ACROSS", across)
        b.define("PACKED", columns % 4 == 0)
        b.define("WIDTH", _width(n.i, (o.x, o.x.strides), *(() if across else ((o.w, w_strides),))))
        self._lengths(b)
        self._strided(b, "x_data", o.x, o.x.dtype, 3)
        b.pointer("w_data", type_of(o.w.dtype), operand(o.w))
        b.array("w_stride", "idx", w_strides)
        self._per_channel(b, o.w_scale, o.w_zero)
        self._bias(b)
        b.scalar("bias_both", "idx", 2 * n.h if self._apart() else columns)
        b.pointer("ranges", "f32", self.ranges)
        b.scalar("range_parts", "i32", self._range_parts())
        b.pointer("sums", type_of(self.acc), self.sums)
        b.sizes("blocks", grid)
        b.sizes("batch", (n.n,))
        for name, value in (("rows", rows), ("columns", columns)):
            b.scalar(name, "idx", value)
        backward = self.launch.params["direction"] == "reverse"
        for name, value in (("depth", n.i), ("first_step", first), ("backward", backward)):
            b.scalar(name, "i32", value)
        return b.call(grid[0] * grid[1] * grid[2], scratch=self.scratch)

    def _apart(self) -> bool:
        """Is the recurrent bias of a GRU's candidate added to its recurrent product alone?"""
        return self.layer.cell == "gru" and bool(self.launch.params.get("linear_before_reset", 0))

    def _bias(self, b: Builder) -> None:
        self._strided(b, "bias", self.o.b, self.o.x.dtype, 2)
        b.scalar("has_bias", "i32", self.o.b is not None)

    def steps_call(self, first: int, last: int, stretch_first: int) -> Call:
        n, o, m, p = self.layer, self.o, self.mode, self.launch.params
        x = o.x.dtype
        b = Builder(self.launch, STEPS, self.wide)
        for name, value in (("first_step", first), ("last_step", last), ("phases", 3), ("first", first == 0), ("last", last == n.t)):
            b.scalar(name, "i32", value)  # the first fields: see _stepped
        b.type("X", x)
        b.type("A", self.acc)
        b.type("P", self.stored)
        constants: dict[str, Any] = {
            "CELL": ("lstm", "gru", "rnn").index(n.cell), "GATES": n.gates, "FUNCTIONS": FUNCTIONS[n.cell], "LBR": self._apart(), "QUANT": n.quantised, "NB": m.sequences,
            "KQ": self.pack, "HELD": m.held, "RESIDENT": m.resident, "PLAIN": self._plain(), "ZERO_SHIFT": 128 if o.r.dtype == U8 else 0,
        }  # fmt: skip
        for name, value in constants.items():
            b.define(name, value)
        grid = (n.dirs, -(-n.n // m.sequences), -(-n.h // m.units))
        b.sizes("blocks", grid)
        for name, value in (("units", m.units), ("hidden", n.h), ("parts_of_k", m.parts), ("packs", m.packs),
                            ("backward", p["direction"] == "reverse"), ("stretch", min(n.t, stretch_first + self.stretch) - stretch_first),
                            ("sums_step", stretch_first)):  # fmt: skip
            b.scalar(name, "i32", value)
        b.scalar("batch", "idx", n.n)
        b.scalar("all_rows", "idx", n.dirs * n.n)
        self._lengths(b)
        b.pointer("packed", type_of(self.stored), self.packed)
        for name in ("sums", "states", "cells", "resets", "updates"):
            b.pointer(name, type_of(self.acc), getattr(self, name))
        self._per_channel(b, o.r_scale, o.r_zero)
        self._bias(b)
        self._strided(b, "peepholes", o.p, x, 2)
        b.array("peephole_stride", "idx", o.p.strides if o.p is not None else (0, 0))
        b.scalar("has_peepholes", "i32", o.p is not None)
        for name, t in (("h0", o.h0), ("c0", o.c0)):
            self._strided(b, name, t, x, 3)
            b.scalar(f"has_{name}", "i32", t is not None)
        for name, out, rank in zip(("y", "y_h", "y_c"), (*self.launch.outs, None, None), (4, 3, 3)):
            self._strided(b, f"{name}_data", out, x, rank)
            b.scalar(f"has_{name}", "i32", out is not None)
        ctype = type_of(self.acc)
        b.array("activations", "i32", [int(k) for k in p["activations"]])
        b.array("alphas", ctype, [float(v) for v in p["alphas"]])
        b.array("betas", ctype, [float(v) for v in p["betas"]])
        b.scalar("clip", ctype, float(p.get("clip", 0.0)))
        b.scalar("input_forget", "i32", bool(p.get("input_forget", 0)))
        return b.call(grid[0] * grid[1] * grid[2], scratch=self.scratch)

    def _plain(self) -> bool:
        n, p = self.layer, self.launch.params
        usual = tuple(int(k) for k in p["activations"]) == USUAL[n.cell] * n.dirs
        return usual and not float(p.get("clip", 0.0)) > 0 and not p.get("input_forget", 0) and self.o.p is None


def _stepped(call: Call, step: int, phases: int, is_first: bool, is_last: bool) -> Call:
    """The same call for another step."""
    head = np.array([step, step + 1, phases, is_first, is_last], "<i4").tobytes()
    return replace(call, args=head + call.args[len(head) :])


def _packed(r: Tensor, layer: Layer, pack: int) -> np.ndarray[Any, Any]:
    """Constant recurrent weights in the order of recurrent_pack.cuh."""
    value = r.value
    assert value is not None
    n = layer
    if n.quantised:
        signed = (value.astype(np.int16) - (128 if r.dtype == U8 else 0)).astype(I8)
        gates = signed.reshape(n.dirs, n.h, n.gates, n.h).transpose(0, 2, 3, 1)
    else:
        gates = value.reshape(n.dirs, n.gates, n.h, n.h)
    packs = -(-n.h // pack)
    out = np.zeros((n.dirs, n.gates, n.h, packs * pack), gates.dtype)
    out[..., : n.h] = gates
    return np.ascontiguousarray(out.reshape(n.dirs, n.gates, n.h, packs, pack).transpose(0, 3, 1, 2, 4))


def _width(depth: int, *operands: tuple[Tensor, tuple[int, ...]]) -> int:
    """How many neighbours along the last axis are loaded at once, 16 bytes of them or fewer."""
    width = 16 // max(t.dtype.itemsize for t, _ in operands)
    while width > 1:
        if all(s[-1] == 1 and depth % width == 0 and all(m % width == 0 for m in (int(t.offset), *s[:-1])) for t, s in operands):
            return width
        width //= 2
    return 1


def _checked(launch: Launch, o: Operands) -> Layer:
    def require(ok: bool, what: str) -> None:
        if not ok:
            raise UnsupportedError(f"recurrent: {what}")

    p = launch.params
    cell = p["cell"]
    dirs = 2 if p["direction"] == "bidirectional" else 1
    quantised = o.w_scale is not None
    x = o.x.dtype
    functions = FUNCTIONS[cell] * dirs
    require(x in (F32, F64, F16, from_code(16)), "x must be floating point")
    require(
        len(p["activations"]) == functions == len(p["alphas"]) == len(p["betas"]),
        "one activation, alpha and beta per gate function and direction expected",
    )
    t, n, i = (int(v) for v in o.x.shape)
    h = int(o.r.shape[1] if quantised else o.r.shape[2])
    require(t < 1 << 31, "too many time steps")
    if quantised:
        require(cell == "lstm" and x == F32, "only a float32 LSTM can be quantised")
        require(all(q is not None and q.dtype in (I8, U8) for q in (o.w, o.r, o.w_zero, o.r_zero)), "weights and zero points must be 8-bit")
        require(all(q is not None and q.dtype == F32 for q in (o.w_scale, o.r_scale)), "scales must be float32")
        require(i <= 1 << 14 and h <= 1 << 14, "a quantised layer's depth may overflow 32-bit sums")
    others = [o.b, o.h0, o.c0, o.p, *launch.outs, *(() if quantised else (o.w, o.r))]
    require(all(v is None or v.dtype == x for v in others), "all floating operands must have one dtype")
    require(o.lengths is None or o.lengths.dtype == I32, "lengths must be int32")
    return Layer(cell, dirs, t, n, i, h, quantised)


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""

    def case(cell: str, t: int, n: int, i: int, h: int, dtype: str = "float32", const: bool = True, **more: Any) -> Launch:
        g = GATES[cell]

        def weights(*shape: int) -> Tensor:
            return tensor(shape, dtype, data=np.zeros(shape, dtype)) if const else tensor(shape, dtype)

        ins = [tensor((t, n, i), dtype), weights(1, g * h, i), weights(1, g * h, h), weights(1, 2 * g * h)]
        outs = [tensor((t, 1, n, h), dtype), tensor((1, n, h), dtype), tensor((1, n, h), dtype) if cell == "lstm" else None]
        kinds = USUAL[cell]
        params = {"activations": kinds, "alphas": (0.0,) * len(kinds), "betas": (0.0,) * len(kinds), "direction": "forward", **more}
        return launch("recurrent", ins, outs, dtype, cell=cell, **params)

    def quantised(t: int, n: int, i: int, h: int) -> Launch:
        def bytes_(*shape: int) -> Tensor:
            return tensor(shape, "int8")

        ins = [tensor((t, n, i)), bytes_(1, i, 4 * h), bytes_(1, h, 4 * h), tensor((1, 8 * h)), None, None, None, None]
        ins += [tensor((1,)), bytes_(1), tensor((1,)), bytes_(1)]
        outs = [tensor((t, 1, n, h)), tensor((1, n, h)), tensor((1, n, h))]
        params: dict[str, Any] = {"activations": USUAL["lstm"], "alphas": (0.0,) * 3, "betas": (0.0,) * 3, "direction": "forward"}
        return launch("recurrent", ins, outs, cell="lstm", **params)

    yield INPUTS, "many rows", case("lstm", 64, 64, 256, 512)
    yield INPUTS, "few rows, float16", case("gru", 1, 1, 512, 512, "float16")
    yield STEPS, "LSTM, weights in registers", case("lstm", 200, 1, 64, 64)
    yield STEPS, "LSTM, a block for four sequences", case("lstm", 200, 16, 64, 128)
    yield STEPS, "LSTM, any activations", case("lstm", 200, 16, 64, 128, clip=3.0, input_forget=1)
    yield STEPS, "GRU, resetting first", case("gru", 200, 8, 64, 128)
    yield STEPS, "GRU, a call per step, float16", case("gru", 4, 8, 512, 1024, "float16", linear_before_reset=1)
    yield STEPS, "RNN, float64", case("rnn", 20, 2, 32, 100, "float64")
    yield STEPS, "quantised", quantised(20, 1, 64, 128)
    yield STEPS, "quantised, a call per step", quantised(20, 8, 64, 128)
    yield RANGE, "quantised", quantised(20, 8, 64, 128)
    yield PACK, "weights that are no constants", case("lstm", 20, 1, 64, 64, const=False)
    yield PACK, "quantised", quantised(20, 1, 64, 128)
