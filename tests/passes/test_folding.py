"""Folding into weights and recognition of quantised patterns: they fire, keep the values, and leave alone what they must not touch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pytensor_rt.graph import export_model, load_model
from pytensor_rt.passes import optimize

from .rewriting import by_onnxruntime, by_reference, constants, feeds_of, parse, random, rewritten

RNG = np.random.default_rng(1)
GAMMA = RNG.standard_normal(8).astype(np.float32)
BETA = RNG.standard_normal(8).astype(np.float32)
AFFINE = {"gamma": GAMMA, "beta": BETA}
EPS = constants("eps 1e-5", "two 2", "one 1")
# ---- folding into weights


def batch_norm(channels: int) -> dict[str, np.ndarray]:
    return {"g": random(channels), "b": random(channels), "mean": random(channels), "var": np.abs(random(channels)) + 0.5}


CONVS = {
    "conv": ("c = Conv <pads = [1, 1, 1, 1]> (x, w)", {"w": random(6, 4, 3, 3)}, 6),
    "conv bias": ("c = Conv(x, w, bias)", {"w": random(6, 4, 3, 3), "bias": random(6)}, 6),
    "group": ("c = Conv <group = 2> (x, w)", {"w": random(6, 2, 3, 3)}, 6),
    "transpose": ("c = ConvTranspose(x, w, bias)", {"w": random(4, 6, 2, 2), "bias": random(6)}, 6),
    "transpose group": ("c = ConvTranspose <group = 2> (x, w)", {"w": random(4, 3, 2, 2)}, 6),
}
AFTER = {
    "batch norm": "y = BatchNormalization(c, g, b, mean, var)",
    "mul add": "n = Mul(c, ch) y = Add(ch, n)",
    "sub div": "n = Sub(ch, c) y = Div(n, positive)",
    "scalar": "n = Mul(one, c) y = Sub(n, one)",
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("conv", CONVS)
def test_fold_into_conv(conv: str, after: str) -> None:
    body, weights, channels = CONVS[conv]
    extra = {
        "ch": random(1, channels, 1, 1),
        "positive": np.abs(random(channels, 1, 1)) + 0.5,
        "one": np.float32(1.5),
        **batch_norm(channels),
    }
    proto = parse(f"{body} {AFTER[after]}", "float[2, 4, 6, 5] x", weights=weights | extra)
    for v in proto.graph.output:
        v.type.tensor_type.elem_type = 1
    model, ops = rewritten(proto, 2e-5, by_onnxruntime)  # onnx.reference has no ConvTranspose with groups
    assert sum(ops.values()) == 1
    node = model.graph.nodes[0]
    assert len(node.inputs) == 3 and set(model.graph.initializers) == set(node.inputs[1:])
    assert model.graph.initializers[node.inputs[1]].array.dtype == np.float32
    assert len(node.origins) >= 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_fold_into_gemm(transposed: int) -> None:
    weights = {"w": random(5, 4) if transposed else random(4, 5), "bias": random(5), **batch_norm(5)}
    body = f"c = Gemm <transB = {transposed}, alpha = 0.5, beta = 2.0> (x, w, bias) y = BatchNormalization(c, g, b, mean, var)"
    _, ops = rewritten(parse(body, "float[3, 4] x", weights=weights), 2e-5)
    assert ops == {"Gemm": 1}


def test_half_precision_weights_stay_half() -> None:
    weights = {"w": random(6, 4, 3, 3).astype(np.float16), "s": random(6, 1, 1).astype(np.float16)}
    model, ops = rewritten(parse("c = Conv(x, w) y = Mul(c, s)", "float16[2, 4, 6, 5] x", "float16 y", weights=weights), 2e-2)
    assert ops == {"Conv": 1} and model.graph.initializers[model.graph.nodes[0].inputs[1]].array.dtype == np.float16


def test_bfloat16_weights_are_rounded_once() -> None:
    w, s = random(2, 1, 1, 1).astype(ml_dtypes.bfloat16), random(2, 1, 1).astype(ml_dtypes.bfloat16)
    model = optimize(load_model(parse("c = Conv(x, w) y = Mul(c, s)", "bfloat16[1, 1, 2, 2] x", "bfloat16 y", weights={"w": w, "s": s})))
    got = model.graph.initializers[model.graph.nodes[0].inputs[1]].array
    want = (w.astype(np.float64) * s.astype(np.float64)[:, None]).astype(ml_dtypes.bfloat16)
    assert got.dtype == want.dtype and got.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("c = Conv(x, w) n = Mul(c, ch) z = Relu(c) y = Add(n, z)", "float y"),  # the convolution has another reader
        ("c = Conv(x, w) y = Mul(c, ch)", "float y, float c"),  # and is an output
        ("c = Conv(x, w) e = Relu(w) f = ReduceSum(e) n = Mul(c, ch) y = Add(n, f)", "float y"),  # the weight has another reader
        ("c = Conv(x, w) y = Mul(c, row)", "float y"),  # not per channel
        ("c = Conv(x, w) y = Mul(c, c)", "float y"),
        ("c = Conv(x, w) y = Mul(c, wide)", "float y"),  # broadcasts the result
    ],
)
def test_not_folded(body: str, outputs: str) -> None:
    weights = {"w": random(6, 4, 3, 3), "ch": random(1, 6, 1, 1), "row": random(3), "wide": random(2, 1, 6, 1, 1)}
    _, ops = rewritten(parse(body, "float[2, 4, 6, 5] x", outputs, weights=weights))
    assert ops["Conv"] == 1 and ops["Mul"] == 1


# ---- quantized models


def quantized(
    op: str,
    bias: bool = False,
    relu: bool = False,
    per_channel: bool = False,
    signed: bool = False,
    strides: tuple[int, int] = (2, 2),
    activation: str = "",
    zero: int = 128,
) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    conv = op.startswith("Conv")
    channels = 6
    x_type = np.int8 if signed else np.uint8
    w_scale = np.abs(rng.standard_normal(channels if per_channel else ())).astype(np.float32) * 0.02 + 0.01
    low = np.iinfo(x_type).min
    shape = {"Conv": (channels, 4, 3, 3), "ConvTranspose": (4, channels, 2, 2), "MatMul": (4, channels), "Gemm": (channels, 4)}[op]
    weights = {
        "xs": np.float32(0.05), "xz": x_type(low + 120), "ws": w_scale, "wz": np.zeros(w_scale.shape, np.int8), "ys": np.float32(0.3),
        "yz": x_type(low if relu else low + zero), "w": rng.integers(-127, 128, shape).astype(np.int8),
        "bs": np.float32(0.05) * w_scale, "bq": rng.integers(-500, 500, channels).astype(np.int32),
    }  # fmt: skip
    axis = "<axis = 0>" if op in ("Conv", "Gemm") else "<axis = 1>"
    attrs = {"Conv": "pads = [1, 1, 1, 1]", "ConvTranspose": f"strides = {list(strides)}", "Gemm": "transB = 1"}.get(op, "")
    body = f"q = QuantizeLinear(x, xs, xz) d = DequantizeLinear(q, xs, xz) wd = DequantizeLinear {axis} (w, ws, wz) "
    if op != "MatMul":
        body += "bd = DequantizeLinear <axis = 0> (bq, bs) " if bias else ""
        body += f"c = {op} <{attrs}> (d, wd{', bd' if bias else ''}) "
    else:
        body += "c = MatMul(d, wd) "
    body += f"r = {activation} " if activation else "r = Relu(c) " if relu else "r = Identity(c) "
    body += "yq = QuantizeLinear(r, ys, yz) y = DequantizeLinear(yq, ys, yz)"
    return parse(body, f"float[{'2, 4, 6, 5' if conv else '7, 4' if op == 'Gemm' else '2, 5, 4'}] x", weights=weights, opset=21)


@pytest.mark.parametrize(
    "kind", [{}, {"per_channel": True}, {"signed": True}, {"relu": True}, {"bias": True}, {"bias": True, "per_channel": True}], ids=str
)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
def test_quantized(op: str, kind: dict[str, bool]) -> None:
    _, ops = rewritten(quantized(op, **kind), 0.301, by_onnxruntime if op == "Gemm" else by_reference)  # one step of the output
    product = {"ConvTranspose": {"QLinearConv": 4, "Interleave": 1}, "Gemm": {"QGemm": 1}}.get(op, {f"QLinear{op}": 1})
    assert ops == {"QuantizeLinear": 1, **product, "DequantizeLinear": 1}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_quantized_values_are_equal_almost_everywhere(op: str) -> None:
    proto = quantized(op, bias=True, per_channel=True)
    feeds = feeds_of(proto)
    want = by_reference(proto, feeds)[0]
    evaluate = by_onnxruntime if op == "Gemm" else by_reference
    got = evaluate(export_model(optimize(load_model(proto))), feeds)[0]
    assert np.mean(got == want) > 0.99


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Gemm"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("activation", "zero", "stays"),
    [
        ("Relu(c)", 0, False),
        ("Relu(c)", 7, True),
        ("Clip(c, least, most)", 0, True),  # 6 is not the last step of the scale
        ("Clip(c, least, large)", 0, False),
        ("Clip(c, least)", 0, False),
        ("Clip(c, least)", 200, True),
        ("Clip(c, , most)", 128, True),
        ("Clip(c, , large)", 0, False),
        ("Clip(c, low, most)", 30, True),
        ("Clip(c)", 128, False),
    ],
)
def test_bounds_of_quantized_products(op: str, activation: str, zero: int, stays: bool, signed: bool) -> None:
    """Relu and Clip become bounds of bytes, or nothing where bytes cannot be beyond them."""
    proto = quantized(op, activation=activation, zero=zero, signed=signed)
    bounds = {"least": 0.0, "most": 6.0, "large": 255 * 0.3, "low": -2.0}
    proto.graph.initializer.extend(numpy_helper.from_array(np.float32(v), k) for k, v in bounds.items())
    _, ops = rewritten(proto, 0.301, by_onnxruntime if op == "Gemm" else by_reference)  # one step of the output
    assert ops["Clip"] == stays and ops["Relu"] == 0 and ops[op] == 0 and ops["QuantizeLinear"] == 1, ops


def test_clip_with_attributes_bounds_quantized_products() -> None:
    proto = quantized("Conv", relu=True)
    relu = next(n for n in proto.graph.node if n.op_type == "Relu")
    relu.op_type = "Clip"
    relu.attribute.extend([helper.make_attribute("min", 0.0), helper.make_attribute("max", 3.0)])
    proto.opset_import[0].version = 10
    model = optimize(load_model(proto))
    ops = {n.op_type: n for n in model.graph.nodes}
    assert "QLinearConv" in ops and "Conv" not in ops
    assert [int(model.graph.initializers[n].array) for n in ops["Clip"].inputs[1:]] == [0, 10]


def test_quantized_that_must_stay() -> None:
    proto = quantized("Conv", activation="Clip(c, two, one)")  # its bounds in the wrong order
    proto.graph.initializer.extend(numpy_helper.from_array(np.float32(v), k) for k, v in (("one", 1), ("two", 2)))
    assert rewritten(proto)[1]["Conv"] == 1
    proto = quantized("Conv", bias=True)
    proto.graph.initializer[[t.name for t in proto.graph.initializer].index("bs")].CopyFrom(numpy_helper.from_array(np.float32(0.5), "bs"))
    assert rewritten(proto)[1]["Conv"] == 1  # the bias has a scale of its own
    proto = quantized("Gemm", bias=True)
    next(n for n in proto.graph.node if n.op_type == "Gemm").attribute.append(helper.make_attribute("beta", 0.5))
    assert rewritten(proto)[1]["Gemm"] == 1
    assert rewritten(quantized("ConvTranspose", strides=(1, 2)))[1]["ConvTranspose"] == 1  # windows overlap
