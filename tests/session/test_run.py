"""InferenceSession: opening, describing, running."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import pytensor_rt as rt
from tests.models_text import model
from tests.session.models import DIGITS, affine, feeds, lookup, nonzero, reshaped


def expected(f: dict[str, np.ndarray]) -> list[np.ndarray]:
    y = f["x"] * f["scale"] + f["shift"]
    return [y, y.sum(dtype=np.float32)]


def check(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert g.dtype == w.dtype and g.shape == w.shape
        np.testing.assert_allclose(g, w, 1e-6)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "proto"])
def test_a_model_is_a_path_bytes_or_a_proto(kind, tmp_path):
    proto = affine()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    source = {"path": path, "str": str(path), "bytes": path.read_bytes(), "proto": proto}[kind]
    check(rt.InferenceSession(source).run(None, feeds()), expected(feeds()))


@pytest.mark.parametrize("device", ["cpu", "auto", "reference"])
def test_devices(device):
    session = rt.InferenceSession(affine(), device=device)
    for n in (1, 2, 5, 2, 7, 9):
        check(session.run(None, feeds(n)), expected(feeds(n)))


def test_outputs_by_name_and_order():
    session = rt.InferenceSession(affine())
    y, s = expected(feeds())
    for _ in range(2):  # the checked path, then the fast one
        check(session.run(None, feeds()), [y, s])
        check(session.run(["s"], feeds()), [s])
        check(session.run(["s", "y", "s"], feeds()), [s, y, s])
        check(session.run(output_names=["y"], input_feed=feeds()), [y])
        check(session.run([], feeds()), [])


def test_outputs_belong_to_the_caller():
    session = rt.InferenceSession(affine())
    first = session.run(["y"], feeds())[0]
    kept = first.copy()
    again = session.run(["y"], {**feeds(), "x": feeds()["x"] + 1})[0]
    np.testing.assert_array_equal(first, kept)
    first[...] = 0
    assert again.any() and first.flags.writeable and again.flags.owndata


def test_inputs_are_never_written():
    session = rt.InferenceSession(model("g (float[4] x) => (float[4] y, float[4] z) { y = Identity(x) z = Exp(x) }"))
    x = np.arange(4, dtype=np.float32)
    x.flags.writeable = False
    for _ in range(3):
        y, z = session.run(None, {"x": x})
        np.testing.assert_array_equal(y, [0, 1, 2, 3])
        np.testing.assert_allclose(z, np.exp(x), 1e-6)


def test_python_numbers_lists_and_numpy_scalars_are_inputs():
    session = rt.InferenceSession(affine())
    want = expected({**feeds(1), "x": np.array([[1, 2, 3]], np.float32)})
    for _ in range(3):
        check(session.run(None, {"x": [[1, 2, 3]], "scale": 2, "shift": [1, 0, -1]}), want)
        check(session.run(None, {"x": np.float32([[1, 2, 3]]), "scale": np.float32(2), "shift": np.float32([1, 0, -1])}), want)
        check(session.run(None, {"x": np.float32([[1, 2, 3]]), "scale": np.array(2, np.float32), "shift": np.float32([1, 0, -1])}), want)


def test_any_memory_layout_is_an_input():
    session = rt.InferenceSession(affine())
    big = np.arange(60, dtype=np.float32).reshape(6, 10)
    packed = np.frombuffer(b"\0" + np.arange(6, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)  # not aligned
    for x in (
        big[::2, ::3][:, :3],
        big.T[:3, :3],
        big[::-1, 2::-1],
        np.broadcast_to(np.float32([[7]]), (4, 3)),
        np.asfortranarray(big[:, :3]),
        packed,
    ):
        for _ in range(2):
            f = {**feeds(), "x": x}
            check(session.run(None, f), expected(f))


def test_empty_inputs():
    session = rt.InferenceSession(affine())
    for _ in range(2):
        y, s = session.run(None, feeds(0))
        assert y.shape == (0, 3) and s.shape == () and s == 0


def test_the_same_bits_with_any_number_of_threads():
    image = np.random.default_rng(0).random((9, 1, 8, 8), np.float32)
    runs = [rt.InferenceSession(DIGITS, threads=t).run(None, {"image": image})[0] for t in (1, 2, 3, 1)]
    assert all(np.array_equal(runs[0].view(np.int32), r.view(np.int32)) for r in runs)


def test_new_values_of_a_steering_input_get_new_plans():
    session = rt.InferenceSession(reshaped())
    x = np.arange(12, dtype=np.float32).reshape(3, 4) / 10
    for shape in [(3, 4), (4, 3), (2, 6), (6, 2), (1, 12), (12, 1), (-1, 4), (4, -1), (2, -1), (-1, 2), (3, 4), (6, -1)]:
        np.testing.assert_allclose(session.run(None, {"x": x, "shape": np.array(shape)})[0], np.exp(x.reshape(shape)), 1e-6)


def test_data_dependent_shapes():
    session = rt.InferenceSession(nonzero())
    rng = np.random.default_rng(0)
    for n in (5, 5, 9, 5):
        x = rng.standard_normal(n).astype(np.float32)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], -x[x > 0])


def test_initializers_that_are_inputs_may_be_fed():
    session = rt.InferenceSession(model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {10, 20}> { y = Mul(x, w) }"))
    assert [i.name for i in session.get_inputs()] == ["x"] and [i.name for i in session.get_overridable_initializers()] == ["w"]
    x = np.array([1, 2], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], [10, 40])
        np.testing.assert_array_equal(session.run(None, {"x": x, "w": np.array([3, 4], np.float32)})[0], [3, 8])


def test_sequences_optionals_and_maps():
    session = rt.InferenceSession(model("g (seq(float[n]) xs) => (float[m] y) { y = ConcatFromSequence<axis = 0>(xs) }"))
    for parts in ([[1, 2], [3]], [[4], [5, 6, 7], [8]], [[1, 2], [3]]):
        got = session.run(None, {"xs": [np.array(p, np.float32) for p in parts]})[0]
        np.testing.assert_array_equal(got, np.concatenate(parts))


def test_many_threads_run_one_session_at_once():
    session = rt.InferenceSession(affine(), threads=1)

    def work(k: int) -> None:
        for n in (1 + k % 4, 2, 1 + k % 5):
            f = {**feeds(n), "scale": np.array(k, np.float32)}
            check(session.run(None, f), expected(f))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))


def test_run_releases_the_gil():
    n = 700
    session = rt.InferenceSession(
        model(f"g (float[{n},{n}] a) => (float[{n},{n}] y) {{ b = MatMul(a, a) c = MatMul(b, a) d = MatMul(c, a) y = MatMul(d, a) }}"),
        threads=1,
    )
    a = np.zeros((n, n), np.float32)
    session.run(None, {"a": a})
    ticks, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        inside = 0
        for _ in range(20):
            before = ticks[0]
            session.run(None, {"a": a})
            inside += ticks[0] - before
    finally:
        stop.set()
        counter.join()
    assert inside > 5, "another thread must get to work while a run lasts"


@pytest.mark.parametrize(
    "proto", [affine, lookup, reshaped, nonzero, lambda: onnx.load(DIGITS)], ids=["affine", "lookup", "reshaped", "nonzero", "digits"]
)
def test_descriptions_are_those_of_onnxruntime(proto):
    ort = pytest.importorskip("onnxruntime")
    m = proto()
    m.producer_name, m.model_version, m.domain, m.doc_string, m.graph.doc_string = "who", 7, "a.b", "about", "graph text"
    m.metadata_props.add(key="author", value="Ada")
    ours, theirs = rt.InferenceSession(m), ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    for f in ("get_inputs", "get_outputs"):
        assert [(a.name, a.type, list(a.shape)) for a in getattr(ours, f)()] == [
            (a.name, a.type, list(a.shape)) for a in getattr(theirs, f)()
        ]
    a, b = ours.get_modelmeta(), theirs.get_modelmeta()
    for name in ("producer_name", "graph_name", "domain", "description", "graph_description", "version", "custom_metadata_map"):
        assert getattr(a, name) == getattr(b, name), name


def test_the_model_file_may_be_unlinked_while_open(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(Path(DIGITS).read_bytes())
    session = rt.InferenceSession(path)
    path.unlink()
    image = np.zeros((1, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(session.run(None, {"image": image})[0], rt.InferenceSession(DIGITS).run(None, {"image": image})[0])
