"""Runs one launch of the vocabulary on device "numba": what the kernel cases are replayed on."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytensor_rt import _native
from pytensor_rt.errors import UnsupportedError
from pytensor_rt.kernels.numba.plans import plan_launch
from pytensor_rt.lowering.tensor import Buffer, Launch, Tensor
from pytensor_rt.runtime import numba

Array = np.ndarray[Any, Any]
_EMPTY = np.zeros(64, np.uint8)


def run(launch: Launch, bases: dict[Buffer, Array], threads: int = 1) -> None:
    """Run `launch` on host arrays: `bases` are the 1-d stretches of memory behind its buffers, some of which may overlap.

    Every call is divided into as many parts as threads, whatever its cost. Raises _native.LaunchError for what is wrong with the data, or refused.
    """

    def overlaps(a: Tensor, b: Tensor) -> bool:
        return np.may_share_memory(bases[a.buffer], bases[b.buffer])

    try:
        built = plan_launch(launch, threads, overlaps)
    except UnsupportedError as e:  # what the C++ kernels refuse when they are bound
        raise _native.LaunchError(str(e)) from None
    if not built.calls:
        return
    memory = numba.NumbaMemory(threads)
    memory.scratch.reserve(built.scratch_bytes)
    memory.scratch._raw[:] = 0xFF  # NaN: nothing may be read before it is written
    _, addresses = numba.constants(bases)
    ios = [b for b in bases if b.kind != "const"]
    program = numba.NumbaProgram([(c, 0) for c in built.calls], 1, memory, addresses, {}, {b: k for k, b in enumerate(ios)})
    program.launches = [launch]
    program.divide_all()
    try:
        program.run([bases[b] if bases[b].size else _EMPTY for b in ios], [], 0, 1)
    except numba.LaunchError as e:
        raise _native.LaunchError(str(e)) from None
