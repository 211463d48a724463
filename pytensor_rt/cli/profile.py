"""`pytensor-rt profile MODEL`."""

from __future__ import annotations

import argparse

from ..lowering.tensor import HostCall
from ..plan.cost import bytes_moved, flops
from ..runtime.program import describe_nodes
from .common import make_inputs, open_session, seconds, table


class Line:
    """Sums over launches."""

    def __init__(self) -> None:
        self.calls = self.flops = self.bytes = 0
        self.seconds = 0.0

    def row(self, name: str, total: float) -> tuple[str, ...]:
        """The cells of this line: time, share, calls, GFLOP/s, GB/s, name."""
        t = max(self.seconds, 1e-9)
        rates = (f"{self.flops / t / 1e9:.1f}", f"{self.bytes / t / 1e9:.1f}")
        return (seconds(self.seconds), f"{self.seconds / total:.1%}", str(self.calls), *rates, name)


def command(args: argparse.Namespace) -> int:
    """Median time of every launch, summed per kernel and per ONNX node (a fused launch is one line naming all its nodes)."""
    session = open_session(args)
    feeds = make_inputs(session, args)
    runner = session.bind(**feeds)
    times = runner.profile(args.repeat)
    launches = [x for x in runner.plan.launches if not isinstance(x, HostCall)]
    kernels: dict[str, Line] = {}
    nodes: dict[str, Line] = {}
    for launch, ns in zip(launches, times):
        for lines, key in ((kernels, "copy" if launch.is_copy else launch.kernel), (nodes, describe_nodes(launch))):
            line = lines.setdefault(key, Line())
            line.calls += 1
            line.seconds += int(ns) / 1e9
            line.flops += flops(launch)
            line.bytes += bytes_moved(launch)
    total = sum(line.seconds for line in kernels.values()) or 1e-9
    work = sum(line.flops for line in kernels.values())
    print(
        f"{len(launches)} launches, {seconds(total)}, {work / 1e9:.3f} GFLOP, {work / total / 1e9:.1f} GFLOP/s, {session.threads} threads, {session.isa}"
    )
    for title, lines in (("kernel", kernels), ("ONNX nodes", nodes)):
        head = ("time", "share", "calls", "GFLOP/s", "GB/s", title)
        rows = [line.row(name, total) for name, line in sorted(lines.items(), key=lambda item: -item[1].seconds)]
        print("\n" + table([head, *rows], "rrrrr"))
    return 0
