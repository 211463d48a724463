"""Build a concatenation from an earlier one of some of the same tensors, as in dense blocks: Concat(a, b, c) -> Concat(Concat(a, b), c).

Every tensor then has one place in the largest concatenation, where the planner can let it be computed; a tensor that several unrelated
concatenations read has to be copied into all but one of them.
"""

from __future__ import annotations

from ..graph import Node
from .rewriter import Rewriter


def run(rw: Rewriter) -> bool:
    starts: dict[tuple[object, str], list[tuple[Node, tuple[str, ...]]]] = {}  # by axis and first input; inputs as they were
    changed = False
    for node in rw.nodes("Concat"):  # in the order of the graph, so what is found is defined before
        inputs, axis = node.inputs, node.attrs.get("axis")
        parts: list[str] = []
        at = 0
        while at < len(inputs):
            found: tuple[Node, tuple[str, ...]] | None = None
            for earlier, its in starts.get((axis, inputs[at]), ()):
                if len(its) < len(inputs) and inputs[at : at + len(its)] == its and (found is None or len(its) > len(found[1])):
                    found = earlier, its
            parts.append(found[0].outputs[0] if found else inputs[at])
            at += len(found[1]) if found else 1
        if len(inputs) > 1:
            starts.setdefault((axis, inputs[0]), []).append((node, inputs))
        if len(parts) < len(inputs):
            rw.set_inputs(node, tuple(parts))
            changed = True
    return changed
