"""Compare runtimes on the zoo and the architectures: latency, speed against onnxruntime, share of the machine's peak, load time, memory, error.

    python benchmarks/compare.py                                    everything, threads 1 and 2
    python benchmarks/compare.py --models zoo 'mobilenet*' --threads 1 --seconds 2

See benchmarks/README.md for what the columns mean and how they are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib.util
import json
import os
import pickle
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import architectures, zoo
from benchmarks.float64 import NoReference, float64_outputs
from benchmarks.kernels.peak import peak

HERE = Path(__file__).resolve().parent
BASE = "onnxruntime"
RUNTIMES = ("pytensor_rt", "onnxruntime", "openvino", "tract")
Row = dict[str, Any]


class WorkerError(RuntimeError):
    """A runtime answered with an error, died or took too long."""


class Process:
    """A worker process. Only the one whose command is being awaited runs; the others are blocked in a read."""

    def __init__(self, runtime: str, timeout: float) -> None:
        self.runtime, self.timeout = runtime, timeout
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        command = [sys.executable, str(HERE / "worker.py"), runtime]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # installed packages have bytecode
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, bufsize=0, env=environment)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises WorkerError."""
        assert self.process.stdin is not None and self.process.stdout is not None
        deadline, answer = time.monotonic() + self.timeout, b""
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            while not answer.endswith(b"\n"):
                ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    self.close()
                    raise WorkerError(f"no answer within {self.timeout:.0f} s")
                part = os.read(self.process.stdout.fileno(), 1 << 20)
                if not part:
                    raise BrokenPipeError
                answer += part
        except BrokenPipeError:
            raise WorkerError(self._death()) from None
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def _death(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"died ({how}){': ' + said[-1][:200] if said else ''}"

    def close(self) -> None:
        """End this process."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def flatten(value: Any) -> list[np.ndarray[Any, Any]]:
    """The arrays in an output: tensors, sequences, and maps (their keys, then their values)."""
    if isinstance(value, list | tuple):
        return [a for v in value for a in flatten(v)]
    if isinstance(value, dict):
        return [np.array(list(value.keys())), np.array(list(value.values()))]
    return [np.asarray(value)]


def error_of(ours: Any, theirs: Any, tolerance: zoo.Tolerance) -> tuple[float, float]:
    """Largest absolute difference, and largest difference as a multiple of the tolerance. Raises ValueError if shapes differ."""
    worst, share = 0.0, 0.0
    a_all, b_all = flatten(ours), flatten(theirs)
    if [a.shape for a in a_all] != [b.shape for b in b_all]:
        raise ValueError(f"output shapes differ: {[a.shape for a in a_all]} and {[b.shape for b in b_all]}")
    for a, b in zip(a_all, b_all):
        if a.dtype.kind not in "fiub":
            if not (a == b).all():
                return float("inf"), float("inf")
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            d = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        d = np.where(np.isnan(d), np.inf, d)
        bound = tolerance.absolute + tolerance.relative * np.abs(y) if a.dtype.kind == "f" else np.full(y.shape, 1e-9)
        if d.size:
            worst, share = max(worst, float(d.max())), max(share, float((d / bound).max()))
    return worst, share


def measure(model: Any, threads: int, runtimes: list[str], args: argparse.Namespace, scratch: Path) -> list[Row]:
    """All rows of one model at one number of threads: blocks of runs, the runtimes taking turns, in alternating order."""
    feeds = scratch / "feeds.npz"
    np.savez(feeds, **model.inputs(np.random.default_rng(7)))
    command = {"model": str(model.path()), "feeds": str(feeds), "threads": threads}
    rows: dict[str, Row] = {r: {"model": model.name, "threads": threads, "runtime": r} for r in runtimes}
    live: dict[str, Process] = {}
    blocks: dict[str, list[list[float]]] = {r: [] for r in runtimes}
    outputs: dict[str, Any] = {}
    loads: dict[str, list[float]] = {r: [] for r in runtimes}
    flops: int | None = None

    def attempt(runtime: str, do: str, **arguments: Any) -> dict[str, Any] | None:
        try:
            return live[runtime].ask(do, **arguments)
        except WorkerError as error:
            rows[runtime]["failed"] = str(error)
            live.pop(runtime).close()
            return None

    try:
        for turn in range(args.loads):  # every opening is in a fresh process; the last one stays for the blocks
            for r in runtimes if turn % 2 == 0 else runtimes[::-1]:
                if "failed" in rows[r]:
                    continue
                if r in live:
                    live.pop(r).close()
                live[r] = Process(r, args.timeout)
                opened = attempt(r, "open", **command)
                if opened:
                    loads[r].append(opened["load_s"])
                    rows[r].update(import_s=opened["import_s"], first_rss=opened["rss"])
        for turn in range(args.repeat):
            for r in runtimes if turn % 2 == 0 else runtimes[::-1]:
                if r in live:
                    time.sleep(0.01)  # lets the pools of the one before stop spinning
                    done = attempt(r, "block", seconds=args.seconds / args.repeat)
                    if done:
                        blocks[r].append(done["times"])
        for r in list(live):
            file = scratch / "outputs.pickle"
            said = attempt(r, "outputs", file=str(file))
            if said is not None:
                rows[r]["peak_rss"] = said["rss"]
                outputs[r] = pickle.loads(file.read_bytes())
        if "pytensor_rt" in live:
            counted = attempt("pytensor_rt", "count")
            flops = counted["flops"] if counted else None
    finally:
        for p in live.values():
            p.close()
    exact = None
    if args.float64 and outputs:
        with contextlib.suppress(NoReference):
            exact = float64_outputs(model.path(), model.inputs(np.random.default_rng(7)))
    for r, row in rows.items():
        if "failed" in row:
            continue
        times = np.concatenate([np.array(b) for b in blocks[r]])
        row.update(median_s=float(np.median(times)), p10_s=float(np.percentile(times, 10)), p90_s=float(np.percentile(times, 90)))
        row.update(runs=int(times.size), load_s=float(np.median(loads[r])))
        if "failed" not in rows.get(BASE, {"failed": ""}):
            row["speed"] = float(np.median([np.median(b) / np.median(a) for a, b in zip(blocks[r], blocks[BASE])]))
            try:
                row["max_error"], row["error_share"] = error_of(outputs[r], outputs[BASE], model.tolerance)
                row["noise"] = block_noise(blocks[r], blocks[BASE])
            except ValueError as error:
                row["wrong"] = str(error)
        if exact is not None:
            row["error64"], row["error64_share"] = error_of(outputs[r], exact, model.tolerance)
        if flops:
            row["flops"] = flops
    return list(rows.values())


def block_noise(ours: list[list[float]], base: list[list[float]]) -> float:
    """Relative standard error of the median speed over block pairs, from their median absolute deviation."""
    speeds = np.array([np.median(b) / np.median(a) for a, b in zip(ours, base)])
    middle = float(np.median(speeds))
    return 1.4826 * 1.2533 * float(np.median(np.abs(speeds - middle))) / middle / float(np.sqrt(speeds.size))


def geometric_means(rows: list[Row]) -> list[Row]:
    """One row per number of threads and runtime: the geometric mean of speed, the lowest speed and where."""
    found: list[Row] = []
    for threads in sorted({r["threads"] for r in rows}):
        for runtime in dict.fromkeys(r["runtime"] for r in rows):
            if runtime == BASE:
                continue
            some = [r for r in rows if r["threads"] == threads and r["runtime"] == runtime and "speed" in r]
            if some:
                low = min(some, key=lambda r: r["speed"])
                mean = float(np.exp(np.mean([np.log(r["speed"]) for r in some])))
                found.append(
                    {"threads": threads, "runtime": runtime, "speed": mean, "count": len(some), "lowest": low["speed"], "at": low["model"]}
                )
    return found


def markdown(rows: list[Row], means: list[Row], about: Row) -> str:
    """The table."""
    head = (
        "model",
        "threads",
        "runtime",
        "median ms (p10 - p90)",
        "speed",
        "% peak",
        "load ms",
        "peak RSS MB: first result / all",
        "max error",
    )
    lines = [f"{about['cpu']}, {about['cores']} CPUs, {about['date']}; {about['versions']}", ""]
    for n, p in about["peak"].items():
        lines.append(f"Peak with {n} thread(s): {p['flops'] / 1e9:.1f} GFLOP/s ({p['source']}), {p['bandwidth'] / 1e9:.1f} GB/s.")
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        first = [r["model"], str(r["threads"]), r["runtime"]]
        if "failed" in r:
            cells = [f"failed: {r['failed'].replace('|', '/')}", "", "", "", "", "", ""]
        else:
            share = f"{100 * r['flops'] / r['median_s'] / about['peak'][str(r['threads'])]['flops']:.0f}" if "flops" in r else ""
            wrong = "" if r.get("error_share", 0) <= 1 else f" **{r['error_share']:.1f} x tolerance**"
            error = r.get("wrong", "") or (f"{r['max_error']:.1e}{wrong}" if "max_error" in r else "")
            timing = f"{r['median_s'] * 1e3:.3f} ({r['p10_s'] * 1e3:.3f} - {r['p90_s'] * 1e3:.3f})"
            speed = f"{r['speed']:.2f}" if "speed" in r else ""
            cells = [timing, speed, share, f"{r['load_s'] * 1e3:.0f}", f"{r['first_rss'] / 1e6:.0f} / {r['peak_rss'] / 1e6:.0f}", error]
            wrong = "" if r.get("error64_share", 0) <= 1 else f" **{r['error64_share']:.1f} x tolerance**"
            cells.append(f"{r['error64']:.1e}{wrong}" if "error64" in r else "")
        lines.append("| " + " | ".join(first + cells) + " |")
    for m in means:
        note = f"lowest {m['lowest']:.2f} ({m['at']})"
        lines.append(f"| **geometric mean of {m['count']}** | {m['threads']} | {m['runtime']} | {note} | **{m['speed']:.2f}** | | | | | |")
    return "\n".join(lines) + "\n"


def describe(threads: list[int], runtimes: list[str]) -> Row:
    """The machine and the versions."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu)
    versions = []
    for r in (*runtimes, "numpy"):
        try:
            versions.append(f"{r} {version(r)}")
        except PackageNotFoundError:
            versions.append(f"{r} (from source)")
    peaks = {str(n): vars(peak(n)) for n in threads}
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu, "cores": cores, "date": time.strftime("%Y-%m-%d %H:%M"), "versions": ", ".join(versions), "peak": peaks}


def select_models(patterns: list[str]) -> list[Any]:
    """Models whose names match: `zoo`, `architectures`, `small`, or patterns of names."""
    groups = {"zoo": zoo.MODELS, "architectures": architectures.MODELS, "small": architectures.SMALL}
    every = {name: m for g in groups.values() for name, m in g.items()}
    chosen: dict[str, Any] = {}
    for p in patterns:
        names = list(groups[p]) if p in groups else fnmatch.filter(every, p)
        if not names:
            raise SystemExit(f"no model is called {p!r}; see zoo.py --list and architectures.py --list")
        chosen.update({n: every[n] for n in names if p in groups or not n.endswith("-small") or "small" in p})
    return list(chosen.values())


def main() -> int:
    """The command line; returns the exit status: 1 if pytensor_rt failed or was wrong anywhere."""
    parser = argparse.ArgumentParser(description="Compare ONNX runtimes on real models.")
    parser.add_argument("--models", nargs="+", default=["zoo", "architectures"], help="zoo, architectures, small, or patterns of names")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="default: all that are installed")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds per model, threads and runtime")
    parser.add_argument("--repeat", type=int, default=8, help="blocks that these are split into")
    parser.add_argument("--loads", type=int, default=3, help="fresh processes per load time")
    parser.add_argument("--float64", action="store_true", help="also the errors against the model in float64 (slow: NumPy)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a runtime may take for one command")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compare", help="where to write .json and .md")
    args = parser.parse_args()
    if min(args.repeat, args.loads, *args.threads) < 1 or args.seconds <= 0:
        parser.error("--repeat, --loads, --threads and --seconds must be positive")
    runtimes = args.runtimes or [r for r in RUNTIMES if r == "pytensor_rt" or importlib.util.find_spec(r) is not None]
    models = select_models(args.models)
    about, rows, skipped = describe(args.threads, runtimes), [], []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for i, model in enumerate(models):
            for threads in args.threads:
                print(f"[{i + 1}/{len(models)}] {model.name}, {threads} thread(s): ", end="", file=sys.stderr, flush=True)
                try:
                    found = measure(model, threads, runtimes, args, Path(scratch))
                except (zoo.RegistryError, zoo.PinError, architectures.ExportError) as error:
                    print(f"skipped: {error}", file=sys.stderr)
                    skipped.append(f"{model.name}: {error}")
                    break
                rows += found
                again, best = vars(peak(threads)), about["peak"][str(threads)]
                best.update({k: max(best[k], again[k]) for k in ("flops", "bandwidth")})
                text = [
                    f"{r['runtime']} {r['median_s'] * 1e3:.3f} ms" if "median_s" in r else f"{r['runtime']} {r['failed']}" for r in found
                ]
                print(", ".join(text), file=sys.stderr, flush=True)
                means = geometric_means(rows)
                args.out.with_suffix(".json").write_text(
                    json.dumps({"about": about, "rows": rows, "means": means, "skipped": skipped}, indent=1)
                )
                table = markdown(rows, means, about) + "".join(f"\nSkipped: {s}" for s in skipped)
                args.out.with_suffix(".md").write_text(table)
    if not rows:
        return 1
    print(table)
    ours = [r for r in rows if r["runtime"] == "pytensor_rt"]
    return int(any("failed" in r or "wrong" in r or max(r.get("error_share", 0), r.get("error64_share", 0)) > 1 for r in ours))


if __name__ == "__main__":
    sys.exit(main())
