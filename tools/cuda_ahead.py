"""Compile the stock CUDA kernels with nvcc: every launch of pytensor_rt/kernels/cuda/plans samples(), for every architecture, as cubins.

CMake runs it where it finds nvcc and the build's Python has the package's requirements, and installs the folder as pytensor_rt/kernels/cuda/binaries.
Kernels that models generate (fused expressions) are not among them: `pytensor-rt compile MODEL` makes those of one model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pytensor_rt.kernels.cuda import device  # noqa: E402
from pytensor_rt.kernels.cuda.plans import plan_launch, samples  # noqa: E402


def compile_one(nvcc: str, source: str, arch: int, target: Path) -> str:
    """One translation unit to one cubin. Returns what nvcc says is wrong, or nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kernel.cu"
        file.write_text(source)
        command = [
            nvcc,
            "-cubin",
            f"-arch=sm_{arch}",
            "-std=c++17",
            "--expt-relaxed-constexpr",
            f"-I{ROOT / 'csrc' / 'cuda'}",
            "-o",
            str(target),
            str(file),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        return f"{' '.join(command)}:\n{done.stderr}" if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arch", type=int, action="append", choices=device.ARCHS, metavar="N", help="may be repeated (default: all)")
    parser.add_argument("--only", default="", help="kernels whose names begin with this")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    sources = {c.source for _, _, launch in samples() for c in plan_launch(launch) if c.entry.name.startswith(args.only)}
    jobs = [(s, a) for s in sorted(sources) for a in args.arch or device.ARCHS]
    with ThreadPoolExecutor(args.jobs) as pool:
        said = list(pool.map(lambda job: compile_one(args.nvcc, *job, args.output / device.file_name(job[0], f"sm_{job[1]}")), jobs))
    wrong = [text for text in said if text]
    for text in wrong:
        print(text, file=sys.stderr)
    print(f"{len(jobs) - len(wrong)} of {len(jobs)} cubins, {len(sources)} kernels")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
