"""What a plan looks like, for people and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..lowering.tensor import CONST
from .program import BoundPlan, describe_nodes


@dataclass(frozen=True)
class LaunchReport:
    """One launch: its kernel, strategy, operands, and the ONNX nodes it serves."""

    kernel: str
    strategy: str
    nodes: str
    operands: tuple[str, ...]
    program: int  # instructions in its body, prologue and epilogue


@dataclass(frozen=True)
class PlanReport:
    """Totals over the segments of one signature. Bytes are exact; `lower_bound` is the largest sum of live bytes of any launch."""

    launches: tuple[LaunchReport, ...]
    kernels: dict[str, int]
    recorded: int
    views: int
    in_place: int
    written_into_place: int
    copies: int
    fused: int
    arena_bytes: int
    lower_bound: int
    unshared_bytes: int
    scratch_bytes: int
    weight_bytes: int
    packed_bytes: int
    segments: int
    chains: int  # of launches that were cut (plan/bands.py)
    whole: int  # launches before that
    stats: dict[str, int]

    def __str__(self) -> str:
        kernels = ", ".join(f"{n} {k}" for k, n in sorted(self.kernels.items(), key=lambda kn: -kn[1]))
        lines = [
            f"launches        {len(self.launches)} of {self.recorded} recorded ({kernels})",
            f"fused           {self.fused}; in place {self.in_place}; written into place {self.written_into_place}; copies left {self.copies}",
            f"arena           {_bytes(self.arena_bytes)}, lower bound {_bytes(self.lower_bound)}, without sharing {_bytes(self.unshared_bytes)}",
            f"scratch         {_bytes(self.scratch_bytes)}",
            f"weights         {_bytes(self.weight_bytes)} in the model, {_bytes(self.packed_bytes)} packed",
        ]
        if self.chains:
            lines.insert(1, f"chains          {self.chains}, cut into pieces for caches and workers: {self.whole} launches before")
        if self.segments > 1:
            lines.append(f"segments        {self.segments}")
        return "\n".join(lines)

    def table(self) -> str:
        """One line per launch."""
        rows = [(str(i), x.kernel, x.strategy, " ".join(x.operands), x.nodes) for i, x in enumerate(self.launches)]
        widths = [min(60, max((len(r[c]) for r in rows), default=0)) for c in range(4)]
        return "\n".join("  ".join([*(r[c][: widths[c]].ljust(widths[c]) for c in range(4)), r[4]]) for r in rows)


def _bytes(n: int) -> str:
    return f"{n} B" if n < 1024 else f"{n / 1024:.1f} KiB" if n < 1 << 20 else f"{n / (1 << 20):.2f} MiB"


def report_of(memory: Any, bounds: list[BoundPlan]) -> PlanReport:
    """The report of the bound plans of one signature."""
    launches: list[LaunchReport] = []
    kernels: dict[str, int] = {}
    stats: dict[str, int] = {}
    weights: dict[int, int] = {}
    for bound in bounds:
        native = 0
        for launch in bound.plan.launches:
            strategy = "host: strings, sequences, maps and optionals are Python values"
            if launch.kernel != "host":
                strategy = bound.describe(native)
                native += 1
            shapes = tuple(f"{t.dtype}{list(map(int, t.shape))}" for t in (*launch.ins, *launch.outs) if t is not None)
            size = len(launch.body) + len(launch.prologue) + len(launch.epilogue)
            launches.append(LaunchReport(launch.kernel, strategy, describe_nodes(launch), shapes, size))
            for t in launch.tensors():
                if t.buffer.kind == CONST:
                    weights[id(t.buffer)] = t.buffer.nbytes
        for k, n in bound.plan.counts().items():
            kernels[k] = kernels.get(k, 0) + n
        for k, n in bound.plan.stats.items():
            stats[k] = stats.get(k, 0) + n
    return PlanReport(
        launches=tuple(launches),
        kernels=kernels,
        recorded=stats.get("recorded", 0),
        views=stats.get("views", 0),
        in_place=stats.get("in place", 0),
        written_into_place=stats.get("write into place", 0),
        copies=kernels.get("copy", 0),
        fused=stats.get("map into map", 0) + stats.get("epilogue", 0) + stats.get("prologue", 0),
        arena_bytes=max((b.plan.arena_bytes for b in bounds), default=0),
        lower_bound=max((b.plan.lower_bound for b in bounds), default=0),
        unshared_bytes=max((b.plan.naive_bytes for b in bounds), default=0),
        scratch_bytes=max((b.scratch_bytes for b in bounds), default=0),
        weight_bytes=sum(weights.values()),
        packed_bytes=memory.packs.nbytes,
        segments=len(bounds),
        chains=stats.get("chains of images", 0) + stats.get("chains of rows", 0),
        whole=stats["whole"],
        stats=stats,
    )
