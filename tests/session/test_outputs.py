"""Memory of outputs: what arrays that are gone leave is used again, and never what somebody still holds."""

from __future__ import annotations

import pickle
import resource
import threading
from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt
from tests.models_text import model

ROWS = 1 << 12  # of 64 float32: 1 MiB


def session(**options: Any) -> rt.InferenceSession:
    text = "g (float[N,64] x) => (float[N,64] y, float[N,64] z, float s) { y = Neg(x) z = Abs(x) s = ReduceSum<keepdims=0>(x) }"
    return rt.InferenceSession(model(text).SerializeToString(), threads=1, **options)


def image(rows: int = ROWS, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((rows, 64)).astype(np.float32)


def address(a: np.ndarray[Any, Any]) -> int:
    return int(a.ctypes.data)


def check(outputs: list[Any], x: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(outputs[0], -x)
    np.testing.assert_array_equal(outputs[1], np.abs(x))
    assert all(a.flags.writeable and a.flags.c_contiguous and a.flags.aligned for a in outputs[:2])


def spare(s: rt.InferenceSession) -> int:
    return int(s._memory.outputs.spare_nbytes)


def test_memory_of_large_outputs_that_are_gone_is_used_again() -> None:
    s, x = session(), image()
    first = s.run(None, {"x": x})
    held = {address(a) for a in first[:2]}
    second = s.run(None, {"x": -x})
    assert held.isdisjoint(address(a) for a in second[:2]), "the first results are still held"
    check(first, x)
    check(second, -x)
    del first
    assert spare(s) == 2 << 20
    third = s.run(None, {"x": x + 1})
    assert {address(a) for a in third[:2]} == held and spare(s) == 0
    check(second, -x)
    check(third, x + 1)


def test_a_view_holds_the_memory() -> None:
    s, x = session(), image()
    row = s.run(None, {"x": x})[0][7:9, ::2]
    for k in range(4):
        check(s.run(None, {"x": x + k}), x + k)
    np.testing.assert_array_equal(row, -x[7:9, ::2])


def test_results_outlive_their_session_and_can_be_pickled() -> None:
    s, x = session(), image()
    results = s.run(None, {"x": x})
    del s
    check(results, x)
    check(pickle.loads(pickle.dumps(results)), x)


def test_what_lies_unused_is_at_most_one_runs_outputs() -> None:
    s, x = session(), image()
    many = [s.run(None, {"x": x + k}) for k in range(5)]
    for k, results in enumerate(many):
        check(results, x + k)
    del many, results
    assert spare(s) == 2 << 20
    small = image(ROWS // 4)
    check(s.run(None, {"x": small}), small)
    assert spare(s) <= 2 << 19


def test_small_outputs_are_arrays_of_their_own() -> None:
    s, x = session(), image(8)
    results = s.run(None, {"x": x})
    assert all(a.flags.owndata for a in results[:2])
    del results
    assert spare(s) == 0


@pytest.mark.parametrize("rows", [4 * ROWS, ROWS // 8])
def test_no_pages_are_mapped_run_after_run(rows: int) -> None:
    s, x = session(), image(rows)
    for _ in range(3):
        s.run(None, {"x": x})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        s.run(None, {"x": x})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 20


def test_outputs_that_grow_reuse_what_fits() -> None:
    """As a decoder's keys and values: two generations are alive at a time, so that a few blocks serve all."""
    s, seen, past = session(), set(), image()
    for _ in range(40):
        x = np.concatenate([past, past[:16]])
        past = s.run(None, {"x": x})[0]
        np.testing.assert_array_equal(past, -x)
        seen.add(address(past))
    assert len(seen) < 12


def test_threads_get_arrays_of_their_own() -> None:
    s, failed = session(), []

    def work(seed: int) -> None:
        for k in range(30):
            x = image(ROWS // 4, seed * 100 + k)
            results = s.run(None, {"x": x})
            if not (np.array_equal(results[0], -x) and np.array_equal(results[1], np.abs(x))):
                failed.append((seed, k))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


def test_segments_hand_out_such_arrays_too() -> None:
    """Where a value known only at run time parts the model, every part's outputs come from there."""
    text = "g (float[N,64] x, float[M,64] w) => (float[K,64] y, float[N,64] z) { z = Neg(x) n = NonZero(w) zero = Constant<value_int=0>() i = Gather<axis=0>(n, zero) y = Gather(z, i) }"
    s = rt.InferenceSession(model(text).SerializeToString(), threads=1)
    x, w = image(), np.eye(3, 64, dtype=np.float32)
    for k in range(3):
        y, z = s.run(None, {"x": x + k, "w": w})
        np.testing.assert_array_equal(z, -(x + k))
        np.testing.assert_array_equal(y, z[:3])
        del y, z
    assert spare(s) == 1 << 20
