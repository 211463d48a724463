"""KernelGraph → Plan: dead code, layout, fusion, copy elision, in-place, placement. Every step is a pure list transform, in this order."""

from __future__ import annotations

import os
import time
from typing import Any

from ..lowering.symbolic import is_symbolic, plain
from ..lowering.tensor import Buffer, HostCall, Launch, tensors_of
from .alias import in_place, lifetimes, share
from .arena import Item, aligned, lower_bound, place
from .bands import Cut, Strands, cut_chains
from .elide import elide_copies
from .fuse import Stats, dead_code, fuse
from .layout import channels_last

VERIFY = os.environ.get("PTRT_VERIFY") == "1"


class Plan:
    """Launches in order, where their buffers lie, and what the planner did. Plain data, immutable once made."""

    def __init__(
        self,
        *,
        launches: list[Launch],
        outputs: dict[str, Any],
        offsets: dict[Buffer, int],
        arena_bytes: int,
        lower_bound: int,
        naive_bytes: int,
        stats: Stats,
        into: dict[int, set[int]],
        items: list[Item],
        roots: list[tuple[Buffer, int]],
        strands: list[Strands] | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        self.launches = launches
        self.outputs = outputs  # name -> Tensor, or a nested lowering.tracer.Sequence of them
        self.offsets = offsets  # byte offset of every arena buffer
        self.arena_bytes, self.lower_bound = arena_bytes, lower_bound
        self.naive_bytes = naive_bytes  # sum of all buffers, as if nothing were shared
        self.stats, self.into = stats, into
        self.items = items
        self.roots = roots  # arena buffers with the item that holds each
        self.strands = strands or []  # launches that may run at the same time
        self.seconds = seconds or {}

    def counts(self) -> dict[str, int]:
        """Launches by kernel; copies counted apart."""
        out: dict[str, int] = {}
        for launch in self.launches:
            key = "copy" if launch.is_copy else launch.kernel
            out[key] = out.get(key, 0) + 1
        return out


class PlanOptions:
    """Switches for tests and measurements; every combination gives the same results. Only `precision` changes them (spec.GEMM_PRECISIONS)."""

    __slots__ = ("alias", "elide", "fuse", "layout", "precision", "workers")

    def __init__(
        self, layout: bool = True, fuse: bool = True, elide: bool = True, alias: bool = True, precision: str = "full", workers: int = 0
    ) -> None:
        self.layout, self.fuse, self.elide, self.alias, self.precision = layout, fuse, elide, alias, precision
        self.workers = workers  # for which long chains are cut (bands.py); 0: not at all


def make_plan(
    launches: list[Launch],
    outputs: dict[str, Any],
    options: PlanOptions = PlanOptions(),  # noqa: B008
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

    launches = _host_calls_apart(dead_code(launches, keep or set()))
    if options.layout:
        channels_last(launches, stats)
    mark("layout")
    if options.fuse:
        launches = fuse(launches, stats)
    mark("fuse")
    if options.precision != "full":
        from .precision import reduce_precision

        reduce_precision(launches, options.precision, stats)
    if options.elide:
        launches = elide_copies(launches, stats, into)
    mark("elide")
    whole = lifetimes(launches)
    stats["whole"] = len(launches)
    cut = Cut(launches, [], set(), {})
    if options.workers and not any(is_symbolic(n) for launch in launches for t in launch.writes() for n in t.shape):
        cut = cut_chains(launches, {t.buffer for t in tensors_of(outputs)}, options.workers, stats)
    mark("bands")
    roots = in_place(launches, stats, cut.own_memory) if options.alias else {}
    launches = cut.launches
    mark("alias")
    items, holders = _items(launches, roots, cut.strands)
    sizes = [(first, last, plain(n)) for first, last, n in items]  # placement follows the hints of symbolic sizes
    offsets, arena_bytes = place(sizes)
    needed = list(sizes)
    for b, k in holders:
        if b in cut.bounds:
            needed[k] = (*sizes[k][:2], cut.bounds[b])
    mark("place")
    plan = Plan(
        launches=launches,
        outputs=outputs,
        offsets={b: offsets[k] for b, k in holders},
        arena_bytes=arena_bytes,
        lower_bound=lower_bound(needed, len(launches)),
        naive_bytes=sum(aligned(plain(b.nbytes)) for b in whole),
        stats=stats,
        into=into,
        items=items,
        roots=holders,
        strands=cut.strands,
        seconds={name: t - marks[i][1] for i, (name, t) in enumerate(marks[1:])},
    )
    if check and VERIFY:
        from .verify import verify

        verify(plan)
    return plan


def _host_calls_apart(launches: list[Launch]) -> list[Launch]:
    """Host calls that need nothing computed, the rest, host calls of which nothing is computed: fewer stretches of native launches between them."""
    if not any(isinstance(launch, HostCall) for launch in launches):
        return launches
    late: set[Buffer] = set()  # what has to be computed
    parts: tuple[list[Launch], list[Launch]] = [], []
    for launch in launches:
        waits = not isinstance(launch, HostCall) or any(t.buffer in late for t in launch.tensors())
        if waits:
            late.update(t.buffer for t in launch.writes())
        parts[waits].append(launch)
    first, rest = parts
    needed: set[Buffer] = set()
    last: list[Launch] = []
    middle: list[Launch] = []
    for launch in reversed(rest):
        if isinstance(launch, HostCall) and not any(t.buffer in needed for t in launch.writes()):
            last.append(launch)
        else:
            needed.update(t.buffer for t in launch.tensors())
            middle.append(launch)
    return first + middle[::-1] + last[::-1]


def _items(launches: list[Launch], roots: dict[Buffer, Buffer], strands: list[Strands]) -> tuple[list[Item], list[tuple[Buffer, int]]]:
    """One placement item per piece of memory: the union of the lifetimes of the buffers that share it. Strands need theirs all along."""
    life = lifetimes(launches)
    for begin, ends in strands:
        for b in {t.buffer for launch in launches[begin : ends[-1]] for t in launch.tensors()} & life.keys():
            first, last = life[b]
            life[b] = min(first, begin), max(last, ends[-1] - 1)
    return share(life, roots)
