"""`recurrent`: LSTM, GRU and RNN. Input products of a stretch of steps at once, then the steps. See jit/recurrent.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ....dtypes import F32, I8, I32, U8, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import CONST, Launch, Tensor
from ...recurrent_operands import FUNCTIONS, GATES, Operands
from ...spec import ACTIVATIONS
from .. import code
from ..build import Address, Block, Builder, Call, Fn, Operand, Prepared, Scratch, Status, View, Word, byte_strides, f64, view
from ..programs import Program
from .edges import Source, compute_type, of_view, rows_in, rows_of
from .elementwise import copy, elementwise
from .gemm_int8 import dots

USUAL = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
STRETCH_BYTES = 1 << 20  # of input products kept at a time per direction, so that they stay in cache
GROUP_ROWS = 24  # sequences that one unit advances
BLOCK_ROWS = 48  # of input products that one unit makes
GROUP = 4  # jit/recurrent.py: GROUP


class Layer(NamedTuple):
    """T steps of N sequences, depth I, H hidden units; lanes of a vector, padded: H in whole vectors, columns: of all gates, split: of the first group
    of gates, which one product makes."""

    cell: str
    dirs: int
    T: int
    N: int
    I: int
    H: int
    quant: str  # what adds up products of 8-bit integers: instructions (gemm_int8.dots) or "plain" ones; "": floats
    dtype: DType
    lanes: int
    padded: int
    columns: int
    split: int


def recurrent(b: Builder) -> None:
    """y, y_h and y_c of a layer."""
    ins: list[Any] = [*b.launch.ins, *[None] * 12]
    o = Operands(*ins[:12])
    _Plan(b, o, _checked(b.launch, o)).build()


class _Plan:
    def __init__(self, b: Builder, o: Operands, layer: Layer) -> None:
        self.b, self.o, self.n, self.params = b, o, layer, b.launch.params
        self.size = layer.dtype.itemsize
        outs: list[Tensor | None] = [*b.launch.outs, None, None]
        self.y, self.y_h, self.y_c = outs[:3]

    def build(self) -> None:
        b, n, o = self.b, self.n, self.o
        finals = [(self.y_h, o.h0), (self.y_c, o.c0)]
        if n.T == 0:
            for out, _ in finals:
                if out is not None:
                    elementwise(b, [("const", (0.0,), out.dtype)], [], view(out))
            return
        per_step = max(1, n.N * n.columns * self.size)
        stretch = max(1, min(n.T, STRETCH_BYTES // per_step))
        projections = [_parts(min(stretch, n.T - s) * n.N, BLOCK_ROWS) for s in (0, (n.T - 1) // stretch * stretch)]
        groups = _parts(n.N, n.N if n.quant else GROUP_ROWS)
        states = [self._state(n.dirs, n.N) for _ in finals]
        lengths = self._lengths()
        for (_, initial), state in zip(finals, states):
            if initial is not None:
                self._bring(of_view(view(initial), n.dtype), state)
            elif state is not states[1] or n.cell == "lstm":
                self._bring(None, state)
        most = max(p[1] + (p[2] > 0) for p in projections)
        tall = groups[1] + (groups[2] > 0)
        gru, both = n.cell == "gru", max(most, tall)
        quant_bytes = max(most * (_units(n.quant, n.I) + 1), tall * (_units(n.quant, n.H) + 1)) * 4 if n.quant else 0
        sizes = [most * n.I, tall * n.columns, tall * n.padded if gru else 0, n.padded]
        places: list[int] = []
        at = 0
        for nbytes in (*[k * self.size for k in sizes], quant_bytes, both * GROUP * 2 * n.lanes * 4 if n.quant else 0):
            places.append(at)
            at += -(-nbytes // 64) * 64
        slot, step = b.slots(at)
        w, r = self._packed(o.w, n.I), self._packed(o.r, n.H)
        sums = b.scratch(n.dirs * stretch * n.N * n.columns * self.size)
        functions, per_direction = self._functions()
        p = self.params
        layer = Block([
            Fn("box.run"), n.T, n.N, n.I, n.H, n.padded, n.columns, n.split, stretch, int(p["direction"] == "reverse"),
            *self._x(), *self._y(),
            w, r, self._product(), *self._quantisation(lengths),
            *self._small(), lengths, states[0].address, states[1].address, sums,
            int(self._late()), int(bool(p.get("input_forget", 0))), int(self._plain()), f64(max(0.0, float(p.get("clip", 0.0)))),
            functions, 8 * per_direction, slot, step, *places, n.dirs,
        ])  # fmt: skip
        quant = f":{n.quant or 'no'}"
        for s in range(0, n.T, stretch):
            steps = min(stretch, n.T - s)
            for fn, (parts, part, extra), cost in (
                (f"recurrent.project[{n.dtype.name},{quant}]", _parts(steps * n.N, BLOCK_ROWS), n.I / 40 + 0.1),
                (f"recurrent.advance[{n.dtype.name},:{n.cell},{quant}]", groups, n.H / 20 + 0.5),
            ):
                b.call(fn, [layer, s, steps, parts, part, extra], n.dirs * parts, n.dirs * steps * n.N * n.columns * cost * self.size / 4)
        for (out, _), state in zip(finals, states):
            if out is not None:
                copy(b, state, view(out))

    # ------------------------------------------------------------------------------------------------------------- small parameters
    def _state(self, *outer: int) -> View:
        """[*outer, H] in scratch, rows padded to whole vectors."""
        n = self.n
        t = self.b.temporary(n.dtype, [*outer, n.padded])
        strides = [n.padded] * len(outer)
        for k in range(len(outer) - 2, -1, -1):
            strides[k] = strides[k + 1] * outer[k + 1]
        return t.with_axes([*outer, n.H], [*strides, 1])

    def _bring(self, s: Source | None, to: View) -> None:
        """A source to scratch; zeros without."""
        elementwise(self.b, s.program if s else [("const", (0.0,), to.dtype)], s.operands if s else [], to)

    def _late(self) -> bool:
        """Is the recurrent bias of a GRU's candidate added to its recurrent product alone?"""
        return self.n.cell == "gru" and bool(self.params.get("linear_before_reset", 0))

    def _per_gate(self, t: Tensor, first: int, count: int) -> View:
        """[dirs, count, H]: numbers of `count` gates from gate `first` of all directions' [gates * H], or [dirs] with one number for all."""
        n, v = self.n, view(t)
        assert isinstance(v.address, Operand)
        s0, s1 = (*v.strides, 0)[:2]
        address = Operand(v.address.buffer, v.address.offset + first * n.H * s1 * v.dtype.itemsize)
        return View(address, v.dtype, (n.dirs, count, n.H), (s0, n.H * s1, s1))

    def _small(self) -> list[Word]:
        """Bias, late bias, peepholes."""
        n, o = self.n, self.o
        gates = GATES[n.cell]
        apart = gates - 1 if self._late() else gates  # gates whose biases are added
        bias = self._state(n.dirs, gates)
        late, peepholes = self._state(n.dirs, 1), self._state(n.dirs, 3)
        if o.b is None:
            self._bring(None, bias)
            if self._late():
                self._bring(None, late)
        else:
            X = n.dtype
            first, second = self._per_gate(o.b, 0, apart), self._per_gate(o.b, gates, apart)
            own = o.b.dtype
            program: Program = [("load", (0,), own), ("load", (1,), own), ("cast", (0,), X), ("cast", (1,), X), ("add", (2, 3), X)]
            elementwise(self.b, program, [first, second], bias.with_axes((n.dirs, apart, n.H), bias.strides))
            if self._late():
                assert isinstance(bias.address, Scratch)
                last = replace(bias, address=Scratch(bias.address.offset + apart * n.padded * self.size))
                for gate, to in ((apart, last), (gates + apart, late)):
                    self._bring(of_view(self._per_gate(o.b, gate, 1), X), to.with_axes((n.dirs, 1, n.H), to.strides))
        if o.p is not None:
            self._bring(of_view(self._per_gate(o.p, 0, 3), n.dtype), peepholes)
        return [bias.address, late.address, peepholes.address if o.p is not None else 0]

    def _functions(self) -> tuple[Block, int]:
        n, p = self.n, self.params
        words: list[Word] = []
        for kind, alpha, beta in zip(p["activations"], p["alphas"], p["betas"]):
            words += [Fn(f"recurrent_gates.activation[{n.dtype.name},:{ACTIVATIONS[int(kind)]}]"), f64(alpha), f64(beta)]
        return Block(words), 3 * FUNCTIONS[n.cell]

    def _plain(self) -> bool:
        n, p = self.n, self.params
        names = tuple(ACTIVATIONS[int(k)] for k in p["activations"])
        usual = names == USUAL[n.cell] * n.dirs and not float(p.get("clip", 0.0)) > 0
        return usual and not p.get("input_forget", 0) and self.o.p is None and n.dtype == F32

    def _lengths(self) -> Address:
        n, lengths = self.n, self.o.lengths
        target = self.b.scratch(8 * (n.N + 1))
        given: list[Word] = [] if lengths is None else [view(lengths).address, byte_strides(view(lengths))[0], Status()]
        self.b.call(f"recurrent_pack.lengths[{int(lengths is not None)}]", [target, n.N, n.T, *given])
        return target

    # ----------------------------------------------------------------------------------------------------------------------- operands
    def _x(self) -> list[Word]:
        n, v = self.n, view(self.o.x)
        if v.dtype == n.dtype and (v.strides[2] == 1 or n.I <= 1):
            return [v.address, *byte_strides(v)[:2], 0]
        return [0, 0, 0, rows_in(self.b, of_view(v, n.dtype), [0, 1], [2])]

    def _y(self) -> list[Word]:
        n = self.n
        if self.y is None:
            return [0] * 6
        v = view(self.y)
        if v.dtype == n.dtype and (v.strides[3] == 1 or n.H == 1):
            return [v.address, *byte_strides(v)[:3], 0, 1]
        program: list[Any] = [("acc", (), n.dtype)]
        if v.dtype != n.dtype:
            program.append(("cast", (0,), v.dtype))
        rows = rows_of(program, [], v, v.dtype, v.shape, [0, 1, 2], [3], acc=n.dtype)
        assert rows is not None
        return [0, 0, n.dirs, 0, rows, 1]

    def _packed(self, t: Tensor, depth: int) -> Word:
        """Weights in panels: made when the plan is bound if they are constants, else now."""
        n, b = self.n, self.b
        s = of_view(view(t), n.dtype)
        name, element, rows = f"recurrent_pack.panels[{n.dtype.name}]", n.dtype, depth
        if n.quant:
            v = view(t)
            v = v.with_axes([v.shape[k] for k in (0, 2, 1)], [v.strides[k] for k in (0, 2, 1)])
            program = [("load", (0,), v.dtype), ("cast", (0,), I32), ("const", (_shift(v.dtype),), I32), ("sub", (1, 2), I32)]
            s = Source(program, [v], I32, v.shape)
            name, element, rows = f"recurrent_pack.panels_int8[:{n.quant}]", I32, _units(n.quant, depth) + 1
        program_words = rows_in(b, s, [0, 1], [2])
        units = n.dirs * n.columns
        nbytes, row = units * rows * element.itemsize, max(8, depth * element.itemsize)
        head: list[Word] = [Fn("box.run"), program_words, n.H, n.padded, depth, n.columns]
        if t.buffer.kind != CONST:
            target = b.scratch(nbytes)
            b.call(name, [*head, target, *b.slots(row), 0, units], units, 2.0 * units * depth)
            return target

        def make(memory: Prepared) -> list[Call]:
            return [Call(name, [*head, memory, memory, 0, nbytes, units], units)]

        identity = (id(t.buffer.data), int(t.offset), tuple(t.shape), tuple(t.strides), t.dtype.name)
        return Prepared(("recurrent", *identity, n.cell, n.padded, n.quant), nbytes + row, make)

    def _product(self) -> Fn:
        n = self.n
        if n.quant in ("", "plain"):
            return Fn(f"gemm_tile.product[{'int32' if n.quant else n.dtype.name}]")
        return Fn(f"gemm_tile.dots[:{n.quant}]")

    def _quantisation(self, lengths: Address) -> list[Word]:
        """Scales and what is left of the zero points of both products' columns, and where the input's range is."""
        n, o, b = self.n, self.o, self.b
        if not n.quant:
            return [0] * 5
        target = b.scratch(8)
        rows = rows_in(b, of_view(view(o.x)), [0, 1], [2])
        words: list[Word] = [Fn("box.run"), rows, lengths, n.N, n.I, target, b.scratch(4 * n.I)]
        b.call("recurrent_pack.input_range", words, 1, 1.0 * n.T * n.N * n.I)
        out: list[Word] = []
        for weights, scale, zero in ((o.w, o.w_scale, o.w_zero), (o.r, o.r_scale, o.r_zero)):
            scales, zeros = self._state(n.dirs, 4), self._state(n.dirs, 4)
            zeros = replace(zeros, dtype=I32)
            shift = _shift(weights.dtype)
            left = Source([("const", (-shift,), I32)], [], I32, zeros.shape)
            if zero is not None:
                left = of_view(self._per_gate(zero, 0, 4), I32)
                left.program += [("const", (shift,), I32), ("sub", (1, 2), I32)]
            assert scale is not None
            self._bring(of_view(self._per_gate(scale, 0, 4)), scales)
            self._bring(left, zeros)
            out += [scales.address, zeros.address]
        return [*out, target]


def _shift(dtype: DType) -> int:
    """What is subtracted from 8-bit weights to store them: they become signed."""
    return 128 if dtype == U8 else 0


def _units(quant: str, depth: int) -> int:
    """32-bit units of a row of 8-bit integers."""
    return -(-depth // {"vnni": 4, "madd": 2, "plain": 1}[quant])


def _parts(rows: int, most: int) -> tuple[int, int, int]:
    """As few parts as possible of at most `most` rows: their number, their rows, and how many have one more."""
    parts = max(1, -(-rows // max(1, most)))
    return parts, rows // parts, rows % parts


def _checked(launch: Launch, o: Operands) -> Layer:
    def require(ok: bool, what: str) -> None:
        if not ok:
            raise UnsupportedError(f"recurrent: {what}")

    def shaped(t: Tensor | None, *shape: int) -> bool:
        return t is None or tuple(map(int, t.shape)) == shape

    p = launch.params
    cell = p["cell"]
    dirs = 2 if p["direction"] == "bidirectional" else 1
    quant = o.w_scale is not None
    x = o.x.dtype
    count = FUNCTIONS[cell] * dirs
    require(is_float(x) and x.itemsize > 1, "x must be floating point")
    require(
        len(p["activations"]) == count == len(p["alphas"]) == len(p["betas"]),
        "one activation, alpha and beta per gate function and direction expected",
    )
    T, N, I = (int(v) for v in o.x.shape)
    H = int(o.r.shape[1] if quant else o.r.shape[2])
    rows = GATES[cell] * H
    require(T < 1 << 31, "too many time steps")
    if quant:
        require(cell == "lstm" and x == F32, "only a float32 LSTM can be quantised")
        require(all(q is None or q.dtype in (I8, U8) for q in (o.w, o.r, o.w_zero, o.r_zero)), "weights and zero points must be 8-bit")
        require(all(q is not None and q.dtype == F32 for q in (o.w_scale, o.r_scale)), "scales must be float32")
        require(max(I, H) <= 1 << 14, "a quantised layer's depth may overflow 32-bit sums")
        require(shaped(o.w, dirs, I, rows) and shaped(o.r, dirs, H, rows), "w and r must be [dirs, depth, G*H]")
        for q in (o.w_scale, o.w_zero, o.r_scale, o.r_zero):
            require(shaped(q, dirs) or shaped(q, dirs, rows), "bad scale or zero point shape")
    else:
        require(shaped(o.w, dirs, rows, I) and shaped(o.r, dirs, rows, H), "w and r must be [dirs, G*H, depth]")
    others: Sequence[Tensor | None] = [o.b, o.h0, o.c0, o.p, *launch.outs, *(() if quant else (o.w, o.r))]
    require(all(v is None or v.dtype == x for v in others), "all floating operands must have one dtype")
    require(o.lengths is None or (o.lengths.dtype == I32 and shaped(o.lengths, N)), "lengths must be int32 [N]")
    require(shaped(o.b, dirs, 2 * rows) and shaped(o.p, dirs, 3 * H), "b must be [dirs, 2*G*H] and p [dirs, 3*H]")
    outs = [*launch.outs, None, None]
    require(shaped(outs[0], T, dirs, N, H) and all(shaped(t, dirs, N, H) for t in (o.h0, o.c0, *outs[1:3])), "states must be [dirs, N, H]")
    dtype = compute_type(x)
    lanes = code.vector_bytes() // dtype.itemsize
    whole = lanes if cell == "lstm" else 2 * lanes  # all products have whole panels
    padded = -(-H // whole) * whole
    columns = GATES[cell] * padded
    return Layer(
        cell,
        dirs,
        T,
        N,
        I,
        H,
        (dots() or "plain") if quant else "",
        dtype,
        lanes,
        padded,
        columns,
        2 * padded if cell == "gru" else columns,
    )
