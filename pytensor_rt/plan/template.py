"""Plan templates: an encoded plan as a function of symbolic dimensions.

A trace with symbolic dimensions (lowering/symbolic.py) leaves symbolic integers in the encoded words of its plan. A Template compiles the few
distinct expressions behind them, and the guards the trace relied on, into one Python function; a new shape then costs one call of it, one table
fill, and arena placement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..lowering.symbolic import Recorder, SymInt, plain
from ..lowering.tensor import Buffer, Tensor
from .arena import ALIGN, aligned, lower_bound, neighbours, place_among
from .plan import Plan

Words = np.ndarray[Any, np.dtype[np.int64]]
_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


class Instance(NamedTuple):
    """A template filled in for one shape."""

    code: Words
    extra: list[int]
    values: list[int]  # of every expression
    offsets: list[int]  # of every placement item
    arena_bytes: int

    def bound(self) -> Instance:
        """What is worth keeping of it once its program is bound."""
        return self._replace(code=self.code[:0].copy(), extra=[])

    def concrete(self, v: Any) -> Any:
        """A dimension, or tuple of dimensions, of the symbolic plan as it is in this instance."""
        if isinstance(v, (tuple, list)):
            return type(v)([self.concrete(x) for x in v])
        return self.values[v._expr] if type(v) is SymInt else v

    def plan(self, symbolic: Plan) -> Plan:
        """The plan of this instance in full, for reports and the verifier."""
        buffers: dict[Buffer, Buffer] = {}

        def buffer(b: Buffer) -> Buffer:
            if b not in buffers:
                new = buffers[b] = Buffer(b.id, b.kind, self.concrete(b.size), b.dtype, b.data, b.name, b.mapped)
                new.home = None if b.home is None else (self.concrete(b.home[0]), self.concrete(b.home[1]))
            return buffers[b]

        def tensor(t: Any) -> Any:
            if not isinstance(t, Tensor):
                return t
            new = Tensor(buffer(t.buffer), self.concrete(t.offset), self.concrete(t.shape), self.concrete(t.strides), t.dtype)
            new.vid = t.vid
            return new

        launches = []
        for launch in symbolic.launches:
            memo = {id(t): tensor(t) for t in (*launch.ins, *launch.outs, *launch.pro_ins, *launch.epi_ins)}
            new = launch.clone()
            for field in ("ins", "outs", "pro_ins", "epi_ins"):
                setattr(new, field, [memo[id(t)] for t in getattr(launch, field)])
            new.params = {k: self.concrete(v) for k, v in launch.params.items()}
            launches.append(new)
        items = [(first, last, self.concrete(n)) for first, last, n in symbolic.items]
        roots = [(buffer(b), k) for b, k in symbolic.roots]
        return Plan(
            launches=launches, outputs={k: tensor(v) for k, v in symbolic.outputs.items()}, offsets={b: self.offsets[k] for b, k in roots},
            arena_bytes=self.arena_bytes, lower_bound=lower_bound(items, len(launches)), naive_bytes=sum(aligned(b.nbytes) for b, _ in roots),
            stats=symbolic.stats, into=symbolic.into, items=items, roots=roots,
        )  # fmt: skip


class Template:
    """An encoded plan over `n_dims` dimension variables.

    Args:
        recorder: the expressions and guards of the trace.
        code: the encoded words, with SymInts where they depend on dimensions.
        arena_words: (position in code of an arena buffer's offset, its placement item).
        items: (first launch, last launch, bytes) per placement item; bytes may be symbolic.
        extra: further values wanted for each shape, e.g. output shapes.
    """

    def __init__(
        self, recorder: Recorder, n_dims: int, code: Sequence[int], arena_words: Sequence[tuple[int, int]], items: Sequence[tuple[int, int, int]],
        extra: Sequence[int],
    ) -> None:  # fmt: skip
        self.recorder, self.n_dims = recorder, n_dims
        self.symbolic = [(k, v._expr) for k, v in enumerate(code) if type(v) is SymInt]
        self.base = np.array([plain(v) for v in code], np.int64)
        self.positions = np.array([k for k, _ in self.symbolic], np.intp)
        self.sources = np.array([e for _, e in self.symbolic], np.intp)
        self.offset_positions = np.array([k for k, _ in arena_words], np.intp)
        self.offset_items = np.array([k for _, k in arena_words], np.intp)
        self.sizes = [v._expr if type(v) is SymInt else -1 for _, _, v in items]
        self.fixed_sizes = [plain(v) for _, _, v in items]
        self.together = neighbours(items)  # the lifetimes, and so who may overlap whom, are the same for every shape
        self.first = [f for f, _, _ in items]
        self.extra = [(v._expr if type(v) is SymInt else -1, plain(v)) for v in extra]
        self.evaluate = self._compile()
        self.placed: tuple[list[int], list[int], int] = ([], [], 0)  # the last sizes, and what place_among made of them

    def _compile(self) -> Callable[[Sequence[int]], list[int] | None]:
        def operand(r: tuple[str, int]) -> str:
            return f"e[{r[1]}]" if r[0] == "s" else repr(r[1])

        lines = ["def evaluate(d):", f"    e = [0] * {len(self.recorder.expressions)}"]
        for i, x in enumerate(self.recorder.expressions):
            if x[0] == "dim":
                lines.append(f"    e[{i}] = d[{x[1]}]")
            elif x[0] in ("floordiv", "mod"):
                lines.append(f"    if {operand(x[2])} == 0: return None")
                lines.append(f"    e[{i}] = {operand(x[1])} {_OPERATORS[x[0]]} {operand(x[2])}")
            else:
                lines.append(f"    e[{i}] = {operand(x[1])} {_OPERATORS[x[0]]} {operand(x[2])}")
        for (name, a, b), outcome in self.recorder.guards.items():
            lines.append(f"    if {'not ' if outcome else ''}({operand(a)} {_OPERATORS[name]} {operand(b)}): return None")
        lines.append("    return e")
        scope: dict[str, Any] = {}
        exec("\n".join(lines), scope)  # text made of integers and operators only
        function: Callable[[Sequence[int]], list[int] | None] = scope["evaluate"]
        return function

    def same_as(self, other: Template) -> bool:
        """Do two traces with different hints give the same function? Then nothing was silently fixed at a hint's value."""
        return (
            self.recorder.expressions == other.recorder.expressions
            and self.recorder.guards == other.recorder.guards
            and self.symbolic == other.symbolic
            and len(self.base) == len(other.base)
            and self._fixed_words_equal(other)
            and self.sizes == other.sizes
            and [f for f, s in zip(self.fixed_sizes, self.sizes) if s < 0] == [f for f, s in zip(other.fixed_sizes, other.sizes) if s < 0]
            and [(e, 0 if e >= 0 else v) for e, v in self.extra] == [(e, 0 if e >= 0 else v) for e, v in other.extra]
        )

    def _fixed_words_equal(self, other: Template) -> bool:
        free = np.zeros(len(self.base), bool)
        free[self.positions] = True
        free[self.offset_positions] = True
        return bool(((self.base == other.base) | free).all())

    def accepts(self, dims: Sequence[int]) -> bool:
        return self.evaluate(dims) is not None

    def instantiate(self, dims: Sequence[int]) -> Instance | None:
        """The plan for these dimensions, or None if a guard does not hold."""
        e = self.evaluate(dims)
        if e is None:
            return None
        code = self.base.copy()
        if len(self.sources):
            code[self.positions] = np.array(e, np.int64)[self.sources]
        sizes = [-(-(e[s] if s >= 0 else f) // ALIGN) * ALIGN for s, f in zip(self.sizes, self.fixed_sizes)]
        before, offsets, total = self.placed
        if sizes != before:  # a growing cache seldom changes what lies in the arena
            offsets, total = place_among(sizes, self.first, self.together)
            self.placed = sizes, offsets, total
        if len(offsets):
            code[self.offset_positions] = np.array(offsets, np.int64)[self.offset_items]
        return Instance(code, [e[s] if s >= 0 else v for s, v in self.extra], e, offsets, total)
