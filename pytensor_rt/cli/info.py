"""`pytensor-rt info MODEL`."""

from __future__ import annotations

import argparse
from collections import Counter

from ..graph import load_model
from ..runtime.resolve import Resolver
from .common import nbytes, table


def command(args: argparse.Namespace) -> int:
    """Print what the file says, and which of its operators are not implemented."""
    model = load_model(args.model)
    meta = model.metadata
    graphs = list(model.graph.graphs())
    nodes = [n for g in graphs for n in g.nodes]
    weights = [i for g in graphs for i in g.initializers.values()]
    print(f"model       {args.model}")
    print(f"graph       {meta.graph_name or '(no name)'}, IR version {meta.ir_version}")
    print(f"producer    {' '.join(v for v in (meta.producer_name, meta.producer_version) if v) or 'unknown'}")
    print(f"opsets      {', '.join((d or 'ai.onnx') + ' ' + str(v) for d, v in model.opsets.items())}")
    for title, text in (("says", meta.description), ("graph says", meta.graph_description)):
        if text:
            print(f"{title:<11} {text.strip().splitlines()[0][:200]}")
    for key, value in meta.custom_metadata_map.items():
        print(f"metadata    {key} = {value[:120]!r}")
    for title, values in (
        ("input", [v for v in model.graph.inputs if v.name not in model.graph.initializers]),
        ("output", model.graph.outputs),
    ):
        for v in values:
            shape = "" if v.shape is None else "[" + ", ".join("?" if n is None else str(n) for n in v.shape) + "]"
            print(f"{title:<11} {v.name}: {v.type_string}{shape}")
    print(
        f"weights     {len(weights)} tensors, {nbytes(sum(w.nbytes for w in weights))}, of which {nbytes(sum(w.nbytes for w in weights if w.mapped))} mapped"
    )
    if model.functions:
        print(f"functions   {', '.join(f'{d}::{n}' for d, n in model.functions)}")
    resolver = Resolver(model)
    unknown = Counter(n.op_type for n in nodes if resolver.lookup(n) is None)
    ops = Counter((n.domain, n.op_type) for n in nodes)
    print(f"nodes       {len(nodes)}" + (f" in {len(graphs)} graphs" if len(graphs) > 1 else ""))
    rows = [("", f"{d}::{op}" if d else op, str(k)) for (d, op), k in sorted(ops.items(), key=lambda item: (-item[1], item[0]))]
    print(table(rows, " lr"))
    if unknown:
        print(f"unsupported {', '.join(f'{op} ({k})' for op, k in unknown.items())}")
    else:
        print("unsupported none")
    return 0
