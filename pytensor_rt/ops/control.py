"""If, Loop and Scan: bodies are traced like the rest of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import from_code
from ..lowering.tensor import Tensor
from ..lowering.tracer import Sequence, Tracer
from .registry import op
from .util import norm_axis


@op("If")
def if_(t: Tracer, condition: Tensor, *, then_branch: Any, else_branch: Any) -> list[Any]:
    return t.run(then_branch if bool(t.item(condition)) else else_branch, {})


@op("Loop")
def loop(t: Tracer, trip: Tensor | None, condition: Tensor | None, *initial: Any, body: Any) -> list[Any]:
    limit = int(t.item(trip)) if trip is not None else None
    going = bool(t.item(condition)) if condition is not None else True
    names = [v.name for v in body.inputs]
    state = list(initial)
    n_state = len(initial)
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - n_state)]
    node, i = t.node, 0
    while going and (limit is None or i < limit):
        env = dict(zip(names, [t.const(np.array(i, np.int64)), t.const(np.array(True))]))
        env |= dict(zip(names[2:], state))
        t.kept.append(Sequence([*(s for part in scanned for s in part)]))
        outs = t.run(body, env)
        t.kept.pop()
        t.node = node
        state = outs[1 : 1 + n_state]
        for part, v in zip(scanned, outs[1 + n_state :]):
            part.append(v)
        i += 1
        if condition is not None or not outs[0].known or body.outputs[0].name:
            t.kept.append(Sequence([*state, *(s for part in scanned for s in part)]))
            going = bool(t.item(outs[0]))
            t.kept.pop()
    stacked = [
        t.concat([v.unsqueeze(0) for v in part], 0) if part else _empty_scan(t, body.outputs[1 + n_state + k])
        for k, part in enumerate(scanned)
    ]
    return [*state, *stacked]


def _empty_scan(t: Tracer, info: Any) -> Tensor:
    shape = tuple(n if isinstance(n, int) else 0 for n in (info.shape or ()))
    return t.const(np.empty((0, *shape), from_code(info.elem_type or 1)))


@op("Scan", since=9)
def scan(
    t: Tracer, *ins: Any, body: Any, num_scan_inputs: int, scan_input_axes: Any = None, scan_output_axes: Any = None, scan_input_directions: Any = None,
    scan_output_directions: Any = None,
) -> list[Any]:  # fmt: skip
    n_state = len(ins) - num_scan_inputs
    state, scans = list(ins[:n_state]), ins[n_state:]
    axes = [norm_axis(t, a, x.ndim) for a, x in zip(scan_input_axes or (0,) * num_scan_inputs, scans)]
    back_in = scan_input_directions or (0,) * num_scan_inputs
    length = int(scans[0].shape[axes[0]])
    names = [v.name for v in body.inputs]
    n_out = len(body.outputs) - n_state
    collected: list[list[Tensor]] = [[] for _ in range(n_out)]
    node = t.node
    for i in range(length):
        slices = [x.slice(a, length - 1 - i if r else i, 1).squeeze(a) for x, a, r in zip(scans, axes, back_in)]
        t.kept.append(Sequence([s for part in collected for s in part]))
        outs = t.run(body, dict(zip(names, [*state, *slices])))
        t.kept.pop()
        t.node = node
        state = outs[:n_state]
        for part, v in zip(collected, outs[n_state:]):
            part.append(v)
    results = []
    for k, part in enumerate(collected):
        if scan_output_directions and scan_output_directions[k]:
            part = part[::-1]
        a = norm_axis(t, scan_output_axes[k], part[0].ndim + 1) if scan_output_axes else 0
        results.append(t.concat([v.unsqueeze(a) for v in part], a))
    return [*state, *results]


@op("Scan", since=8)
def scan_8(t: Tracer, *ins: Any, body: Any, num_scan_inputs: int, directions: Any = None) -> list[Any]:
    """Opset 8: a batch axis in front, an optional sequence_lens input first."""
    if ins[0] is not None:
        t.fail("Scan-8 with sequence_lens is not supported")
    values = ins[1:]
    batch = int(values[0].shape[0])
    per_batch = []
    for b in range(batch):
        row = [v.slice(0, b, 1).squeeze(0) for v in values]
        per_batch.append(scan(t, *row, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions))
    return [t.concat([r[k].unsqueeze(0) for r in per_batch], 0) for k in range(len(per_batch[0]))]
