"""In place: a launch may overwrite an elementwise operand that dies there. Decided last; nobody else decides it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ..lowering.tensor import ARENA, Buffer, HostCall, Launch, Tensor
from .arena import Item
from .fuse import Stats, count

Lifetimes = dict[Buffer, tuple[int, int]]


def lifetimes(launches: list[Launch]) -> Lifetimes:
    """Launch indices of the first write and the last use of every arena buffer (inclusive)."""
    born: dict[Buffer, int] = {}
    dies: dict[Buffer, int] = {}
    for i, launch in enumerate(launches):
        for o in launch.writes():
            if o.buffer.kind == ARENA:
                born.setdefault(o.buffer, i)
                dies[o.buffer] = i
        for t in launch.reads():
            if t.buffer.kind == ARENA:
                dies[t.buffer] = i
    return {b: (s, dies[b]) for b, s in born.items()}


def share(life: Lifetimes, roots: dict[Buffer, Buffer]) -> tuple[list[Item], list[tuple[Buffer, int]]]:
    """One placement item per piece of memory, the union of the lifetimes of the buffers that share it; and which item holds each buffer."""
    number: dict[Buffer, int] = {}
    items: list[Item] = []
    holders: list[tuple[Buffer, int]] = []
    for b, (first, last) in life.items():
        r = roots.get(b, b)
        k = number.get(r)
        if k is None:
            k = number[r] = len(items)
            items.append((first, last, b.nbytes))
        else:
            s, e, n = items[k]
            items[k] = (min(s, first), max(e, last), max(n, b.nbytes))
        holders.append((b, k))
    return items, holders


def in_place(
    launches: list[Launch], stats: Stats, apart: AbstractSet[Buffer] = frozenset(), only: AbstractSet[Buffer] | None = None
) -> dict[Buffer, Buffer]:
    """{buffer: the buffer whose memory it takes over}, transitively resolved. Those in `apart` take over none; `only` these have any to do with it."""
    life = lifetimes(launches)
    dies = {b: e for b, (_, e) in life.items()}
    root: dict[Buffer, Buffer] = {}
    n_writers: dict[Buffer, int] = {}
    for launch in launches:
        for w in launch.writes():
            n_writers[w.buffer] = n_writers.get(w.buffer, 0) + 1

    def find(b: Buffer) -> Buffer:
        while b in root:
            b = root[b]
        return b

    for i, launch in enumerate(launches):
        if isinstance(launch, HostCall) or len(launch.writes()) != 1:
            continue
        o = launch.outs[0]
        if (
            o is None
            or o.buffer.kind != ARENA
            or n_writers[o.buffer] != 1
            or o.buffer in apart
            or (only is not None and o.buffer not in only)
        ):
            continue
        y = o.buffer
        elementwise = launch.elementwise_reads()
        for t in elementwise:
            x = t.buffer
            if (
                x.kind != ARENA
                or (only is not None and x not in only)
                or t.shape != o.shape
                or t.strides != o.strides
                or t.offset != o.offset
                or t.dtype.itemsize != o.dtype.itemsize
            ):
                continue
            r = find(x)
            if x.nbytes < y.nbytes or r.nbytes < y.nbytes or dies[x] != i or dies[r] != i:
                continue
            if any(find(u.buffer) is r for u in launch.other_reads()):
                continue
            if any(find(u.buffer) is r and not _same_place(u, t) for u in elementwise):
                continue
            root[y] = r
            dies[r] = max(dies[r], dies[y])
            count(stats, "in place")
            break
    return {b: find(b) for b in root}


def _same_place(u: Tensor, t: Tensor) -> bool:
    return u.buffer is t.buffer and u.strides == t.strides and u.offset == t.offset
