"""Runs one launch of the vocabulary on device "numba": what the kernel cases are replayed on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.errors import UnsupportedError
from pytensor_rt.kernels.numba.plans import plan_launch
from pytensor_rt.lowering.tensor import Buffer, Launch, Tensor
from pytensor_rt.runtime import numba

from . import guarded

Array = np.ndarray[Any, Any]
_EMPTY = np.zeros(64, np.uint8)


def run(launch: Launch, bases: dict[Buffer, Array], threads: int = 1) -> None:
    """Run `launch` on host arrays: `bases` are the 1-d stretches of memory behind its buffers, some of which may overlap.

    Every call is divided into as many parts as threads, whatever its cost. Operands, scratch and constants lie in memory of their own, with an unreadable page behind
    them (an odd number of threads) or before (an even one). Raises _native.LaunchError for what is wrong with the data, or refused.
    """
    moved, close = _guard(bases, behind=threads % 2 == 1) if guarded.AVAILABLE else (bases, lambda: None)
    written = {t.buffer for t in launch.writes()}
    try:
        _run(launch, moved, threads)
        for b in written:
            bases[b][...] = moved[b]
    finally:
        close()


def _run(launch: Launch, bases: dict[Buffer, Array], threads: int) -> None:
    def overlaps(a: Tensor, b: Tensor) -> bool:
        return np.may_share_memory(bases[a.buffer], bases[b.buffer])

    for b, a in bases.items():
        if b.kind == "const":
            b.data = a
    try:
        built = plan_launch(launch, threads, overlaps)
    except UnsupportedError as e:  # what the C++ kernels refuse when they are bound
        raise _native.LaunchError(str(e)) from None
    if not built.calls:
        return
    memory = numba.NumbaMemory(threads)
    walls: list[guarded.Guarded] = []

    def aligned(nbytes: int) -> tuple[Array, int]:
        """Stands in for the runtime's, for scratch, tables and packed constants. Full of NaN: nothing may be read before it is written."""
        walls.append(guarded.Guarded(nbytes, threads % 2 == 1, 64))
        walls[-1].bytes[:] = 0xFF
        return walls[-1].bytes, walls[-1].address

    _, addresses = numba.constants(bases)
    ios = [b for b in bases if b.kind != "const"]
    with pytest.MonkeyPatch.context() as patch:
        if guarded.AVAILABLE:
            patch.setattr(numba, "aligned", aligned)
        memory.scratch.reserve(max(2, built.scratch_bytes))
        program = numba.NumbaProgram([(c, 0) for c in built.calls], 1, memory, addresses, {}, {b: k for k, b in enumerate(ios)})
    program.launches = [launch]
    program.divide_all()
    try:
        program.run([bases[b] if bases[b].size else _EMPTY for b in ios], [], 0, 1)
    except numba.LaunchError as e:
        raise _native.LaunchError(str(e)) from None
    finally:
        for wall in walls:
            wall.close()


def _guard(bases: dict[Buffer, Array], behind: bool) -> tuple[dict[Buffer, Array], Any]:
    """The same values in guarded memory, one piece for all buffers that overlap; and what opens it again."""
    spans: list[list[int]] = []
    for a in sorted((a for a in bases.values() if a.nbytes), key=lambda a: int(a.ctypes.data)):
        start, end = int(a.ctypes.data), int(a.ctypes.data) + a.nbytes
        if spans and start < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    pieces = [guarded.Guarded(end - start, behind) for start, end in spans]
    out: dict[Buffer, Array] = {}
    for b, a in bases.items():
        if not a.nbytes:
            out[b] = a
            continue
        start = int(a.ctypes.data)
        k = next(i for i, (low, high) in enumerate(spans) if low <= start < high)
        at = start - spans[k][0]
        part = pieces[k].bytes[at : at + a.nbytes]
        part[:] = a.view(np.uint8)
        out[b] = part.view(a.dtype)

    def close() -> None:
        for piece in pieces:
            piece.close()

    return out, close
