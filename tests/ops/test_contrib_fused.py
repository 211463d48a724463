"""What onnxruntime's optimiser fuses into operators of com.microsoft, against onnxruntime or, where it has no CPU kernel, the definition."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt

from .nodes import MS, both, close, normal, run, trimmed

Array = np.ndarray[Any, Any]


# --------------------------------------------------------------------------------------------------------------------- products
@pytest.mark.parametrize("name,dtype", [("FusedMatMul", np.float32), ("FusedMatMul", np.float64), ("TransposeMatMul", np.float32)])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_fused_matmul(name: str, dtype: Any, alpha: float) -> None:
    for ta, tb, (batch_a, batch_b) in product((0, 1), (0, 1), [((), ()), ((3,), ()), ((2, 3), (2, 3)), ((2, 1), (3,))]):
        a, b = normal(*batch_a, 5, 7, dtype=dtype), normal(*batch_b, 7, 4, dtype=dtype)
        feeds = {"a": np.swapaxes(a, -1, -2).copy() if ta else a, "b": np.swapaxes(b, -1, -2).copy() if tb else b}
        pairs = both(name, feeds, alpha=alpha, transA=ta, transB=tb)
        close(pairs)
        close([(pairs[0][0], alpha * (a @ b))])


@pytest.mark.parametrize("ta,tb", list(product((0, 1), (0, 1))))
def test_fused_matmul_with_batch_axes_behind(ta: int, tb: int) -> None:
    for batch_a, batch_b in product((0, 1), (0, 1)):
        a, b = normal(2, 3, 5, 7), normal(2, 3, 7, 4)
        a, b = (np.swapaxes(a, -1, -2) if ta else a), (np.swapaxes(b, -1, -2) if tb else b)
        # the last but one axis goes first
        feeds = {"a": (np.moveaxis(a, -2, 0) if batch_a else a).copy(), "b": (np.moveaxis(b, -2, 0) if batch_b else b).copy()}
        close(both("FusedMatMul", feeds, transA=ta, transB=tb, transBatchA=batch_a, transBatchB=batch_b))


@pytest.mark.parametrize("a,b", [((4,), (4, 3)), ((5, 4), (4,)), ((4,), (4,)), ((0, 4), (4, 3)), ((2, 0), (0, 3))])
def test_fused_matmul_of_vectors_and_nothing(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    close(both("FusedMatMul", {"a": normal(*a), "b": normal(*b)}, alpha=0.5))


ACTIVATIONS: list[tuple[str, dict[str, float]]] = [
    ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("Softplus", {}), ("Softsign", {}), ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("ThresholdedRelu", {"alpha": 0.5}), ("Selu", {"alpha": 1.5, "gamma": 1.1}),
]  # fmt: skip


@pytest.mark.parametrize("activation,values", ACTIVATIONS)
def test_fused_gemm(activation: str, values: dict[str, float]) -> None:
    attrs = {f"activation_{k}": v for k, v in values.items()}
    for ta, tb, (alpha, beta), c in product((0, 1), (0, 1), [(1.0, 1.0), (0.5, 0.7)], [None, (4,), (5, 1), (5, 4)]):
        feeds = {
            "a": normal(7, 5) if ta else normal(5, 7),
            "b": normal(4, 7) if tb else normal(7, 4),
            "c": None if c is None else normal(*c),
        }
        if c is None:
            del feeds["c"]
        close(both("FusedGemm", feeds, alpha=alpha, beta=beta, transA=ta, transB=tb, activation=activation, **attrs))


def test_fused_gemm_defaults_and_unknown_activations() -> None:
    a, b = normal(3, 4), normal(4, 5)
    (got,) = run("FusedGemm", {"a": a, "b": b}, activation="LeakyRelu", **MS)
    close([(got, np.where(a @ b < 0, 0.01 * (a @ b), a @ b))])
    with pytest.raises(rt.UnsupportedError, match=r"\[com.microsoft.FusedGemm\] 'n'.*activation 'Wobble'"):
        run("FusedGemm", {"a": a, "b": b}, activation="Wobble", **MS)


def test_fused_matmul_activation() -> None:
    """No CPU kernel in onnxruntime."""
    a, b = normal(2, 4, 3), normal(5, 3)
    (got,) = run("FusedMatMulActivation", {"a": a, "b": b}, transB=1, alpha=0.5, activation="LeakyRelu", activation_alpha=0.2, **MS)
    want = 0.5 * (a @ b.T)
    close([(got, np.where(want < 0, 0.2 * want, want))])


@pytest.mark.parametrize(
    "activation,values",
    [("Relu", []), ("Sigmoid", []), ("Tanh", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 0.8]), ("HardSigmoid", [0.3, 0.4]), ("", [])],
)
@pytest.mark.parametrize("summand", [False, True])
def test_fused_conv(activation: str, values: list[float], summand: bool) -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"pads": [1, 0, 1, 2], "strides": [2, 1]},
        {"group": 2, "auto_pad": "SAME_UPPER"},
        {"dilations": [2, 1]},
    ]
    for attrs, biased in product(cases, (False, True)):
        x, w = normal(2, 4, 9, 8), normal(6, 4 // attrs.get("group", 1), 3, 3) / 6
        plain = run("Conv", {"x": x, "w": w}, **attrs)[0]
        feeds: dict[str, Any] = {"x": x, "w": w, "b": normal(6) if biased else None, "z": normal(*plain.shape) if summand else None}
        feeds = trimmed(feeds)
        extra: dict[str, Any] = {"activation": activation} if activation else {}
        if values:
            extra["activation_params"] = values
        close(both("FusedConv", feeds, **attrs, **extra))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("summand", [False, True])
def test_nhwc_fused_conv(summand: bool, dtype: Any) -> None:
    """FusedConv between transpositions: onnxruntime has no kernel of it on x86-64."""
    last: Any = lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1))
    for attrs in ({}, {"activation": "Relu", "group": 2}, {"activation": "LeakyRelu", "activation_params": [0.3], "pads": [1, 0, 1, 2]}):
        x, w = normal(2, 4, 9, 8, dtype=dtype), normal(6, 4 // attrs.get("group", 1), 3, 3, dtype=dtype) / 6
        feeds: dict[str, Any] = {"x": x, "w": w, "b": normal(6, dtype=dtype)}
        z = normal(*run("Conv", feeds, **{k: v for k, v in attrs.items() if k in ("group", "pads")})[0].shape, dtype=dtype)
        feeds = feeds | ({"z": z} if summand else {})
        (want,) = run("FusedConv", feeds, **MS, **attrs)
        (got,) = run("NhwcFusedConv", {k: last(v) if k in "xz" else v for k, v in feeds.items()}, **MS, **attrs)
        assert got.dtype == dtype and got.shape == last(want).shape
        close([(got, last(want))], 2e-6 if dtype == np.float32 else 4e-3)
    with pytest.raises(rt.PlanError, match="got rank 2"):
        run("NhwcFusedConv", {"x": normal(2, 4), "w": normal(6, 4)}, **MS)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 1, 1]])
def test_conv_transpose_with_dynamic_pads(pads: list[int]) -> None:
    for attrs in ({}, {"strides": [2, 1], "output_padding": [1, 0]}, {"group": 2}):
        feeds: dict[str, Any] = {
            "x": normal(2, 4, 5, 6), "w": normal(4, 3, 3, 2), "p": np.array(pads), "b": normal(3 * attrs.get("group", 1)),
        }  # fmt: skip
        close(both("ConvTransposeWithDynamicPads", feeds, **attrs))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cdist(metric: str, dtype: Any) -> None:
    for m, n, k in ((5, 7, 3), (1, 1, 1), (4, 1, 40)):
        close(both("CDist", {"a": normal(m, k, dtype=dtype), "b": normal(n, k, seed=9, dtype=dtype)}, metric=metric), 1e-5)
    with pytest.raises(rt.UnsupportedError, match="metric 'cosine'"):
        run("CDist", {"a": normal(2, 3), "b": normal(4, 3)}, metric="cosine", **MS)


# ------------------------------------------------------------------------------------------------------------------ activations
SHAPES = [(3, 5, 8), (7,), (0, 8), (2, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gelus(shape: tuple[int, ...]) -> None:
    x, bias = normal(*shape) * 3, normal(shape[-1])
    close(both("Gelu", {"x": x}), 1e-6)
    close(both("BiasGelu", {"x": x, "bias": bias}), 1e-6)
    close(both("FastGelu", {"x": x}), 1e-6)
    close(both("FastGelu", {"x": x, "bias": bias}), 1e-6)
    for alpha in ({}, {"alpha": 1.0}, {"alpha": 0.3}):
        close(both("QuickGelu", {"x": x}, **alpha), 1e-6)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_bias_softmax(axis: int) -> None:
    """No CPU kernel in onnxruntime."""
    x = normal(2, 3, 4, 5)
    for bias, inner in ((normal(2, 1, 1, 5), 1), (normal(1, 1, 4, 5), 0), (normal(4, 5), 0)):
        (got,) = run("BiasSoftmax", {"x": x, "bias": bias}, axis=axis, is_inner_broadcast=inner, **MS)
        flat = (x + bias).reshape(int(np.prod(x.shape[: axis % 4])), -1)
        e = np.exp(flat - flat.max(1, keepdims=True))
        close([(got, (e / e.sum(1, keepdims=True)).reshape(x.shape))])


@pytest.mark.parametrize("residual", [False, True])
def test_bias_dropout(residual: bool) -> None:
    """No CPU kernel in onnxruntime."""
    x, bias, rest = normal(2, 3, 4), normal(4), normal(2, 3, 4, seed=1)
    feeds: dict[str, Any] = {
        "x": x,
        "bias": bias,
        "r": rest if residual else None,
        "ratio": np.array(0.5, np.float32),
        "t": np.array(False),
    }
    y, mask = run("BiasDropout", feeds, outputs=2, **MS)
    np.testing.assert_array_equal(y, x + bias + rest if residual else x + bias)
    assert mask.dtype == np.bool_ and mask.shape == x.shape and mask.all()
    with pytest.raises(rt.UnsupportedError, match="training_mode"):
        run("BiasDropout", {**feeds, "t": np.array(True)}, outputs=2, **MS)


# ---------------------------------------------------------------------------------------------------------------- normalisation
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_simplified_layer_normalization(axis: int, dtype: Any) -> None:
    x, scale = normal(2, 3, 8, dtype=dtype), normal(*(2, 3, 8)[axis:], dtype=dtype)
    for outputs in (1, 2):
        pairs = both("SimplifiedLayerNormalization", {"x": x, "s": scale}, outputs=outputs, domain="", opset=17, axis=axis, epsilon=1e-4)
        close(pairs, 2e-3 if dtype == np.float16 else 2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", ["", "Simplified"])
def test_skip_layer_normalization(kind: str, dtype: Any) -> None:
    for skip, beta, bias in product([(2, 3, 16), (1, 3, 16), (3, 16)], (False, True), (False, True)):
        feeds: dict[str, Any] = {
            "x": normal(2, 3, 16, dtype=dtype),
            "skip": normal(*skip, seed=2, dtype=dtype),
            "g": normal(16, dtype=dtype),
        }
        if not kind:
            feeds["beta"] = normal(16, seed=1, dtype=dtype) if beta else None
        feeds["bias"] = normal(16, seed=3, dtype=dtype) if bias else None
        feeds = trimmed(feeds)
        close(both(f"Skip{kind}LayerNormalization", feeds, epsilon=1e-5), 1e-2 if dtype == np.float16 else 2e-6)


@pytest.mark.parametrize("kind", ["", "Simplified"])
def test_skip_layer_normalization_statistics(kind: str) -> None:
    """onnxruntime's CPU kernel computes the first output and the sum only."""
    x, skip, gamma = normal(2, 3, 16), normal(2, 3, 16, seed=5), normal(16)
    y, mean, inverse, total = run(f"Skip{kind}LayerNormalization", {"x": x, "skip": skip, "g": gamma}, outputs=4, **MS)
    want = x + skip
    centre = want.mean(-1, keepdims=True) if not kind else np.zeros((2, 3, 1))
    deviation = np.sqrt(((want - centre) ** 2).mean(-1, keepdims=True) + 1e-12)
    close([(total, want), (inverse, 1 / deviation), (y, (want - centre) / deviation * gamma), *([(mean, centre)] if not kind else [])])


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("positions", [None, (2, 5), (1, 5)])
def test_embed_layer_normalization(segments: bool, masked: bool, positions: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(0)
    ids: Any = lambda n, *shape: rng.integers(0, n, shape).astype(np.int32)
    feeds: dict[str, Any] = {
        "ids": ids(30, 2, 5), "seg": ids(2, 2, 5) if segments else None, "words": normal(30, 8), "pos": normal(12, 8),
        "types": normal(2, 8) if segments else None, "g": normal(8), "b": normal(8, seed=1),
        "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32) if masked else None,
        "where": None if positions is None else ids(12, *positions),
    }  # fmt: skip
    feeds = trimmed(feeds)
    fixed: Any = lambda given: [k for k, v in given.items() if v is not None and v.dtype == np.float32]
    for outputs in (2, 3):
        close(both("EmbedLayerNormalization", feeds, outputs=outputs, epsilon=1e-6, constants=fixed))
    if positions is None and masked:
        with pytest.raises(rt.ExecutionError):
            run("EmbedLayerNormalization", {**feeds, "ids": feeds["ids"] + 30}, **MS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_qembed_layer_normalization(masked: bool, segments: bool, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    ids: Any = lambda n: rng.integers(0, n, (2, 5)).astype(np.int32)
    table: Any = lambda *shape: rng.integers(-100, 100, shape).astype(np.int8).view(dtype)
    feeds: dict[str, Any] = {
        "ids": ids(30), "seg": ids(2) if segments else None, "words": table(30, 8), "pos": table(12, 8), "types": table(2, 8) if segments else None,
        "g": table(8), "b": table(8), "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32) if masked else None,
    }  # fmt: skip
    for k, name in enumerate("wpsgb"):
        feeds[f"{name}_scale"] = np.array(0.01 * (k + 1), np.float32) if name != "s" or segments else None
    for k, name in enumerate("wpsgb"):
        feeds[f"{name}_zero"] = np.array(k, dtype) if name != "s" or segments else None
    fixed: Any = lambda given: [k for k, v in given.items() if v is not None and k not in ("ids", "seg", "mask")]
    close(both("QEmbedLayerNormalization", feeds, outputs=2, epsilon=1e-6, constants=fixed), 1e-5)


# ------------------------------------------------------------------------------------------- other spellings of ai.onnx operators
def test_other_spellings() -> None:
    x = normal(3, 4)
    for axis in (0, 1, 2, -1, -3):
        close(both("ExpandDims", {"x": x, "a": np.array(axis, np.int32)}))
    for upper, k in product((0, 1), (None, np.array(1), np.array(-1))):
        feeds = {"x": normal(2, 4, 5)} | ({} if k is None else {"k": k})
        close(both("Trilu", feeds, upper=upper))
    close(both("GatherND", {"x": normal(3, 4, 5), "i": np.array([[0, 1], [2, 3]])}))
    close(both("Unique", {"x": np.array([2, 1, 1, 3, 4, 3], np.float32)}, outputs=3))
    close(both("Unique", {"x": np.zeros(0, np.float32)}, outputs=3))
    for mode in ("constant", "reflect", "edge"):
        close(both("Pad", {"x": x, "p": np.array([1, 0, 2, 1]), "v": np.array(3, np.float32)}, mode=mode))
    for delta in (None, np.array(2, np.int32)):
        close(both("Range", {"a": np.array(1, np.int32), "b": np.array(8, np.int32)} | ({} if delta is None else {"d": delta})))
    for mode, padding, align in product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (0, 1)):
        if (mode, padding) == ("bicubic", "border"):
            with pytest.raises(rt.UnsupportedError, match="bicubic"):
                run("GridSample", {"x": normal(2, 3, 5, 6), "g": normal(2, 4, 3, 2)}, mode=mode, padding_mode=padding, **MS)
            continue
        grid = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 4, 3, 2)).astype(np.float32)
        close(both("GridSample", {"x": normal(2, 3, 5, 6), "g": grid}, mode=mode, padding_mode=padding, align_corners=align), 1e-5)


# ------------------------------------------------------------------------------------------------------------------------ models
def test_what_the_optimizer_writes(tmp_path: Any) -> None:
    """A convolution with activation and residual, and a normalised block with Gelu, as onnxruntime saves them."""
    ort = pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c1"], ["l1"], alpha=0.1),
        helper.make_node("Conv", ["l1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("HardSigmoid", ["c2"], ["s2"], alpha=0.2, beta=0.5),
        helper.make_node("Reshape", ["s2", "shape"], ["f"]),
        helper.make_node("Transpose", ["f"], ["ft"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["ft", "f"], ["m"]),
        helper.make_node("Mul", ["m", "half"], ["ms"]),
        helper.make_node("Add", ["ms", "skip"], ["a"]),
        helper.make_node("LayerNormalization", ["a", "g", "bt"], ["n"], epsilon=1e-5),
        helper.make_node("MatMul", ["n", "w3"], ["p"]),
        helper.make_node("Add", ["p", "b3"], ["pb"]),
        helper.make_node("Div", ["pb", "root"], ["e0"]),
        helper.make_node("Erf", ["e0"], ["e1"]),
        helper.make_node("Add", ["e1", "one"], ["e2"]),
        helper.make_node("Mul", ["pb", "e2"], ["e3"]),
        helper.make_node("Mul", ["e3", "half"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "w1": normal(8, 3, 3, 3) / 5, "b1": normal(8), "w2": normal(8, 8, 3, 3) / 8, "b2": normal(8), "shape": np.array([1, 8, 24]),
        "half": np.float32(0.5), "skip": normal(1, 24, 24), "g": normal(24), "bt": normal(24), "w3": normal(24, 24), "b3": normal(24),
        "root": np.float32(np.sqrt(2)), "one": np.float32(1),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 6])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24, 24])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    other = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    used = {n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node if n.domain == "com.microsoft"}
    assert used >= {"FusedConv", "FusedMatMul", "SkipLayerNormalization"} and used & {"Gelu", "BiasGelu"}
    feed = {"x": normal(1, 3, 4, 6)}
    close([(rt.InferenceSession(tmp_path / "optimised.onnx").run(None, feed)[0], other.run(None, feed)[0])], 1e-5)
