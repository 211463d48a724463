"""The cases of `resample`, on the CUDA kernels, and cases of the paths that only they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.dtypes import F64
from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import plan_launch
from pytensor_rt.kernels.ref.sampling import resample as oracle
from tests.kernels import harness
from tests.kernels.harness import run
from tests.kernels.test_resample import *  # noqa: F403
from tests.kernels.test_resample import channels_last, reference

NOT_REPLAYED = {
    "test_strategies_and_epilogue": "asserts what the C++ kernel chooses; test_strategies and test_epilogue are the same for these"
}


def entries_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels of the next launches."""
    device, names = harness.device, []
    assert device is not None

    def noted(launch: Any, bases: Any, threads: int) -> None:
        names.extend(call.entry.name for call in plan_launch(launch))
        device(launch, bases, threads)

    monkeypatch.setattr(harness, "device", noted)
    return names


def test_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    names = entries_of(monkeypatch)
    x = np.random.default_rng(6).standard_normal((1, 64, 6, 6)).astype(np.float32)
    for a, name in ((x, "resample_elements"), (channels_last(x), "resample_vectors")):
        for op in ("nearest", "linear"):
            names.clear()
            out = np.zeros((1, 64, 12, 12), np.float32)
            (y,) = run("resample", [a], [channels_last(out) if a is not x else out], {"op": op, "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()})
            assert names == [name]
            np.testing.assert_allclose(y, reference(x, (1, 1, 2, 2), (), mode=op), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["nearest", "linear"])
def test_epilogue(op: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 64, 6, 6)).astype(np.float32)
    other = rng.standard_normal((1, 64, 12, 12)).astype(np.float32)
    for a, out in ((x, other.copy()), (channels_last(x), channels_last(other))):
        params = {"op": op, "nearest": "floor", "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()}
        (y,) = run("resample", [a], [out], params, epilogue=lambda acc, z: acc + z, epi_ins=[out])
        np.testing.assert_allclose(y, reference(x, (1, 1, 2, 2), (), mode=op, nearest_mode="floor") + other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float16", 2e-3), ("uint8", 1), ("float64", 1e-12)])
def test_many_taps_go_axis_by_axis(monkeypatch: pytest.MonkeyPatch, dtype: str, tolerance: float) -> None:
    names = entries_of(monkeypatch)
    rng = np.random.default_rng(7)
    for shape, scales, size, passes in (
        ((2, 3, 40, 50), (1.0, 1.0, 0.1, 0.2), (2, 3, 4, 10), 2), ((1, 8, 30, 20), (1.0, 1.0, 0.15, 0.1), (1, 8, 4, 2), 2),
        ((1, 2, 20, 20, 30), (1.0, 1.0, 0.25, 0.5, 0.2), (1, 2, 5, 10, 6), 3),
    ):  # fmt: skip
        x = (rng.integers(0, 200, shape) if dtype == "uint8" else rng.standard_normal(shape)).astype(dtype)
        for crop in (False, True):
            n = len(shape)
            params = {"op": "cubic", "antialias": 1, "scales": scales, "extrapolation": 7.0}
            params |= {"coordinates": "tf_crop_and_resize", "roi": (0.0,) * n + (1.0,) * (n - 1) + (1.3,)} if crop else {"roi": ()}
            full = {"nearest": "floor", "cubic_a": -0.75, "coordinates": "half_pixel", **params}
            want = oracle([x.astype(np.float64)], [(size, F64)], full, ())[0]
            assert want is not None
            want = np.clip(want, 0, 255) if dtype == "uint8" else want
            for a in (x, channels_last(x)):
                names.clear()
                out = np.zeros(size, dtype)
                (y,) = run("resample", [a], [out if a is x else channels_last(out)], params, threads=2)
                assert len(names) == passes
                np.testing.assert_allclose(y.astype(np.float64), want, rtol=tolerance, atol=tolerance)


def test_other_types_are_copied() -> None:
    import ml_dtypes

    rng = np.random.default_rng(8)
    for dtype in (np.bool_, np.complex64, ml_dtypes.int4, ml_dtypes.float8_e5m2):
        x = rng.integers(0, 2, (1, 16, 3, 5)).astype(dtype)
        params = {"op": "nearest", "scales": (1.0, 1.0, 2.0, 2.0), "coordinates": "asymmetric", "nearest": "floor", "roi": ()}
        for a in (x, channels_last(x)):
            (y,) = run("resample", [a], [channels_last(np.zeros((1, 16, 6, 10), dtype))], params)
            np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(2, 3))


def test_integers_saturate() -> None:
    x = np.array([0, 0, 255, 255, 0, 0, 255], np.uint8)
    params = {"op": "cubic", "scales": (3.0,), "roi": ()}
    (y,) = run("resample", [x], [((21,), np.uint8)], params)
    want = oracle([x.astype(np.float64)], [((21,), F64)], {"coordinates": "half_pixel", **params}, ())[0]
    assert want is not None and want.min() < -1 and want.max() > 256
    np.testing.assert_array_equal(y, np.clip(want, 0, 255).astype(np.uint8))


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    test_epilogue("linear")
    test_many_taps_go_axis_by_axis(monkeypatch, "float32", 1e-5)
