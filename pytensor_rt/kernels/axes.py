"""Axes of a launch as a kernel walks them: size-1 axes dropped, neighbours merged where every operand allows it."""

from __future__ import annotations

from collections.abc import Sequence

Strides = tuple[int, ...]


class Axes:
    """Merged axes in groups, e.g. kept and reduced ones: `sizes` of all in order, `groups` as (first, count), `strides` per operand."""

    __slots__ = ("groups", "sizes", "strides")

    def __init__(self, sizes: Strides, groups: list[tuple[int, int]], strides: list[Strides]) -> None:
        self.sizes, self.groups, self.strides = sizes, groups, strides

    def of(self, group: int) -> Strides:
        """The sizes of one group."""
        first, count = self.groups[group]
        return self.sizes[first : first + count]


def merge(shape: Sequence[int], strides: Sequence[Strides], groups: Sequence[Sequence[int]] | None = None) -> Axes:
    """Merge the axes of `shape` within each group, in the group's order; `strides` are those of all operands over the same axes.

    An operand's merged strides address the same elements in the same order. Without groups, all axes are one group.
    """
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    spans = []
    for group in groups if groups is not None else [range(len(shape))]:
        first = len(sizes)
        for axis in group:
            n = int(shape[axis])
            if n == 1:
                continue
            if len(sizes) > first and all(m[-1] == int(s[axis]) * n for m, s in zip(merged, strides)):
                sizes[-1] *= n
                for m, s in zip(merged, strides):
                    m[-1] = int(s[axis])
            else:
                sizes.append(n)
                for m, s in zip(merged, strides):
                    m.append(int(s[axis]))
        spans.append((first, len(sizes) - first))
    return Axes(tuple(sizes), spans, [tuple(m) for m in merged])


def reach(shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> int:
    """The largest absolute element index that a view touches."""
    low = high = offset
    for n, s in zip(shape, strides):
        if n > 1:
            low, high = low + min(0, (n - 1) * s), high + max(0, (n - 1) * s)
    return max(abs(low), abs(high))


def fold_batch(shape: list[int], axis: int, rows: list[list[int]], columns: list[list[int]]) -> None:
    """Make batch axis `axis` of a product a part of m, if b does not depend on it and everything else steps evenly.

    `rows` are the strides of what has m as its axis -2, `columns` of what has not; they and `shape` are changed.
    """
    m = shape[-2]
    if any(v[axis] for v in columns) or (m != 1 and shape[axis] != 1 and any(v[axis] != m * v[-2] for v in rows)):
        return
    if shape[axis] != 1:
        for v in rows:
            if m == 1:
                v[-2] = v[axis]
    shape[-2] *= shape[axis]
    for v in (shape, *rows, *columns):
        del v[axis]
