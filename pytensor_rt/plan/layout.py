"""Layout: whole convolutional regions get channels-last strides, and what is copied lies as its other users walk through it.

Logical shapes never change, but for the axes of copies, which are cut where the memory on one side demands it.
"""

from __future__ import annotations

from ..lowering.tensor import ARENA, Buffer, Launch, Shape, Tensor, compose, dense_axes, row_major
from .fuse import Stats, count

Refs = dict[Buffer, dict[int, Tensor]]
_SEEDS = frozenset({"conv", "conv_transpose", "deform_conv", "pool"})
_FOLLOW = frozenset({"map", "resample"})  # kernels that keep logical axes and prefer one layout for all operands
_ROWS = frozenset({"normalize", "softmax", "reduce", "map"})  # kernels that would rather walk along rows


def references(launches: list[Launch]) -> Refs:
    """Every distinct Tensor object of every buffer, including those that stand for a prologue."""
    refs: Refs = {}
    for launch in launches:
        for t in launch.tensors():
            refs.setdefault(t.buffer, {})[id(t)] = t
    return refs


def rehome(refs: Refs, x: Buffer, base: list[tuple[int, int, int]], y: Buffer, offset: int) -> bool:
    """Move every view of x into y by base (n, old stride, new stride). All or nothing."""
    moves = []
    for t in refs[x].values():
        found = compose(t.shape, t.strides, t.offset, base)
        if found is None:
            return False
        moves.append((t, found))
    for t, (strides, at) in moves:
        t.buffer, t.strides, t.offset = y, strides, at + offset
    if y is not x:
        refs.setdefault(y, {}).update(refs.pop(x))
    return True


def channels_last_strides(shape: Shape) -> Shape:
    """[N, C, spatial...] in memory order N, spatial..., C; 0 for axes of size 1."""
    out = [0] * len(shape)
    step = 1
    for i in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[i] != 1:
            out[i] = step
            step = step * shape[i]
    return tuple(out)


def channels_last(launches: list[Launch], stats: Stats) -> None:
    """Give the arena buffers around convolutions and pools channels-last strides, each all or nothing."""
    if not any(launch.kernel in _SEEDS for launch in launches):
        return
    region: dict[Buffer, Tensor] = {}  # buffer -> a view of it with axes [N, C, spatial...]
    following: dict[Buffer, list[tuple[Tensor, list[Tensor]]]] = {}  # buffer -> (output, all operands) of the launches that follow it
    todo: list[Buffer] = []

    def want(t: Tensor | None) -> None:
        if t is not None and t.ndim >= 3 and t.buffer.kind == ARENA and t.buffer not in region and _base(t) is not None:
            region[t.buffer] = t
            todo.append(t.buffer)

    for launch in launches:
        out = launch.outs[0]
        if launch.kernel in _FOLLOW and out is not None:
            operands = launch.tensors()
            for t in operands:
                following.setdefault(t.buffer, []).append((out, operands))
        if launch.kernel in _SEEDS:
            want(launch.outs[0])
            want(launch.ins[0])
    while todo:
        b = todo.pop()
        view = region[b]
        for out, operands in following.get(b, ()):
            order = next((_order(view, t) for t in operands if t.buffer is b and t.ndim == view.ndim), None)
            if order is None:
                continue
            for t in operands:
                if t.ndim == view.ndim and t.buffer not in region and t.buffer.kind == ARENA and _aligned(t, out):
                    want(t.permute(order))
    if not region:
        return
    refs = references(launches)
    placed = set()
    for b, t in region.items():
        base = _base(t)
        if base is None or all(old == new for _, old, new in base):
            placed.add(b)
            continue
        done = _moved(launches, refs, b, base)
        count(stats, "channels last" if done else "channels last refused")
        if done:
            placed.add(b)
    _follow_rows(launches, refs, placed, stats)


def _follow_rows(launches: list[Launch], refs: Refs, placed: set[Buffer], stats: Stats) -> None:
    """A buffer between a copy and kernels that would rather walk along rows gets the order of those rows. A copy may write or read in any order, and one that
    has to transpose (a reshape of what a convolution wrote) then moves runs of channels instead of single elements.
    """
    copied = {t.buffer for launch in launches if launch.is_copy for t in launch.tensors()} - placed
    rows: dict[Buffer, Tensor | None] = {}
    for launch in launches:
        if not launch.is_copy:
            for t in launch.tensors():
                b = t.buffer
                if b in copied and b.kind == ARENA:
                    first = rows.setdefault(b, t)
                    if launch.kernel not in _ROWS or first is None or first.shape != t.shape or first.strides != t.strides:
                        rows[b] = None
    for b, view in rows.items():
        if view is None or view.offset != 0 or view.strides == row_major(view.shape):
            continue
        axes = dense_axes(view.shape, view.strides, b.size)
        if axes is not None:
            new = row_major(view.shape)
            done = _moved(launches, refs, b, [(n, s, new[i]) for s, n, i in axes])
            count(stats, "rows" if done else "rows refused")


def _moved(launches: list[Launch], refs: Refs, b: Buffer, base: list[tuple[int, int, int]]) -> bool:
    """Change b's layout by base (n, old stride, new stride), cutting the axes of copies if some view needs it."""
    if rehome(refs, b, base, b, 0):
        return True
    refused = {id(t) for t in refs[b].values() if compose(t.shape, t.strides, t.offset, base) is None}
    cuts: list[tuple[Launch, Shape]] = []
    for launch in launches:
        for t in launch.tensors():
            if id(t) in refused:
                found = _cut(t, base) if launch.is_copy and all(launch is not other for other, _ in cuts) else None
                if found is None:
                    return False
                cuts.append((launch, found))
    for launch, shape in cuts:
        for side in (launch.ins, launch.outs):
            whole = side[0]
            assert whole is not None
            side[0] = cut = whole.clone()
            cut.shape, cut.strides = shape, _cut_strides(whole, shape)
    refs.clear()
    refs.update(references(launches))
    return rehome(refs, b, base, b, 0)


def _cut(t: Tensor, base: list[tuple[int, int, int]]) -> Shape | None:
    """The shape of t with its axes cut where they step from one axis of base to the next; None if that does not help."""
    shape: list[int] = []
    strides: list[int] = []
    for n, s in zip(t.shape, t.strides):
        for _, old, _ in base:
            if s > 0 and s < old and old < s * n and old % s == 0 and s * n % old == 0:
                shape.append(s * n // old)
                strides.append(old)
                n = old // s
        shape.append(n)
        strides.append(s)
    if compose(tuple(shape), tuple(strides), t.offset, base) is None:
        return None
    return tuple(shape)


def _cut_strides(t: Tensor, shape: Shape) -> Shape:
    """The strides of t with its axes cut into those of `shape`."""
    strides: list[int] = []
    k = 0
    for n, s in zip(t.shape, t.strides):
        first, size = k, 1
        while size < n or k == first:
            size *= shape[k]
            k += 1
        step = s
        part: list[int] = []
        for m in reversed(shape[first:k]):
            part.append(step)
            step *= m
        strides += reversed(part)
    return tuple(strides)


def _order(view: Tensor, t: Tensor) -> tuple[int, ...]:
    """The axes of t, a view of the same buffer, in the order in which `view` has them."""
    left = list(range(t.ndim))
    order = []
    for i, (n, s) in enumerate(zip(view.shape, view.strides)):
        fits = [j for j in left if (t.shape[j] == 1 if n == 1 else t.strides[j] == s)]
        j = i if i in fits or (not fits and i in left) else (fits or left)[0]
        left.remove(j)
        order.append(j)
    return tuple(order)


def _aligned(t: Tensor, out: Tensor) -> bool:
    """Does t take part with all of its elements? Broadcast operands do not decide layouts."""
    for n, s in zip(t.shape, t.strides):
        if s == 0 and n != 1:
            return False
    return t.shape[:2] == out.shape[:2]


def _base(t: Tensor) -> list[tuple[int, int, int]] | None:
    """The layout change that makes t's buffer channels-last in t's axes; None if t does not determine it."""
    b = t.buffer
    if t.offset == 0:
        axes = dense_axes(t.shape, t.strides, b.size)
        if axes is not None:
            new = channels_last_strides(t.shape)
            return [(n, s, new[i]) for s, n, i in axes]
    if b.home is not None and len(b.home[0]) == t.ndim:  # a slice of a concatenation or padding destination with the same axes
        shape, strides = b.home
        if any(s not in (0, h) for s, h, n in zip(t.strides, strides, t.shape) if n != 1):
            return None
        axes = dense_axes(shape, strides, b.size)
        if axes is not None:
            new = channels_last_strides(shape)
            return [(n, s, new[i]) for s, n, i in axes]
    return None
