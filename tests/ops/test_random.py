"""Random operators: moments, ranges, seeds. Bounds are five or more standard errors, and unseeded tests use many samples."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import pytensor_rt as rt

from ..models_text import model
from .nodes import run, session

N = 40_000


def draw(op: str, dtype: int = TensorProto.FLOAT, n: int = N, **attrs: object) -> np.ndarray:
    return run(op, {}, shape=[n], dtype=dtype, **attrs)[0]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_uniform_moments(dtype: int) -> None:
    y = draw("RandomUniform", dtype, low=-1.0, high=3.0, seed=1.0).astype(np.float64)
    assert y.min() >= -1 and y.max() < 3
    assert abs(y.mean() - 1) < 5 * (4 / 12**0.5) / N**0.5 + (2e-2 if dtype == TensorProto.BFLOAT16 else 0)
    assert abs(y.var() - 16 / 12) < 0.03
    assert abs(np.corrcoef(y[:-1], y[1:])[0, 1]) < 5 / N**0.5


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_normal_moments(dtype: int) -> None:
    y = draw("RandomNormal", dtype, mean=2.0, scale=3.0, seed=5.0).astype(np.float64)
    z = (y - 2) / 3
    assert abs(z.mean()) < 5 / N**0.5 and abs(z.var() - 1) < 5 * (2 / N) ** 0.5
    assert abs((z**3).mean()) < 0.07 and abs((z**4).mean() - 3) < 0.25


@pytest.mark.parametrize("op", ["RandomUniform", "RandomNormal"])
def test_a_seed_fixes_the_values(op: str) -> None:
    s = session(op, {}, shape=[100], seed=7.5)
    first = s.run(None, {})[0]
    assert np.array_equal(first, s.run(None, {})[0])
    assert np.array_equal(first, run(op, {}, shape=[100], seed=7.5)[0])
    assert not np.array_equal(first, run(op, {}, shape=[100], seed=7.25)[0])


@pytest.mark.parametrize("op", ["RandomUniform", "RandomNormal"])
def test_large_seeded_tensors_agree_with_the_reference_device(op: str) -> None:
    got, want = (run(op, {}, device=d, shape=[3, 1111], seed=3.0)[0] for d in ("cpu", "reference"))
    np.testing.assert_allclose(got, want, 1e-5, 1e-6)


@pytest.mark.parametrize("op", ["RandomUniform", "RandomNormal"])
def test_without_seed_every_run_differs(op: str) -> None:
    s = session(op, {}, shape=[50])
    runs = [s.run(None, {})[0] for _ in range(4)]
    assert len({r.tobytes() for r in runs}) == 4


def test_two_unseeded_nodes_differ_and_stay_so_after_optimisation() -> None:
    s = rt.InferenceSession(model("g (float[n] x) => (float[n] a, float[n] b) { a = RandomNormalLike(x)\n b = RandomNormalLike(x) }"))
    a, b = s.run(None, {"x": np.zeros(50, np.float32)})
    assert not np.array_equal(a, b)


def test_values_are_drawn_anew_for_constant_inputs() -> None:
    s = rt.InferenceSession(
        model(
            "g (float[1] x) => (float[8] y) { c = Constant<value = float[8] {0,0,0,0,0,0,0,0}>()\n r = RandomUniformLike(c)\n y = Add(r, x) }"
        )
    )
    x = np.zeros(1, np.float32)
    assert not np.array_equal(s.run(None, {"x": x})[0], s.run(None, {"x": x})[0])


@pytest.mark.parametrize("op", ["RandomUniformLike", "RandomNormalLike"])
def test_like_takes_shape_and_type(op: str) -> None:
    x = np.zeros((3, 0, 2), np.float64)
    assert run(op, {"x": x})[0].shape == x.shape
    y = run(op, {"x": np.zeros((3, 5), np.float64)})[0]
    assert y.shape == (3, 5) and y.dtype == np.float64
    assert run(op, {"x": np.zeros((3, 5), np.int32)}, dtype=TensorProto.FLOAT)[0].dtype == np.float32
    with pytest.raises(rt.PlanError, match="floating-point"):
        run(op, {"x": np.zeros((3, 5), np.int32)})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bernoulli(dtype: type) -> None:
    p = np.repeat(np.array([0, 0.25, 0.5, 1], dtype), N).reshape(4, N)
    y = run("Bernoulli", {"p": p}, seed=2.0)[0]
    assert y.dtype == dtype and set(np.unique(y)) <= {0, 1}
    means = y.astype(np.float64).mean(1)
    assert means[0] == 0 and means[3] == 1
    assert abs(means[1] - 0.25) < 5 * 0.5 / N**0.5 and abs(means[2] - 0.5) < 5 * 0.5 / N**0.5
    assert run("Bernoulli", {"p": p[:, :10]}, dtype=TensorProto.BOOL)[0].dtype == np.bool_


def test_multinomial() -> None:
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        logits = (np.log(p) + 3).astype(np.float32)  # unnormalised
    y = run("Multinomial", {"x": logits}, sample_size=N, seed=4.0, dtype=TensorProto.INT64)[0]
    assert y.shape == (2, N) and y.dtype == np.int64
    shares = np.array([np.bincount(row, minlength=3) / N for row in y])
    assert shares[1, 1] == 0 and np.abs(shares - p).max() < 5 * 0.5 / N**0.5
    assert run("Multinomial", {"x": logits[:, :1]}, sample_size=4)[0].tolist() == [[0] * 4] * 2
    again = session("Multinomial", {"x": logits}, sample_size=64)
    assert not np.array_equal(again.run(None, {"x": logits})[0], again.run(None, {"x": logits})[0])


def test_dropout_in_training_mode() -> None:
    x = np.ones((2, N), np.float32)
    feeds = {"x": x, "ratio": np.array(0.25, np.float32), "training": np.array(True)}
    s = session("Dropout", feeds, outputs=2)
    y, mask = s.run(None, feeds)
    np.testing.assert_array_equal(y, np.where(mask, np.float32(1 / 0.75), 0))
    assert abs(mask.mean() - 0.75) < 5 * 0.5 / (2 * N) ** 0.5
    assert not np.array_equal(mask, s.run(None, feeds)[1])
    off = s.run(None, {**feeds, "training": np.array(False)})
    assert np.array_equal(off[0], x) and off[1].all()
    none = s.run(None, {**feeds, "ratio": np.array(0, np.float32)})
    assert np.array_equal(none[0], x) and none[1].all()
    fixed = session("Dropout", feeds, outputs=2, seed=3)
    assert np.array_equal(fixed.run(None, feeds)[1], fixed.run(None, feeds)[1])
