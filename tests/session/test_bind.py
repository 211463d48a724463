"""bind() and replay(): the caller works on the plan's own buffers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import pytensor_rt as rt
from tests.models_text import model
from tests.session.models import DIGITS, affine, feeds, reshaped


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_replay_follows_the_contents_of_the_inputs(device):
    runner = rt.InferenceSession(affine(), device=device).bind(x=(2, 3))
    assert set(runner.inputs) == {"x", "scale", "shift"} and set(runner.outputs) == {"y", "s"}
    for k in range(4):
        f = {n: v + k for n, v in feeds().items()}
        for name, value in f.items():
            runner.inputs[name][...] = value
        runner.replay()
        y = f["x"] * f["scale"] + f["shift"]
        np.testing.assert_allclose(runner.outputs["y"], y, 1e-6)
        np.testing.assert_allclose(runner.outputs["s"], y.sum(), 1e-6)


def test_inputs_and_outputs_stay_where_they_are():
    runner = rt.InferenceSession(affine()).bind(x=(2, 3))
    arrays = {**runner.inputs, **runner.outputs}
    places = {n: a.ctypes.data for n, a in arrays.items()}
    for _ in range(5):
        runner.replay()
    for name, a in {**runner.inputs, **runner.outputs}.items():
        assert a is arrays[name] and a.ctypes.data == places[name] and a.flags.writeable
    assert len(set(places.values())) == len(places)


def test_arrays_give_shape_and_first_values():
    given = feeds()
    runner = rt.InferenceSession(affine()).bind(**given)
    runner.replay()
    np.testing.assert_allclose(runner.outputs["y"], given["x"] * 2 + given["shift"])
    runner.inputs["x"][...] = 9
    assert given["x"].max() == 5, "the caller's array was copied"


def test_fixed_inputs_may_be_left_out_and_steering_values_are_baked_in():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    runner = rt.InferenceSession(reshaped()).bind(x=x, shape=np.array([3, 2]))
    runner.replay()
    np.testing.assert_allclose(runner.outputs["y"], np.exp(x.reshape(3, 2)), 1e-6)


def test_outputs_that_are_inputs_or_constants():
    runner = rt.InferenceSession(
        model(
            "g (float[2] x) => (float[2] same, float[2] fixed, float[2] y) <float[2] c = {5, 6}> { same = Identity(x) fixed = Identity(c) y = Neg(x) }"
        )
    ).bind()
    runner.inputs["x"][...] = [1, 2]
    runner.replay()
    np.testing.assert_array_equal(runner.outputs["same"], [1, 2])
    np.testing.assert_array_equal(runner.outputs["fixed"], [5, 6])
    np.testing.assert_array_equal(runner.outputs["y"], [-1, -2])


def test_runners_do_not_share_memory_but_weights():
    session = rt.InferenceSession(DIGITS)
    rng = np.random.default_rng(0)
    images = [rng.random((n, 1, 8, 8), np.float32) for n in (1, 4, 4)]
    want = [session.run(None, {"image": x})[0] for x in images]
    packed = session.plan_report().packed_bytes
    runners = [session.bind(image=x) for x in images]
    assert session.plan_report().packed_bytes == packed, "runners of known shapes pack nothing again"
    for r in runners:
        r.replay()
    for r, w in zip(runners, want):
        np.testing.assert_array_equal(r.outputs["scores"], w)


def test_runners_work_in_threads_at_once():
    session = rt.InferenceSession(DIGITS, threads=1)
    rng = np.random.default_rng(0)
    images = [rng.random((3, 1, 8, 8), np.float32) for _ in range(4)]
    want = [session.run(None, {"image": x})[0] for x in images]
    wrong: list[int] = []

    def work(k: int) -> None:
        runner = session.bind(image=images[k])
        for _ in range(30):
            runner.outputs["scores"][...] = 0
            runner.replay()
            if not np.array_equal(runner.outputs["scores"], want[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_runner_keeps_its_session_alive():
    runner = rt.InferenceSession(DIGITS).bind(image=(1, 1, 8, 8))
    runner.inputs["image"][...] = 0.5
    runner.replay()
    np.testing.assert_array_equal(
        runner.outputs["scores"], rt.InferenceSession(DIGITS).run(None, {"image": np.full((1, 1, 8, 8), 0.5, np.float32)})[0]
    )


def test_reports():
    session = rt.InferenceSession(DIGITS)
    with pytest.raises(rt.InputError, match="dynamic"):
        session.plan_report()
    report = session.plan_report(image=(8, 1, 8, 8))
    assert report.kernels["conv"] == 4 and report.kernels["gemm"] == 1 and report.fused >= 4 and report.segments == 1
    assert report.lower_bound <= report.arena_bytes <= 1.1 * report.lower_bound < report.unshared_bytes
    assert report.weight_bytes > 30_000 and len(report.launches) == sum(report.kernels.values())
    assert "launches" in str(report) and len(report.table().splitlines()) == len(report.launches)
    runner = session.bind(image=(8, 1, 8, 8))
    assert runner.report().kernels == report.kernels
    times = runner.profile(3)
    assert times.dtype == np.int64 and len(times) == len(report.launches) and (times > 0).all()
