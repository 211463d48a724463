"""Recognition of attention, however exporters spell it: it fires, keeps the values, and leaves alone what it must not touch."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

import pytensor_rt
from pytensor_rt.graph import export_model, load_model
from pytensor_rt.passes import optimize

from .rewriting import constants, feeds_of, parse, rewritten

RNG = np.random.default_rng(1)
GAMMA = RNG.standard_normal(8).astype(np.float32)
BETA = RNG.standard_normal(8).astype(np.float32)
AFFINE = {"gamma": GAMMA, "beta": BETA}
EPS = constants("eps 1e-5", "two 2", "one 1")

QKV = "float[2, 4, 5, 8] q, float[2, 4, 7, 8] k, float[2, 4, 7, 6] v"
SCALE = constants("s 0.3535533", "root 2.828427", "zero 0") + " ninf = Constant <value_float = -3.4e38> () "
KT = SCALE + "kt = Transpose <perm = [0, 1, 3, 2]> (k) "
TAIL = " w = Softmax <axis = -1> (b) y = MatMul(w, v)"
SHAPE_SCALE = """ last = Constant <value_ints = [-1]> () end = Constant <value_ints = [9223372036854775807]> () sh = Shape(q) d = Slice(sh, last, end)
    df = Cast <to = 1> (d) r = Sqrt(df) unit = Constant <value_float = 1.0> () t = Div(unit, r) t2 = Cast <to = 1> (t) """
ATTENTIONS = {
    "plain": (KT + "b = MatMul(q, kt)", 1.0),
    "mul": (KT + "a = MatMul(q, kt) b = Mul(a, s)", 0.3535533),
    "div": (KT + "a = MatMul(q, kt) b = Div(a, root)", 0.3535533),
    "scaled q": (KT + "qs = Mul(s, q) b = MatMul(qs, kt)", 0.3535533),
    "scaled both": (KT + "qs = Mul(q, s) ks = Mul(kt, s) b = MatMul(qs, ks)", 0.125),
    "mask": (KT + "a = MatMul(q, kt) c = Mul(a, s) b = Add(c, mask)", 0.3535533),
    "mask first": (KT + "a = MatMul(q, kt) c = Div(a, root) b = Add(mask, c)", 0.3535533),
    "shape": (KT + SHAPE_SCALE + "h = Sqrt(t2) qs = Mul(q, h) g = Sqrt(t2) ks = Mul(kt, g) b = MatMul(qs, ks)", None),
    "pow": (KT + SHAPE_SCALE.replace("r = Sqrt(df)", "half = Constant <value_float = 0.5> () r = Pow(df, half)") + "a = MatMul(q, kt) b = Div(a, r)", None),
    "where keeps": (KT + "a = MatMul(q, kt) c = Mul(a, s) b = Where(keep, c, ninf)", 0.3535533),
    "where drops": (KT + "a = MatMul(q, kt) c = Mul(a, s) b = Where(keep, ninf, c)", 0.3535533),
    "no transpose": (SCALE + "f = Constant <value_ints = [8, 7, 8]> () k3 = Reshape(k, f) kt3 = Transpose <perm = [0, 2, 1]> (k3) "
                     "g = Constant <value_ints = [2, 4, 8, 7]> () kt = Reshape(kt3, g) b = MatMul(q, kt)", 1.0),
}  # fmt: skip
EXTRA = {
    "mask": ", float[2, 1, 5, 7] mask",
    "mask first": ", float[5, 7] mask",
    "where keeps": ", bool[2, 1, 5, 7] keep",
    "where drops": ", bool[5, 7] keep",
}


@pytest.mark.parametrize("spelling", ATTENTIONS)
def test_attention(spelling: str) -> None:
    body, scale = ATTENTIONS[spelling]
    model, ops = rewritten(parse(body + TAIL, QKV + EXTRA.get(spelling, "")))
    assert ops["Attention"] == 1 and not ops["Softmax"] and not ops["MatMul"]
    node = next(n for n in model.graph.nodes if n.op_type == "Attention")
    assert node.domain == "pytensor_rt" and model.opsets["pytensor_rt"] == 1
    assert node.attrs.get("scale") == (None if scale is None else pytest.approx(scale, rel=1e-6))
    assert node.inputs[0] == "q" and node.inputs[2] == "v" and len(node.inputs) == (4 if spelling in EXTRA else 3)
    if spelling != "no transpose":
        assert node.inputs[1] == "k" and not ops["Transpose"]


def test_attention_nan_guard() -> None:
    body = (
        KT
        + """a = MatMul(q, kt) c = Mul(a, s) inf = Constant <value_float = -inf> () m = Where(keep, zero, inf) b = Add(c, m)
        w0 = Softmax <axis = -1> (b) nan = IsNaN(w0) w = Where(nan, zero, w0) y = MatMul(w, v)"""
    )
    proto = parse(body.replace("-inf", "-1.0"), QKV + ", bool[2, 1, 5, 7] keep")
    for node in proto.graph.node:
        if node.output[0] == "inf":
            node.attribute[0].f = -np.inf
    model, ops = rewritten(proto)
    assert ops == {"Where": 1, "Attention": 1}
    assert model.graph.nodes[-1].attrs["nan_to_zero"] == 1
    feeds = feeds_of(proto) | {"keep": np.zeros((2, 1, 5, 7), bool)}
    assert not ReferenceEvaluator(export_model(model)).run(None, feeds)[0].any()


@pytest.mark.parametrize("guarded", [False, True])
def test_attention_rows_with_every_key_masked(guarded: bool) -> None:
    """As onnxruntime has it without any recognition: NaN, or 0 where the model guards against it."""
    tail = "n = IsNaN (p) w = Where (n, zero, p)" if guarded else "w = Identity (p)"
    proto = parse(
        f"kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) m = Mul (s, c) a = Add (m, mask) p = Softmax <axis = -1> (a) {tail}"
        " y = MatMul (w, v)",
        "float[2, 3, 5, 8] q, float[2, 3, 7, 8] k, float[2, 3, 7, 8] v, float[2, 1, 5, 7] mask",
        weights={"c": np.float32(0.5), "zero": np.float32(0)},
    )
    feeds = feeds_of(proto)
    feeds["mask"][1, 0, 2] = -np.inf
    feeds["mask"][0, 0, 1, 3:] = -np.inf
    assert "Attention" in {n.op_type for n in optimize(load_model(proto.SerializeToString())).graph.nodes}
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    want = InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    got = pytensor_rt.InferenceSession(proto).run(None, feeds)[0]
    assert np.isnan(want[1, :, 2]).all() != guarded
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_attention_of_three_axes_absorbs_a_mixed_transpose() -> None:
    body = constants("s 0.5") + "kt = Transpose <perm = [1, 2, 0]> (k) qs = Mul(q, s) b = MatMul(qs, kt)" + TAIL
    model, ops = rewritten(parse(body, "float[4, 5, 8] q, float[7, 4, 8] k, float[4, 7, 6] v"))
    assert ops == {"Transpose": 1, "Attention": 1}
    assert model.graph.nodes[0].attrs["perm"] == (1, 0, 2)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (KT + "b = MatMul(q, kt)" + TAIL, "float y, float w"),  # the weights are wanted
        (KT + "b = MatMul(q, kt) z = Relu(b)" + TAIL, "float y, float z"),  # the scores are
        (KT + "a = MatMul(q, kt) b = Mul(a, mask)" + TAIL, "float y"),  # scaled by a tensor
        (KT + "b = MatMul(q, kt) w = Softmax <axis = 2> (b) y = MatMul(w, v)", "float y"),
        (KT + SHAPE_SCALE + "a = MatMul(q, kt) b = Mul(a, df)" + TAIL, "float y"),  # a scale that is no constant nor 1 / sqrt(d)
        (KT + "low = Constant <value_float = -10.0> () a = MatMul(q, kt) b = Where(keep, a, low)" + TAIL, "float y"),
        (KT + "a = MatMul(q, kt) c = Add(a, mask) b = Mul(c, s)" + TAIL, "float y"),  # scaled after the mask
    ],
)
def test_not_attention(body: str, outputs: str) -> None:
    _, ops = rewritten(parse(body, QKV + ", float[5, 7] mask, bool[5, 7] keep", outputs))
    assert not ops["Attention"] and ops["Softmax"] == 1
