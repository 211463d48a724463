"""The short way of a run: one signature, bound to a function that takes the feed as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..lowering.tensor import HOST, Tensor
from .segment import owned

if TYPE_CHECKING:
    from .engine import InputSpec
    from .segment import Segment

_ARRAY, _HOST_VALUE, _CONSTANT = range(3)  # where an output comes from

Call = Callable[[Any], "list[Any] | None"]
Begin = Callable[[Any], "tuple[list[Any], dict[int, Any]] | None"]


class Caller:
    """`call(feed)` gives all outputs, or None if the feed is not a dict of exactly the arrays of this signature, or the run has come to a value that
    no run before it had. Hold the engine's lock.

    It raises the native LaunchError of `segment`, which knows what it means.
    """

    __slots__ = ("call", "segment")

    def __init__(self, segment: Segment, call: Call) -> None:
        self.segment, self.call = segment, call


def caller(segment: Segment, specs: Sequence[InputSpec], outputs: list[str]) -> Caller | None:
    """The caller of runs that begin with a segment, or None if one alone is the whole run and gives out an input or no tensor.

    `specs` are those of all the model's inputs, none of which is a steering input unless the caller is looked up by its value.
    """
    bound = segment.bound
    position = {name: k for k, (name, _, _) in enumerate(specs)}
    if any(n not in position for n in segment.in_names):
        return None
    used = [position[n] for n in segment.in_names]
    if segment.read is not None:
        return Caller(segment, _following(segment, _beginning(segment, specs, used)))
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
    if bound.simple and bound.program is not None and len(order) == len(sources):
        return Caller(segment, bound.direct(list(specs), used, segment.out_specs, order, bound.n_native))
    return Caller(segment, _collecting(segment, _beginning(segment, specs, used), sources))


def _beginning(segment: Segment, specs: Sequence[InputSpec], used: list[int]) -> Begin:
    """Runs a segment that reads inputs only: gives the arrays of its OUTPUT buffers and its host values, or None if the feed is not of `specs`.

    The feed is a dict that nobody else can change meanwhile.
    """
    bound, names = segment.bound, segment.in_names
    first = bound.steps[0] if bound.program is not None and bound.steps else None
    if isinstance(first, tuple):  # the first stretch of launches checks the feed
        native = bound.direct(list(specs), used, segment.out_specs, list(range(len(segment.out_specs))), first[1])

        def begin(feed: Any) -> tuple[list[Any], dict[int, Any]] | None:
            outs = native(feed)
            if outs is None:
                return None
            host: dict[int, Any] = {}
            steps = bound.compiled()
            if len(steps) > 1:
                ins, arrays = tuple([feed[n] for n in names]), tuple(outs)
                for step in steps[1:]:
                    step(ins, arrays, host)
            return outs, host

        return begin

    def check(feed: Any) -> tuple[list[Any], dict[int, Any]] | None:
        if len(feed) != len(specs):
            return None
        for name, shape, dtype in specs:
            a = feed.get(name)
            if type(a) is not np.ndarray or a.shape != shape or a.dtype != dtype or not (a.flags.c_contiguous and a.flags.aligned):
                return None
        host: dict[int, Any] = {}
        return segment.run(feed, host), host

    return check


def _collecting(segment: Segment, begin: Begin, sources: list[tuple[int, Any]]) -> Call:
    """One segment is the whole run."""
    fetch = segment.bound.fetch_all

    def call(feed: Any) -> list[Any] | None:
        begun = begin(feed.copy()) if type(feed) is dict else None
        if begun is None:
            return None
        outs, host = fetch(begun[0]), begun[1]
        return [outs[v] if s == _ARRAY else owned(host[v.buffer.id], v) if s == _HOST_VALUE else v.copy() for s, v in sources]

    return call


def _following(first: Segment, begin: Begin) -> Call:
    """From segment to segment, as far as earlier runs have come."""

    def call(feed: Any) -> list[Any] | None:
        if type(feed) is not dict:
            return None
        values, segment = feed.copy(), first
        begun = begin(values)
        if begun is None:
            return None
        arrays, host = begun
        while segment.read is not None:
            following = segment.children.get(segment.hand_on(arrays, values).tobytes())
            if following is None:
                return None
            segment = following
            arrays = segment.run(values, host)
        return list(segment.collect(arrays, values, host).values())

    return call
