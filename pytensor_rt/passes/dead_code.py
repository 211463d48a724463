"""Remove nodes and initializers that nothing reads, and optional outputs that nobody wants."""

from __future__ import annotations

from .rewriter import Rewriter

_OPTIONAL_OUTPUTS = {"Dropout", "MaxPool", "BatchNormalization", "LayerNormalization"}


def run(rw: Rewriter) -> bool:
    rw.flush()
    changed = False
    readers, outputs = rw.readers, rw.outputs
    for node in reversed(rw.graph.nodes):
        if not any(readers.get(out) or out in outputs for out in node.outputs if out):
            rw.remove(node)
            changed = True
        elif len(node.outputs) > 1 and node.op_type in _OPTIONAL_OUTPUTS:
            keep = len(node.outputs)
            while keep > 1 and not readers.get(node.outputs[keep - 1]) and node.outputs[keep - 1] not in outputs:
                keep -= 1
            node.outputs = node.outputs[:keep]
    inits = rw.graph.initializers
    dead = [name for name in inits if not readers.get(name) and name not in outputs and name not in rw.overridable]
    for name in dead:
        del inits[name]
    rw.flush()
    return changed
