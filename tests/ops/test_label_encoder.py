"""LabelEncoder, CategoryMapper and OneHotEncoder: every kind of key, found by a table, a search or a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from .nodes import run, session, text

ML: dict[str, Any] = {"domain": "ai.onnx.ml", "opset": 4}
rng = np.random.default_rng(4)


def encode(x: Any, **attrs: Any) -> Any:
    return run("LabelEncoder", {"x": x}, **ML, **attrs)[0]


@pytest.mark.parametrize("keys", [[3, 4, 9], [-2, 0, 5, 1], [7], list(range(100, 0, -1))])
def test_integers_close_together_need_no_host_call(keys: list[int]) -> None:
    values = rng.standard_normal(len(keys)).astype(np.float32)
    x = np.array([[*keys, *range(-5, 8)], [*(-k for k in keys), 2**62, -(2**63), 2**63 - 1, *range(10)]], np.int64)
    attrs = {"keys_int64s": keys, "values_floats": values.tolist(), "default_float": -1.5}
    table = dict(zip(keys, values.tolist(), strict=True))
    np.testing.assert_array_equal(encode(x, **attrs), np.array([[table.get(v, -1.5) for v in row] for row in x.tolist()], np.float32))
    kernels = session("LabelEncoder", {"x": x}, **ML, **attrs).plan_report(x=x.shape).kernels
    assert "host" not in kernels and kernels["gather"] == 1


@pytest.mark.parametrize("keys", [[5, -3, 10**12], [2**62, -(2**62)]])
def test_integers_far_apart(keys: list[int]) -> None:
    x = np.array([*keys, 0, -1, 2**63 - 1, -(2**63)], np.int64)
    got = encode(x, keys_int64s=keys, values_int64s=list(range(len(keys))), default_int64=-9)
    assert got.dtype == np.int64 and got.tolist() == [*range(len(keys)), -9, -9, -9, -9]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats(dtype: Any) -> None:
    keys = np.array([2.5, np.nan, -1, 0.1], dtype)
    x = np.array([[0.1, 2.5, np.nan, -0.0], [-1, np.inf, -np.inf, 3]], dtype)
    tensors = {"keys_tensor": numpy_helper.from_array(keys), "values_tensor": numpy_helper.from_array(np.array([1, 2, 3, 4], np.int16)),
               "default_tensor": numpy_helper.from_array(np.array([-5], np.int16))}  # fmt: skip
    got = encode(x, **tensors)
    assert got.dtype == np.int16 and got.tolist() == [[4, 1, 2, -5], [3, -5, -5, -5]]
    assert encode(x, keys_floats=[0.5, 3.0], values_strings=["half", "three"], default_string="?").tolist() == [
        ["?"] * 4,
        ["?"] * 3 + ["three"],
    ]
    assert encode(np.array([np.nan], dtype), keys_floats=[1.0], values_int64s=[4], default_int64=7).tolist() == [7]


@pytest.mark.parametrize(
    ("values", "default", "dtype", "want"),
    [
        ({"values_int64s": [3, 1]}, {"default_int64": -1}, np.int64, [1, 3, -1]),
        ({"values_floats": [0.5, 2.0]}, {"default_float": 9.0}, np.float32, [2.0, 0.5, 9.0]),
        ({"values_strings": ["x", "y"]}, {}, object, ["y", "x", "_Unused"]),
    ],
)
def test_strings(values: Any, default: Any, dtype: Any, want: list[Any]) -> None:
    got = encode(text("b", "a", "c"), keys_strings=["a", "b"], **values, **default)
    assert got.dtype == dtype and got.tolist() == want


def test_integers_to_strings() -> None:
    feeds = {"x": np.array([[2], [0], [5]], np.int64)}
    got = run("CategoryMapper", feeds, domain="ai.onnx.ml", opset=1, cats_int64s=[0, 2], cats_strings=["no", "yes"])[0]
    assert got.tolist() == [["yes"], ["no"], ["_Unused"]]


@pytest.mark.parametrize("cats", [["b", "a", "c"], ["a", "b", "a"]])
def test_one_hot_strings(cats: list[str]) -> None:
    x = text("a", "z", "c", "b").reshape(2, 2)
    got = run("OneHotEncoder", {"x": x}, domain="ai.onnx.ml", opset=1, cats_strings=cats)[0]
    np.testing.assert_array_equal(got, (x[..., None] == np.array(cats, object)).astype(np.float32))


@pytest.mark.parametrize(
    "cats", [[0, 1, 2], [5, -3, 5, 7], [2**62, -(2**62)], [-(2**63), 0], [2**63 - 1], [0, 2**31], list(range(200))], ids=str
)
def test_one_hot_integers(cats: list[int]) -> None:
    x = np.array([*cats, 0, 1, 4, 6, -3, 2**63 - 1, -(2**63), -(2**63) + 1], np.int64)
    for v in (x, x.reshape(-1, 1)):
        got = run("OneHotEncoder", {"x": v}, domain="ai.onnx.ml", opset=1, cats_int64s=cats)[0]
        np.testing.assert_array_equal(got, (v[..., None] == np.array(cats, np.int64)).astype(np.float32))


def test_several_encoders_write_into_one_tensor() -> None:
    """Two columns of strings and one of numbers, concatenated: repeated runs, other values, other sizes."""
    import pytensor_rt as rt

    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node("OneHotEncoder", ["a"], ["p"], domain=ml, cats_strings=["u", "v"]),
        helper.make_node("OneHotEncoder", ["b"], ["q"], domain=ml, cats_strings=["x", "y", "z"]),
        helper.make_node("Flatten", ["p"], ["pf"]),
        helper.make_node("Flatten", ["q"], ["qf"]),
        helper.make_node("Concat", ["pf", "n", "qf"], ["y"], axis=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("a", 8, [None, 1]), info("b", 8, [None, 1]), info("n", 1, [None, 2])], [info("y", 1, [None, 7])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ml, 3)], ir_version=9)
    s = rt.InferenceSession(proto, threads=1)
    for n in (3, 3, 1, 3, 3):
        a, b = rng.choice(np.array(["u", "v", "w"], object), (n, 1)), rng.choice(np.array(["x", "y", "z"], object), (n, 1))
        m = rng.standard_normal((n, 2)).astype(np.float32)
        want = np.concatenate([a == np.array(["u", "v"], object), m, b == np.array(["x", "y", "z"], object)], 1).astype(np.float32)
        np.testing.assert_array_equal(s.run(None, {"a": a, "b": b, "n": m})[0], want)
    with pytest.raises(rt.PlanError, match="do not match"):
        s.run(None, {"a": a, "b": b, "n": m[:2]})
    for wrong in (a.T.copy(), np.zeros((3, 1), np.float32)):
        with pytest.raises(rt.InputError):
            s.run(None, {"a": wrong, "b": b, "n": m})
