"""Views of arrays of Python objects, and where host calls stand in a plan."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import pytensor_rt as rt
from pytensor_rt.dtypes import STRING
from pytensor_rt.lowering.tensor import HOST, Buffer, Tensor, row_major
from pytensor_rt.runtime.program import _index, host_view

SHAPE = (4, 1, 6)


def views() -> list[Tensor]:
    b = Buffer(1, HOST, 24, STRING)
    b.home = (SHAPE, row_major(SHAPE))
    t = Tensor(b, 0, SHAPE, row_major(SHAPE), STRING)
    return [
        t, t.slice(2, 1, 1), t.slice(2, 0, 3, 2), t.slice(2, 5, 3, -2), t.slice(0, 2, 2).slice(2, 3, 3), t.slice(0, 3, 4, -1), t.squeeze(1),
        t.slice(0, 1, 1), t.slice(0, 1, 1).squeeze(0), t.slice(2, 4, 1).squeeze(2).squeeze(1), t.permute((2, 1, 0)), t.slice(2, 2, 1).expand((4, 3, 5)),
        t.view((24,), (1,)), t.view((2, 12), (12, 1)), t.view((1,), (0,), 17), t.slice(0, 0, 0), t.slice(0, 0, 4, 0), t.view((4, 1, 2), (6, 0, 4), 1),
        t.view((3, 1, 6), (6, 0, 1), 6), t.view((3, 1, 6), (6, 0, 1), 5), t.slice(0, 3, 2, -3), t.view((5, 1, 1), (-5, 0, 0), 20),
    ]  # fmt: skip


@pytest.mark.parametrize("t", views(), ids=str)
def test_views(t: Tensor) -> None:
    flat = np.array([f"s{k}" for k in range(24)], object)
    at = (
        np.lib.stride_tricks.as_strided(np.arange(24)[t.offset :], t.shape, [8 * s for s in t.strides])
        if t.size
        else np.empty(t.shape, int)
    )
    want = flat[at]
    for value in (flat, flat.reshape(SHAPE), np.asfortranarray(flat.reshape(2, 12))):
        got = host_view(value, t)
        assert got.shape == t.shape and (got == want).all()
    index = _index(t)
    if index is not None:
        got = flat.reshape(SHAPE)[index]
        assert got.shape == t.shape and (got == want).all()
        assert np.shares_memory(got, flat)


def test_slices_are_found() -> None:
    assert [k for k, t in enumerate(views()) if _index(t) is not None] == [0, 1, 2, 4, 7, 17, 18]


def test_opaque_values_stay() -> None:
    t = views()[1]
    for value in ([1, 2], {"a": 1}, np.empty(3, object), np.arange(24)):
        assert host_view(value, t) is value


def test_host_calls_stand_before_and_after_the_kernels() -> None:
    ml = "ai.onnx.ml"
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("LabelEncoder", ["s"], ["a"], domain=ml, keys_strings=["u", "v"], values_floats=[1.0, 2.0]),
        helper.make_node("Mul", ["e", "a"], ["m"]),
        helper.make_node("Cast", ["m"], ["k"], to=7),
        helper.make_node("LabelEncoder", ["k"], ["y"], domain=ml, keys_int64s=[1, 10**9], values_strings=["one", "many"]),
        helper.make_node("LabelEncoder", ["s"], ["b"], domain=ml, keys_strings=["w"], values_floats=[3.0], default_float=0.5),
        helper.make_node("Add", ["m", "b"], ["n"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [None]), info("s", 8, [None])], [info("y", 8, [None]), info("n", 1, [None])])
    session = rt.InferenceSession(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(ml, 3)], ir_version=9), threads=1
    )
    x, s = np.array([0, 1, 0, -1], np.float32), np.array(["u", "v", "w", "z"], object)
    for _ in range(3):
        y, n = session.run(None, {"x": x, "s": s})
        np.testing.assert_allclose(n, np.exp(x) * [1, 2, 0, 0] + [0.5, 0.5, 3, 0.5], 1e-6)
        assert y.tolist() == ["one", "_Unused", "_Unused", "_Unused"]
    hosts = [launch.kernel == "host" for launch in session.plan_report().launches]
    assert hosts[:2] == [True, True] and hosts[-1] and hosts.count(True) == 3 and len(hosts) > 4
