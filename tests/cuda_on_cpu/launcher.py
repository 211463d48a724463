"""Runs one launch of the vocabulary on the executor: plan, compile to PTX, execute with every check. What the kernel cases are replayed on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal
from zlib import crc32

import numpy as np

from pytensor_rt import _native
from pytensor_rt.errors import UnsupportedError
from pytensor_rt.kernels.cuda import device, errors
from pytensor_rt.kernels.cuda.build import Call, Operand, Pointer, Scratch, Status, Table
from pytensor_rt.kernels.cuda.plans import plan_launch
from pytensor_rt.lowering.tensor import Buffer, Launch

from . import executor

TARGET = "compute_80"
ORDERS: tuple[Literal["forward", "reverse", "random"], ...] = ("forward", "reverse", "random")
Array = np.ndarray[Any, Any]


@lru_cache(maxsize=512)
def module(source: str, target: str = TARGET) -> executor.Module:
    """The PTX of a translation unit, parsed."""
    return executor.Module(device.compiled(source, target).read_text())


class Allocation:
    """Device memory of exactly `nbytes`, aligned to 256 bytes as CUDA's are, full of NaN bytes."""

    def __init__(self, memory: executor.Memory, nbytes: int, name: str, data: Array | None = None) -> None:
        self.memory = memory
        self._raw = np.full(nbytes + 256, 0xFF, np.uint8)
        start = -self._raw.ctypes.data % 256
        self.bytes = self._raw[start : start + nbytes]
        self.address = self._raw.ctypes.data + start
        if data is not None:
            self.bytes[:] = data
        if nbytes:
            memory.add(self.address, nbytes, name, initialised=data is not None)


def run(launch: Launch, bases: dict[Buffer, Array], threads: int = 1) -> None:
    """Execute `launch` on host arrays: `bases` are the 1-d stretches of memory behind its buffers, some of which may overlap.

    The order of blocks, warps and lanes (forward, reverse, random) is the launch's own for threads 1 and another for 2 and 3, so that cases that
    compare the results of several thread counts compare orders. Asynchronous copies land as late as they may for odd `threads`, at once for even.
    Raises executor.KernelFault for what is wrong with a kernel, _native.LaunchError for what is wrong with the data.
    """
    shapes = repr([(t.dtype.name, t.shape) for t in launch.tensors()])
    turn = (crc32(f"{launch.kernel}{shapes}".encode()) + threads) % 3
    options = executor.Options(order=ORDERS[turn], seed=turn + len(bases), async_copies="lazy" if threads % 2 else "eager")
    memory = executor.Memory()
    written = {t.buffer for t in launch.writes()}
    spans, held = stretches(bases)
    address: dict[Buffer, int] = {}
    copies: list[tuple[Array, Array]] = []
    kept = []
    for k, (begin, end) in enumerate(spans):
        inside = [(b, start, a) for b, start, a in held if begin <= start < end]
        whole = Allocation(memory, end - begin, f"buffer{k}", np.zeros(end - begin, np.uint8))
        kept.append(whole)
        fresh = all(b in written for b, _, _ in inside)
        for b, start, a in inside:
            part = whole.bytes[start - begin : start - begin + a.nbytes]
            part[:] = a.view(np.uint8)
            address[b] = whole.address + start - begin
            if b in written:
                copies.append((a.view(np.uint8), part))
        if fresh:
            memory.remove(whole.address)
            memory.add(whole.address, end - begin, f"output{k}", initialised=False)
    try:
        calls = plan_launch(launch)
    except UnsupportedError as e:  # what the C++ kernels refuse when they are bound
        raise _native.LaunchError(str(e)) from None
    execute(calls, launch, address, memory, options)
    for host, part in copies:
        host[:] = part


def arguments(call: Call, address: dict[Buffer, int], scratch: int, status: int, uploaded: Callable[[Array], int]) -> bytes:
    """The bytes of a call's arguments, given where everything lies."""

    def resolve(p: Pointer) -> int:
        if isinstance(p, Operand):
            return address.get(p.buffer, 256) + p.offset  # an empty buffer has no memory, and is never read
        if isinstance(p, Scratch):
            return scratch + p.offset
        if isinstance(p, Status):
            return status
        assert isinstance(p, Table)
        return uploaded(p.data)

    args = bytearray(call.args)
    for at, p in call.pointers:
        args[at : at + 8] = resolve(p).to_bytes(8, "little")
    return bytes(args)


def execute(calls: list[Call], launch: Launch, address: dict[Buffer, int], memory: executor.Memory, options: Any) -> list[Any]:
    """Run the calls of one launch; returns their counters. Raises _native.LaunchError for bad data."""
    counters, text = executed(calls, launch, address, memory, options)
    if text is not None:
        raise _native.LaunchError(text)
    return counters


def executed(
    calls: list[Call], launch: Launch, address: dict[Buffer, int], memory: executor.Memory, options: Any
) -> tuple[list[Any], str | None]:
    """The counters of one launch's calls, and what they say is wrong with the data."""
    status = Allocation(memory, 8 * errors.WORDS, "status", np.full(8 * errors.WORDS, 0xFF, np.uint8))
    scratch = Allocation(memory, max([c.scratch for c in calls], default=0), "scratch")
    tables: dict[int, Allocation] = {}

    def uploaded(data: Array) -> int:
        if id(data) not in tables:
            host = np.ascontiguousarray(data)
            tables[id(data)] = Allocation(memory, host.nbytes, "table", host.reshape(-1).view(np.uint8))
        return tables[id(data)].address

    counters = []
    for call in calls:
        args = arguments(call, address, scratch.address, status.address, uploaded)
        loaded = module(call.source)
        assert loaded.functions[call.entry.name].param_bytes == len(args), f"{call.entry.name}: the compiler's Args has another size"
        counters.append(executor.launch(loaded, call.entry.name, call.grid, call.block, args, memory, call.shared, options))
    return counters, errors.message(status.bytes.view(np.uint64).tolist(), launch)


_gpu: Any = None


def run_on_gpu(launch: Launch, bases: dict[Buffer, Array], threads: int = 1) -> None:
    """Execute `launch` on a real device, with copies of the same memory."""
    global _gpu
    if _gpu is None:
        _gpu = device.Device()
    gpu = _gpu
    spans, held = stretches(bases)
    blocks = []
    address: dict[Buffer, int] = {}
    for begin, end in spans:
        block = gpu.allocate(end - begin)
        blocks.append(block)
        for b, start, a in held:
            if begin <= start < end:
                gpu.upload(block, start - begin, a.view(np.uint8))
                address[b] = block.ptr + start - begin
    gpu.synchronize()
    calls = plan_launch(launch)
    words = np.empty(errors.WORDS, np.uint64)
    status, scratch = gpu.allocate(words.nbytes), gpu.allocate(max([c.scratch for c in calls], default=0))
    gpu.fill(status, 0, 0xFF, words.nbytes)
    tables: dict[int, Any] = {}

    def uploaded(data: Array) -> int:
        if id(data) not in tables:
            host = np.ascontiguousarray(data)
            tables[id(data)] = gpu.allocate(host.nbytes)
            gpu.upload(tables[id(data)], 0, host)
            gpu.synchronize()
        return int(tables[id(data)].ptr)

    for call in calls:
        args = arguments(call, address, int(scratch.ptr), int(status.ptr), uploaded)
        with gpu.device, gpu.stream:
            gpu.launch(gpu.function(call.source, call.entry.name), call.grid, call.block, args, call.shared)
    gpu.download(status, 0, words)
    written = {t.buffer for t in launch.writes()}
    for (begin, end), block in zip(spans, blocks):
        for b, start, a in held:
            if begin <= start < end and b in written:
                gpu.download(block, start - begin, a.view(np.uint8))
    gpu.synchronize()
    text = errors.message(words.tolist(), launch)
    if text is not None:
        raise _native.LaunchError(text)


def stretches(bases: dict[Buffer, Array]) -> tuple[list[tuple[int, int]], list[tuple[Buffer, int, Array]]]:
    """The disjoint stretches of host memory under the buffers, and (buffer, address, array) of every buffer that has memory."""
    held = [(b, a.ctypes.data, a) for b, a in bases.items() if a.nbytes]
    spans: list[tuple[int, int]] = []
    for _, start, a in sorted(held, key=lambda h: h[1]):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], start + a.nbytes))
        else:
            spans.append((start, start + a.nbytes))
    return spans, held
