"""What the API costs: allocations of replay(), and the time to import.

Allocations are counted, not guessed: a child process runs with a shim that counts every call of malloc, calloc, realloc and the aligned ones (so
also C++ `new`), and with PYTHONMALLOC=malloc, which sends every Python object the same way. The count of 1,000 replays must be that of none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

import pytensor_rt as rt
from tests.session.models import DIGITS, affine

ROOT = Path(__file__).resolve().parents[2]

SHIM = r"""
#include <stddef.h>
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
static long n;
static void count(void) { __atomic_add_fetch(&n, 1, __ATOMIC_SEQ_CST); }
long allocations(void) { return __atomic_load_n(&n, __ATOMIC_SEQ_CST); }
void* malloc(size_t s) { count(); return __libc_malloc(s); }
void* calloc(size_t k, size_t s) { count(); return __libc_calloc(k, s); }
void* realloc(void* p, size_t s) { count(); return __libc_realloc(p, s); }
void* memalign(size_t a, size_t s) { count(); return __libc_memalign(a, s); }
void* aligned_alloc(size_t a, size_t s) { count(); return __libc_memalign(a, s); }
int posix_memalign(void** p, size_t a, size_t s) { count(); *p = __libc_memalign(a, s); return *p ? 0 : 12; }
"""

PROGRAM = """
import ctypes, itertools, resource, sys
lib = ctypes.CDLL(None)
lib.allocations.restype = ctypes.c_long
import pytensor_rt
runner = pytensor_rt.InferenceSession(sys.argv[1], threads=int(sys.argv[2])).bind(image=(4, 1, 8, 8))
def count(n):
    replay = runner.replay
    before = lib.allocations()
    for _ in itertools.repeat(None, n):
        replay()
    return lib.allocations() - before
count(10), count(10)
none = count(0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(count(1000) - none, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak, lib.allocations() > 1000)
"""


def child(code: str, *args: str, **env: str) -> str:
    """Run code in a fresh interpreter that finds this checkout's package; returns what it prints."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_replay_allocates_nothing_native_or_python(threads, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("needs a C compiler and glibc to count allocations")
    (tmp_path / "count.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", tmp_path / "count.so", tmp_path / "count.c"], check=True)
    out = child(PROGRAM, DIGITS, threads, LD_PRELOAD=str(tmp_path / "count.so"), PYTHONMALLOC="malloc", PTRT_VERIFY="0")
    assert out == "0 0 True", "allocations in 1,000 replays, growth of peak memory in KiB, does the shim count"


def test_replay_leaves_no_python_memory_behind():
    runner = rt.InferenceSession(affine()).bind(x=(64, 3))
    replay = runner.replay
    for _ in repeat(None, 10):
        replay()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in repeat(None, 1000):
            replay()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= 512, "the bookkeeping of the measurement itself is all that may remain"


def test_run_does_not_grow():
    session = rt.InferenceSession(DIGITS, threads=1)
    image = np.zeros((4, 1, 8, 8), np.float32)
    for _ in range(50):
        session.run(None, {"image": image})
    tracemalloc.start()
    try:
        for _ in range(200):
            session.run(None, {"image": image})
        middle = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            session.run(None, {"image": image})
        assert tracemalloc.get_traced_memory()[0] - middle < 4096
    finally:
        tracemalloc.stop()


def test_importing_costs_little_more_than_numpy():
    """The session itself is imported when it is first named."""
    code = "import time, numpy; t = time.perf_counter(); import pytensor_rt; print(time.perf_counter() - t)"
    child(code)  # compiles the byte code
    best = min(float(child(code)) for _ in range(5))
    assert best <= 0.030, f"{best * 1e3:.1f} ms on top of NumPy's import"
