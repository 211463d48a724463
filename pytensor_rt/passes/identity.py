"""Drop nodes that hand their input on unchanged: Identity, Cast to the type it has, Dropout at inference, sums of one term."""

from __future__ import annotations

from ..graph import Node
from .rewriter import Rewriter


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("Identity", "Cast", "Dropout", "Sum", "Max", "Min", "Concat"):
        if _is_identity(rw, node) and _bypass(rw, node):
            changed = True
    return changed


def _is_identity(rw: Rewriter, node: Node) -> bool:
    op = node.op_type
    if op == "Identity":
        return True
    if op == "Cast":
        return rw.elem_type(node.inputs[0]) == node.attrs.get("to")
    if op != "Dropout":
        return len(node.inputs) == 1
    if len(node.outputs) > 1 and node.outputs[1] and (rw.readers.get(node.outputs[1]) or node.outputs[1] in rw.outputs):
        return False
    if node.opset >= 12:  # training_mode is an input, false by default
        if len(node.inputs) < 3 or not node.inputs[2]:
            return True
        training = rw.array(node.inputs[2])
        return training is not None and not training.any()
    if node.opset >= 7:
        return True
    return bool(node.attrs.get("is_test", 0))


def _bypass(rw: Rewriter, node: Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if result not in rw.outputs:
        rw.remove(node)
        rw.rewire(result, source)
        return True
    # A graph output keeps its name: its producer may take it over, if the value has no other public name
    maker = rw.producers.get(source)
    if maker is None or source in rw.outputs:
        return False
    rw.remove(node)
    rw.rewire(source, result)
    rw.set_output(maker, source, result)
    return True
