"""Device "cuda": plans become launches on a stream, captured into CUDA graphs.

A bound plan owns device memory for its inputs and outputs; the arena and the scratch belong to its lane, constants to the session. The first run
of a plan launches kernel by kernel, the second captures the same launches into a graph, later ones replay it. Addresses are baked into a graph, so
it is kept by the addresses of what may move: the arena, the scratch, and inputs that the caller holds on the device.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

from ..errors import ExecutionError, UnsupportedError
from ..kernels.cuda.build import Call, Operand, Pointer, Scratch, Status, Table
from ..kernels.cuda.device import Device
from ..kernels.cuda.errors import WORDS, message
from ..kernels.cuda.plans import plan_launch
from ..lowering.tensor import ARENA, CONST, HOST, INPUT, Buffer, HostCall, Tensor, row_major
from ..plan.plan import Plan
from .program import Arrays, BoundPlan, describe_nodes, host_view, steps_of

ALIGN = 256
STATUS = 8 * WORDS  # bytes of the words in which a launch reports bad data
MAX_GRAPHS = 8  # kept per stretch of launches, for different addresses of inputs


class Constant:
    """Constant data on the device."""

    def __init__(self, device: Device, data: np.ndarray[Any, Any]) -> None:
        self.source = data  # keeps its id from being used again
        host = np.ascontiguousarray(data)
        self.nbytes = host.nbytes
        self.memory = device.allocate(host.nbytes)
        if host.nbytes:
            device.upload(self.memory, 0, host)
            device.synchronize()

    @property
    def address(self) -> int:
        return int(self.memory.ptr)


class Constants:
    """The constants of a session, shared by all its plans and dropped with the last plan that needs them. Has the interface of the CPU's Packs."""

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[Any, Constant] = weakref.WeakValueDictionary()

    def get(self, device: Device, data: np.ndarray[Any, Any], key: Any = None) -> Constant:
        """The device copy of `data`, found again by `key` or by the array's identity."""
        k = id(data) if key is None else key
        found = self._held.get(k)
        if found is None:
            found = self._held[k] = Constant(device, data)
        return found

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self._held.values())

    def pack_at_bind(self) -> None:
        """Constants are uploaded when a plan is bound in any case."""


class Region:
    """Device memory that grows to the largest plan. A larger one has another address."""

    def __init__(self, device: Device) -> None:
        self._device, self.nbytes, self.memory = device, 0, device.allocate(0)

    def reserve(self, nbytes: int) -> None:
        if nbytes > self.nbytes:
            self._device.synchronize()
            self.memory, self.nbytes = self._device.allocate(nbytes), nbytes

    @property
    def address(self) -> int:
        return int(self.memory.ptr)


class CudaMemory:
    """What the plans of one lane share: the device's stream, the arena, the scratch, the constants."""

    replays_natively = False
    threads = 1

    def __init__(self, device: Device, constants: Constants | None = None) -> None:
        self.device = device
        self.isa = f"sm_{device.arch}"
        self.packs = constants or Constants()
        self.arena, self.scratch = Region(device), Region(device)

    def bind(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer]) -> CudaBound:
        return CudaBound(plan, inputs, outputs, self)

    def wait(self) -> None:
        """Wait for everything queued."""
        self.device.synchronize()

    def adopt(self, value: Any) -> DeviceInput | None:
        """An array that lies on the device already, or None. What its producer has queued happens before what this lane queues from now on.

        Raises ValueError if it cannot be used in place.
        """
        if isinstance(value, np.ndarray) or not (hasattr(type(value), "__cuda_array_interface__") or _on_cuda(value)):
            return None
        return DeviceInput(self.device, self.device.adopt(value))

    def sibling(self) -> CudaMemory:
        """Memory with a stream, an arena and a scratch of its own."""
        return CudaMemory(self.device.sibling(), self.packs)


class DeviceArray:
    """An array on the device that a bound plan owns: its contents are those of the plan's last run."""

    __slots__ = ("_at", "_bound", "dtype", "shape")

    def __init__(self, bound: CudaBound, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._bound, self._at, self.shape, self.dtype = bound, at, shape, dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def address(self) -> int:
        return self._bound.io_address + self._at

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host; waits for the device."""
        (host,) = self._bound.fetch_all([self])
        return np.asarray(host)

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()

    def cupy(self) -> Any:
        """The same memory as a CuPy array, which keeps the plan alive."""
        return self._bound.memory.device.array(self.address, self.shape, self.dtype, self._bound)


class DeviceInput:
    """A caller's array on the device, used where it lies.

    `layout` is None for row-major memory at a multiple of 16 bytes, else (strides, offset, extent) in elements over `address`, which is such a
    multiple.
    """

    __slots__ = ("_array", "_device", "address", "dtype", "layout", "shape")

    def __init__(self, device: Device, array: Any) -> None:
        self._device, self._array = device, array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        k = self.dtype.itemsize
        start = int(array.data.ptr)
        if start % k or any(s % k for s in array.strides):
            raise ValueError("its elements do not lie at multiples of their size")
        strides = tuple([0 if n == 1 else s // k for n, s in zip(self.shape, array.strides)])
        low = sum(min(0, (n - 1) * s) for n, s in zip(self.shape, strides))
        high = sum(max(0, (n - 1) * s) for n, s in zip(self.shape, strides))
        self.address = (start + k * low) // 16 * 16
        offset = (start - self.address) // k
        dense = offset == 0 and strides == row_major(self.shape)
        self.layout = None if dense or 0 in self.shape else (strides, offset, offset + high + 1)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host; waits for the device."""
        return self._device.read(self._array)

    copy = numpy

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()


class CudaBound(BoundPlan):
    """A plan bound to a CUDA device."""

    def __init__(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer], memory: CudaMemory) -> None:
        self._plan, self._instance, self.memory, self.inputs, self.outputs = plan, None, memory, inputs, outputs
        self.native = [launch for launch in plan.launches if not isinstance(launch, HostCall)]
        self.n_native = len(self.native)
        self.program = None
        self.simple = False
        self._held: dict[Any, Constant] = {}  # constants this plan needs, by buffer or table
        self._at: dict[Buffer, int] = {}  # inputs and outputs in the plan's own memory
        size = 0
        for b in (*inputs, *outputs):
            self._at[b] = size
            size += -(-max(1, b.nbytes) // ALIGN) * ALIGN
        self._status_at = size
        self.calls: list[list[Call]] = []
        self._slots: dict[int, int] = {}  # native launch -> the number of its status words
        scratch = 0
        for i, launch in enumerate(self.native):
            try:
                calls = plan_launch(launch)
            except UnsupportedError as e:
                raise UnsupportedError(f"{describe_nodes(launch)}: kernel {launch.kernel!r} on device 'cuda': {e}") from None
            self.calls.append(calls)
            scratch = max([scratch, *(c.scratch for c in calls)])
            if any(isinstance(p, Status) for c in calls for _, p in c.pointers):
                self._slots[i] = len(self._slots)
        self.io = memory.device.allocate(size + STATUS * len(self._slots))
        self._host = memory.device.pinned(size + STATUS * len(self._slots))  # its mirror
        self._scratch_bytes = scratch
        self.words = 16 * len(self.native) + size // 8
        memory.arena.reserve(plan.arena_bytes)
        memory.scratch.reserve(scratch)
        self.steps = steps_of(plan)
        self._upload_constants()
        self._graphs: OrderedDict[Any, Any] = OrderedDict()  # (stretch, addresses) -> None after the first run, then a graph

    def profile(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> Any:
        """Raises UnsupportedError: launches of a graph have no times of their own."""
        raise UnsupportedError("profile is for device 'cpu'; on a GPU, run the program under NVIDIA's Nsight Systems")

    def describe(self, launch: int) -> str:
        """The kernels of a launch with their grids."""
        return ", ".join(f"{c.entry.name}<{'x'.join(str(n) for n in c.grid if n > 1) or 1}>" for c in self.calls[launch])

    @property
    def scratch_bytes(self) -> int:
        """Scratch the launches share."""
        return self._scratch_bytes

    # ------------------------------------------------------------------------------------------------------------------ addresses
    @property
    def io_address(self) -> int:
        return int(self.io.ptr)

    def _upload_constants(self) -> None:
        device, constants = self.memory.device, self.memory.packs
        for calls in self.calls:
            for call in calls:
                for _, p in call.pointers:
                    if isinstance(p, Table) and id(p.data) not in self._held:
                        self._held[id(p.data)] = constants.get(device, p.data, p.key)
                    elif isinstance(p, Operand) and p.buffer.kind == CONST and p.buffer not in self._held:
                        data = p.buffer.data
                        self._held[p.buffer] = constants.get(device, data if data.dtype != object else data.astype(p.buffer.dtype))

    def _address(self, p: Pointer, launch: int, moved: dict[Buffer, int]) -> int:
        if isinstance(p, Scratch):
            return int(self.memory.scratch.address) + p.offset
        if isinstance(p, Status):
            return self.io_address + self._status_at + STATUS * self._slots[launch]
        if isinstance(p, Table):
            return self._held[id(p.data)].address
        return self._buffer_address(p.buffer, moved) + p.offset

    def _buffer_address(self, b: Buffer, moved: dict[Buffer, int]) -> int:
        if b.kind == ARENA:
            return int(self.memory.arena.address) + int(self.plan.offsets[b])
        if b.kind == CONST:
            return self._held[b].address
        return moved[b] if b in moved else self.io_address + self._at[b]

    # -------------------------------------------------------------------------------------------------------------------- running
    def new_outputs(self, specs: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[Any]:
        """The plan's own output arrays, on the device."""
        return [DeviceArray(self, self._at[b], shape, dtype) for b, (shape, dtype) in zip(self.outputs, specs)]

    def own_inputs(self, feeds: dict[str, Any]) -> list[DeviceArray]:
        """The plan's own input arrays, on the device, with the contents of `feeds`."""
        device = self.memory.device
        for b in self.inputs:
            if b.nbytes:
                device.upload(self.io, self._at[b], feeds[b.name])
        device.synchronize()
        return [DeviceArray(self, self._at[b], feeds[b.name].shape, b.dtype) for b in self.inputs]

    def run(self, inputs: Arrays, outputs: Arrays, host: dict[int, Any] | None = None) -> None:
        """Queue everything. Waits only for host calls, and for the status of launches that may find bad data."""
        device = self.memory.device
        values = {} if host is None else host
        moved = self._feed(inputs)
        if self._slots:
            device.fill(self.io, self._status_at, 0xFF, STATUS * len(self._slots))
        key = (self.memory.arena.address, self.memory.scratch.address, *[moved.get(b, 0) for b in self.inputs])
        self._inputs = inputs
        for step in self.steps:
            if isinstance(step, HostCall):
                self._check()
                self._call(step, inputs, outputs, values)
            else:
                self._stretch(step, key, moved)
        if self._slots:
            self._check()

    def _feed(self, inputs: Arrays) -> dict[Buffer, int]:
        """Queue the uploads of host inputs; the addresses of those that are on the device already."""
        device = self.memory.device
        moved: dict[Buffer, int] = {}
        for b, a in zip(self.inputs, inputs):
            if not b.size or (isinstance(a, np.ndarray) and a.dtype == object):
                continue
            if isinstance(a, np.ndarray):
                at = self._at[b]
                staged = self._host[at : at + a.nbytes]
                staged[:] = a.reshape(-1).view(np.uint8)
                device.upload(self.io, at, staged)
            else:
                moved[b] = a.address
        return moved

    def _stretch(self, step: tuple[int, int], key: tuple[int, ...], moved: dict[Buffer, int]) -> None:
        device = self.memory.device
        k = (step, key)
        graph = self._graphs.get(k)
        if graph is not None:
            self._graphs.move_to_end(k)
            device.replay(graph)
            return
        launches = self._prepare(step, moved)

        def work() -> None:
            for function, grid, block, args, shared in launches:
                device.launch(function, grid, block, args, shared)

        if k in self._graphs:
            graph = self._graphs[k] = device.capture(work)
            device.replay(graph)
            return
        self._graphs[k] = None
        while len(self._graphs) > MAX_GRAPHS * max(1, len(self.steps)):
            self._graphs.popitem(last=False)
        device.queued(work)

    def _prepare(self, step: tuple[int, int], moved: dict[Buffer, int]) -> list[Any]:
        """The launches of a stretch with their addresses filled in."""
        out = []
        for i in range(*step):
            for call in self.calls[i]:
                args = bytearray(call.args)
                for at, p in call.pointers:
                    args[at : at + 8] = self._address(p, i, moved).to_bytes(8, "little")
                function = self.memory.device.function(call.source, call.entry.name)
                out.append((function, call.grid, call.block, bytes(args), call.shared))
        return out

    def _check(self) -> None:
        """Wait for the device; raise ExecutionError for the first launch that found bad data."""
        device = self.memory.device
        n = STATUS * len(self._slots)
        if n:
            device.download(self.io, self._status_at, self._host[self._status_at : self._status_at + n])
        device.synchronize()
        if not n:
            return
        words = self._host[self._status_at : self._status_at + n].view(np.uint64)
        for i, slot in self._slots.items():
            text = message(words[WORDS * slot : WORDS * (slot + 1)].tolist(), self.native[i])
            if text is not None:
                raise ExecutionError(f"{describe_nodes(self.native[i])}: {text}")

    def fetch_all(self, arrays: list[Any]) -> list[Any]:
        """Host copies of output arrays, with one wait for all."""
        device = self.memory.device
        for a in arrays:
            if a.nbytes:
                device.download(self.io, a._at, self._host[a._at : a._at + a.nbytes])
        device.synchronize()
        return [self._host[a._at : a._at + a.nbytes].view(a.dtype).reshape(a.shape).copy() for a in arrays]

    # ----------------------------------------------------------------------------------------------------------------- host calls
    def _bytes(self, b: Buffer) -> np.ndarray[Any, Any]:
        """The contents of a buffer on the host. Call after `_check`, which waits."""
        if b.kind == INPUT:
            a = self._inputs[self.inputs.index(b)]
            whole = a if isinstance(a, np.ndarray) else a.numpy()
            return np.ascontiguousarray(whole).reshape(-1)
        data = np.empty(b.size, b.dtype)
        if b.nbytes:
            self.memory.device.download(*self._region(b), data.view(np.uint8))
            self.memory.device.synchronize()
        return data

    def _region(self, b: Buffer) -> tuple[Any, int]:
        """The device memory that holds an arena or output buffer, and where in it."""
        return (self.memory.arena.memory, int(self.plan.offsets[b])) if b.kind == ARENA else (self.io, self._at[b])

    def read(self, t: Tensor, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> Any:
        """The value of a tensor on the host."""
        b = t.buffer
        if b.kind == CONST:
            return t.value
        if b.kind == HOST:
            return host_view(host[b.id], t)
        if b.dtype == object:
            return host_view(inputs[self.inputs.index(b)], t)
        return _view(self._bytes(b), t)

    def write(self, t: Tensor, v: Any, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
        """Store a value on the device, leaving the rest of its buffer as it is."""
        data = self._bytes(t.buffer)
        _view(data, t)[...] = v
        self.memory.device.upload(*self._region(t.buffer), data.view(np.uint8))
        self.memory.device.synchronize()


def _on_cuda(value: Any) -> bool:
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and device()[0] == 2  # kDLCUDA


def _view(data: np.ndarray[Any, Any], t: Tensor) -> np.ndarray[Any, Any]:
    k = data.itemsize
    if t.size == 0:
        return np.empty(t.shape, t.dtype)
    view: np.ndarray[Any, Any] = np.lib.stride_tricks.as_strided(data[t.offset :], t.shape, tuple(k * s for s in t.strides))
    return view


__all__ = ["CudaBound", "CudaMemory", "DeviceArray"]
