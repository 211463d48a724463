"""Sequences and optionals: containers whose length is known while tracing, so they need no memory of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import BOOL, from_code
from ..lowering.tensor import Tensor
from ..lowering.tracer import Sequence, Tracer
from .registry import op
from .util import norm_axis


@op("SequenceConstruct", since=11)
def construct(t: Tracer, *xs: Tensor) -> Sequence:
    return Sequence(xs, xs[0].dtype)


@op("SequenceEmpty", since=11)
def empty(t: Tracer, *, dtype: int = 1) -> Sequence:
    return Sequence([], from_code(dtype))


def _position(t: Tracer, s: Sequence, where: Tensor | None, extra: int) -> int:
    n = len(s.items)
    i = n - 1 + extra if where is None else int(t.item(where))
    if not -n <= i < n + extra:
        t.fail(f"position {i} is out of range for a sequence of length {n}")
    return i + n if i < 0 else i


@op("SequenceAt", since=11)
def at(t: Tracer, s: Sequence, where: Tensor) -> Any:
    return s.items[_position(t, s, where, 0)]


@op("SequenceInsert", since=11)
def insert(t: Tracer, s: Sequence, x: Tensor, where: Tensor | None = None) -> Sequence:
    i = _position(t, s, where, 1)
    return Sequence([*s.items[:i], x, *s.items[i:]], s.dtype)


@op("SequenceErase", since=11)
def erase(t: Tracer, s: Sequence, where: Tensor | None = None) -> Sequence:
    i = _position(t, s, where, 0)
    return Sequence([*s.items[:i], *s.items[i + 1 :]], s.dtype)


@op("SequenceLength", since=11)
def length(t: Tracer, s: Sequence) -> Tensor:
    return t.int_tensor(len(s.items), ())


@op("ConcatFromSequence", since=11)
def concat_from_sequence(t: Tracer, s: Sequence, *, axis: int, new_axis: int = 0) -> Tensor:
    if not s.items:
        t.fail("cannot concatenate an empty sequence")
    items = s.items
    if new_axis:
        a = norm_axis(t, axis, items[0].ndim + 1)
        items = [x.unsqueeze(a) for x in items]
    else:
        a = norm_axis(t, axis, items[0].ndim)
    return t.concat(items, a)


@op("SplitToSequence", since=11)
def split_to_sequence(t: Tracer, x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> Sequence:
    a = norm_axis(t, axis, x.ndim)
    n = int(x.shape[a])
    if sizes is None:
        parts = [1] * n
    elif sizes.ndim == 0:
        k = int(t.item(sizes))
        if k <= 0:
            t.fail(f"split size {k}")
        parts = [min(k, n - i) for i in range(0, n, k)]
    else:
        parts = [int(v) for v in t.ints(sizes)]
        if sum(parts) != n:
            t.fail(f"split sizes {parts} do not add up to {n}")
    items, start = [], 0
    for k in parts:
        piece = x.slice(a, start, k)
        items.append(piece.squeeze(a) if sizes is None and not keepdims else piece)
        start += k
    return Sequence(items, x.dtype)


@op("SequenceMap", since=17)
def sequence_map(t: Tracer, s: Sequence, *others: Any, body: Any) -> list[Sequence]:
    names = [v.name for v in body.inputs]
    results: list[list[Any]] = [[] for _ in body.outputs]
    node = t.node
    for i, x in enumerate(s.items):
        more = [o.items[i] if isinstance(o, Sequence) else o for o in others]
        t.kept.append(Sequence([v for r in results for v in r]))
        outs = t.run(body, dict(zip(names, [x, *more])))
        t.kept.pop()
        t.node = node
        for r, v in zip(results, outs):
            r.append(v)
    return [Sequence(r, r[0].dtype if r and isinstance(r[0], Tensor) else None) for r in results]


@op("Optional", since=15)
def optional(t: Tracer, x: Any = None, *, type: Any = None) -> Any:
    return x


@op("OptionalHasElement", since=15)
def optional_has_element(t: Tracer, x: Any = None) -> Tensor:
    return t.const(np.array(x is not None, BOOL))


@op("OptionalGetElement", since=15)
def optional_get_element(t: Tracer, x: Any = None) -> Any:
    if x is None:
        t.fail("the optional is empty")
    return x
