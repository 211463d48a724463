"""The thread pool seen through kernels: many jobs, many callers, errors, fork, and no CPU use when idle."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native
from tests.kernels import harness

from . import cases

ROWS = 4000


def gather_case(bad: int | None = None) -> cases.Case:
    """A gather of about a hundred tasks; with `bad`, index number `bad` and all after it are out of range."""
    rng = np.random.default_rng(0)
    table, idx = rng.standard_normal((500, 400)).astype(np.float32), rng.integers(0, 500, ROWS)
    if bad is not None:
        idx[bad:] = np.arange(1000, 1000 + ROWS - bad)
    return cases.record("gather", [table, idx], [((ROWS, 400), np.float32)], {"mode": "axis"})


def expected(case: cases.Case) -> Any:
    table, idx = case.inputs[0].view(np.float32).reshape(500, 400), case.inputs[1].view(np.int64)
    return table[idx]


def result(case: cases.Case) -> Any:
    return case.outputs[0].view(np.float32).reshape(ROWS, 400)


@pytest.mark.parametrize("threads", [2, 3, 8, 40])
def test_many_jobs(threads: int) -> None:
    """Results are complete after every run, also with far more workers than CPUs and with jobs right after one another."""
    case = gather_case()
    want = expected(case)
    program = case.bind(threads=threads)
    for k in range(60):
        case.outputs[0][...] = 0
        program.run(case.inputs, case.outputs, 0, 1)
        if k % 20 == 0:
            np.testing.assert_array_equal(result(case), want)
            time.sleep(0.002)  # long enough for workers to go to sleep
    np.testing.assert_array_equal(result(case), want)


def test_small_jobs_in_a_row() -> None:
    """Thousands of two-task jobs: a worker that is late for one must not touch the next."""
    x = np.random.default_rng(1).standard_normal((2, 40000)).astype(np.float32)
    case = cases.record("topk", [x], [((2, 1), np.float32), ((2, 1), np.int64)], {"axis": 1, "k": 1})
    program = case.bind(threads=2)
    want = x.max(1)
    for _ in range(1500):
        case.outputs[0][...] = 0
        program.run(case.inputs, case.outputs, 0, 1)
        assert (case.outputs[0].view(np.float32) == want).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_error_of_the_lowest_task_is_raised(threads: int) -> None:
    case, good = gather_case(bad=1234), gather_case()
    program, again = case.bind(threads=threads), good.bind(threads=threads)
    for _ in range(15):
        with pytest.raises(_native.LaunchError, match=r"^index 1000 is out of range for axis 0 of size 500$"):
            program.run(case.inputs, case.outputs, 0, 1)
        again.run(good.inputs, good.outputs, 0, 1)  # the pool is usable after an error
    np.testing.assert_array_equal(result(good), expected(good))


def test_runs_from_many_python_threads() -> None:
    """Programs of different arenas run at once (one gets the pool, the others do their own work); one program is shared by all."""
    shared_case = gather_case()
    shared = shared_case.bind(threads=2)
    failures: list[Any] = []

    def work() -> None:
        try:
            case = gather_case()
            program, want = case.bind(threads=2), expected(case)
            for _ in range(10):
                case.outputs[0][...] = 0
                program.run(case.inputs, case.outputs, 0, 1)
                np.testing.assert_array_equal(result(case), want)
                mine = (np.zeros_like(shared_case.outputs[0]),)
                shared.run(shared_case.inputs, mine, 0, 1)
                np.testing.assert_array_equal(mine[0].view(np.float32).reshape(ROWS, 400), want)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork() -> None:
    """In a forked child, and its child, the pool starts afresh; the parent's goes on."""
    code = """
import os, sys
import numpy as np
from tests.core.test_thread_pool import gather_case, expected, result

case = gather_case()
program = case.bind(threads=3)
want = expected(case)

def check():
    for _ in range(5):
        case.outputs[0][...] = 0
        program.run(case.inputs, case.outputs, 0, 1)
        np.testing.assert_array_equal(result(case), want)

def child(depth):
    pid = os.fork()
    if pid == 0:
        try:
            check()
            if depth:
                child(depth - 1)
            os._exit(0)
        except BaseException as e:
            print(e, file=sys.stderr)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

check()
for _ in range(5):
    child(1)
    check()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_idle_workers_use_no_cpu() -> None:
    case = gather_case()
    program = case.bind(threads=4)
    program.run(case.inputs, case.outputs, 0, 1)
    time.sleep(0.05)
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.01


def test_unwanted_workers_sleep_through_other_jobs() -> None:
    """After a job for many workers, jobs for two do not wake the rest: CPU time stays near that of two threads."""
    big = gather_case()
    big.bind(threads=32).run(big.inputs, big.outputs, 0, 1)
    time.sleep(0.05)
    x = np.random.default_rng(1).standard_normal((2, 40000)).astype(np.float32)
    case = cases.record("topk", [x], [((2, 1), np.float32), ((2, 1), np.int64)], {"axis": 1, "k": 1})
    program = case.bind(threads=2)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    while time.perf_counter() - start < 0.3:
        program.run(case.inputs, case.outputs, 0, 1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 2.2 * (time.perf_counter() - start) + 0.05


def test_workers_whose_cpus_are_taken() -> None:
    """With a busy process on every CPU, workers lose theirs in the middle of tasks, and are moved to their caller's: all tasks are done once."""
    case = gather_case()
    want = expected(case)
    program = case.bind(threads=2)
    hog = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", hog, str(cpu)]) for cpu in sorted(os.sched_getaffinity(0))[:8]]
    try:
        start = time.perf_counter()
        while time.perf_counter() - start < 1.5:
            case.outputs[0][...] = 0
            program.run(case.inputs, case.outputs, 0, 1)
            np.testing.assert_array_equal(result(case), want)
    finally:
        for process in hogs:
            process.kill()
            process.wait()


def test_available_cpus() -> None:
    assert 1 <= _native.available_cpus() <= len(os.sched_getaffinity(0))


def test_absurd_thread_counts_are_clamped() -> None:
    case = cases.BUILDERS["map"]()
    for threads in (-5, 0, 2**30):
        program = case.bind(threads=threads)
        program.run(case.inputs, case.outputs, 0, 1)
        assert program.scratch_bytes < 1 << 30


def test_results_do_not_depend_on_the_thread_count() -> None:
    rng = np.random.default_rng(3)
    x, idx, u = (
        rng.standard_normal((200, 300)).astype(np.float32),
        rng.integers(0, 200, (200, 300)),
        rng.standard_normal((200, 300)).astype(np.float32),
    )
    runs = {
        harness.run("scatter", [x, idx, u], [(x.shape, np.float32)], {"mode": "elements", "reduction": "add"}, threads=t)[0].tobytes()
        for t in (1, 2, 3, 7, 16)
    }
    assert len(runs) == 1
