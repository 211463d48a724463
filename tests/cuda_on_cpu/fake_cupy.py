"""What CuPy needs a driver for, on the executor: devices, streams, graphs, memory, modules. Everything else stays the real CuPy.

`install(monkeypatch)` replaces these names; tests/cuda_on_cpu/test_fake.py compares the signatures used here with the real ones. Work is queued
and done only when a stream is synchronised, in order, so that code which reads a result without waiting reads old bytes. Device memory is full of
NaN bytes when allocated and known to the executor by its exact size; host memory handed out as pinned is remembered, and asynchronous copies
from or to other memory are done at once, as the driver does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import cupy
import numpy as np

from . import executor

CAPABILITY = "81"  # no such GPU: kernels come as PTX of the next older architecture, sm_80


class Driver:
    """The state of the pretended driver: memory, streams, and what was launched."""

    def __init__(self) -> None:
        self.memory = executor.Memory()
        self.options = executor.Options(checks=False)
        self.current: list[Stream] = []
        self.launches: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self.graphs = 0  # graph launches
        self.allocations = 0
        self.pinned: dict[int, int] = {}
        self.modules: dict[str, executor.Module] = {}
        self.lock = Lock()


DRIVER = Driver()
Work = Callable[[], None]


class Device:
    """cupy.cuda.Device"""

    def __init__(self, device: int | None = None) -> None:
        self.id = device or 0

    compute_capability = CAPABILITY

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        raise AssertionError("synchronises every stream: use the stream's own")


class Stream:
    """cupy.cuda.Stream"""

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None) -> None:
        self.non_blocking = non_blocking
        self.queue: list[Work] = []
        self.capturing: list[Work] | None = None
        self.ptr = id(self)

    def __enter__(self) -> Stream:
        DRIVER.current.append(self)
        return self

    def __exit__(self, *args: Any) -> None:
        DRIVER.current.pop()

    def submit(self, work: Work) -> None:
        (self.queue if self.capturing is None else self.capturing).append(work)

    def synchronize(self) -> None:
        assert self.capturing is None, "cudaErrorStreamCaptureUnsupported"
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def begin_capture(self, mode: Any = None) -> None:
        assert self.non_blocking and self.capturing is None
        self.capturing = []

    def end_capture(self) -> Graph:
        assert self.capturing is not None
        works, self.capturing = self.capturing, None
        return Graph(works)

    def wait_event(self, event: Event) -> None:
        self.submit(lambda: event.stream.synchronize() if event.stream is not self else None)


class Event:
    """cupy.cuda.Event"""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream = _DEFAULT

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or get_current_stream()


class Graph:
    """cupy.cuda.Graph"""

    def __init__(self, works: list[Work]) -> None:
        self.works = works

    def launch(self, stream: Stream | None = None) -> None:
        assert stream is not None

        def work() -> None:
            DRIVER.graphs += 1
            for w in self.works:
                w()

        stream.submit(work)

    def upload(self, stream: Stream | None = None) -> None:
        pass


class _Block:
    """One allocation; leaves the executor's memory with its last reference."""

    def __init__(self, nbytes: int) -> None:
        self.raw = np.full(nbytes + 256, 0xFF, np.uint8)
        self.address = self.raw.ctypes.data + -self.raw.ctypes.data % 256
        self.memory = DRIVER.memory
        DRIVER.memory.add(self.address, nbytes, f"allocation{DRIVER.allocations}")
        DRIVER.allocations += 1

    def __del__(self) -> None:
        self.memory.remove(self.address)


class MemoryPointer(cupy.cuda.MemoryPointer):  # type: ignore[misc]
    """A real MemoryPointer, on host memory, whose copies go through the current stream."""

    def __add__(self, other: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + int(other))

    def _inside(self, size: int) -> None:
        at = self.ptr - self.mem.ptr
        assert at >= 0 and at + size <= self.mem.size, f"copy of {size} bytes at {at} of {self.mem.size}"

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        self._inside(size)
        assert isinstance(mem, int)
        target, stream = self.ptr, stream or DRIVER.current[-1]
        if _is_pinned(mem, size):
            stream.submit(lambda: _copy(target, mem, size, to_device=True))
        else:  # pageable memory is staged by the driver before the call returns
            data = ctypes.string_at(mem, size)
            stream.submit(lambda: _copy(target, data, size, to_device=True))

    def copy_to_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        self._inside(size)
        assert isinstance(mem, int)
        source, stream = self.ptr, stream or DRIVER.current[-1]
        stream.submit(lambda: _copy(mem, source, size, to_device=False))
        if not _is_pinned(mem, size):
            stream.synchronize()

    def copy_from_device_async(self, src: Any, size: int, stream: Any = None) -> None:
        self._inside(size)
        target, source = self.ptr, src.ptr
        (stream or DRIVER.current[-1]).submit(lambda: _copy(target, source, size, to_device=True))

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        self._inside(size)
        target = self.ptr

        def work() -> None:
            ctypes.memset(target, value, size)
            DRIVER.memory.mark_initialised(target, size)

        (stream or DRIVER.current[-1]).submit(work)


def _copy(target: int, source: int | bytes, size: int, to_device: bool) -> None:
    ctypes.memmove(target, source, size)
    if to_device:
        DRIVER.memory.mark_initialised(target, size)


def _is_pinned(address: int, size: int) -> bool:
    return any(a <= address and address + size <= a + n for a, n in DRIVER.pinned.items())


def alloc(size: int) -> MemoryPointer:
    """cupy.cuda.alloc"""
    block = _Block(size)
    return MemoryPointer(cupy.cuda.UnownedMemory(block.address, size, block, 0), 0)


def alloc_pinned_memory(size: int) -> Any:
    """cupy.cuda.alloc_pinned_memory"""
    raw = np.full(size, 0xFF, np.uint8)
    DRIVER.pinned[raw.ctypes.data] = size
    return raw.data


class RawModule:
    """cupy.RawModule of a PTX file."""

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: Any = None,
        jitify: Any = None,
    ) -> None:
        assert code is None and path is not None and path.endswith(".ptx")
        if path not in DRIVER.modules:
            DRIVER.modules[path] = executor.Module(Path(path).read_text())
        self.module = DRIVER.modules[path]

    def get_function(self, name: str) -> RawKernel:
        assert name in self.module.functions, name
        return RawKernel(self.module, name)


class RawKernel:
    """cupy.RawKernel: checks its argument against the parameter the compiler declared."""

    def __init__(self, module: executor.Module, name: str) -> None:
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        assert isinstance(grid, tuple) and isinstance(block, tuple)
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "cudaErrorInvalidValue: dynamic shared memory"
        (a,) = args
        assert isinstance(a, np.ndarray) and a.size == 1
        data = a.tobytes()
        assert len(data) == self.module.functions[self.name].param_bytes, f"{self.name}: {len(data)} bytes of arguments"
        shape = tuple([max(1, g) for g in grid])

        def work() -> None:
            with DRIVER.lock:  # launches of several streams that share memory take turns on the executor
                DRIVER.launches.append((self.name, shape, block))
                executor.launch(self.module, self.name, shape, block, data, DRIVER.memory, shared_mem, DRIVER.options)

        DRIVER.current[-1].submit(work)


_DEFAULT = Stream()


def get_current_stream(device_id: int = -1) -> Stream:
    """cupy.cuda.get_current_stream"""
    return DRIVER.current[-1] if DRIVER.current else _DEFAULT


def get_device_count() -> int:
    """cupy.cuda.runtime.getDeviceCount"""
    return 1


def get_device_properties(device: int) -> dict[str, Any]:
    """cupy.cuda.runtime.getDeviceProperties"""
    return {"name": b"executor on a CPU"}


REPLACED: dict[str, Any] = {
    "cupy.RawModule": RawModule,
    "cupy.cuda.Device": Device,
    "cupy.cuda.Stream": Stream,
    "cupy.cuda.Event": Event,
    "cupy.cuda.get_current_stream": get_current_stream,
    "cupy.cuda.alloc": alloc,
    "cupy.cuda.alloc_pinned_memory": alloc_pinned_memory,
    "cupy.cuda.runtime.getDeviceCount": get_device_count,
    "cupy.cuda.runtime.getDeviceProperties": get_device_properties,
}


def install(monkeypatch: Any, checks: bool = False, order: str = "forward") -> Driver:
    """Replace what needs a driver; returns the fresh pretended driver."""
    global DRIVER
    DRIVER = Driver()
    DRIVER.options = executor.Options(checks=checks, order=order)
    for name, value in REPLACED.items():
        monkeypatch.setattr(name, value)
    return DRIVER
