"""The plan verifier. Independent of the planner: it replays a plan on a memory of value names instead of numbers.

Every arena and output byte holds the name (vid) of the value last written there. A read must find, in every element, the name it expects or
that of a value that was written into place inside it. It also checks that views stay inside their buffers and buffers inside the arena.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..lowering.tensor import ARENA, HOST, OUTPUT, Buffer, Tensor, tensors_of

if TYPE_CHECKING:
    from .plan import Plan


_WRITING = -7  # a tag no value has


class VerificationError(AssertionError):
    """A plan would read or write the wrong memory: a bug in the planner."""


def verify(plan: Plan) -> None:
    """Raise VerificationError if any launch of the plan would read something other than what the trace meant."""
    memory = np.full(plan.arena_bytes, -1, np.int32)
    outputs: dict[Buffer, Any] = {}

    def region(t: Tensor, instead: Any = None) -> Any:
        """The tags of a view's bytes, in `memory` and `outputs` or instead in an array like the one of them it lies in."""
        b, k = t.buffer, t.dtype.itemsize
        if b.kind == ARENA:
            if b not in plan.offsets:
                raise VerificationError(f"{t} is in a buffer that was never placed")
            space, at = memory, plan.offsets[b]
            if at < 0 or at + b.nbytes > plan.arena_bytes or at % 64:
                raise VerificationError(f"{b} at {at} is outside the arena or misaligned")
        elif b.kind == OUTPUT:
            if b not in outputs:
                outputs[b] = np.full(b.nbytes, -1, np.int32)
            space, at = outputs[b], 0
        else:
            return None
        if t.size == 0:
            return None
        space = space if instead is None else instead
        low = t.offset + sum(min(0, (n - 1) * s) for n, s in zip(t.shape, t.strides))
        high = t.offset + sum(max(0, (n - 1) * s) for n, s in zip(t.shape, t.strides))
        if low < 0 or (high + 1) * k > b.nbytes:
            raise VerificationError(f"view outside its buffer: {t}")
        return np.ndarray((*t.shape, k), np.int32, space, (at + k * t.offset) * 4, (*(4 * k * s for s in t.strides), 4))

    def allowed(vid: int) -> set[int]:
        found, todo = {vid}, [vid]
        while todo:
            for v in plan.into.get(todo.pop(), ()):
                if v not in found:
                    found.add(v)
                    todo.append(v)
        return found

    def read(who: str, t: Tensor) -> None:
        r = region(t)
        if r is not None:
            found = set(np.unique(r).tolist())
            if not found <= allowed(t.vid):
                raise VerificationError(f"{who} reads {t} expecting {sorted(allowed(t.vid))}, finds {sorted(found)}")

    for i, launch in enumerate(plan.launches):
        for t in launch.reads():
            read(f"launch {i} ({launch.kernel})", t)
        for t in launch.writes():
            r = region(t)
            if r is None:
                continue
            saved = r.copy()
            r[...] = _WRITING
            alone = launch.other_reads() + [q for q in launch.elementwise_reads() if not _may_share(q, t, plan)]
            for q in alone:
                if (w := region(q)) is not None and (w == _WRITING).any():
                    raise VerificationError(f"launch {i} ({launch.kernel}) writes {t} over its own operand {q}")
            r[...] = saved
        for t in launch.writes():
            r = region(t)
            if r is not None:
                r[...] = t.vid
    for begin, ends in plan.strands:
        owner = {s: np.zeros(len(m), np.int32) for s, m in [(None, memory), *outputs.items()]}  # which strand writes a byte, from 1 on
        parts = list(enumerate(zip((begin, *ends), ends), 1))
        for writing in (True, False):
            for k, (first, end) in parts:
                for launch in plan.launches[first:end]:
                    for t in launch.writes() if writing else launch.reads():
                        space = owner.get(t.buffer if t.buffer.kind == OUTPUT else None) if t.buffer.kind in (ARENA, OUTPUT) else None
                        r = None if space is None else region(t, space)
                        if r is None:
                            continue
                        if not np.isin(r, (0, k)).all():
                            raise VerificationError(f"strand {k} of launches {begin} to {ends[-1]} uses {t}, which another one writes")
                        if writing:
                            r[...] = k
    for name, v in plan.outputs.items():
        for t in tensors_of(v):
            if t.buffer.kind != HOST:
                read(f"output {name!r}", t)


def _may_share(q: Tensor, out: Tensor, plan: Plan) -> bool:
    """May operand q, which is read element by element, be the memory of output `out`: does it lie just where the output is written?"""
    if q.buffer.kind != out.buffer.kind or q.dtype.itemsize != out.dtype.itemsize:
        return False
    if q.buffer is not out.buffer and (q.buffer.kind != ARENA or plan.offsets[q.buffer] != plan.offsets[out.buffer]):
        return False
    return q.offset == out.offset and q.strides == out.strides
