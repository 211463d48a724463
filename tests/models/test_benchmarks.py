"""The judgements of the benchmarks: what counts as slower, how noise is estimated, what a model in float64 gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import pytensor_rt as rt
from benchmarks.check import verdict
from benchmarks.compare import block_noise
from benchmarks.float64 import NoReference, float64_outputs
from benchmarks.published import feeds_for
from tests.models_text import model
from tests.session.models import DIGITS


@pytest.mark.parametrize(
    ("speed", "noise", "error", "want"),
    [
        (1.0, 0.0, 0.5, ""),
        (0.96, 0.0, 0.5, ""),
        (0.94, 0.0, 0.5, "slower"),
        (0.94, 0.03, 0.5, ""),
        (0.90, 0.03, 0.5, "slower"),
        (2.0, 0.0, 1.5, "wrong: 1.5 x tolerance"),
    ],
)
def test_a_loss_beyond_five_percent_and_three_times_the_noise_fails(speed, noise, error, want):
    assert verdict({"speed": 1.0, "noise": 0.01}, {"speed": speed, "noise": noise, "error_share": error}) == want


def test_block_noise_is_the_standard_error_of_the_median():
    rng = np.random.default_rng(0)
    ours = [[1.0]] * 400
    base = [[2.0 * (1 + 0.1 * e)] for e in rng.standard_normal(400)]
    assert block_noise(ours, base) == pytest.approx(1.2533 * 0.1 / 20, rel=0.15)


def test_a_model_in_float64_is_closer_to_the_truth_than_in_float32(tmp_path):
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    (exact,) = float64_outputs(DIGITS, {"image": image})
    (ours,) = rt.InferenceSession(DIGITS).run(None, {"image": image})
    assert exact.dtype == np.float64 and 0 < np.abs(ours - exact).max() < 1e-4

    third = model(
        "g (float[n] x) => (float[n] y) <float c = {0.1}> { k = Constant<value_float = 3.0>() p = Mul(x, k) q = Add(p, c) y = Cast<to = 1>(q) }"
    )
    onnx.save(third, tmp_path / "third.onnx")
    x = np.array([1 / 3, 1e-9], np.float32)
    (y,) = float64_outputs(tmp_path / "third.onnx", {"x": x})
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, x.astype(np.float64) * 3 + np.float32(0.1).astype(np.float64), rtol=1e-15)


def test_quantised_models_have_no_float64_form(tmp_path):
    m = model("g (uint8[2, 2] a) => (int32[2, 2] y) { y = MatMulInteger(a, a) }")
    onnx.save(m, tmp_path / "q.onnx")
    with pytest.raises(NoReference, match="MatMulInteger"):
        float64_outputs(tmp_path / "q.onnx", {"a": np.ones((2, 2), np.uint8)})


def test_open_sizes_are_found_by_trial():
    ort = pytest.importorskip("onnxruntime")
    w = ", ".join(["0.5"] * 37)
    m = model(
        f"g (float[steps, features] x, int64[k] lengths) => (float[a, b] y, int64[k] n) <float[37, 1] w = {{{w}}}> {{ y = MatMul(x, w) n = Abs(lengths) }}"
    )
    session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = feeds_for(session, [37])
    assert feeds["x"].dtype == np.float32 and feeds["x"].shape[1] == 37 and feeds["lengths"].dtype == np.int64
    with pytest.raises(RuntimeError, match="no trial fits"):
        feeds_for(session, [36])
