"""Writes docs/cuda-kernels.md: every kernel's sample launches, compiled, taken apart and executed on the CPU.

python -m tests.cuda_on_cpu.table            # writes the page (some minutes)
python -m tests.cuda_on_cpu.table --only map # prints the rows of kernels whose name begins with this
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pytest

from pytensor_rt.kernels.cuda.plans import plan_launch, samples
from pytensor_rt.lowering.tensor import CONST, Buffer, Launch

from . import executor
from .binaries import inspect
from .launcher import Allocation, executed
from .mutations import MUTATIONS
from .test_mutations import Mutant, mutated, outcomes

PAGE = Path(__file__).parents[2] / "docs" / "cuda-kernels.md"
SHOWN = (75, 90, 120)  # architectures whose registers and occupancy are listed


@dataclass(frozen=True)
class Gpu:
    """What a roofline needs: bytes per second of memory, operations per second by kind, shared-memory wavefronts per second."""

    name: str
    bandwidth: float
    fp32: float
    fp64: float
    mma: dict[str, float]
    wavefronts: float


# From NVIDIA's data sheet of the A100 40 GB SXM: 108 multiprocessors at 1.41 GHz, one shared-memory wavefront per cycle each.
A100 = Gpu(
    "A100 40 GB", 1555e9, 19.5e12, 9.7e12, {"f16": 312e12, "bf16": 312e12, "tf32": 156e12, "int8": 624e12, "f64": 19.5e12}, 108 * 1.41e9
)


def estimate(c: executor.Counters, gpu: Gpu) -> tuple[float, str]:
    """(seconds at least, what bounds them): the largest of the times that traffic and arithmetic need at the GPU's peaks. Caches are not modelled."""
    times = {
        "memory": 32 * (c.global_load_sectors + c.global_store_sectors) / gpu.bandwidth,
        "f32": c.fp32_flops / gpu.fp32,
        "f64": c.fp64_flops / gpu.fp64,
        "shared": (c.shared_load_wavefronts + c.shared_store_wavefronts) / gpu.wavefronts,
        **{f"mma {k}": n / gpu.mma[k] for k, n in c.mma_flops.items()},
    }
    bound = max(times, key=lambda k: times[k])
    return times[bound], bound


def counted(launch: Launch) -> list[executor.Counters]:
    """The counters of a launch's calls, on operands that are 0 (indices are valid then) and constants that are what they are."""
    memory = executor.Memory()
    address: dict[Buffer, int] = {}
    kept = []
    for t in launch.tensors():
        b = t.buffer
        if b not in address:
            data = np.ascontiguousarray(b.data).reshape(-1).view(np.uint8) if b.kind == CONST else np.zeros(b.nbytes, np.uint8)
            kept.append(Allocation(memory, b.nbytes, repr(b), data))
            address[b] = kept[-1].address
    counters, _ = executed(
        plan_launch(launch), launch, address, memory, executor.Options()
    )  # zeros may be bad data: that does not matter here
    return counters


def too_large(launch: Launch) -> bool:
    """Would executing it with all checks take minutes? By the multiplications of products and convolutions, the elements of others."""
    shapes = [t.shape for t in launch.ins if t is not None]
    y = next(o for o in launch.outs if o is not None)
    work = {
        "gemm": lambda: y.size * shapes[0][-1],
        "conv": lambda: y.size * prod(shapes[1][1:]),
        "attention": lambda: 2 * prod(shapes[0]) * shapes[1][2],
        "recurrent": lambda: shapes[0][0] * shapes[0][1] * (prod(shapes[1]) + prod(shapes[2])),
    }.get(launch.kernel, lambda: sum(prod(s) for s in shapes))
    return int(work()) > 300_000_000


def per(a: int, b: int) -> str:
    """A quotient of counters, or a dash where there were none."""
    return f"{a / b:.2f}" if b else "–"


def rows(only: str) -> list[list[str]]:
    """The cells of the table, one row per call of a sample."""
    out = []
    pool = ThreadPoolExecutor(2)
    for entry, label, launch in samples():
        calls = plan_launch(launch)
        if not any(c.entry.name.startswith(only) for c in calls):
            continue
        if sys.stderr.isatty():
            print(f"\r\033[K{entry.name}: {label}", end="", file=sys.stderr, flush=True)
        counters = [None] * len(calls) if too_large(launch) else counted(launch)
        for i, (call, c) in enumerate(zip(calls, counters, strict=True)):
            threads = call.block[0] * call.block[1] * call.block[2]
            wanted = [a for a in SHOWN if a >= call.entry.min_arch]
            made = dict(zip(wanted, pool.map(inspect, [call.source] * len(wanted), wanted, [call.entry.name] * len(wanted))))
            newest = made[SHOWN[-1]]
            tensor = sorted({o.split(".")[0] for o in newest.opcodes if o.startswith(("HMMA", "IMMA", "DMMA"))})
            counts = ["too large to execute here", "", "", ""]
            if c is not None:
                seconds, bound = estimate(c, A100)
                shared = per(c.shared_load_wavefronts + c.shared_store_wavefronts, c.shared_load_ideal + c.shared_store_ideal)
                loads = per(c.global_load_sectors, c.global_load_requests)
                counts = [shared, loads, per(c.global_store_sectors, c.global_store_requests), f"{1e6 * seconds:.1f} ({bound})"]
            out.append(
                [
                    f"`{call.entry.name}`", label if i == 0 else "″", f"{threads}",
                    " / ".join(str(made[a].registers) if a in made else "–" for a in SHOWN), f"{newest.shared + call.shared}",
                    " / ".join(f"{made[a].occupancy(a, threads, call.shared):.0%}" if a in made else "–" for a in SHOWN),
                    f"{newest.widest_load}", " ".join(tensor) or "–", *counts,
                ]
            )  # fmt: skip
    return out


def caught() -> list[str]:
    """The mutations of mutations.py with what caught each, as lines of Markdown."""
    lines = [
        "## Mutations",
        "",
        "Changes to these kernels, made one at a time, and what the executor or the comparison with NumPy said.",
        "",
    ]
    lines += ["| file | change | launch | caught by |", "|---|---|---|---|"]
    for m in MUTATIONS:
        with pytest.MonkeyPatch.context() as patch:
            found = outcomes(m.case, Mutant(mutated(m)), patch)
        old, new = [" ".join(t.split()).replace("|", "\\|") for t in (m.old, m.new)]
        lines.append(
            f"| {m.file} | `{old}` → {f'`{new}`' if new else 'nothing'} | {m.case.__name__} | {', '.join(sorted(found)) or 'nothing'} |"
        )
    return lines


HEAD = ["kernel", "sample", "threads", "registers", "shared bytes", "occupancy", "load bytes", "tensor cores", "conflicts", "sectors per load",
        "sectors per store", "roofline µs"]  # fmt: skip

INTRODUCTION = f"""# The CUDA kernels

Written by `python -m tests.cuda_on_cpu.table`; do not edit. Every row is one launch of a kernel on a sample of `samples()` in `pytensor_rt/kernels/cuda/plans/`.
**None of these numbers was measured on a GPU**; [cuda.md](cuda.md) says what they can and cannot show.

- registers per thread and occupancy (warps that fit a multiprocessor over the most it holds, by registers, shared memory and blocks) on sm_{", sm_".join(map(str, SHOWN))}; shared memory per
  block; bytes of the widest load from global memory; tensor-core opcodes: from the machine code. No kernel spills on any architecture (`test_gates.py`).
- conflicts: wavefronts of shared memory over those that would do without bank conflicts. Sectors: of 32 bytes, per warp-wide request (4 is a full
  warp of 4-byte elements side by side, 16 of 16-byte packs). Counted by the executor.
- roofline: the least time an {A100.name} would need for the sectors, operations and wavefronts counted, at its data sheet's peaks and without caches,
  and which of them it is. It is a lower bound of a model, not a prediction.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kernels whose names begin with this; printed, not written")
    args = parser.parse_args()
    cells = rows(args.only)
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *("| " + " | ".join(r) + " |" for r in cells)]
    if args.only:
        print("\n".join(lines))
        return 0
    PAGE.write_text(INTRODUCTION + "\n" + "\n".join(lines) + "\n\n" + "\n".join(caught()) + "\n")
    print(f"{len(cells)} launches of {len({r[0] for r in cells})} kernels: {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
