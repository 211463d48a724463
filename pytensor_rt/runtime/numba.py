"""Device "numba": plans are replayed by functions that numba has compiled, without a compiled extension. See docs/numba.md.

All calls of a plan lie in one table of words; `replay.run`, itself compiled, calls one after another. With several threads, calls that are worth it
are divided into parts that run at the same time, each a call of its own without the GIL; which units a part holds changes no result.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..kernels.messages import describe
from ..kernels.numba import code
from ..kernels.numba.build import STATUS, Call, Operand, Prepared, Scratch, Status, Table
from ..kernels.numba.plans import plan_launch
from ..lowering.tensor import ARENA, CONST, HOST, Buffer, HostCall, Launch
from ..plan.plan import Plan
from .program import Arrays, BoundPlan, describe_nodes, steps_of
from .words import Overlaps, Words
from .workers import workers

ALIGN = 64
ROW = 4  # words of a row of the call table: function, words, units, launch
WORTH = 60_000.0  # nanoseconds of work that are worth waking another thread


class LaunchError(RuntimeError):
    """A kernel found bad data: `launch` is its number among the native launches of the plan."""

    def __init__(self, text: str, launch: int) -> None:
        super().__init__(text)
        self.launch = launch


class Region:
    """Memory that grows to the largest plan. A larger one has another address."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._raw = np.empty(0, np.uint8)
        self.address = 0
        self.reserve(1)

    def reserve(self, nbytes: int) -> None:
        if nbytes > self.nbytes:
            self._raw, self.address = aligned(nbytes)
            self.nbytes = nbytes


def aligned(nbytes: int) -> tuple[np.ndarray[Any, Any], int]:
    """Memory at a multiple of 64 bytes: the array that owns it, and its address."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = int(raw.__array_interface__["data"][0])
    return raw, -(-start // ALIGN) * ALIGN


class Held:
    """Constant data at an address."""

    def __init__(self, source: Any, address: int, nbytes: int) -> None:
        self.source, self.address, self.nbytes = source, address, nbytes


class Packs:
    """Constants the kernels have in an order of their own, shared by the plans of a session and dropped with the last that needs them."""

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[Any, Held] = weakref.WeakValueDictionary()

    def get(self, key: Any, make: Callable[[], Held]) -> Held:
        """The data of a key, made if nobody has it."""
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = make()
        return found

    @property
    def nbytes(self) -> int:
        return sum(h.nbytes for h in self._held.values())

    def pack_at_bind(self) -> None:
        """Constants are packed when a plan is bound in any case."""

    def leave_in_file(self) -> None:
        """Weights are packed in any case."""


class _Native:
    """What code written for the C++ extension looks up."""

    LaunchError = LaunchError


class NumbaMemory:
    """What the plans of one lane share: the arena, the scratch, packed constants, the number of threads."""

    replays_natively = False
    native = _Native

    def __init__(self, threads: int, packs: Packs | None = None) -> None:
        code.require()
        self.threads = threads
        self.isa = f"numba ({code.cpu()[0]})"
        self.packs = packs or Packs()
        self.arena, self.scratch = Region(), Region()

    def bind(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer]) -> NumbaBound:
        return NumbaBound(plan, inputs, outputs, self)

    def new_outputs(self, specs: list[Any]) -> list[Any]:
        return [np.empty(shape, dtype) for shape, dtype in specs]

    def wait(self) -> None:
        """Everything is done when `run` returns."""

    def sibling(self) -> NumbaMemory:
        """Memory with an arena and a scratch of its own, and the same packed constants."""
        return NumbaMemory(self.threads, self.packs)


class NumbaProgram:
    """The calls of a plan, ready to run: words, and where addresses go in them."""

    def __init__(
        self,
        calls: list[tuple[Call, int]],
        launches: int,
        memory: NumbaMemory,
        consts: dict[Buffer, int],
        offsets: Any,
        ios: dict[Buffer, int],
    ) -> None:
        self.memory = memory
        self._calls = calls
        self._words = words = Words(calls)
        names = [call.fn for call, _ in calls] + [name for _, name in words.functions] + ["replay.patch", "replay.run"]
        loaded = code.functions(names)
        self._functions = loaded  # keeps the code
        for (at, _), f in zip(words.functions, loaded[len(calls) :]):
            words.data[at] = f.address
        self._status = np.zeros((max(1, launches), STATUS), np.int64)
        status = int(self._status.__array_interface__["data"][0])
        for at, launch in words.statuses:
            words.data[at] = status + 8 * STATUS * launch
        self._held: list[Held] = []
        arena: list[tuple[int, int]] = []
        scratch: list[tuple[int, int]] = []
        bound: list[tuple[int, int, int]] = []  # (position, number of the input or output, offset)
        for at, a in words.addresses:
            if isinstance(a, Scratch):
                scratch.append((at, a.offset))
            elif isinstance(a, Table):
                words.data[at] = self._constant(a)
            elif isinstance(a, Prepared):
                words.data[at] = self._prepared(a, consts)
            elif a.buffer.kind == CONST:
                words.data[at] = consts[a.buffer] + a.offset
            elif a.buffer.kind == ARENA:
                arena.append((at, int(offsets[a.buffer]) + a.offset))
            else:
                bound.append((at, ios[a.buffer], a.offset))
        self._arena = np.array(arena, np.int64).reshape(-1, 2)
        self._scratch = np.array(scratch, np.int64).reshape(-1, 2)
        self._patches = np.array(bound, np.int64).reshape(-1, 3)
        self._where = (0, 0)
        serial = {id(call) for call, _ in calls if any(isinstance(w, Status) for w in call.words)}
        table = [(f.address, words.start + 8 * row, call.units, launch) for f, row, (call, launch) in zip(loaded, words.rows, calls)]
        self._rows = np.array(table, np.int64).reshape(-1, ROW)
        self._rows_at = int(self._rows.__array_interface__["data"][0])
        self._ios = (ctypes.c_int64 * max(1, len(ios)))()
        self._run = loaded[-1].callable()
        self._write = loaded[-2].callable()
        self._io_at = ctypes.addressof(self._ios)
        self._patches_at = int(self._patches.__array_interface__["data"][0])
        self._first = np.searchsorted([launch for _, launch in calls], np.arange(launches + 1)).tolist()
        threads = memory.threads
        self._parallel = [
            i for i, (call, _) in enumerate(calls) if threads > 1 and call.units > 1 and call.cost > WORTH and id(call) not in serial
        ]
        self._serial_calls = serial
        self._kernels: dict[int, Callable[..., int]] = {}
        self._least = WORTH
        self._attached: tuple[Any, Any] | None = None

    @property
    def words(self) -> np.ndarray[Any, Any]:
        """The words of all calls."""
        return self._words.data

    def divide_all(self) -> None:
        """For tests: divide every call that can be, whatever it costs."""
        self._least = 1e-9
        self._parallel = [
            i for i, (c, _) in enumerate(self._calls) if self.memory.threads > 1 and c.units > 1 and id(c) not in self._serial_calls
        ]

    def _constant(self, table: Table) -> int:
        def make() -> Held:
            data = np.ascontiguousarray(table.data)
            raw, address = aligned(data.nbytes)
            _bytes_at(raw, address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)
            return Held((raw, table), address, data.nbytes)  # the table keeps its id

        held = self.memory.packs.get(table.key if table.key is not None else ("table", id(table.data)), make)
        self._held.append(held)
        return held.address

    def _prepared(self, wanted: Prepared, consts: dict[Buffer, int]) -> int:
        def make() -> Held:
            raw, address = aligned(wanted.nbytes)
            held = Held(raw, address, wanted.nbytes)
            calls = [(c, 0) for c in wanted.make(wanted)]
            words = Words(calls)
            loaded = code.functions([c.fn for c, _ in calls] + [n for _, n in words.functions])
            for (at, _), f in zip(words.functions, loaded[len(calls) :]):
                words.data[at] = f.address
            for at, a in words.addresses:
                if isinstance(a, Prepared):
                    words.data[at] = address if a is wanted else self._prepared(a, consts)
                elif isinstance(a, Table):
                    words.data[at] = self._constant(a)
                else:
                    assert isinstance(a, Operand), "preparation sees constants only"
                    words.data[at] = consts[a.buffer] + a.offset
            for f, row, (c, _) in zip(loaded, words.rows, calls):
                f.callable()(words.start + 8 * row, 0, c.units, 0)
            return held

        held = self.memory.packs.get(wanted.key, make)
        self._held.append(held)
        return held.address

    # ---------------------------------------------------------------------------------------------------------------------- running
    def _place(self) -> None:
        """Write the addresses of the arena and the scratch, if they have moved."""
        where = (self.memory.arena.address, self.memory.scratch.address)
        if where != self._where:
            self._words.data[self._arena[:, 0]] = self._arena[:, 1] + where[0]
            self._words.data[self._scratch[:, 0]] = self._scratch[:, 1] + where[1]
            self._where = where

    def _patch(self, inputs: Arrays, outputs: Arrays) -> None:
        ios, k = self._ios, 0
        for a in inputs:
            ios[k] = a.__array_interface__["data"][0] if a.dtype.kind != "O" else 0
            k += 1
        for a in outputs:
            ios[k] = a.__array_interface__["data"][0]
            k += 1
        self._write(self._patches_at, 0, len(self._patches), self._words.start, self._io_at)

    def run(self, inputs: Arrays, outputs: Arrays, begin: int, end: int) -> None:
        """Run the launches [begin, end)."""
        self._place()
        self._patch(inputs, outputs)
        self._replay(self._first[begin], self._first[end])

    def direct(
        self, specs: list[Any], used: list[int], outputs: list[Any], order: list[int], launches: int
    ) -> Callable[[Any], list[Any] | None]:
        """See BoundPlan.direct."""
        ios, ndarray, empty, count = self._ios, np.ndarray, np.empty, len(specs)
        slots = [used.index(k) if k in used else -1 for k in range(count)]
        checks = [(name, shape, dtype, slot) for (name, shape, dtype), slot in zip(specs, slots)]
        n_inputs, end, rows, patches = len(used), self._first[launches], len(self._patches), self._patches_at
        words, ios_at, write, in_order = self._words.start, self._io_at, self._write, order == list(range(len(outputs)))

        def call(feed: Any) -> list[Any] | None:
            if type(feed) is not dict or len(feed) != count:
                return None
            for name, shape, dtype, slot in checks:
                a = feed.get(name)
                if type(a) is not ndarray or a.shape != shape or a.dtype != dtype:
                    return None
                layout = a.__array_interface__
                address = layout["data"][0]
                if layout["strides"] is not None or address % dtype.alignment:
                    return None
                if slot >= 0:
                    ios[slot] = address
            made = [empty(shape, dtype) for shape, dtype in outputs]
            k = n_inputs
            for a in made:
                ios[k] = a.__array_interface__["data"][0]
                k += 1
            self._place()
            write(patches, 0, rows, words, ios_at)
            self._replay(0, end)
            return made if in_order else [made[k] for k in order]

        return call

    def attach(self, inputs: Arrays, outputs: Arrays) -> None:
        """Bind arrays for `replay`."""
        self._attached = (inputs, outputs)
        self._place()
        self._patch(inputs, outputs)

    def replay(self) -> None:
        """Run everything on the attached arrays."""
        self._replay(0, len(self._calls))

    def _replay(self, begin: int, end: int) -> None:
        at = begin
        for i in self._parallel:
            if i >= end:
                break
            if i < begin:
                continue
            if i > at:
                self._serial(at, i)
            self._divide(i)
            at = i + 1
        if end > at:
            self._serial(at, end)

    def _serial(self, begin: int, end: int) -> None:
        failed = self._run(self._rows_at, begin, end)
        if failed:
            self._raise(failed - 1)

    def _divide(self, i: int) -> None:
        """One call on several threads."""
        call, _ = self._calls[i]
        parts = min(self.memory.threads, call.units, 1 + int((call.cost + 1.0) / self._least))
        _, words, units, _ = self._rows[i].tolist()
        kernel = self._kernels.get(i)
        if kernel is None:
            kernel = self._kernels[i] = self._functions[i].callable()
        bounds = [units * k // parts for k in range(parts + 1)]
        team, hired = workers(self.memory.threads - 1), 0
        for k in range(1, parts):  # those that another lane keeps busy leave their part to this thread
            hired |= team[k - 1].hire(kernel, words, bounds[k], bounds[k + 1], k) << k
        failed = kernel(words, bounds[0], bounds[1], 0)
        for k in range(1, parts):
            if not hired >> k & 1:
                failed = kernel(words, bounds[k], bounds[k + 1], k) or failed
        for k in range(1, parts):
            if hired >> k & 1:
                failed = team[k - 1].wait() or failed
        if failed:
            self._raise(i)

    def _raise(self, call: int) -> None:
        launch = self._calls[call][1]
        status, axis, value, _ = self._status[launch].tolist()
        self._status[launch] = 0
        raise LaunchError(self._text(launch, status, axis, value), launch)

    def _text(self, launch: int, status: int, axis: int, value: int) -> str:
        return describe(self.launches[launch], status, axis, value)

    launches: list[Launch]

    def profile(self, inputs: Arrays, outputs: Arrays) -> Any:
        """One run; nanoseconds per launch."""
        self._place()
        self._patch(inputs, outputs)
        times = []
        for k in range(len(self._first) - 1):
            start = time.perf_counter_ns()
            self._replay(self._first[k], self._first[k + 1])
            times.append(time.perf_counter_ns() - start)
        return np.array(times, np.int64)

    def describe(self, launch: int) -> str:
        """The kernels of a launch."""
        return ", ".join(f"{call.fn} x{call.units}" for call, n in self._calls if n == launch)


def _bytes_at(raw: np.ndarray[Any, Any], address: int, nbytes: int) -> np.ndarray[Any, Any]:
    start = address - int(raw.__array_interface__["data"][0])
    return raw[start : start + nbytes]


class NumbaBound(BoundPlan):
    """A plan bound to memory and compiled functions."""

    def __init__(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer], memory: NumbaMemory) -> None:
        self._plan, self._instance, self.memory, self.inputs, self.outputs = plan, None, memory, inputs, outputs
        self.native = [launch for launch in plan.launches if not isinstance(launch, HostCall)]
        self.n_native = len(self.native)
        calls: list[tuple[Call, int]] = []
        scratch = 0
        overlaps = Overlaps(plan)
        for i, launch in enumerate(self.native):
            for t in launch.tensors():
                if t.buffer.kind == HOST:
                    raise UnsupportedError(f"{describe_nodes(launch)}: a host value cannot be an operand of kernel {launch.kernel!r}")
            try:
                built = plan_launch(launch, memory.threads, overlaps)
            except UnsupportedError as e:
                raise UnsupportedError(f"{describe_nodes(launch)}: kernel {launch.kernel!r} on device 'numba': {e}") from None
            calls += [(c, i) for c in built.calls]
            scratch = max(scratch, built.scratch_bytes)
        memory.arena.reserve(plan.arena_bytes)
        memory.scratch.reserve(scratch)
        self._scratch = scratch
        self.consts, addresses = constants(t.buffer for launch in self.native for t in launch.tensors())
        ios = {b: k for k, b in enumerate((*inputs, *outputs))}
        self.program: Any = None
        if calls:
            self.program = NumbaProgram(calls, len(self.native), memory, addresses, plan.offsets, ios)
            self.program.launches = self.native
        self.words = len(self.program.words) + 16 if self.program is not None else 16  # its share of the plan cache
        self.steps = steps_of(plan)
        self.simple = len(self.steps) <= 1 and not any(isinstance(s, HostCall) for s in self.steps)
        self._views, self._views_at = {}, -1
        self._compiled, self._compiled_at = [], -1

    def direct(
        self, specs: list[Any], used: list[int], outputs: list[Any], order: list[int], launches: int
    ) -> Callable[[Any], list[Any] | None]:
        run: Callable[[Any], list[Any] | None] = self.program.direct(specs, used, outputs, order, launches)

        def call(feed: Any) -> list[Any] | None:
            try:
                return run(feed)
            except LaunchError as e:
                raise self.failure(e) from None

        return call

    @property
    def scratch_bytes(self) -> int:
        return self._scratch


def constants(buffers: Iterable[Buffer]) -> tuple[list[Any], dict[Buffer, int]]:
    """The data of the constants among buffers, and its addresses."""
    held: list[Any] = []
    addresses: dict[Buffer, int] = {}
    for b in buffers:
        if b.kind == CONST and b not in addresses:
            data = b.data if b.data.dtype != object else b.data.astype(b.dtype)
            held.append(data)
            addresses[b] = int(data.__array_interface__["data"][0])
    return held, addresses


__all__ = ["LaunchError", "NumbaBound", "NumbaMemory", "NumbaProgram"]
