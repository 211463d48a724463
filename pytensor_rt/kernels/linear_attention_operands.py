"""The operands of a `linear_attention` launch, checked as csrc/cpu/linear_attention.cpp checks them, for the backends that plan in Python."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..dtypes import F16, F32, F64, is_float
from ..errors import UnsupportedError
from ..lowering.tensor import Launch, Tensor


class Operands(NamedTuple):
    """What a launch reads and writes, and its sizes by the letters of kernels/spec.py; W is 0 without `present`."""

    q: Tensor
    k: Tensor
    v: Tensor
    state: Tensor | None
    decay: Tensor | None
    beta: Tensor | None
    y: Tensor
    present: Tensor | None
    B: int
    H: int
    G: int
    N: int
    M: int
    T: int
    D: int
    E: int
    W: int


def checked(launch: Launch) -> Operands:
    """Raises UnsupportedError if operands do not fit together."""
    ins: list[Any] = [*launch.ins, *[None] * 6]
    outs: list[Any] = [*launch.outs, None]
    q, k, v, state, decay, beta = ins[:6]
    y, present = outs[:2]

    def require(ok: bool, what: str) -> None:
        if not ok:
            raise UnsupportedError(f"linear_attention: {what}")

    require(q.ndim == k.ndim == v.ndim == 4, "q, k and v must have rank 4")
    for t in (*ins[:6], *outs[:2]):
        standard = t is None or t.dtype in (F64, F32, F16) or (is_float(t.dtype) and t.dtype.name == "bfloat16")
        require(standard, "a float dtype is expected")
    b, h, steps, d = map(int, q.shape)
    g, n, e = int(k.shape[1]), int(v.shape[1]), int(v.shape[3])
    m = max(h, n)
    require(min(h, g, n) > 0, "there must be heads")
    require(n % g == 0, "the number of state heads must be a multiple of the number of key heads")
    require(m % h == 0 and m % n == 0, "of the numbers of query and of state heads one must be a multiple of the other")
    require(_is(k, b, g, steps, d) and _is(v, b, n, steps, e), "q, k and v do not fit together")
    require(_is(y, b, m, steps, e), "y must be [B, M, T, E]")
    require(state is None or _is(state, b, n, d, e), "state must be [B, N, D, E]")
    require(decay is None or _is(decay, b, n, steps, d), "decay must be [B, N, T, D]")
    require(beta is None or _is(beta, b, n, steps), "beta must be [B, N, T]")
    w = 0
    if present is not None:
        w = int(present.shape[0]) if present.ndim == 5 else 0
        require(w >= 1 and _is(present, w, b, n, d, e), "present must be [W, B, N, D, E]")
    return Operands(q, k, v, state, decay, beta, y, present, b, h, g, n, m, steps, d, e, w)


def _is(t: Tensor, *shape: int) -> bool:
    return tuple(map(int, t.shape)) == shape
