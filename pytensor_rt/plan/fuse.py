"""Fusion: chains of maps become one program; maps become epilogues of the kernel before them and prologues of the kernel after them.

Rules that hold throughout: a fused launch runs at its consumer's position; a value with several readers is never recomputed; a broadcast
producer is never inlined; of two candidate producers the later one takes the consumer as its epilogue.
"""

from __future__ import annotations

from ..kernels.spec import SPECS
from ..lowering.expr import Program, substitute
from ..lowering.tensor import ARENA, Buffer, HostCall, Launch, Tensor, compose, dense_axes, reshape_strides

Stats = dict[str, int]
MAX_PROGRAM = 64  # instructions; longer fused programs would spill the register machine out of L1
MAX_OPERANDS = 24
_EPILOGUE = frozenset(s.name for s in SPECS.values() if s.epilogue)
_PROLOGUE = frozenset(s.name for s in SPECS.values() if s.prologue)
_ROWWISE = frozenset({"normalize", "softmax", "gemm", "attention"})


def count(stats: Stats, key: str) -> None:
    stats[key] = stats.get(key, 0) + 1


def base_of(t: Tensor, strides: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
    """(n, stride in t, other stride) per axis of t, slowest first; None unless t enumerates its whole buffer exactly once."""
    if t.offset != 0:
        return None
    axes = dense_axes(t.shape, t.strides, t.buffer.size)
    return None if axes is None else [(n, s, strides[i]) for s, n, i in axes]


def rebased(view: Tensor, t: Tensor, other: Tensor) -> Tensor | None:
    """`other` is indexed by t's axes; return it indexed by view's axes, where view and t view the same buffer."""
    if view.strides == t.strides and view.shape == t.shape and view.offset == t.offset:
        return other
    base = base_of(t, other.strides)
    if base is None:
        return None
    found = compose(view.shape, view.strides, view.offset, base)
    if found is None:
        return None
    return other.view(view.shape, found[0], other.offset + found[1])


def has_iota(program: Program) -> bool:
    return any(i[0] == "iota" for i in program)


def fuse(launches: list[Launch], stats: Stats) -> list[Launch]:
    """Fuse in one forward pass; mutates the launches and returns those that remain, in order."""
    return _Fuser(launches, stats).run()


class _Fuser:
    def __init__(self, launches: list[Launch], stats: Stats) -> None:
        self.launches: list[Launch | None] = list(launches)
        self.stats = stats
        self.writers: dict[Buffer, list[int]] = {}
        self.readers: dict[Buffer, set[int]] = {}
        for i, launch in enumerate(launches):
            for o in launch.writes():
                self.writers.setdefault(o.buffer, []).append(i)
            for t in launch.reads():
                if t.buffer.kind == ARENA:
                    self.readers.setdefault(t.buffer, set()).add(i)

    def run(self) -> list[Launch]:
        for ci in range(len(self.launches)):
            consumer = self.launches[ci]
            if consumer is None or isinstance(consumer, HostCall):
                continue
            if consumer.kernel == "map":
                while self.inline_one(ci, consumer):
                    pass
                self.into_epilogue(ci, consumer)
            elif consumer.kernel in _PROLOGUE and not consumer.prologue:
                self.into_prologue(ci, consumer)
        return [launch for launch in self.launches if launch is not None]

    def producer(self, t: Tensor, reader: int) -> int | None:
        """The only launch writing t's buffer, if `reader` is the only one reading it and the launch has no other output."""
        if t.buffer.kind != ARENA:
            return None
        readers = self.readers.get(t.buffer)
        writers = self.writers.get(t.buffer)
        if readers is None or len(readers) != 1 or reader not in readers or writers is None or len(writers) != 1:
            return None
        launch = self.launches[writers[0]]
        if launch is None or isinstance(launch, HostCall) or len(launch.writes()) != 1 or launch.outs[0] is None:
            return None
        return writers[0]

    def moved(self, old: int, new: int) -> None:
        """Launch `old` has become part of launch `new`: its reads happen there now."""
        launch = self.launches[old]
        assert launch is not None
        for t in launch.reads():
            readers = self.readers.get(t.buffer)
            if readers is not None:
                readers.discard(old)
                readers.add(new)
        self.launches[old] = None

    def inline_one(self, ci: int, consumer: Launch) -> bool:
        for t in consumer.ins:
            assert t is not None
            pi = self.producer(t, ci)
            if pi is None:
                continue
            p = self.launches[pi]
            assert p is not None
            if p.kernel == "map" and inline_map(consumer, t, p):
                self.moved(pi, ci)
                self.readers.pop(t.buffer, None)
                count(self.stats, "map into map")
                return True
        return False

    def waits(self, consumer: Launch) -> bool:
        """Does map `consumer` widen one operand (it dequantises) for a single map? That one inlines it, and less memory is moved."""
        out = consumer.outs[0]
        if out is None or out.buffer.kind != ARENA:
            return False
        if any(t is None or (t.size > 1 and t.dtype.itemsize >= out.dtype.itemsize) for t in consumer.ins):
            return False
        readers = self.readers.get(out.buffer, set())
        if len(readers) != 1:
            return False
        reader = self.launches[next(iter(readers))]
        return reader is not None and not isinstance(reader, HostCall) and reader.kernel == "map" and len(reader.ins) > 1

    def into_epilogue(self, ci: int, consumer: Launch) -> None:
        if self.waits(consumer):
            return
        best, chosen = -1, None
        for t in consumer.ins:
            assert t is not None
            pi = self.producer(t, ci)
            if pi is not None and pi > best and self.launches[pi].kernel in _EPILOGUE:  # type: ignore[union-attr]
                best, chosen = pi, t
        if chosen is None:
            return
        p = self.launches[best]
        assert p is not None
        if add_epilogue(p, consumer, chosen):
            self.moved(best, ci)
            self.readers.pop(chosen.buffer, None)
            self.launches[ci] = p
            p.nodes = (*p.nodes, *(n for n in consumer.nodes if n not in p.nodes))
            count(self.stats, "epilogue")

    def into_prologue(self, ci: int, consumer: Launch) -> None:
        t = consumer.ins[0]
        if t is None:
            return
        pi = self.producer(t, ci)
        if pi is None:
            return
        p = self.launches[pi]
        assert p is not None
        if p.kernel != "map" or has_iota(p.body) or any(s == 0 and n != 1 for s, n in zip(t.strides, t.shape)):
            return
        if any(q is not t and q is not None and q.buffer is t.buffer for q in (*consumer.ins[1:], *consumer.epi_ins)):
            return
        if any(x.dtype.kind == "c" for x in p.ins if x is not None) or p.is_copy:
            return
        out = p.outs[0]
        assert out is not None
        operands = [rebased(t, out, q) for q in p.ins if q is not None]
        if any(q is None for q in operands):
            return
        consumer.prologue, consumer.pro_ins = p.body, [q for q in operands if q is not None]
        consumer.nodes = (*p.nodes, *consumer.nodes)
        self.moved(pi, ci)
        self.readers.pop(t.buffer, None)
        count(self.stats, "prologue")


def inline_map(consumer: Launch, t: Tensor, p: Launch) -> bool:
    """Inline map p, whose output t views, into map `consumer`."""
    slots = {k for k, q in enumerate(consumer.ins) if q is not None and q.buffer is t.buffer}
    if any(consumer.ins[k].strides != t.strides or consumer.ins[k].offset != t.offset for k in slots):  # type: ignore[union-attr]
        return False
    if t.size > t.buffer.size or any(s == 0 and n != 1 for s, n in zip(t.strides, t.shape)):
        return False  # a broadcast: inlining would recompute
    if len(consumer.body) + len(p.body) > MAX_PROGRAM or has_iota(p.body):
        return False
    out = p.outs[0]
    assert out is not None
    if (out.dtype.kind == "c" or any(q.dtype.kind == "c" for q in p.ins if q is not None)) and not (p.is_copy and consumer.is_copy):
        return False
    operands: list[Tensor] = []
    for q in p.ins:
        assert q is not None
        r = rebased(t, out, q)
        if r is None:
            return False
        operands.append(r)
    kept = [k for k in range(len(consumer.ins)) if k not in slots]
    new: list[Tensor | None] = [consumer.ins[k] for k in kept]
    host_map = {k: i for i, k in enumerate(kept)}
    inner_map: dict[int, int] = {}
    for i, q in enumerate(operands):
        for j, r in enumerate(new):  # share an operand that both programs read
            if r is not None and r.buffer is q.buffer and r.offset == q.offset and r.strides == q.strides and r.dtype == q.dtype:
                inner_map[i] = j
                break
        else:
            inner_map[i] = len(new)
            new.append(q)
    if len(new) > MAX_OPERANDS:
        return False
    consumer.body = substitute(consumer.body, slots, p.body, inner_map, host_map)
    consumer.ins = new
    consumer.nodes = (*p.nodes, *(n for n in consumer.nodes if n not in p.nodes))
    return True


def add_epilogue(p: Launch, consumer: Launch, t: Tensor) -> bool:
    """Make map `consumer` the epilogue of p, whose output t views; p then writes the consumer's output."""
    target = consumer.outs[0]
    out = p.outs[0]
    assert target is not None and out is not None
    if target.size != t.size or t.size != t.buffer.size or has_iota(consumer.body) or len(consumer.body) + len(p.epilogue) > MAX_PROGRAM:
        return False
    if any(x.dtype.kind == "c" for x in (out, target)):
        return False
    slots = {k for k, q in enumerate(consumer.ins) if q is not None and q.buffer is t.buffer}
    if any(consumer.ins[k].strides != t.strides or consumer.ins[k].offset != t.offset for k in slots):  # type: ignore[union-attr]
        return False
    moved = rebased(out, t, target)
    if moved is None and refine(p, t):
        out = p.outs[0]
        assert out is not None
        moved = rebased(out, t, target)
    rest = [k for k in range(len(consumer.ins)) if k not in slots]
    operands = [rebased(out, t, consumer.ins[k]) for k in rest]  # type: ignore[arg-type]
    if moved is None or any(q is None for q in operands) or len(p.epi_ins) + len(operands) > MAX_OPERANDS:
        return False
    n = len(p.epi_ins)
    if not p.epilogue:
        p.acc_dtype = out.dtype
    host: Program = p.epilogue or (("acc", (), out.dtype),)
    program = substitute(consumer.body, slots, host, {i: i for i in range(n)}, {k: n + i for i, k in enumerate(rest)})
    p.epilogue = () if program == (("acc", (), out.dtype),) else program
    p.epi_ins = [*p.epi_ins, *(q for q in operands if q is not None)]
    p.outs = [moved, *p.outs[1:]]
    return True


def refine(p: Launch, t: Tensor) -> bool:
    """Split the outer axes of a row-wise launch so that its output has at least the axes of t, a view of its output.

    Splitting an axis is always a view, so this is legal for kernels that treat their outer axes as rows (gemm: when b is not batched).
    """
    out = p.outs[0]
    a = p.ins[0]
    if p.kernel not in ("normalize", "softmax", "gemm") or p.prologue or out is None or a is None:
        return False
    last = out.ndim - 1
    if p.kernel == "gemm":
        if any(q is not None and any(s != 0 for s in q.strides[:-2]) for q in p.ins[1:]) or any(q is not None for q in p.ins[2:3]):
            return False
    elif (p.kernel == "softmax" and p.params["axis"] != last) or (p.kernel == "normalize" and tuple(p.params["axes"]) != (last,)):
        return False
    if not out.contiguous or out.offset != 0:
        return False
    axes = dense_axes(t.shape, t.strides, t.buffer.size)
    if not axes or axes[-1][1] != out.shape[-1]:
        return False
    fine = tuple(n for _, n, _ in axes)  # slowest first; the last one is the row
    if len(fine) < 2:
        return False

    def split(q: Tensor | None, size: int) -> Tensor | None:
        if q is None:
            return None
        shape = (*fine[:-1], size)
        strides = reshape_strides(q.shape, q.strides, shape)
        return None if strides is None else q.view(shape, strides)

    if p.kernel == "gemm":
        new_a = split(a, a.shape[-1])
        depth = len(fine) - 2
        new_b: list[Tensor | None] = [
            None if q is None else q.view((*fine[:-2], *q.shape[-2:]), ((0,) * depth) + q.strides[-2:]) for q in p.ins[1:]
        ]
    else:
        new_a = split(a, a.shape[-1])
        new_b = [split(q, out.shape[-1]) for q in p.ins[1:]]
        if any(q is None and r is not None for q, r in zip(new_b, p.ins[1:])):
            return False
    epi = [split(q, out.shape[-1]) for q in p.epi_ins]
    new_out = split(out, out.shape[-1])
    if new_a is None or new_out is None or any(q is None for q in epi):
        return False
    p.ins = [new_a, *new_b]
    p.epi_ins = [q for q in epi if q is not None]
    p.outs = [new_out, *p.outs[1:]]
    if p.kernel == "softmax":
        p.params = {**p.params, "axis": len(fine) - 1}
    elif p.kernel == "normalize":
        p.params = {**p.params, "axes": (len(fine) - 1,)}
    return True


def dead_code(launches: list[Launch], keep: set[Buffer]) -> list[Launch]:
    """Drop launches whose outputs nobody reads. Host calls with no live output go too: they have no side effects."""
    live = set(keep)
    kept: list[Launch] = []
    for launch in reversed(launches):
        for o in launch.writes():
            if o.buffer.kind == "output" or o.buffer in live:
                kept.append(launch)
                live.update([t.buffer for t in launch.reads()])
                break
    kept.reverse()
    return kept
