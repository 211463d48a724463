"""`pytensor-rt bench MODEL`."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from ..errors import PlanError
from .common import interleaved, make_inputs, open_session, peer, seconds, spread


def command(args: argparse.Namespace) -> int:
    """Latency of run() and, where the model is one static plan, of replay(), in turns with onnxruntime, all in this process."""
    session = open_session(args)
    feeds = make_inputs(session, args)
    session.run(None, feeds)
    runs: dict[str, Callable[[], Any]] = {"run": lambda: session.run(None, feeds)}
    try:
        runs["replay"] = session.bind(**feeds).replay
    except PlanError as e:
        print(f"no replay(): {e}")
    other = peer(args, args.model)
    if other is not None:
        runs["onnxruntime"] = lambda: other.run(None, feeds)
    times = interleaved(runs, args.repeat)
    print(f"threads      {session.threads}, kernels {session.isa}, loaded in {seconds(session.load_seconds)}")
    for name, t in times.items():
        line = f"{name:<12} {spread(t)}"
        if name != "onnxruntime" and other is not None:
            line += f"   {statistics.median(times['onnxruntime']) / statistics.median(t):.2f} x the speed of onnxruntime"
        print(line)
    return 0
