"""Compiles CUDA C++ for the executor and launches it on NumPy arrays: what the executor's own tests are written with."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import Counters, Memory, Module, Options, launch


@functools.cache
def compile_ptx(source: str, arch: str = "compute_80") -> str:
    """PTX of CUDA C++ `source`, which includes no headers."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "test.cu", [], [])
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={arch}", "--std=c++17", "-default-device"])
    except Exception as e:
        raise ValueError(nvrtc.getProgramLog(program)) from e
    return str(nvrtc.getPTX(program).rstrip(b"\0").decode())


@functools.cache
def module(source: str, arch: str = "compute_80") -> Module:
    return Module(compile_ptx(source, arch))


class Out:
    """An array whose bytes are not initialised."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array


def pack(*values: Any) -> bytes:
    """The byte image of a struct of these members: arrays become pointers, NumPy scalars themselves."""
    image = bytearray()
    for v in values:
        v = v.array if isinstance(v, Out) else v
        data = np.uint64(v.ctypes.data).tobytes() if isinstance(v, np.ndarray) else np.asarray(v).tobytes()
        image += b"\0" * (-len(image) % len(data)) + data
    widest = max(8 if isinstance(v, np.ndarray | Out) else np.asarray(v).nbytes for v in values)
    return bytes(image + b"\0" * (-len(image) % widest))


def run(
    source: str,
    name: str,
    grid: int | tuple[int, int, int],
    block: int | tuple[int, int, int],
    *values: Any,
    shared: int = 0,
    arch: str = "compute_80",
    **options: Any,
) -> Counters:
    """Launch kernel `name`, whose parameters are the members of one struct; arrays are known by their position: "arg0", "arg1", ..."""
    memory = Memory()
    for k, v in enumerate(values):
        if isinstance(v, np.ndarray | Out):
            a = v.array if isinstance(v, Out) else v
            memory.add(a.ctypes.data, a.nbytes, f"arg{k}", not isinstance(v, Out))
    dims = [x if isinstance(x, tuple) else (x, 1, 1) for x in (grid, block)]
    return launch(module(source, arch), name, dims[0], dims[1], pack(*values), memory, shared, Options(**options))
