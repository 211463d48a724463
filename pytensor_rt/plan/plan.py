"""KernelGraph → Plan: dead code, layout, fusion, copy elision, in-place, placement. Every step is a pure list transform, in this order."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from ..lowering.symbolic import plain
from ..lowering.tensor import Buffer, Launch
from .alias import in_place, lifetimes
from .arena import Item, aligned, lower_bound, place
from .elide import elide_copies
from .fuse import Stats, dead_code, fuse
from .layout import channels_last
from .verify import verify

VERIFY = os.environ.get("PTRT_VERIFY") == "1"


@dataclass
class Plan:
    """Launches in order, where their buffers lie, and what the planner did. Plain data, immutable once made."""

    launches: list[Launch]
    outputs: dict[str, Any]  # name -> Tensor, or a nested lowering.tracer.Sequence of them
    offsets: dict[Buffer, int]  # byte offset of every arena buffer
    arena_bytes: int
    lower_bound: int
    naive_bytes: int  # sum of all buffers, as if nothing were shared
    stats: Stats
    into: dict[int, set[int]]
    items: list[Item] = field(default_factory=list)
    roots: list[tuple[Buffer, int]] = field(default_factory=list)  # arena buffers with the item that holds each
    seconds: dict[str, float] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Launches by kernel; copies counted apart."""
        out: dict[str, int] = {}
        for launch in self.launches:
            key = "copy" if launch.is_copy else launch.kernel
            out[key] = out.get(key, 0) + 1
        return out


@dataclass(frozen=True)
class PlanOptions:
    """Switches for tests and measurements; every combination gives the same results."""

    layout: bool = True
    fuse: bool = True
    elide: bool = True
    alias: bool = True


def make_plan(
    launches: list[Launch],
    outputs: dict[str, Any],
    options: PlanOptions = PlanOptions(),
    keep: set[Buffer] | None = None,
    check: bool = True,
) -> Plan:
    """Plan a recorded kernel graph. Mutates the launches' tensors: pass clones if the trace goes on. `keep`: host buffers read afterwards.

    With PTRT_VERIFY=1 the plan is verified, unless `check` is False (symbolic plans are verified as instances).
    """
    clock = time.perf_counter
    stats: Stats = {"recorded": len(launches)}
    into: dict[int, set[int]] = {}
    marks = [("", clock())]

    def mark(name: str) -> None:
        marks.append((name, clock()))

    launches = dead_code(launches, keep or set())
    if options.layout:
        channels_last(launches, stats)
    mark("layout")
    if options.fuse:
        launches = fuse(launches, stats)
    mark("fuse")
    if options.elide:
        launches = elide_copies(launches, stats, into)
    mark("elide")
    roots = in_place(launches, stats) if options.alias else {}
    mark("alias")
    items, holders = _items(launches, roots)
    sizes = [(first, last, plain(n)) for first, last, n in items]  # placement follows the hints of symbolic sizes
    offsets, arena_bytes = place(sizes)
    mark("place")
    plan = Plan(
        launches=launches,
        outputs=outputs,
        offsets={b: offsets[k] for b, k in holders},
        arena_bytes=arena_bytes,
        lower_bound=lower_bound(sizes, len(launches)),
        naive_bytes=sum(aligned(plain(b.nbytes)) for b, _ in holders),
        stats=stats,
        into=into,
        items=items,
        roots=holders,
        seconds={name: t - marks[i][1] for i, (name, t) in enumerate(marks[1:])},
    )
    if check and VERIFY:
        verify(plan)
    return plan


def _items(launches: list[Launch], roots: dict[Buffer, Buffer]) -> tuple[list[Item], list[tuple[Buffer, int]]]:
    """One placement item per piece of memory: the union of the lifetimes of the buffers that share it."""
    life = lifetimes(launches)
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
