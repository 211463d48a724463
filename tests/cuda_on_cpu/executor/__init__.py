"""Executes the PTX that NVRTC emits on the CPU, warp by warp, and checks every access on the way.

>>> module = Module(ptx)
>>> memory = Memory()
>>> memory.add(x.ctypes.data, x.nbytes, "x", initialised=True)
>>> counters = launch(module, "kernel", (2, 1, 1), (128, 1, 1), args, memory)

Kernels dereference host addresses: what is passed as a device pointer is the address of a NumPy array. Launches that share a Module or a Memory
must not overlap in time. How it works, and what it does not know: README.md.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .build import library

OUT_OF_BOUNDS = "out_of_bounds"
MISALIGNED = "misaligned"
UNINITIALISED_READ = "uninitialised_read"
RACE = "race"
GLOBAL_RACE = "global_race"
DIVERGENT_BARRIER = "divergent_barrier"
DEADLOCK = "deadlock"
INVALID_LAUNCH = "invalid_launch"
TRAP = "trap"
INACTIVE_LANE = "inactive_lane"


class UnsupportedPtx(Exception):
    """PTX the executor does not know; names the instruction and its line."""


class KernelFault(Exception):
    """What a kernel did wrong: `kind` is one of the constants of this module; the message says where."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Function:
    """A kernel of a module."""

    name: str
    param_bytes: int  # of all parameters, alignment included
    static_shared: int  # bytes
    registers: int  # virtual ones, of the kernel and the functions it calls
    max_threads: int | None  # .maxntid
    local_bytes: int
    index: int


@dataclass(frozen=True)
class Options:
    """How to run: `order` and `seed` choose among the interleavings CUDA allows, `async_copies` when cp.async lands.

    With `checks` off nothing is checked (a wrong kernel may crash the process), shared-memory wavefronts are not counted, and blocks may run on
    several threads. `step_limit`: basic blocks the warps of one block may enter before they count as hung.
    """

    order: Literal["forward", "reverse", "random"] = "forward"
    seed: int = 0
    async_copies: Literal["lazy", "eager"] = "lazy"
    checks: bool = True
    threads: int = 1
    step_limit: int = 50_000_000


@dataclass
class Counters:
    """Raw counts of one launch. Instructions are counted per warp; `flops` and `mma_flops` count operations of all active lanes.

    A sector is 32 bytes of global memory, a wavefront one pass over the banks of shared memory; `ideal` ones would have been enough without
    bank conflicts.
    """

    instructions: int = 0
    lane_instructions: int = 0
    global_load_requests: int = 0
    global_load_sectors: int = 0
    global_load_bytes: int = 0
    global_store_requests: int = 0
    global_store_sectors: int = 0
    global_store_bytes: int = 0
    shared_load_requests: int = 0
    shared_load_wavefronts: int = 0
    shared_load_ideal: int = 0
    shared_load_bytes: int = 0
    shared_store_requests: int = 0
    shared_store_wavefronts: int = 0
    shared_store_ideal: int = 0
    shared_store_bytes: int = 0
    local_requests: int = 0
    local_bytes: int = 0
    param_requests: int = 0
    global_atomics: int = 0
    shared_atomics: int = 0
    divergent_branches: int = 0
    fp32_flops: int = 0
    fp64_flops: int = 0
    fp16_flops: int = 0
    integer_ops: int = 0
    special_functions: int = 0
    conversions: int = 0
    mma_flops: dict[str, int] = field(default_factory=dict)  # "f16", "bf16", "tf32", "f64", "int8", "fp8"
    mma_instructions: dict[str, int] = field(default_factory=dict)
    shuffles: int = 0
    votes: int = 0
    barriers: int = 0  # per warp
    warp_syncs: int = 0
    atomics: int = 0


# The fields of Counters from global_load_requests on, in the order of MemoryCounters (counters.h).
_MEMORY_COUNTERS = [f.name for f in fields(Counters)][2:22]
# In the order of Cls (counters.h): the field, and which of (warps, lanes, operations) it takes.
_CLASSES = [("", 0), ("integer_ops", 2), ("fp32_flops", 2), ("fp64_flops", 2), ("fp16_flops", 2), ("special_functions", 2),
            ("conversions", 2), ("f16", 2), ("bf16", 2), ("tf32", 2), ("f64", 2), ("int8", 2), ("fp8", 2), ("shuffles", 0), ("votes", 0),
            ("barriers", 0), ("warp_syncs", 0), ("atomics", 0), ("", 0), ("", 0)]  # fmt: skip
_MMA = {"f16", "bf16", "tf32", "f64", "int8", "fp8"}


@functools.cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(library()))
    p, i64, u64, s = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_char_p
    for name, result, *args in (
        ("exe_module_new", p, s, i64, s, i64),
        ("exe_module_free", None, p),
        ("exe_module_size", i64, p),
        ("exe_function", s, p, i64, p),
        ("exe_variable", u64, p, s, p),
        ("exe_memory_new", p),
        ("exe_memory_free", None, p),
        ("exe_memory_add", None, p, u64, u64, s, ctypes.c_int),
        ("exe_memory_remove", ctypes.c_int, p, u64),
        ("exe_memory_mark", ctypes.c_int, p, u64, u64),
        ("exe_launch", s, p, i64, p, p, s, i64, p, i64, p, p, p, i64),
        ("exe_num_counters", i64),
    ):
        f = getattr(lib, name)
        f.restype, f.argtypes = result, args
    return lib


class Module:
    """A parsed PTX module. Raises UnsupportedPtx for anything unknown, whether it would run or not."""

    functions: Mapping[str, Function]

    def __init__(self, ptx: str) -> None:
        self._lib = _library()
        text, error = ptx.encode(), ctypes.create_string_buffer(1000)
        self._handle = self._lib.exe_module_new(text, len(text), error, len(error))
        if not self._handle:
            raise UnsupportedPtx(error.value.decode())
        self.functions = {}
        info = (ctypes.c_int64 * 6)()
        for k in range(self._lib.exe_module_size(self._handle)):
            name = self._lib.exe_function(self._handle, k, info).decode()
            self.functions[name] = Function(name, info[0], info[1], info[2], info[3] or None, info[4], k)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.exe_module_free(self._handle)

    def variable(self, name: str) -> tuple[int, int]:
        """Address and size in bytes of a `__device__` or `__constant__` variable; KeyError if there is none."""
        size = ctypes.c_int64()
        address = self._lib.exe_variable(self._handle, name.encode(), ctypes.byref(size))
        if not address:
            raise KeyError(name)
        return address, size.value


class Memory:
    """The allocations kernels may touch, and which of their bytes hold values. The caller owns the memory itself."""

    def __init__(self) -> None:
        self._lib = _library()
        self._handle = self._lib.exe_memory_new()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._lib.exe_memory_free(self._handle)
            self._handle = None  # the garbage collector may finalise what refers to this after it

    def add(self, address: int, nbytes: int, name: str = "", initialised: bool = False) -> None:
        self._lib.exe_memory_add(self._handle, address, nbytes, name.encode(), initialised)

    def remove(self, address: int) -> None:
        """Raises KeyError unless an allocation starts at `address`."""
        if self._handle is None:
            return
        if not self._lib.exe_memory_remove(self._handle, address):
            raise KeyError(address)

    def mark_initialised(self, address: int, nbytes: int) -> None:
        """Raises KeyError unless the range lies in one allocation."""
        if not self._lib.exe_memory_mark(self._handle, address, nbytes):
            raise KeyError(address)


_ORDERS = ("forward", "reverse", "random")


def launch(
    module: Module,
    name: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    args: bytes,
    memory: Memory,
    shared_bytes: int = 0,
    options: Options = Options(),
) -> Counters:
    """Runs a kernel to its end; `args` is the byte image of its parameters. Raises KernelFault."""
    lib, function = module._lib, module.functions[name]
    triple = ctypes.c_uint32 * 3
    flags = (ctypes.c_int64 * 6)(
        _ORDERS.index(options.order), options.seed, options.async_copies == "lazy", options.checks, options.threads, options.step_limit
    )
    raw = (ctypes.c_int64 * lib.exe_num_counters())()
    error = ctypes.create_string_buffer(4000)
    kind = lib.exe_launch(
        module._handle,
        function.index,
        triple(*grid),
        triple(*block),
        bytes(args),
        len(args),
        memory._handle,
        shared_bytes,
        flags,
        raw,
        error,
        4000,
    ).decode()
    if kind == "internal":
        raise RuntimeError(error.value.decode())
    if kind:
        raise KernelFault(kind, error.value.decode(errors="replace"))
    counters, n = Counters(), len(_MEMORY_COUNTERS)
    values: dict[str, Any] = dict(zip(_MEMORY_COUNTERS, raw[:n], strict=True))
    for key, value in values.items():
        setattr(counters, key, value)
    for k, (key, which) in enumerate(_CLASSES):
        value = raw[n + 3 * k + which]
        if key in _MMA:
            if value:
                counters.mma_flops[key] = value
                counters.mma_instructions[key] = raw[n + 3 * k]
        elif key:
            setattr(counters, key, value)
    counters.instructions, counters.lane_instructions = raw[n + 3 * len(_CLASSES)], raw[n + 3 * len(_CLASSES) + 1]
    return counters
