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
#include <chrono>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
static double multiply_adds(long rounds, float* out) {
    V a, b;
    for (int i = 0; i < BYTES / 4; ++i) { a[i] = out[0]; b[i] = out[1]; }
#define EACH(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define START(k) V c##k = b * float(k);
#define STEP(k) c##k = c##k * a + b; asm volatile("" : "+" REGISTER(c##k));
#define SUM(k) s += c##k;
    EACH(START)
    for (long r = 0; r < rounds; ++r) { EACH(STEP) }
    V s = {};
    EACH(SUM)
    out[2] = s[0];
    return double(rounds) * 12 * (BYTES / 4) * 2;
}
// The highest rate over pieces of about a millisecond: a preempted piece does not count.
extern "C" double best_rate(int pieces, float* out) {
    double best = 0;
    for (int i = 0; i < pieces; ++i) {
        auto start = std::chrono::steady_clock::now();
        double done = multiply_adds(200000, out);
        double rate = done / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        if (rate > best) best = rate;
    }
    return best;
}
"""


@dataclass(frozen=True)
class Peak:
    """`flops`: float32 operations per second; `bandwidth`: bytes per second read from memory; `source`: how flops was measured."""

    flops: float
    bandwidth: float
    source: str


def _together(work: Callable[[int], float], threads: int) -> float:
    """The sum of what `work(thread)` returns when all threads run it at once."""
    results = [0.0] * threads
    gate = threading.Barrier(threads)

    def one(i: int) -> None:
        gate.wait()
        results[i] = work(i)

    pool = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
    for t in pool:
        t.start()
    for t in pool:
        t.join()
    return sum(results)


def _best_of(repeat: int, amount: float, work: Callable[[], object]) -> float:
    """The highest rate over `repeat` calls that each do `amount`."""
    best = 0.0
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = max(best, amount / (time.perf_counter() - start))
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
        rate = library.best_rate
        rate.restype, rate.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.POINTER(ctypes.c_float)]
        flops = _together(lambda _: float(rate(200, (ctypes.c_float * 3)(0.5, 1.0, 0.0))), threads)
        source = "fused multiply-adds in registers"
    else:
        a = [np.random.default_rng(i).random((768, 768), np.float32) for i in range(threads)]
        flops = _together(lambda i: _best_of(20, 2.0 * 768**3, lambda: a[i] @ a[i]), threads)
        source = "NumPy matrix product: no C++ compiler found"
    blocks = [np.ones(8 << 20, np.int64) for _ in range(threads)]
    bandwidth = _together(lambda i: _best_of(7, float(blocks[i].nbytes), blocks[i].max), threads)
    return Peak(flops, bandwidth, source)


if __name__ == "__main__":
    for n in (1, os.cpu_count() or 1):
        found = peak(n)
        print(f"{n} thread{'s' * (n > 1)}: {found.flops / 1e9:.1f} GFLOP/s ({found.source}), {found.bandwidth / 1e9:.1f} GB/s")
