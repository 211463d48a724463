"""Optimisations must not only keep values right but happen: launch counts, strides, in-place and write-into-place on typical blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt
from pytensor_rt.plan.plan import Plan

rng = np.random.default_rng(3)


class Net:
    """A small graph under construction."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.inputs, self.nodes, self.weights = inputs, [], []

    def w(self, *shape: int, scale: float = 0.2) -> str:
        return self.const((rng.standard_normal(shape) * scale).astype(np.float32))

    def const(self, a: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(a), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, op: str, *ins: str, n: int = 1, **attrs: Any) -> Any:
        outs = [f"t{len(self.nodes)}_{i}" for i in range(n)]
        self.nodes.append(helper.make_node(op, ins, outs, **attrs))
        return outs[0] if n == 1 else outs

    def conv(self, x: str, c_in: int, c_out: int, k: int = 1, **attrs: Any) -> str:
        group = attrs.get("group", 1)
        return self("Conv", x, self.w(c_out, c_in // group, k, k), self.w(c_out), kernel_shape=[k, k], pads=[k // 2] * 4, **attrs)

    def model(self, *outs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in self.inputs.items()],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outs], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def plan_of(net: Net, *outs: str) -> tuple[rt.Runner, Plan]:
    """Run the net against onnxruntime, and return its plan."""
    proto = net.model(*outs)
    feeds = {k: rng.standard_normal(s).astype(np.float32) for k, s in net.inputs.items()}
    session = rt.InferenceSession(proto)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, want in zip(session.run(None, feeds), peer.run(None, feeds)):
        np.testing.assert_allclose(got, want, 1e-3, 1e-4)
    runner = session.bind(**feeds)
    return runner, runner.plan


def is_channels_last(t: Any) -> bool:
    _n, c, _h, w = t.shape
    return bool(t.strides[1] == 1 and t.strides[3] % c == 0 and t.strides[2] == w * t.strides[3])


def test_inverted_residual_blocks() -> None:
    net = Net(x=(1, 16, 12, 12))
    six = (net.const(np.float32(0)), net.const(np.float32(6)))
    x = net.conv("x", 16, 24)
    for _ in range(2):
        y = net("Clip", net.conv(x, 24, 48), *six)
        y = net("Clip", net.conv(y, 48, 48, 3, group=48), *six)
        x = net("Add", x, net.conv(y, 48, 24))
    _runner, plan = plan_of(net, net("GlobalAveragePool", x))
    assert plan.counts() == {"conv": 7, "reduce": 1}, "every activation and residual must be an epilogue"
    assert plan.stats["in place"] == 2, "each residual is added into the memory of the value it adds to"
    assert plan.stats.get("copy", 0) == 0
    for launch in plan.launches:
        if launch.kernel == "conv":
            assert is_channels_last(launch.outs[0]), launch
    assert plan.arena_bytes == plan.lower_bound


def test_split_concat_block() -> None:
    net = Net(x=(1, 8, 10, 10))
    silu = lambda v: net("Mul", v, net("Sigmoid", v))
    a, b = net("Split", silu(net.conv("x", 8, 32)), n=2, axis=1)
    c = net("Add", b, silu(net.conv(silu(net.conv(b, 16, 16, 3)), 16, 16, 3)))
    y = net("Concat", a, b, c, axis=1)
    _runner, plan = plan_of(net, net("MaxPool", silu(net.conv(y, 48, 32)), kernel_shape=[2, 2], strides=[2, 2]))
    assert plan.counts() == {"conv": 4, "pool": 1}, "splits are views, SiLU and the residual are epilogues, Concat copies nothing"
    assert plan.stats["write into place"] >= 1, "the first convolution writes straight into the concatenation"
    assert plan.stats["views"] >= 1
    wide = plan.launches[3].ins[0]
    assert wide is not None and wide.shape[1] == 48 and is_channels_last(wide), "the concatenation is channels-last"
    assert all(launch.outs[0].buffer is wide.buffer for launch in (plan.launches[0], plan.launches[2])), "both producers write inside it"


def test_dense_block() -> None:
    net = Net(x=(1, 16, 10, 10))
    features = [net.conv("x", 16, 16)]
    for i in range(4):
        y = net("Relu", net("Concat", *features, axis=1)) if i else features[0]
        features.append(net.conv(y, 16 + 16 * i, 16, 3))
    _runner, plan = plan_of(net, net.conv(net("Relu", net("Concat", *features, axis=1)), 80, 8))
    assert plan.counts() == {"conv": 6, "map": 4}, "only the activations are computed apart"
    assert plan.stats.get("copy", 0) == 0, "all features live in the last concatenation"
    assert len({launch.ins[0].buffer for launch in plan.launches if launch.kernel == "map"}) == 1


def test_transformer_layer() -> None:
    s, d, h = 12, 32, 4
    net = Net(x=(1, s, d), mask=(1, 1, 1, s))

    def linear(v: str, n: int, m: int) -> str:
        return net("Add", net("MatMul", v, net.w(n, m)), net.w(m))

    def heads(v: str) -> str:
        return net("Transpose", net("Reshape", v, net.const(np.array([0, 0, h, d // h]))), perm=[0, 2, 1, 3])

    q, k, v = (heads(linear("x", d, d)) for _ in range(3))
    scores = net("Div", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])), net.const(np.float32(np.sqrt(d // h))))
    context = net("MatMul", net("Softmax", net("Add", scores, "mask"), axis=-1), v)
    merged = net("Reshape", net("Transpose", context, perm=[0, 2, 1, 3]), net.const(np.array([0, 0, d])))
    norm = lambda v: net("LayerNormalization", v, net.const(np.ones(d, np.float32)), net.const(np.zeros(d, np.float32)))
    a = norm(net("Add", linear(merged, d, d), "x"))
    wide = linear(a, d, 4 * d)
    half = net("Mul", net("Mul", wide, net("Add", net("Erf", net("Div", wide, net.const(np.float32(np.sqrt(2))))), net.const(np.float32(1)))),
               net.const(np.float32(0.5)))  # fmt: skip
    _runner, plan = plan_of(net, norm(net("Add", linear(half, 4 * d, d), a)))
    assert plan.counts() == {"gemm": 6, "attention": 1, "normalize": 2}, (
        "biases, GELU and residuals are epilogues; heads split and merge by views"
    )
    assert plan.stats["views"] >= 4
    assert plan.stats["in place"] >= 1
    assert plan.arena_bytes == plan.lower_bound


def test_replay_reads_and_writes_its_own_buffers() -> None:
    net = Net(x=(2, 3))
    runner, _ = plan_of(net, net("Exp", "x"))
    name = next(iter(runner.outputs))
    before = runner.outputs[name]
    runner.inputs["x"][...] = 1
    runner.replay()
    assert runner.outputs[name] is before
    np.testing.assert_allclose(before, np.e, 1e-6)


def test_quantised_conv_transpose_writes_into_the_concatenation() -> None:
    net = Net(x=(1, 16, 6, 5), skip=(1, 8, 12, 10))
    u8, i8 = np.uint8, np.int8

    def quantised(value: str, scale: float, zero: Any) -> str:
        s, z = net.const(np.float32(scale)), net.const(zero)
        return net("DequantizeLinear", net("QuantizeLinear", value, s, z), s, z)

    w = net.const(rng.integers(-127, 128, (16, 8, 2, 2)).astype(i8))
    weight = net("DequantizeLinear", w, net.const(np.linspace(0.01, 0.03, 8, dtype=np.float32)), net.const(np.zeros(8, i8)), axis=1)
    up = quantised(net("ConvTranspose", quantised("x", 0.03, u8(120)), weight, strides=[2, 2]), 0.1, u8(128))
    both = quantised(net("Concat", quantised("skip", 0.03, u8(128)), up, axis=1), 0.12, u8(131))
    proto = net.model(net("MaxPool", both, kernel_shape=[2, 2]))
    feeds = {k: rng.standard_normal(s).astype(np.float32) for k, s in net.inputs.items()}
    session = rt.InferenceSession(proto)
    got = session.run(None, feeds)[0]
    want = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    assert np.abs(got - want).max() < 0.121 and np.mean(np.abs(got - want) < 1e-5) > 0.98  # a step of the scale, seldom
    plan = session.bind(**feeds).plan
    convs = [launch for launch in plan.launches if launch.kernel == "conv"]
    assert len(convs) == 4 and len({launch.outs[0].buffer for launch in convs}) == 1  # each writes its pixels of the concatenation
    assert all(launch.outs[0].strides[3] == 2 * (8 + 8) and launch.outs[0].strides[1] == 1 for launch in convs)
    assert sum(launch.kernel == "map" for launch in plan.launches) == 3  # x, skip and the pool's operand: no copies


def test_convolutions_inside_a_transformer_keep_features_contiguous() -> None:
    """x + transpose(conv(transpose(x))), as in a Conformer: the transformer's [N, T, C] has C contiguous, the convolution's [N, C, T] too."""
    net = Net(x=(1, 9, 8))
    y = net("MatMul", "x", net.w(8, 8))
    for _ in range(2):
        t = net("Transpose", net("Tanh", y), perm=[0, 2, 1])
        t = net("Conv", t, net.w(8, 8, 3), kernel_shape=[3], pads=[1, 1])
        y = net("Add", y, net("Transpose", t, perm=[0, 2, 1]))
        y = net("Add", y, net("MatMul", net("Relu", net("MatMul", y, net.w(8, 16))), net.w(16, 8)))
    _, plan = plan_of(net, y)
    for launch in plan.launches:
        for t in launch.tensors():
            if t.shape in ((1, 9, 8), (1, 9, 16)):
                assert t.strides[2] == 1, launch
            elif t.shape == (1, 8, 9):
                assert t.strides[1] == 1, launch


def unfolding(n: int | str, c: int = 24, size: int = 8) -> onnx.ModelProto:
    """Patches of 2 x 2 pixels become a batch of their own for a normalization between two convolutions, and are put back (as in MobileViT)."""
    net = Net(x=(n, 3, size, size))  # type: ignore[arg-type]
    half = size // 2
    shape = lambda *dims: net.const(np.array(dims, np.int64))
    x = net.conv("x", 3, c)
    x = net("Transpose", net("Reshape", x, shape(-1, 2, half, 2)), perm=[0, 2, 1, 3])
    x = net("Transpose", net("Reshape", x, shape(-1, c, half * half, 4)), perm=[0, 3, 2, 1])
    x = net("Reshape", x, shape(-1, half * half, c))
    y = net("LayerNormalization", x, net.w(c), net.w(c))
    x = net("Add", x, y)
    x = net("Transpose", net("Reshape", x, shape(-1, 4, half * half, c)), perm=[0, 3, 2, 1])
    x = net("Transpose", net("Reshape", x, shape(-1, half, 2, 2)), perm=[0, 2, 1, 3])
    x = net("Reshape", x, shape(-1, c, size, size))
    return net.model(net.conv(x, c, 5))


def test_patches_are_moved_in_runs_of_channels() -> None:
    proto = unfolding(1)
    session = rt.InferenceSession(proto)
    runner = session.bind(x=(1, 3, 8, 8))
    convs = [x for x in runner.plan.launches if x.kernel == "conv"]
    assert is_channels_last(convs[0].outs[0]) and is_channels_last(convs[1].ins[0])
    (norm,) = [x for x in runner.plan.launches if x.kernel == "normalize"]
    assert norm.ins[0].strides[-1] == norm.outs[0].strides[-1] == 1
    copies = [x for x in runner.plan.launches if x.is_copy and x.outs[0].buffer.kind == "arena"]
    assert copies and all(any(a == b == 1 for a, b in zip(x.ins[0].strides, x.outs[0].strides)) for x in copies)


def test_patches_of_any_batch() -> None:
    proto = unfolding("n")
    session, peer = rt.InferenceSession(proto), onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (2, 1, 3, 3, 2, 5):
        feeds = {"x": rng.standard_normal((n, 3, 8, 8)).astype(np.float32)}
        np.testing.assert_allclose(session.run(None, feeds)[0], peer.run(None, feeds)[0], 1e-4, 1e-5)
