"""Elementwise kernels against onnxruntime and NumPy, one thread: `python -m benchmarks.kernels.map.compare [elements]`.

Prints the best of interleaved repeats. `PTRT_ISA` chooses the level.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from pytensor_rt.lowering import expr
from pytensor_rt.lowering.expr import Var
from tests.kernels.harness import run

Array = np.ndarray[Any, Any]
# name -> (nodes as (op, inputs, output, attributes), number of operands, the same as one program)
CASES: dict[str, tuple[list[tuple[str, list[str], str, dict[str, Any]]], int, Callable[..., Var]]] = {
    "add": ([("Add", ["a", "b"], "y", {})], 2, lambda a, b: a + b),
    "relu": ([("Relu", ["a"], "y", {})], 1, expr.relu),
    "exp": ([("Exp", ["a"], "y", {})], 1, expr.exp),
    "tanh": ([("Tanh", ["a"], "y", {})], 1, expr.tanh),
    "sigmoid": ([("Sigmoid", ["a"], "y", {})], 1, expr.sigmoid),
    "erf": ([("Erf", ["a"], "y", {})], 1, expr.erf),
    "sin": ([("Sin", ["a"], "y", {})], 1, expr.sin),
    "gelu (erf)": ([("Gelu", ["a"], "y", {})], 1, expr.gelu_erf),
    "gelu (tanh)": ([("Gelu", ["a"], "y", {"approximate": "tanh"})], 1, expr.gelu_tanh),
    "silu chain": (
        [("Mul", ["a", "b"], "t", {}), ("Add", ["t", "b"], "u", {}), ("Sigmoid", ["u"], "s", {}), ("Mul", ["u", "s"], "v", {}),
         ("Add", ["v", "b"], "y", {})],
        2, lambda a, b: expr.silu(a * b + b) + b,
    ),
}  # fmt: skip


def session(nodes: Sequence[tuple[str, list[str], str, dict[str, Any]]], names: Sequence[str], n: int) -> ort.InferenceSession:
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [n])
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes], "g", [value(i) for i in names], [value("y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def best_of_onnxruntime(s: ort.InferenceSession, feeds: dict[str, Array], out: Array) -> Callable[[], int]:
    binding = s.io_binding()
    for name, x in feeds.items():
        binding.bind_cpu_input(name, x)
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(out))

    def once() -> int:
        t = time.perf_counter_ns()
        s.run_with_iobinding(binding)
        return time.perf_counter_ns() - t

    return once


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 20
    rng = np.random.default_rng(0)
    print(f"{n} f32 elements, microseconds: onnxruntime, map, ratio")
    for name, (nodes, operands, body) in CASES.items():
        feeds = {k: rng.standard_normal(n).astype(np.float32) for k in "ab"[:operands]}
        out = np.empty(n, np.float32)
        other = best_of_onnxruntime(session(nodes, list(feeds), n), feeds, out)
        theirs, ours = [], []
        for _ in range(15):
            theirs += [other() for _ in range(6)]
            run("map", list(feeds.values()), [out], body=body, timer=ours, repeat=6)
        print(f"{name:12s} {min(theirs) / 1e3:9.1f} {min(ours) / 1e3:9.1f} {min(theirs) / min(ours):6.2f}")


if __name__ == "__main__":
    main()
