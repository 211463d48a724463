"""Random graphs: every planner option against onnx.reference, with the verifier on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt
from pytensor_rt.plan.plan import PlanOptions

OPTIONS = {
    "all": PlanOptions(),
    "none": PlanOptions(layout=False, fuse=False, elide=False, alias=False),
    "no layout": PlanOptions(layout=False),
    "no fusion": PlanOptions(fuse=False),
}


class _Graph:
    """Grows a random graph of float32 values."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        for i in range(2):
            name = f"x{i}"
            self.inputs[name] = self.shapes[name] = tuple(int(n) for n in self.rng.choice([1, 2, 3, 4, 6], self.rng.integers(2, 5)))

    def const(self, a: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(a), name))
        return name

    def pick(self) -> str:
        """Mostly recent values, so that chains grow long."""
        return list(self.shapes)[-1 - min(int(self.rng.exponential(3)), len(self.shapes) - 1)]

    def add(self, op: str, ins: list[str], shape: tuple[int, ...], **attrs: Any) -> None:
        if np.prod(shape) <= 5000:
            name = f"v{len(self.nodes)}"
            self.nodes.append(helper.make_node(op, ins, [name], **attrs))
            self.shapes[name] = shape

    def grow(self) -> None:
        r = self.rng
        a = self.pick()
        s = self.shapes[a]
        axis = int(r.integers(len(s)))
        other = lambda n: (*s[:axis], n, *s[axis + 1 :])
        match r.choice(
            [
                "unary",
                "binary",
                "transpose",
                "reshape",
                "concat",
                "slice",
                "softmax",
                "matmul",
                "pad",
                "split",
                "reduce",
                "expand",
                "norm",
                "swish",
            ]
        ):
            case "unary":
                self.add(str(r.choice(["Tanh", "Neg", "Abs", "Relu"])), [a], s)
            case "binary":
                same = [b for b, q in self.shapes.items() if q == s]
                b = same[r.integers(len(same))] if r.random() < 0.8 else self.const(r.standard_normal(s[-1:]).astype(np.float32))
                self.add(str(r.choice(["Add", "Mul", "Max"])), [a, b], s)
            case "transpose":
                perm = [int(i) for i in r.permutation(len(s))]
                self.add("Transpose", [a], tuple(s[i] for i in perm), perm=perm)
            case "reshape":
                n, t = int(np.prod(s)), []
                while n > 1 and len(t) < 3:
                    d = int(r.choice([q for q in range(1, n + 1) if n % q == 0]))
                    t.append(d)
                    n //= d
                self.add("Reshape", [a, self.const(np.array([*t, n]))], (*t, n))
            case "concat":
                fits = [
                    b for b, q in self.shapes.items() if len(q) == len(s) and all(x == y for i, (x, y) in enumerate(zip(q, s)) if i != axis)
                ]
                parts = [a, *(fits[r.integers(len(fits))] for _ in range(int(r.integers(1, 3))))]
                r.shuffle(parts)
                self.add("Concat", parts, other(sum(self.shapes[b][axis] for b in parts)), axis=axis)
            case "slice":
                step, n = int(r.choice([1, 2, -1])), s[axis]
                begin, end = {1: (0, max(1, n - 1)), 2: (0, n), -1: (n - 1, -n - 1)}[step]
                count = {1: max(1, n - 1), 2: (n + 1) // 2, -1: n}[step]
                self.add("Slice", [a, *(self.const(np.array([v])) for v in (begin, end, axis, step))], other(count))
            case "softmax":
                self.add("Softmax", [a], s, axis=axis)
            case "matmul":
                w = int(r.integers(1, 5))
                self.add("MatMul", [a, self.const((r.standard_normal((s[-1], w)) * 0.3).astype(np.float32))], (*s[:-1], w))
            case "pad":
                p = [int(v) for v in r.integers(0, 2, 2 * len(s))]
                self.add("Pad", [a, self.const(np.array(p))], tuple(n + p[i] + p[i + len(s)] for i, n in enumerate(s)))
            case "split" if s[axis] % 2 == 0:
                names = [f"v{len(self.nodes)}a", f"v{len(self.nodes)}b"]
                self.nodes.append(helper.make_node("Split", [a], names, axis=axis, num_outputs=2))
                self.shapes |= dict.fromkeys(names, other(s[axis] // 2))
            case "reduce":
                self.add(str(r.choice(["ReduceSum", "ReduceMax"])), [a, self.const(np.array([axis]))], other(1), keepdims=1)
            case "expand" if s[axis] == 1:
                self.add("Expand", [a, self.const(np.array(other(3)))], other(3))
            case "norm":
                ones, zeros = (self.const(v.astype(np.float32)) for v in (np.ones(s[-1]), np.zeros(s[-1])))
                self.add("LayerNormalization", [a, ones, zeros], s)
            case "swish":
                self.nodes.append(helper.make_node("Sigmoid", [a], [f"g{len(self.nodes)}"]))
                self.add("Mul", [a, self.nodes[-1].output[0]], s)

    def build(self) -> tuple[ModelProto, dict[str, Any]]:
        outs = sorted({list(self.shapes)[-1], *(self.pick() for _ in range(3))})
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outs], self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return model, {n: self.rng.standard_normal(s).astype(np.float32) for n, s in self.inputs.items()}


def random_model(seed: int) -> tuple[ModelProto, dict[str, Any]]:
    g = _Graph(seed)
    for _ in range(int(g.rng.integers(5, 30))):
        g.grow()
    return g.build()


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_random_graphs(block: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(100 * block, 100 * block + (20 if device == "cpu" else 6)):
        proto, feeds = random_model(seed)
        expected = ReferenceEvaluator(proto).run(None, feeds)
        for name, options in OPTIONS.items():
            session = rt.InferenceSession(proto, device=device, optimize=name != "none")
            session._engine.options = options
            for got, want, out in zip(session.run(None, feeds), expected, proto.graph.output):
                assert got.shape == want.shape, (seed, name, out.name)
                np.testing.assert_allclose(got, want, 2e-4, 2e-5, err_msg=f"seed {seed}, options {name}, output {out.name}")
