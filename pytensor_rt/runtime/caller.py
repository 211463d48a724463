"""The short way of a run: one signature, bound to a function that takes the feed as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..lowering.tensor import HOST, Tensor
from .program import host_view

if TYPE_CHECKING:
    from .engine import InputSpec, Segment

_ARRAY, _HOST_VALUE, _CONSTANT = range(3)  # where an output comes from

Call = Callable[[Any], "list[Any] | None"]


class Caller:
    """`call(feed)` gives all outputs, or None if the feed is not a dict of exactly the arrays of this signature. Hold the engine's lock.

    It raises the native LaunchError; `segment` knows what it means.
    """

    __slots__ = ("call", "segment")

    def __init__(self, segment: Segment, call: Call) -> None:
        self.segment, self.call = segment, call


def caller(segment: Segment, specs: Sequence[InputSpec], outputs: list[str]) -> Caller | None:
    """The caller of a segment, or None if it is not a whole run: more segments follow, or an output is an input or no tensor.

    `specs` are those of all the model's inputs, none of which is a steering input unless the caller is looked up by its value.
    """
    bound = segment.bound
    position = {name: k for k, (name, _, _) in enumerate(specs)}
    if segment.results is None or segment.read is not None or any(n not in position for n in segment.in_names):
        return None
    at = {b: k for k, b in enumerate(bound.outputs)}
    sources: list[tuple[int, Any]] = []
    for n in outputs:
        v = segment.results[n]
        if isinstance(v, Tensor) and v.buffer in at:
            sources.append((_ARRAY, at[v.buffer]))
        elif isinstance(v, Tensor) and v.buffer.kind == HOST and not v.known:
            sources.append((_HOST_VALUE, v))
        elif isinstance(v, Tensor) and v.known:
            sources.append((_CONSTANT, v.value))
        else:
            return None
    order = [k for source, k in sources if source == _ARRAY]
    if len(set(order)) != len(order):
        return None
    first = bound.steps[0] if bound.program is not None and bound.steps else None
    if not isinstance(first, tuple):
        return Caller(segment, _checking(segment, specs, sources))
    plain = bound.simple and len(order) == len(sources)
    used = [position[n] for n in segment.in_names]
    native = bound.direct(list(specs), used, segment.out_specs, order if plain else list(range(len(segment.out_specs))), first[1])
    return Caller(segment, native if plain else _continuing(segment, native, sources))


def _continuing(segment: Segment, native: Call, sources: list[tuple[int, Any]]) -> Call:
    """The first stretch of launches through `native`, then the other steps."""
    bound, names = segment.bound, segment.in_names

    def call(feed: Any) -> list[Any] | None:
        outs = native(feed)
        if outs is None:
            return None
        steps = bound.compiled()
        host: dict[int, Any] = {}
        if len(steps) > 1:
            ins, arrays = tuple([feed[n] for n in names]), tuple(outs)
            for step in steps[1:]:
                step(ins, arrays, host)
        return _collect(sources, outs, host)

    return call


def _checking(segment: Segment, specs: Sequence[InputSpec], sources: list[tuple[int, Any]]) -> Call:
    """For plans that do not begin with native launches: the feed is checked here."""
    bound, names = segment.bound, segment.in_names

    def call(feed: Any) -> list[Any] | None:
        if type(feed) is not dict or len(feed) != len(specs):
            return None
        for name, shape, dtype in specs:
            a = feed.get(name)
            if type(a) is not np.ndarray or a.shape != shape or a.dtype != dtype or not (a.flags.c_contiguous and a.flags.aligned):
                return None
        outs = bound.new_outputs(segment.out_specs)
        host: dict[int, Any] = {}
        bound.run(tuple([feed[n] for n in names]), tuple(outs), host)
        return _collect(sources, bound.fetch_all(outs), host)

    return call


def _collect(sources: list[tuple[int, Any]], outs: list[Any], host: dict[int, Any]) -> list[Any]:
    return [outs[v] if s == _ARRAY else owned(host[v.buffer.id], v) if s == _HOST_VALUE else v.copy() for s, v in sources]


def owned(value: Any, t: Tensor) -> Any:
    """An output that is a host value: strings are copied, for they may be a view or the caller's own array."""
    return np.array(host_view(value, t)) if isinstance(value, np.ndarray) else value
