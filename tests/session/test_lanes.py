"""Threads that run one session at once do not take turns: each has memory of its own, up to a bound."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pytensor_rt as rt
from tests.models_text import model

from .models import affine, feeds, lookup, nonzero

N = 160
CHAIN = f"g (float[{N},{N}] a) => (float[{N},{N}] y) {{ b = MatMul(a, a) c = Tanh(b) d = MatMul(c, a) e = Tanh(d) y = MatMul(e, a) }}"


def test_one_caller_has_one_lane() -> None:
    session = rt.InferenceSession(affine(), threads=1)
    for n in (1, 2, 3, 2):
        session.run(None, feeds(n))
    with pytest.raises(rt.InputError):
        session.run(None, {})
    assert len(session._lanes.all) == 1 and session._lane.lock.acquire(False)


def test_a_taken_lane_is_not_waited_for() -> None:
    """While one run is held up, another one gets through on memory of its own; the weights are shared."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    proto = model("g (float[n, 64] x) => (float[n, 64] y) <float[64,64] w> { h = MatMul(x, w) y = Relu(h) }")
    from onnx import numpy_helper

    del proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    session = rt.InferenceSession(proto, threads=1)
    session._lanes.most = 2
    x = np.ones((3, 64), np.float32)
    (want,) = session.run(None, {"x": x})
    packed = session._memory.packs.nbytes
    got: list[np.ndarray] = []
    with session._lane.lock:
        thread = threading.Thread(target=lambda: got.append(session.run(None, {"x": x})[0]))
        thread.start()
        thread.join(30)
        assert len(got) == 1
    np.testing.assert_array_equal(got[0], want)
    first, second = session._lanes.all
    assert first.engine.memory.arena is not second.engine.memory.arena
    assert session._memory.packs.nbytes == packed


def test_lanes_are_bounded_and_waited_for() -> None:
    session = rt.InferenceSession(model(CHAIN), threads=1)
    session._lanes.most = 2
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((N, N)).astype(np.float32) / N for _ in range(6)]
    want = [session.run(None, {"a": a})[0] for a in inputs]

    def work(k: int) -> None:
        for j in range(20):
            i = (k + j) % len(inputs)
            np.testing.assert_array_equal(session.run(None, {"a": inputs[i]})[0], want[i])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 1 <= len(session._lanes.all) <= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_shapes_errors_and_computed_sizes_at_once(threads: int) -> None:
    by_shape, by_index, by_value = (rt.InferenceSession(m(), threads=threads) for m in (affine, lookup, nonzero))
    for session in (by_shape, by_index, by_value):
        session._lanes.most = 4
    table = np.arange(40, dtype=np.float32).reshape(10, 4)

    def work(k: int) -> None:
        rng = np.random.default_rng(k)
        for _ in range(15):
            n = int(rng.integers(1, 9))
            f = {**feeds(n), "scale": np.array(k, np.float32)}
            np.testing.assert_array_equal(by_shape.run(["y"], f)[0], f["x"] * k + f["shift"])
            ids = rng.integers(0, 10, n)
            np.testing.assert_array_equal(by_index.run(None, {"table": table, "ids": ids})[0], -table[ids])
            with pytest.raises(rt.ExecutionError, match="Gather"):
                by_index.run(None, {"table": table, "ids": np.full(n, 10)})
            x = (rng.random(n) < 0.5).astype(np.float32)
            np.testing.assert_array_equal(by_value.run(None, {"x": x})[0], -x[x > 0])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_the_reference_device_has_one_lane() -> None:
    session = rt.InferenceSession(affine(), device="reference")
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda n: session.run(["y"], feeds(n))[0], [1, 2, 3, 2, 1]):
            assert got.shape[1] == 3
    assert len(session._lanes.all) == 1
