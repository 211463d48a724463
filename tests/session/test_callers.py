"""The short way of repeated runs: it takes exactly the arrays it was made for and leaves everything else to the long way."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest

import pytensor_rt as rt
from tests.models_text import model
from tests.session.models import lookup, nonzero, reshaped

from .models import affine, feeds


def used(session: rt.InferenceSession, feed: object) -> bool:
    """Does the caller of the last run take this feed?"""
    return session._lane.last is not None and session._lane.last.call(feed) is not None


def ready(n: int = 2) -> rt.InferenceSession:
    session = rt.InferenceSession(affine().SerializeToString(), threads=1)
    session.run(None, feeds(n))
    return session


def test_repeated_runs_take_it_and_own_their_outputs() -> None:
    session, f = ready(), feeds()
    assert used(session, f)
    first, second = session.run(None, f), session.run(None, f)
    np.testing.assert_array_equal(first[0], f["x"] * 2 + f["shift"])
    first[0][...] = 0
    np.testing.assert_array_equal(second[0], f["x"] * 2 + f["shift"])
    assert first[0].flags.owndata and first[0].flags.writeable
    assert session.run(["s"], f)[0] == second[0].sum() and session.run(["s", "y"], f)[1].shape == (2, 3)


def changed(name: str, value: object) -> dict[str, object]:
    return {**feeds(), name: value}


X = feeds()["x"]


def test_arrays_from_elsewhere() -> None:
    """Unpickled arrays have a dtype object of their own; read-only ones are inputs like any other."""
    import pickle

    session, f = ready(), feeds()
    copies = {k: pickle.loads(pickle.dumps(v)) for k, v in f.items()}
    for v in copies.values():
        v.flags.writeable = False
    assert used(session, copies)
    np.testing.assert_array_equal(session.run(None, copies)[0], f["x"] * 2 + f["shift"])


class Sub(np.ndarray):
    pass


@pytest.mark.parametrize(
    "feed",
    [
        UserDict(feeds()),
        changed("x", np.asfortranarray(X)),
        changed("x", np.concatenate([X, X], 1)[:, ::2]),
        changed("x", X.view(Sub)),
        changed("x", X.tolist()),
        changed("x", np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)),
    ],
    ids=["mapping", "fortran", "strided", "subclass", "list", "misaligned"],
)
def test_other_feeds_are_taken_the_long_way(feed: dict[str, object]) -> None:
    session = ready()
    assert not used(session, feed)
    want = np.asarray(feed["x"], np.float32) * 2 + feeds()["shift"]
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, feed)[0], want)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (changed("x", X.astype(np.float64)), "expected float32"),
        (changed("x", X.astype(">f4")), "expected float32"),
        (changed("x", X.reshape(6)), "rank 2"),
        (changed("x", X[:, :2].copy()), "size 3"),
        (changed("z", X), "unknown input 'z'"),
        ({k: v for k, v in feeds().items() if k != "x"}, "'x'"),
        ({**{k: v for k, v in feeds().items() if k != "x"}, "z": X}, "'z'"),
        ({}, "missing"),
    ],
)
def test_wrong_feeds_are_refused_as_ever(feed: dict[str, object], message: str) -> None:
    session = ready()
    with pytest.raises(rt.InputError, match=message):
        session.run(None, feed)
    assert used(session, feeds())


def test_shapes_take_turns() -> None:
    session = ready(2)
    for n in (2, 5, 2, 5, 7, 2):
        f = feeds(n)
        np.testing.assert_array_equal(session.run(None, f)[0], f["x"] * 2 + f["shift"])
        assert used(session, f)
        assert not used(session, feeds(3))


def test_errors_while_running_name_the_node() -> None:
    session = rt.InferenceSession(lookup().SerializeToString(), threads=1)
    table, good = np.arange(40, dtype=np.float32).reshape(10, 4), np.array([1, 9])
    for _ in range(2):
        session.run(None, {"table": table, "ids": good})
    for _ in range(2):
        with pytest.raises(rt.ExecutionError, match="Gather"):
            session.run(None, {"table": table, "ids": np.array([1, 10])})
    np.testing.assert_array_equal(session.run(None, {"table": table, "ids": good})[0], -table[good])


def test_values_that_steer_are_looked_at() -> None:
    session = rt.InferenceSession(reshaped().SerializeToString(), threads=1)
    x = np.zeros((2, 6), np.float32)
    for shape in ([3, 4], [4, 3], [3, 4], [12, 1]):
        assert session.run(None, {"x": x, "shape": np.array(shape)})[0].shape == tuple(shape)
    assert session._lane.last is None


def test_computed_shapes_follow_what_was_seen() -> None:
    """A number of values that came before is followed from segment to segment; a new one takes the long way once."""
    session = rt.InferenceSession(nonzero().SerializeToString(), threads=1)
    seen = set()
    for x in ([1, 0, 2], [0, 0, 3], [1, 0, 2], [0, 4, 0], [1, 2, 3], [0, 0, 0], [3, 2, 1], [0, 0, 0]):
        a = np.array(x, np.float32)
        assert not seen or used(session, {"x": a}) == (np.count_nonzero(a) in seen)
        seen.add(np.count_nonzero(a))
        first, second = session.run(None, {"x": a})[0], session.run(None, {"x": a})[0]
        np.testing.assert_array_equal(first, -a[a > 0])
        first[...] = 7
        np.testing.assert_array_equal(second, -a[a > 0])
    assert not used(session, {"x": np.zeros(4, np.float32)}) and not used(session, {"x": np.zeros(3)})


@pytest.mark.parametrize("weights", [(2.0, 3.0), (0.5, -1.0)])
def test_a_branch_chosen_while_running(weights: tuple[float, float]) -> None:
    """What the branches read was computed before the choice, is an input, or is handed out as it is."""
    proto = model(
        f"""g (float[n] x) => (float[n] y, float[n] same, float[n] e) {{
            half = Constant<value_float = {weights[0]}>()
            e = Mul(x, half)
            s = ReduceSum<keepdims = 0>(e)
            zero = Constant<value_float = 0.0>()
            c = Greater(s, zero)
            y = If(c) <then_branch = t () => (float[n] a) {{ m = Constant<value_float = {weights[1]}>() p = Mul(e, m) a = Add(p, x) }},
                       else_branch = f () => (float[n] b) {{ b = Identity(e) }}>
            same = Identity(x)
        }}"""
    )
    session = rt.InferenceSession(proto.SerializeToString(), threads=1)
    rng = np.random.default_rng(1)
    for n in (3, 3, 5, 3, 5, 5, 3):
        for sign in (1, -1, 1, -1):
            x = (np.abs(rng.standard_normal(n)) * sign).astype(np.float32)
            y, same, e = session.run(None, {"x": x})
            want = x * np.float32(weights[0])
            np.testing.assert_array_equal(e, want)
            np.testing.assert_allclose(y, want * np.float32(weights[1]) + x if want.sum() > 0 else want, rtol=1e-6)
            np.testing.assert_array_equal(same, x)
            assert not np.shares_memory(same, x) and not np.shares_memory(y, e)
            assert used(session, {"x": x})


ZIP = 'z = ai.onnx.ml.ZipMap<classlabels_strings = ["a", "b", "c"]>(s)'


def test_host_calls_between_launches() -> None:
    """The rows come from this run's scores, also after the arena has moved."""
    proto = model(f"g (float[n, 3] x) => (z, float[n, 3] y) {{ s = Exp(x) {ZIP} y = Neg(s) }}")
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    session = rt.InferenceSession(proto.SerializeToString(), threads=1)
    rng = np.random.default_rng(0)
    for n in (1, 1, 4, 4, 300, 1, 4, 300, 0, 2):
        x = rng.standard_normal((n, 3)).astype(np.float32)
        rows, y = session.run(None, {"x": x})
        np.testing.assert_allclose(-y, np.exp(x), rtol=1e-6)
        assert rows == [dict(zip("abc", row)) for row in (-y).tolist()]


@pytest.mark.parametrize("labels", [[7], list(range(16)), list(range(17)), list(range(100, 140)), ['it\'s "q"\n', "\\", "é"]], ids=len)
def test_rows_of_any_number_of_labels(labels: list[object]) -> None:
    import onnx

    key = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    node = onnx.helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", **{key: labels})
    info = onnx.helper.make_tensor_value_info("x", 1, ["n", len(labels)])
    imports = [onnx.helper.make_opsetid("ai.onnx.ml", 3), onnx.helper.make_opsetid("", 18)]
    graph = onnx.helper.make_graph([node], "g", [info], [onnx.ValueInfoProto(name="z")])
    session = rt.InferenceSession(onnx.helper.make_model(graph, opset_imports=imports).SerializeToString())
    x = np.arange(3 * len(labels), dtype=np.float32).reshape(3, -1)
    for _ in range(2):
        assert session.run(None, {"x": x})[0] == [dict(zip(labels, row)) for row in x.tolist()]


def test_a_feed_changed_by_another_thread() -> None:
    """The arrays of a run live as long as it needs them."""
    import threading

    session = ready(400)
    feed, stop, x = feeds(400), threading.Event(), feeds(400)["x"]

    def change() -> None:
        while not stop.is_set():
            feed["x"] = x.copy()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            assert session.run(None, feed)[0][-1, 0] == x[-1, 0] * 2 + 1
    finally:
        stop.set()
        thread.join()
