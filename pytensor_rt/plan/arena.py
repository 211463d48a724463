"""Arena placement as a pure function of lifetimes and sizes."""

from __future__ import annotations

from collections.abc import Sequence

ALIGN = 64
Item = tuple[int, int, int]  # first launch, last launch (inclusive), bytes


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def place(items: Sequence[Item]) -> tuple[list[int], int]:
    """Offsets (multiples of 64) of all items and the arena's size: offline best fit, biggest first, into the tightest gap that is free then."""
    order = sorted(range(len(items)), key=lambda k: (-items[k][2], items[k][0], k))
    offsets = [0] * len(items)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    total = 0
    for k in order:
        first, last, n = items[k]
        n = aligned(n)
        position, best, gap = 0, -1, -1
        for lo, hi in sorted([(o, e) for o, e, s, d in placed if s <= last and first <= d]):
            room = lo - position
            if room >= n and (best < 0 or room < gap):
                best, gap = position, room
            if hi > position:
                position = hi
        at = best if best >= 0 else position
        offsets[k] = at
        placed.append((at, at + n, first, last))
        total = max(total, at + n)
    return offsets, total


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
