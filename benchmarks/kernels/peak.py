"""What this machine can do at most: float32 multiply-adds per second and memory bytes per second, on 1..n threads.

`python benchmarks/kernels/peak.py` prints both. A small C++ function with twelve independent chains of fused multiply-adds in registers is compiled
on the spot; without a compiler a large matrix product of NumPy stands in for it (and says so), which reaches somewhat less.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

_SOURCE = r"""
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
extern "C" double multiply_adds(long rounds, float* out) {
    V c[12], a, b;
    for (int i = 0; i < BYTES / 4; ++i) { a[i] = out[0]; b[i] = out[1]; }
    for (int k = 0; k < 12; ++k) c[k] = b * float(k);
    for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; ++k) { c[k] = c[k] * a + b; asm volatile("" : "+" REGISTER(c[k])); }
    }
    V s = c[0];
    for (int k = 1; k < 12; ++k) s += c[k];
    out[2] = s[0];
    return double(rounds) * 12 * (BYTES / 4) * 2;
}
"""


@dataclass(frozen=True)
class Peak:
    """`flops`: float32 operations per second; `bandwidth`: bytes per second read from memory; `source`: how flops was measured."""

    flops: float
    bandwidth: float
    source: str


def _best(work: Callable[[int], float], threads: int, repeat: int = 7) -> float:
    """The highest total rate over `repeat` tries of `work(thread)` (which returns its amount of work) on all threads at once."""
    best = 0.0
    for _ in range(repeat):
        amounts = [0.0] * threads
        gate = threading.Barrier(threads + 1)

        def one(i: int, amounts: list[float] = amounts, gate: threading.Barrier = gate) -> None:
            gate.wait()
            amounts[i] = work(i)

        pool = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
        for t in pool:
            t.start()
        gate.wait()
        start = time.perf_counter()
        for t in pool:
            t.join()
        best = max(best, sum(amounts) / (time.perf_counter() - start))
    return best


@cache
def _compiled() -> ctypes.CDLL | None:
    with tempfile.TemporaryDirectory() as folder:
        return _build(Path(folder))


def _build(folder: Path) -> ctypes.CDLL | None:
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        return None
    source, library = folder / "peak.cpp", folder / "peak.so"
    register = "w" if os.uname().machine in ("aarch64", "arm64") else "v"
    source.write_text(_SOURCE.replace("REGISTER", f'"{register}"'))
    command = [compiler, "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", str(source), "-o", str(library)]
    return ctypes.CDLL(str(library)) if subprocess.run(command, capture_output=True).returncode == 0 else None


def peak(threads: int = 1) -> Peak:
    """Measure with `threads` threads; some tenths of a second. On a busy machine the best of several calls is nearer the truth."""
    library = _compiled()
    if library is not None:
        run = library.multiply_adds
        run.restype, run.argtypes = ctypes.c_double, [ctypes.c_long, ctypes.POINTER(ctypes.c_float)]

        def fma(_: int) -> float:
            return float(run(5_000_000, (ctypes.c_float * 3)(0.5, 1.0, 0.0)))

        flops, source = _best(fma, threads), "fused multiply-adds in registers"
    else:
        a = [np.random.default_rng(i).random((1024, 1024), np.float32) for i in range(threads)]

        def product(i: int) -> float:
            a[i] @ a[i]
            return 2.0 * 1024**3

        flops, source = _best(product, threads), "NumPy matrix product: no C++ compiler found"
    blocks = [np.ones(16 << 20, np.float32) for _ in range(threads)]

    def read(i: int) -> float:
        blocks[i].view(np.int64).max()
        return float(blocks[i].nbytes)

    return Peak(flops, _best(read, threads), source)


if __name__ == "__main__":
    for n in (1, os.cpu_count() or 1):
        found = peak(n)
        print(f"{n} thread{'s' * (n > 1)}: {found.flops / 1e9:.1f} GFLOP/s ({found.source}), {found.bandwidth / 1e9:.1f} GB/s")
