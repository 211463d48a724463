"""`pytensor-rt compare MODEL`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..errors import ModelError
from ..session import InferenceSession
from .common import make_inputs, open_session, peer


def differs(a: Any, b: Any, rtol: float, atol: float) -> str:
    """How `a` is not `b`, or "" if it is: shape, dtype, then values (NaN equals NaN; lists and dicts element by element)."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{len(a)} elements instead of {len(b)}"
        return next((f"element {i}: {d}" for i, (x, y) in enumerate(zip(a, b)) if (d := differs(x, y, rtol, atol))), "")
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return f"keys {sorted(map(str, a))} instead of {sorted(map(str, b))}"
        return next((f"key {k!r}: {d}" for k in b if (d := differs(a[k], b[k], rtol, atol))), "")
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape:
        return f"shape {list(x.shape)} instead of {list(y.shape)}"
    if x.dtype.kind in "OSU" or y.dtype.kind in "OSU":
        return "" if np.array_equal(x.astype(str), y.astype(str)) else "other strings"
    if x.dtype != y.dtype and isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return f"dtype {x.dtype} instead of {y.dtype}"
    kind = np.complex128 if x.dtype.kind == "c" else np.float64
    p, q = x.astype(kind), y.astype(kind)
    bad = ~np.isclose(p, q, rtol=rtol, atol=atol, equal_nan=True)
    if not bad.any():
        return ""
    gap = np.abs(p - q)
    at = tuple(int(i) for i in np.unravel_index(int(np.where(bad, np.nan_to_num(gap, nan=np.inf), -1).argmax()), bad.shape))
    return f"{int(bad.sum())} of {bad.size} elements differ, most at {list(at)}: {x[at]} instead of {y[at]}"


def largest(a: Any, b: Any) -> float:
    """The largest absolute difference of two tensors of numbers; 0 for anything else."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or a.size == 0 or a.dtype.kind in "OSU":
        return 0.0
    kind = np.complex128 if a.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(a.astype(kind) - b.astype(kind)), nan=0.0).max())


def reference(model: str | bytes) -> Any:
    """onnx.reference's evaluator as a function of feeds, or None if it cannot open the model (said on one line)."""
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model)
    except Exception as e:
        print(f"onnx.reference cannot open this model: {_first_line(e)}")
        return None


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:200]


def exposed(path: str) -> tuple[bytes, dict[str, Any]]:
    """The model with the output of every top-level node as a graph output, and which node makes each value."""
    import onnx

    model = onnx.load(path)
    outputs = {o.name for o in model.graph.output}
    makers: dict[str, Any] = {}
    for node in model.graph.node:
        for name in node.output:
            if name:
                makers[name] = node
                if name not in outputs:
                    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model.SerializeToString(), makers


def first_difference(args: argparse.Namespace, feeds: dict[str, Any], which: str) -> str:
    """The first node, in the model's order, whose outputs differ when every intermediate value is an output."""
    data, makers = exposed(args.model)
    for optimize in (True, False):
        session = InferenceSession(
            data, device=args.device, threads=args.threads, weights=args.weights, optimize=optimize, precision=args.precision
        )
        other = peer(args, data) if which == "onnxruntime" else reference(data)
        if other is None:
            return "the other runtime cannot show intermediate values"
        names = [o.name for o in session.get_outputs()]
        ours = dict(zip(names, session.run(None, feeds)))
        theirs = dict(zip(names, other.run(names, feeds)))
        for name, node in makers.items():
            found = differs(ours[name], theirs[name], args.rtol, args.atol)
            if found:
                passes = "" if optimize else " without graph passes"
                return f"first diverging node{passes}: [{node.op_type}] {node.name or name!r}, output {name!r}: {found}"
    return "no single node differs when all intermediate values are outputs: the cause is in a rewrite or a fusion across nodes"


def command(args: argparse.Namespace) -> int:
    """Run on the same inputs everywhere; exit code 1 if results differ by more than --atol + --rtol * |expected|."""
    session = open_session(args)
    feeds = make_inputs(session, args)
    names = [o.name for o in session.get_outputs()]
    ours = session.run(None, feeds)
    code = compared = 0
    for which, other in (("onnxruntime", peer(args, args.model)), ("onnx.reference", reference(args.model))):
        if other is None:
            continue
        try:
            theirs = other.run(None, feeds)
        except Exception as e:
            print(f"{which} cannot run this model: {_first_line(e)}")
            continue
        compared += 1
        found = [(n, d) for n, a, b in zip(names, ours, theirs) if (d := differs(a, b, args.rtol, args.atol))]
        if not found:
            print(f"{which:<15} agrees: {len(names)} outputs, largest difference {max(map(largest, ours, theirs), default=0.0):.2e}")
            continue
        code = 1
        for name, text in found:
            print(f"{which:<15} differs: output {name!r}: {text}")
        print(f"{'':<15} {first_difference(args, feeds, which)}")
    if not compared:
        raise ModelError("nothing to compare with: no other runtime can run this model")
    return code
