"""Reduced precision against float32, in this process: `python benchmarks/precision.py [MODEL ...] [--precisions bf16 ...] [--repeat N]`.

Per model and precision: the largest absolute difference of any output, the relative error sqrt(sum (x - y)^2 / sum y^2) over all outputs, both
against float32 on the same random inputs (worst of --feeds draws); the ratio of times (blocks of runs in turns, median of the ratios of neighbouring
blocks, and its quartiles); the bytes of packed weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytensor_rt as ptrt
from benchmarks.architectures import MODELS

DEFAULT = ("bert_base-script", "minilm_l6-script", "gpt2_decode-script", "gpt2_prefill-script", "resnet50-script", "vit_b16-script")


def errors(want: list[Any], got: list[Any]) -> tuple[float, float]:
    """(largest absolute difference, relative error) over all outputs of floats."""
    pairs = [(g.astype(np.float64), w.astype(np.float64)) for g, w in zip(got, want) if w.dtype.kind == "f" and w.size]
    worst = max(float(np.abs(g - w).max()) for g, w in pairs)
    off, size = sum(float(((g - w) ** 2).sum()) for g, w in pairs), sum(float((w**2).sum()) for _, w in pairs)
    return worst, float(np.sqrt(off / size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(DEFAULT), metavar="MODEL")
    parser.add_argument("--precisions", nargs="*", default=["bf16", "int8", "fp16"])
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="blocks of runs")
    parser.add_argument("--feeds", type=int, default=3, metavar="N", help="draws of random inputs for the errors")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for name in args.models:
        model = MODELS[name]
        sessions = {p: ptrt.InferenceSession(model.path(), threads=args.threads, precision=p) for p in ("float32", *args.precisions)}
        off = dict.fromkeys(args.precisions, (0.0, 0.0))
        for seed in range(args.feeds):
            feeds = model.inputs(np.random.default_rng(seed))
            want = sessions["float32"].run(None, feeds)
            for p in args.precisions:
                off[p] = max(off[p], errors(want, sessions[p].run(None, feeds)), key=lambda e: e[1])
        runners = {p: s.bind(**feeds) for p, s in sessions.items()}
        times: dict[str, list[float]] = {p: [] for p in runners}
        for runner in runners.values():
            runner.replay()
        start = time.perf_counter()
        runners["float32"].replay()
        n = max(1, int(0.03 / (time.perf_counter() - start)))
        for _ in range(args.repeat):
            for p, runner in runners.items():
                start = time.perf_counter()
                for _ in range(n):
                    runner.replay()
                times[p].append((time.perf_counter() - start) / n)
        for p in runners:
            packed = sessions[p].plan_report(**feeds).packed_bytes / 1e6
            line = f"{name:22s} {p:8s} {min(times[p]) * 1e3:9.2f} ms  packed {packed:7.1f} MB"
            if p != "float32":
                low, middle, high = statistics.quantiles([a / b for a, b in zip(times["float32"], times[p])], n=4, method="inclusive")
                line += f"  speed {middle:.2f} ({low:.2f} to {high:.2f})  max error {off[p][0]:.2e}  relative {off[p][1]:.2e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
