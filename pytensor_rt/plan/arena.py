"""Arena placement as a pure function of lifetimes and sizes."""

from __future__ import annotations

from collections.abc import Sequence

ALIGN = 64
Item = tuple[int, int, int]  # first launch, last launch (inclusive), bytes


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def neighbours(items: Sequence[Item]) -> list[list[int]]:
    """For every item the items that live at some time together with it."""
    found: list[list[int]] = [[] for _ in items]
    live: list[int] = []
    for k in sorted(range(len(items)), key=lambda k: items[k][0]):
        first = items[k][0]
        live = [j for j in live if items[j][1] >= first]
        for j in live:
            found[j].append(k)
        found[k] += live
        live.append(k)
    return found


def place_among(sizes: Sequence[int], first: Sequence[int], together: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Offsets of items of these sizes, multiples of 64, and the arena's size: offline best fit, biggest first, into the tightest free gap.

    `first`: the launch where an item begins, which decides between items of one size; `together`: its neighbours.
    """
    offsets = [-1] * len(sizes)
    total = 0
    for k in sorted(range(len(sizes)), key=lambda k: (-sizes[k], first[k], k)):
        n = sizes[k]
        position, best, gap = 0, -1, -1
        for lo, hi in sorted([(offsets[j], offsets[j] + sizes[j]) for j in together[k] if offsets[j] >= 0]):
            room = lo - position
            if room >= n and (best < 0 or room < gap):
                best, gap = position, room
            if hi > position:
                position = hi
        at = best if best >= 0 else position
        offsets[k] = at
        if at + n > total:
            total = at + n
    return offsets, total


def place(items: Sequence[Item]) -> tuple[list[int], int]:
    """Offsets (multiples of 64) of all items and the arena's size."""
    return place_among([aligned(n) for _, _, n in items], [first for first, _, _ in items], neighbours(items))


def lower_bound(items: Sequence[Item], launches: int) -> int:
    """The largest sum of bytes alive at one launch: no placement can be smaller."""
    change = [0] * (launches + 2)
    for first, last, n in items:
        change[first] += aligned(n)
        change[last + 1] -= aligned(n)
    best = live = 0
    for c in change:
        live += c
        best = max(best, live)
    return best
