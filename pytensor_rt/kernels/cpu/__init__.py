"""The C++ backend: `_native`, its ISA levels and its thread pool. Imports the extension lazily."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from ...errors import DeviceError


def native() -> ModuleType:
    """The compiled extension. Raises DeviceError, saying what to do, if this installation has none."""
    try:
        from ... import _native
    except ImportError as e:
        raise DeviceError(
            f"device 'cpu' needs the compiled extension, which this installation lacks ({e}); reinstall with a C++ compiler, or use device 'numba'"
        ) from e
    return _native


def is_built() -> bool:
    """Does this installation have the compiled extension?"""
    from importlib.util import find_spec

    return find_spec("pytensor_rt._native") is not None


def isa_level() -> str:
    """The ISA level in use: PTRT_ISA if set, else the best this machine has. Raises DeviceError if it is not available."""
    levels: list[str] = native().isa_levels()
    wanted = os.environ.get("PTRT_ISA", "")
    if not wanted:
        return levels[0]
    if wanted not in levels:
        raise DeviceError(f"PTRT_ISA={wanted}: this machine and build have {', '.join(levels)}")
    return wanted


def available_cpus() -> int:
    """CPUs this process may use: the affinity mask capped by the cgroup quota."""
    n: int = native().available_cpus()
    return n


class Memory:
    """What the programs of one session share: the arena, the packed weights, the ISA level and the thread count."""

    replays_natively = True  # its plans are native programs: they may come from templates and be called directly

    def __init__(self, threads: int, isa: str, packs: Any = None, packed: list[Any] | None = None) -> None:
        self.native = native()
        self.threads, self.isa = threads, isa
        self.arena = self.native.Arena()
        self.outputs = self.native.OutputMemory()  # of large outputs that are gone, for the next run
        self.packs = packs if packs is not None else self.native.Packs()
        self.packed = packed if packed is not None else []  # packs are found by address: their sources must not be freed and reused

    def new_outputs(self, specs: list[Any]) -> list[Any]:
        """Arrays of these shapes and dtypes, in memory of arrays that are gone where that fits."""
        arrays: list[Any] = self.outputs.arrays(specs)
        return arrays

    def wait(self) -> None:
        """Everything is done when `run` returns."""

    def sibling(self) -> Memory:
        """Memory with its own arena that shares the packed weights."""
        return Memory(self.threads, self.isa, self.packs, self.packed)

    def program(self, code: Any, consts: list[Any], mapped: list[bool], like: Any = None) -> Any:
        """Bind an encoded plan (see runtime/encode.py). Launches that are the same in `like`, an earlier program, are shared with it."""
        before = self.packs.count
        program = self.native.Program(code, consts, mapped, self.isa, self.arena, self.packs, self.threads, like)
        if self.packs.count != before:
            self.packed += consts
        return program
