"""Device "numba" next to device "cpu" and onnx.reference: latency at one thread, interleaved, over the architectures or the zoo.

    python benchmarks/pure.py                                  the architectures
    python benchmarks/pure.py --models 'resnet*' zoo --reference 20

"diff" is the largest difference between the devices' results over 1e-4 + 1e-3 |cpu|. Both devices run in turns in one process, in blocks of about `--seconds`; the column is the median over blocks of each block's median. onnx.reference
runs once, with one BLAS thread, in a process of its own that is given up after `--reference` seconds (">" marks a bound; 0: not at all).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import queue
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytensor_rt as rt
from benchmarks import architectures, zoo


def block(session: rt.InferenceSession, feeds: Any, seconds: float) -> float:
    """The median time of runs that fill so many seconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _reference(path: str, feeds: Any, answer: Any) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        session = ReferenceEvaluator(onnx.load(path))
        start = time.perf_counter()
        session.run(None, feeds)
        answer.put(time.perf_counter() - start)
    except Exception as e:  # it does not run every model
        answer.put(str(e)[:80])


def reference(path: Path, feeds: Any, limit: float) -> tuple[float | None, str]:
    """Seconds of one run of onnx.reference and "", the limit and ">" if it took longer, or None and what went wrong."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for the child, which imports NumPy anew
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_reference, args=(str(path), feeds, answer))
    process.start()
    try:
        got = answer.get(timeout=limit)
    except queue.Empty:
        got = None
    process.terminate()
    process.join()
    if got is None:
        return limit, ">"
    return (got, "") if isinstance(got, float) else (None, got)


def difference(a: Any, b: Any) -> float:
    """The largest |a - b| / (1e-4 + 1e-3 |b|) of two outputs."""
    if not isinstance(b, np.ndarray):
        return 0.0 if repr(a) == repr(b) else float("inf")
    if b.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(np.max(np.abs(x - y) / (1e-4 + 1e-3 * np.abs(y)), initial=0.0))


def geomean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="*", default=["architectures"], help="names or patterns; `zoo` and `architectures` mean all of them"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block (default 1)")
    parser.add_argument("--blocks", type=int, default=3, help="per device (default 3)")
    parser.add_argument("--reference", type=float, default=0.0, help="seconds onnx.reference may take (default 0: not run)")
    parser.add_argument("--out", help="write the rows as JSON")
    args = parser.parse_args()
    known: dict[str, Any] = {**architectures.MODELS, **zoo.MODELS}
    groups = {"architectures": list(architectures.MODELS), "zoo": list(zoo.MODELS)}
    names = [n for p in args.models for n in groups.get(p, fnmatch.filter(known, p))]
    rows: list[dict[str, Any]] = []
    print(
        f"{'model':34} {'cpu ms':>9} {'numba ms':>9} {'ratio':>6} {'spread':>7} {'diff':>6} {'onnx.reference ms':>18} {'times':>7}",
        flush=True,
    )
    for name in dict.fromkeys(names):
        model = known[name]
        try:
            path = model.path()
        except (zoo.RegistryError, architectures.ExportError) as e:
            print(f"{name:34} {e}")
            continue
        feeds = model.inputs(np.random.default_rng(1))
        sessions = {d: rt.InferenceSession(path, device=d, threads=1) for d in ("cpu", "numba")}
        results = {d: [s.run(None, feeds) for _ in range(2)][-1] for d, s in sessions.items()}
        diff = max(difference(a, b) for a, b in zip(results["numba"], results["cpu"]))
        times: dict[str, list[float]] = {d: [] for d in sessions}
        for _ in range(args.blocks):
            for d, s in sessions.items():
                times[d].append(block(s, feeds, args.seconds))
        cpu, numba = (statistics.median(times[d]) for d in sessions)
        ratios = [a / b for a, b in zip(times["cpu"], times["numba"])]
        row: dict[str, Any] = {"model": name, "cpu": cpu, "numba": numba, "ratio": cpu / numba, "spread": (max(ratios) - min(ratios)) / 2}
        text = f"{name:34} {1e3 * cpu:9.3f} {1e3 * numba:9.3f} {cpu / numba:6.2f} {'±':>2}{row['spread']:5.2f} {diff:6.2f}"
        if args.reference:
            seconds, note = reference(path, feeds, args.reference)
            if seconds is None:
                text += f"  {note}"
            else:
                row["reference"], row["bound"] = seconds, bool(note)
                text += f" {note:>5}{1e3 * seconds:13.1f} {note}{seconds / numba:6.0f}"
        rows.append(row)
        print(text, flush=True)
        if args.out:
            Path(args.out).write_text(json.dumps(rows, indent=1))
    print(f"\ngeometric mean of cpu / numba over {len(rows)} models: {geomean([r['ratio'] for r in rows]):.3f}")
    with_reference = [r["reference"] / r["numba"] for r in rows if "reference" in r]
    if with_reference:
        print(f"geometric mean of onnx.reference / numba over {len(with_reference)} models: {geomean(with_reference):.0f}")


if __name__ == "__main__":
    main()
