"""Launches without data: what the static gates compile and docs/cuda-kernels.md lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from ....lowering.expr import Var, program_of
from ....lowering.tensor import CONST, INPUT, OUTPUT, Buffer, Launch, Tensor, row_major, size_of

_numbers = count()


def tensor(
    stored: tuple[int, ...],
    dtype: Any = "float32",
    perm: tuple[int, ...] | None = None,
    shape: tuple[int, ...] | None = None,
    data: np.ndarray[Any, Any] | None = None,
) -> Tensor:
    """A dense tensor stored with shape `stored`, then permuted or broadcast to `shape`. With `data`, a constant."""
    d = np.dtype(dtype)
    t = Tensor(Buffer(next(_numbers), INPUT if data is None else CONST, size_of(stored), d, data), 0, stored, row_major(stored), d)
    if perm is not None:
        t = t.permute(perm)
    return t if shape is None else t.expand(shape)


def launch(
    kernel: str,
    ins: Sequence[Tensor | None],
    out: tuple[int, ...] | Tensor | Sequence[Tensor | None],
    /,
    dtype: Any = "float32",
    body: Callable[..., Var] | None = None,
    epilogue: Callable[..., Var] | None = None,
    epi_ins: Sequence[Tensor] = (),
    acc: Any = None,
    **params: Any,
) -> Launch:
    """A launch; `out` is the shape of its one output (of `dtype`), or the outputs."""
    if isinstance(out, Tensor):
        outs: list[Tensor | None] = [out]
    elif out and not isinstance(out[0], int):
        outs = list(out)  # type: ignore[arg-type]
    else:
        outs = [tensor(out, dtype)]  # type: ignore[arg-type]
    for o in outs:
        if o is not None:
            o.buffer.kind = OUTPUT
    made = Launch(kernel, list(ins), outs, params)
    if body is not None:
        made.body = program_of(body, [t.dtype for t in ins if t is not None])
    made.acc_dtype = np.dtype(acc if acc is not None else dtype)
    if epilogue is not None:
        made.epi_ins = list(epi_ins)
        made.epilogue = program_of(epilogue, [t.dtype for t in epi_ins], made.acc_dtype)
    return made
