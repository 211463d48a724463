"""Segments: bound plans that follow one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..lowering.tensor import HOST, INPUT, Buffer, Tensor
from ..lowering.tracer import Sequence
from .program import BoundPlan, host_viewer

Output = Callable[["list[Any]", "dict[str, Any]", "dict[int, Any]"], Any]  # an output, given arrays, inputs and carried values, host values


class Segment:
    """A bound plan with what to feed it, what it hands out, and the segments that may follow."""

    def __init__(self, bound: BoundPlan, results: Any, read: Tensor | None, carried: list[tuple[str, Buffer]]) -> None:
        self.bound = bound
        self.results = results  # the last segment: name -> value tree; otherwise None
        self.read = read  # the OUTPUT tensor whose value selects the next segment
        self.carried = carried  # (carry name, OUTPUT buffer) handed to later segments
        self.children: dict[bytes, Segment] = {}
        self.in_names = [b.name for b in bound.inputs]
        self.out_specs = [(b.home[0] if b.home else (b.size,), b.dtype) for b in bound.outputs]
        self.at = {b: k for k, b in enumerate(bound.outputs)}
        self.outputs = [self._output(v) for v in (results or {}).values()]

    def run(self, values: dict[str, Any], host: dict[int, Any]) -> list[Any]:
        """The arrays of the OUTPUT buffers, given inputs and carried values by name; host values are added to `host`."""
        bound = self.bound
        outs = bound.new_outputs(self.out_specs)
        bound.run(tuple([values[n] for n in self.in_names]), tuple(outs), host)
        return outs

    def hand_on(self, arrays: list[Any], values: dict[str, Any]) -> Any:
        """Add what later segments read to `values`; returns the value that selects the next one."""
        assert self.read is not None
        at = self.at
        for name, b in self.carried:
            values[name] = arrays[at[b]]
        return self.bound.fetch_all([arrays[at[self.read.buffer]]])[0]

    def collect(self, arrays: list[Any], values: dict[str, Any], host: dict[int, Any]) -> list[Any]:
        """All outputs of the model, in its order, after the last segment."""
        found = self.bound.fetch_all(arrays)
        return [get(found, values, host) for get in self.outputs]

    def _output(self, v: Any) -> Output:
        if isinstance(v, Sequence):
            items = [self._output(i) for i in v.items]
            return lambda found, values, host: [get(found, values, host) for get in items]
        if not isinstance(v, Tensor):
            return lambda found, values, host: v
        if v.known:
            return lambda found, values, host: np.array(v.value, dtype=v.dtype)
        if v.buffer.kind == HOST:
            view = host_viewer(v)
            return lambda found, values, host: owned(view(host[v.buffer.id]))
        if v.buffer.kind == INPUT:
            view = host_viewer(v)
            return lambda found, values, host: owned(view(values[v.buffer.name]))
        k = self.at[v.buffer]
        return lambda found, values, host: found[k]


def segments(first: Segment | None) -> list[Segment]:
    """A segment and all that may follow it."""
    out, todo = [], [first] if first is not None else []
    while todo:
        s = todo.pop()
        out.append(s)
        todo += s.children.values()
    return out


def owned(value: Any) -> Any:
    """An output that is a host value or an input: strings and arrays are copied, for they may be a view or the caller's own array."""
    return np.array(value) if isinstance(value, np.ndarray) else value
