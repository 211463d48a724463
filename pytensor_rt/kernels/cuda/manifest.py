"""What must be true of a CUDA kernel's machine code. Each module of plans/ lists its kernels in `ENTRIES`; tests/cuda_on_cpu/test_gates.py compares
them with what the compiler emits, for the launches that `samples()` of the module yields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One `__global__` function `name` in csrc/cuda/`source`.

    threads: of a block at most; also THREADS in the source, its launch bound. registers: the most a thread may use. wide_loads: the samples must
    load 16 bytes at a time from global memory. opcodes: SASS opcodes (prefixes) of which each sample must have one, e.g. of tensor cores.
    min_arch: the oldest architecture that the planner gives it to.
    """

    name: str
    source: str
    threads: int
    registers: int = 64
    wide_loads: bool = False
    opcodes: tuple[str, ...] = ()
    min_arch: int = 75
