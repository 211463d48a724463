"""A Plan bound to a device's memory: encode once, then run with the caller's input and output arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExecutionError, PlanError, UnsupportedError
from ..lowering.tensor import ARENA, CONST, HOST, INPUT, OUTPUT, Buffer, HostCall, Launch, Tensor
from ..plan.plan import Plan
from . import encode

if TYPE_CHECKING:
    from ..plan.template import Instance


def describe_nodes(launch: Launch) -> str:
    """The ONNX nodes a launch serves, for messages: `[Conv] 'conv1' + [Relu] 'relu1'`."""
    seen: list[str] = []
    for n in launch.nodes:
        text = f"[{n.op_type}] {n.name or '/'.join(n.outputs)!r}"
        if text not in seen:
            seen.append(text)
    return " + ".join(seen) or f"({launch.kernel})"


def host_viewer(t: Tensor) -> Callable[[Any], Any]:
    """A function to what t views of a host buffer's value. A value that is not an object array of the buffer's size is opaque and returned as it is."""
    shape, size, offset = t.shape, t.buffer.size, t.offset
    whole = t.contiguous and offset == 0
    moving = [(n, s) for n, s in zip(shape, t.strides) if n != 1]
    part: slice | None = None  # of the flat value, where one is enough: much faster than as_strided
    if t.contiguous:
        part = slice(offset, offset + t.size)
    elif len(moving) == 1 and moving[0][1] != 0 and t.size:
        n, s = moving[0]
        end = offset + (n - 1) * s + (1 if s > 0 else -1)
        part = slice(offset, end if end >= 0 else None, s)

    def view(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype != object or value.size != size:
            return value
        if whole and value.shape == shape:
            return value
        flat = np.ascontiguousarray(value).reshape(-1)
        if part is not None:
            return flat[part].reshape(shape)
        if t.size == 0:
            return np.empty(shape, object)
        flat = flat[offset:]
        return np.lib.stride_tricks.as_strided(flat, shape, tuple(flat.itemsize * s for s in t.strides))

    return view


def host_view(value: Any, t: Tensor) -> Any:
    """What t views of a host buffer's value."""
    return host_viewer(t)(value)


def _index(t: Tensor) -> tuple[slice, ...] | None:
    """t as slices of the array whose buffer it views, if it has that array's axes."""
    b = t.buffer
    if b.home is None or len(b.home[0]) != t.ndim or t.size == 0:
        return None
    index: list[slice] = []
    offset = t.offset
    for n, m, s, row in zip(t.shape, b.home[0], t.strides, b.home[1]):
        if row == 0:  # one element
            if n != 1:
                return None
            index.append(slice(None))
            continue
        start, offset = divmod(offset, row)
        if s % row or not (0 <= start < m and 0 <= start + (n - 1) * (s // row) < m) or (n != 1 and s <= 0):
            return None
        index.append(slice(start, start + (n - 1) * (s // row) + 1, s // row or 1))
    return tuple(index) if offset == 0 else None


Arrays = Sequence[Any]
Step = Callable[[Arrays, Arrays, dict[int, Any]], None]
Getter = Callable[[Arrays, Arrays, dict[int, Any]], Any]


class Encoded:
    """The words of a plan and the objects they refer to."""

    def __init__(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        numbers: dict[Buffer, int] = {}
        table: list[int] = []
        self.consts: list[Any] = []
        self.mapped: list[bool] = []
        in_at = {b: i for i, b in enumerate(inputs)}
        out_at = {b: i for i, b in enumerate(outputs)}
        self.arena_words: list[tuple[int, Buffer]] = []  # position in `code` of every arena buffer's offset
        self.native = [launch for launch in plan.launches if not isinstance(launch, HostCall)]
        for launch in self.native:
            for t in launch.tensors():
                b = t.buffer
                if b in numbers:
                    continue
                numbers[b] = len(numbers)
                if b.kind == ARENA:
                    self.arena_words.append((len(table) + 3, b))
                    table += (encode.ARENA, plan.offsets[b], b.nbytes)
                elif b.kind == INPUT:
                    table += (encode.INPUT, in_at[b], b.nbytes)
                elif b.kind == OUTPUT:
                    table += (encode.OUTPUT, out_at[b], b.nbytes)
                elif b.kind == CONST:
                    table += (encode.CONST, len(self.consts), b.nbytes)
                    self.consts.append(b.data if b.data.dtype != object else b.data.astype(b.dtype))
                    self.mapped.append(b.mapped)
                else:
                    raise PlanError(f"{describe_nodes(launch)}: a host value cannot be an operand of kernel {launch.kernel!r}")
        native_at = [0]  # native launches before every launch of the plan
        for launch in plan.launches:
            native_at.append(native_at[-1] + (not isinstance(launch, HostCall)))
        strands = [(native_at[begin], tuple([native_at[e] for e in ends])) for begin, ends in plan.strands]
        self.code: list[int] = encode.encode_plan(table, self.native, numbers, strands)


class BoundPlan:
    """A plan ready to run: a native program interleaved with host calls."""

    def __init__(
        self,
        plan: Plan,
        inputs: list[Buffer],
        outputs: list[Buffer],
        memory: Any,
        encoded: Encoded | None = None,
        instance: Instance | None = None,
        like: Any = None,
    ) -> None:
        """`instance`: `plan` is a template's, filled in like this; `like`: the program of another instance, to share launches with."""
        self._plan, self.memory = plan, memory
        self.inputs, self.outputs = inputs, outputs
        if encoded is None:
            encoded = Encoded(plan, inputs, outputs)
        code = encode.words(encoded.code) if instance is None else instance.code
        self.native = encoded.native
        self._instance = instance and instance.bound()
        self.words = len(code)  # its share of the plan cache
        self.consts = encoded.consts
        self.program: Any = None
        if self.native:
            try:
                shared = () if like is None else (like,)
                self.program = memory.program(code, encoded.consts, encoded.mapped, *shared)
            except memory.native.LaunchError as e:
                launch = self.native[e.launch]
                raise UnsupportedError(f"{describe_nodes(launch)}: kernel {launch.kernel!r}: {e} ({_operands(launch)})") from e
        self.steps = steps_of(plan)
        self.simple = len(self.steps) <= 1 and not any(isinstance(s, HostCall) for s in self.steps)
        self.n_native = len(self.native)
        self._views: dict[Tensor, Any] = {}
        self._views_at = -1
        self._compiled: list[Step] = []
        self._compiled_at = -1

    @property
    def plan(self) -> Plan:
        """The plan; that of a template's instance is written out when first asked for."""
        if self._instance is not None:
            self._plan, self._instance = self._instance.plan(self._plan), None
        return self._plan

    def run(self, inputs: Arrays, outputs: Arrays, host: dict[int, Any] | None = None) -> None:
        """Run with the arrays of the INPUT and OUTPUT buffers, in order. `host` holds the values of host buffers by buffer id.

        Raises ExecutionError naming the node when a kernel finds bad data.
        """
        try:
            if self.simple:
                if self.program is not None:
                    self.program.run(inputs, outputs, 0, self.n_native)
                return
            values = {} if host is None else host
            for step in self.compiled():
                step(inputs, outputs, values)
        except self.memory.native.LaunchError as e:
            raise self.failure(e) from None

    def direct(
        self, specs: list[Any], used: list[int], outputs: list[Any], order: list[int], launches: int
    ) -> Callable[[Any], list[Any] | None]:
        """A function of a feed that runs the first `launches` launches: it returns the outputs numbered in `order`, new arrays, or None if the feed is
        not a dict of exactly the contiguous arrays of `specs` (name, shape, dtype), of which the program's inputs are those numbered in `used`.
        """
        function: Callable[[Any], list[Any] | None] = self.memory.native.Direct(
            self.program, self.memory.outputs, specs, used, outputs, order, launches
        )
        return function

    def compiled(self) -> list[Step]:
        """The steps as functions of (inputs, outputs, host values). Those that read the arena hold views of it: ask again before every run."""
        address = address_of_arena(self.memory)
        if self._compiled_at != address:
            self._compiled = [self._call_step(s) if isinstance(s, HostCall) else self._native_step(*s) for s in self.steps]
            self._compiled_at = address
        return self._compiled

    def _native_step(self, begin: int, end: int) -> Step:
        run = self.program.run
        return lambda inputs, outputs, host: run(inputs, outputs, begin, end)

    def _call_step(self, call: HostCall) -> Step:
        fn, gets = call.fn, [self._getter(t) for t in call.ins]
        (out,) = call.outs if len(call.outs) == 1 else (None,)
        if out is not None and _whole_host(out):
            key = out.buffer.id

            def keep(inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
                (host[key],) = fn(*[get(inputs, outputs, host) for get in gets])

            return keep
        if out is not None and out.buffer.kind != HOST:
            put = self._getter(out)

            def write(inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
                (v,) = fn(*[get(inputs, outputs, host) for get in gets])
                put(inputs, outputs, host)[...] = v

            return write

        def step(inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
            self._store(call, fn(*[get(inputs, outputs, host) for get in gets]), inputs, outputs, host)

        return step

    def _getter(self, t: Tensor | None) -> Getter:
        """`read` of one tensor. What lies in the arena is looked up now."""
        if t is None:
            return lambda inputs, outputs, host: None
        b = t.buffer
        if b.kind in (ARENA, CONST):
            value = self.read(t, (), (), {})
            return lambda inputs, outputs, host: value
        if b.kind in (INPUT, OUTPUT) and b.dtype != object and t.offset == 0 and b.home == (t.shape, t.strides) and t.contiguous:
            if b.kind == OUTPUT:
                at = self.outputs.index(b)
                return lambda inputs, outputs, host: outputs[at]
            k = self.inputs.index(b)
            return lambda inputs, outputs, host: inputs[k]
        if b.kind == HOST:
            view, key = host_viewer(t), b.id
            return lambda inputs, outputs, host: view(host[key])
        if b.kind == INPUT and b.dtype == object:
            k, index = self.inputs.index(b), _index(t)
            if index is not None:
                return lambda inputs, outputs, host: inputs[k][index]
            view = host_viewer(t)
            return lambda inputs, outputs, host: view(inputs[k])
        return lambda inputs, outputs, host: self.read(t, inputs, outputs, host)

    def failure(self, e: Any) -> ExecutionError:
        """The typed error for a native LaunchError: it names the ONNX nodes and operands."""
        launch = self.native[e.launch]
        return ExecutionError(f"{describe_nodes(launch)}: {e} ({_operands(launch)})")

    def describe(self, launch: int) -> str:
        """How the backend carries out a native launch."""
        return str(self.program.describe(launch)) if self.program is not None else ""

    @property
    def scratch_bytes(self) -> int:
        """Scratch the kernels share."""
        return int(self.program.scratch_bytes) if self.program is not None else 0

    def profile(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> Any:
        """One run; nanoseconds per native launch. Only for plans without host calls."""
        try:
            return self.program.profile(inputs, outputs)
        except self.memory.native.LaunchError as e:
            raise self.failure(e) from None

    def _call(self, call: HostCall, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
        self._store(call, call.fn(*[None if t is None else self.read(t, inputs, outputs, host) for t in call.ins]), inputs, outputs, host)

    def _store(self, call: HostCall, values: tuple[Any, ...], inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
        for t, v in zip(call.outs, values):
            if t is None:
                continue
            if t.buffer.kind == HOST:
                self._keep(t, v, host)
            elif t.size:
                self.write(t, v, inputs, outputs, host)

    def write(self, t: Tensor, v: Any, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> None:
        """Store the value of a tensor that a host call has computed."""
        self.read(t, inputs, outputs, host)[...] = v

    @staticmethod
    def _keep(t: Tensor, v: Any, host: dict[int, Any]) -> None:
        """Store the value of a host tensor."""
        if _whole_host(t):
            host[t.buffer.id] = v
            return
        whole = host.setdefault(t.buffer.id, np.empty(t.buffer.size, object))  # written part by part, as by Concat
        host_view(whole, t)[...] = v

    def own_inputs(self, feeds: dict[str, Any]) -> list[Any]:
        """The arrays that a runner's plan reads, with the contents of `feeds`."""
        return [feeds[b.name] for b in self.inputs]

    def new_outputs(self, specs: list[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[Any]:
        """What `run` is to write its outputs to: an array per OUTPUT buffer, given their shapes and dtypes."""
        arrays: list[Any] = self.memory.new_outputs(specs)
        return arrays

    def fetch_all(self, arrays: list[Any]) -> list[Any]:
        """Arrays of `new_outputs` as NumPy arrays that belong to the caller."""
        return arrays

    def read(self, t: Tensor, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> Any:
        """The NumPy view (or host value) of a tensor in this plan's memory."""
        b = t.buffer
        if b.kind == CONST:
            return t.value
        if b.kind == HOST:
            return host_view(host[b.id], t)
        if b.kind == INPUT and b.dtype == object:
            return host_view(inputs[self.inputs.index(b)], t)
        if b.kind == INPUT:
            address = inputs[self.inputs.index(b)].ctypes.data
        elif b.kind == OUTPUT:
            whole = outputs[self.outputs.index(b)]
            if whole.shape == t.shape and t.offset == 0 and t.contiguous:
                return whole
            address = whole.ctypes.data
        else:
            address = address_of_arena(self.memory) + self.plan.offsets[b]
        return self._view(t, address)

    def _view(self, t: Tensor, address: int) -> Any:
        """t as an ndarray; views of the arena are kept while it stays where it is."""
        if t.buffer.kind == ARENA:
            if self._views_at != address_of_arena(self.memory):
                self._views.clear()
                self._views_at = address_of_arena(self.memory)
            found = self._views.get(t)
            if found is not None:
                return found
        raw = (ctypes.c_char * max(1, t.buffer.nbytes)).from_address(address)
        k = t.dtype.itemsize
        view: Any = np.ndarray(t.shape, t.dtype, memoryview(raw), k * t.offset, tuple(k * s for s in t.strides))
        if t.buffer.kind == ARENA:
            self._views[t] = view
        return view


def _whole_host(t: Tensor) -> bool:
    return t.buffer.kind == HOST and t.size == t.buffer.size and t.offset == 0 and t.contiguous


def steps_of(plan: Plan) -> list[tuple[int, int] | HostCall]:
    """Stretches of native launches (begin, end), numbered without the host calls, and the host calls between them."""
    steps: list[tuple[int, int] | HostCall] = []
    at = start = 0
    for launch in plan.launches:
        if isinstance(launch, HostCall):
            if at > start:
                steps.append((start, at))
            start = at
            steps.append(launch)
        else:
            at += 1
    if at > start:
        steps.append((start, at))
    return steps


def address_of_arena(memory: Any) -> int:
    return int(memory.arena.address)


def _operands(launch: Launch) -> str:
    text = [f"{t.dtype}{list(map(int, t.shape))} strides {list(map(int, t.strides))}" for t in launch.ins if t is not None]
    return "operands: " + ", ".join(text)
