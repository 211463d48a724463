"""Count the n-grams of text without an intermediate tensor of tokens, whose width differs from text to text:

TfIdfVectorizer(Flatten(Tokenizer(x))) -> TfIdfTokens(x)
"""

from __future__ import annotations

from ..graph import Node
from .rewriter import INTERNAL, MICROSOFT, Rewriter


def run(rw: Rewriter) -> bool:
    changed = False
    for node in rw.nodes("TfIdfVectorizer"):
        flatten = rw.producer(node.inputs[0], "Flatten")
        tokenizer = rw.producers.get(flatten.inputs[0]) if flatten is not None else None
        if flatten is None or tokenizer is None or (tokenizer.domain, tokenizer.op_type) != (MICROSOFT, "Tokenizer"):
            continue
        if flatten.attrs.get("axis", 1) != 1:
            continue
        if not node.attrs.get("pool_strings") or not rw.closed((tokenizer, flatten, node), node):
            continue
        attrs = {**tokenizer.attrs, **{k: v for k, v in node.attrs.items() if k != "pool_int64s"}}
        rw.replace(
            (tokenizer, flatten, node), node, Node("TfIdfTokens", INTERNAL, node.name, tokenizer.inputs, node.outputs, attrs, opset=1)
        )
        changed = True
    return changed
