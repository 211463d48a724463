"""The short way of a run: one signature, bound to a function that takes the feed as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..lowering.tensor import Tensor

if TYPE_CHECKING:
    from .engine import InputSpec
    from .segment import Segment

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
    """The caller of runs that begin with a segment, or None if it reads what is not among the inputs.

    `specs` are those of all the model's inputs, none of which is a steering input unless the caller is looked up by its value.
    """
    bound = segment.bound
    position = {name: k for k, (name, _, _) in enumerate(specs)}
    if any(n not in position for n in segment.in_names):
        return None
    used = [position[n] for n in segment.in_names]
    if segment.read is None and bound.simple and bound.program is not None:
        values = [segment.results[n] for n in outputs]
        order = [segment.at[v.buffer] for v in values if isinstance(v, Tensor) and not v.known and v.buffer in segment.at]
        if len(order) == len(values) == len(set(order)):  # every output is an array of its own
            return Caller(segment, bound.direct(list(specs), used, segment.out_specs, order, bound.n_native))
    return Caller(segment, _following(segment, _beginning(segment, specs, used)))


def _beginning(segment: Segment, specs: Sequence[InputSpec], used: list[int]) -> Begin:
    """Runs a segment that reads inputs only: gives the arrays of its OUTPUT buffers and its host values, or None if the feed is not of `specs`.

    The feed is a dict that nobody else can change meanwhile.
    """
    bound, names = segment.bound, segment.in_names
    if bound.program is not None:  # the first stretch of launches, if only an empty one, checks the feed
        first = bound.steps[0] if bound.steps else None
        launches, done = (first[1], 1) if isinstance(first, tuple) else (0, 0)
        native = bound.direct(list(specs), used, segment.out_specs, list(range(len(segment.out_specs))), launches)

        def begin(feed: Any) -> tuple[list[Any], dict[int, Any]] | None:
            outs = native(feed)
            if outs is None:
                return None
            host: dict[int, Any] = {}
            steps = bound.compiled()
            if len(steps) > done:
                ins, arrays = tuple([feed[n] for n in names]), tuple(outs)
                for step in steps[done:]:
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
        return segment.collect(arrays, values, host)

    return call
