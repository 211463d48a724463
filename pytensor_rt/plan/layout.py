"""Layout: whole convolutional regions get channels-last strides. Logical shapes never change."""

from __future__ import annotations

from ..lowering.tensor import ARENA, Buffer, Launch, Shape, Tensor, compose, dense_axes
from .fuse import Stats, count

Refs = dict[Buffer, dict[int, Tensor]]
_SEEDS = frozenset({"conv", "conv_transpose", "deform_conv", "pool"})
_FOLLOW = frozenset({"map", "resample"})  # kernels that keep logical axes and prefer one layout for all operands


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
    for b, t in region.items():
        base = _base(t)
        if base is None or all(old == new for _, old, new in base):
            continue
        count(stats, "channels last" if rehome(refs, b, base, b, 0) else "channels last refused")


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
