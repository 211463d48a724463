"""Threads for device "numba", which has none of its own, and how many a process may use."""

from __future__ import annotations

import ctypes
import os
from _thread import allocate_lock, get_native_id
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread


def _cpu_function() -> Callable[[], int]:
    """The function that says which CPU the calling thread runs on; one that gives -1 where there is none."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return lambda: -1


_this_cpu = _cpu_function()


class Worker:
    """A thread that runs one part of a call at a time. It allocates nothing."""

    def __init__(self) -> None:
        self._free, self._go, self._done = allocate_lock(), allocate_lock(), allocate_lock()
        self._go.acquire()
        self._done.acquire()
        self._job: tuple[Callable[..., int], int, int, int, int] | None = None
        self._result = 0
        self._id = 0  # of the thread, for the system
        self._kept_off = -1  # the CPU of the last caller that it was moved away from
        Thread(target=self._loop, name="pytensor_rt-numba", daemon=True).start()

    def _loop(self) -> None:
        self._id = get_native_id()
        while True:
            self._go.acquire()
            assert self._job is not None
            kernel, words, begin, end, slot = self._job
            self._result = kernel(words, begin, end, slot)
            self._done.release()

    def hire(self, kernel: Callable[..., int], words: int, begin: int, end: int, slot: int) -> bool:
        """Start it on a part of a call; False if it is busy. Who hires it waits for it."""
        if not self._free.acquire(False):
            return False
        here = _this_cpu()
        if here != self._kept_off and self._id:
            self._keep_off(here)
        self._job = (kernel, words, begin, end, slot)
        self._go.release()
        return True

    def _keep_off(self, cpu: int) -> None:
        """Keep the thread off a CPU, that of its caller, where a scheduler would like to wake it: see csrc/core/thread_pool.cpp."""
        self._kept_off = cpu
        others = os.sched_getaffinity(0) - {cpu}
        if cpu >= 0 and others:
            with suppress(OSError):  # not allowed here: it stays where the system puts it
                os.sched_setaffinity(self._id, others)

    def wait(self) -> int:
        """The result of what it was hired for."""
        self._done.acquire()
        result = self._result
        self._free.release()
        return result


_workers: dict[int, list[Worker]] = {}
_making = allocate_lock()


def workers(n: int) -> list[Worker]:
    """At least n threads of this process (a fork has its own)."""
    found = _workers.get(os.getpid())
    if found is None or len(found) < n:
        with _making:
            found = _workers.setdefault(os.getpid(), [])
            while len(found) < n:
                found.append(Worker())
    return found


def available_cpus() -> int:
    """CPUs this process may use: the affinity mask capped by the control group's quota (as csrc/core/thread_pool.cpp counts them)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups():
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:
                quota, period = [(group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
            except OSError:
                continue
        if quota.isdigit() and int(quota) > 0:
            cpus = min(cpus, max(1, -(-int(quota) // int(period))))
    return cpus


def _control_groups() -> list[Path]:
    """The control groups of this process and their ancestors, as far as they are visible."""
    out = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return out
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers or "cpu" in controllers.split(","):
            root = out[1] if controllers else out[0]
            whole = root / path.lstrip("/")
            out += [p for p in (whole, *whole.parents) if root in p.parents]
    return out
