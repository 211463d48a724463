"""Placement: nothing that lives together overlaps, and the arena is near the largest sum of what does."""

from __future__ import annotations

import random

import pytest

from pytensor_rt.plan.arena import Item, aligned, lower_bound, neighbours, place


def random_items(rng: random.Random, n: int, launches: int) -> list[Item]:
    items = []
    for _ in range(n):
        first = rng.randrange(launches)
        last = min(launches - 1, first + rng.choice((0, 1, 2, 5, 30)))
        items.append((first, last, rng.choice((0, 1, 64, 100, 1000, 4096, rng.randrange(5000)))))
    return items


@pytest.mark.parametrize("seed", range(40))
def test_placement(seed: int) -> None:
    rng = random.Random(seed)
    launches = rng.randrange(1, 60)
    items = random_items(rng, rng.randrange(80), launches)
    together = neighbours(items)
    for i, (first, last, _) in enumerate(items):
        want = {j for j, (s, e, _) in enumerate(items) if j != i and s <= last and first <= e}
        assert set(together[i]) == want and len(together[i]) == len(want)
    offsets, total = place(items)
    for i, (_, _, n) in enumerate(items):
        assert offsets[i] >= 0 and offsets[i] % 64 == 0 and offsets[i] + aligned(n) <= total
        for j in together[i]:
            m = aligned(items[j][2])
            assert not n or not m or offsets[i] + aligned(n) <= offsets[j] or offsets[j] + m <= offsets[i]
    assert lower_bound(items, launches) <= total <= sum(aligned(n) for _, _, n in items)


def test_placement_wastes_little() -> None:
    totals = bounds = 0
    for seed in range(60):
        items = random_items(random.Random(seed), 60, 40)
        totals += place(items)[1]
        bounds += lower_bound(items, 40)
    assert totals <= 1.05 * bounds
