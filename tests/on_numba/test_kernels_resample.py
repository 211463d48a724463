"""The cases of `resample`, on device "numba", and cases of the paths that only it has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import plan_launch
from pytensor_rt.kernels.ref.sampling import resample as oracle
from tests.kernels import harness
from tests.kernels.harness import run, strided
from tests.kernels.test_resample import *  # noqa: F403
from tests.kernels.test_resample import channels_last, reference

NOT_REPLAYED = {
    "test_strategies_and_epilogue": "asserts what the C++ kernel chooses; test_strategies and test_epilogue are the same for these"
}


def expected(x: Any, shape: tuple[int, ...], params: dict[str, Any]) -> Any:
    """The NumPy kernel's result, in float64 where x is a float."""
    dtype = np.dtype(np.float64) if x.dtype.kind in "fV" and "int" not in x.dtype.name else x.dtype
    whole = {"coordinates": "half_pixel", "nearest": "round_prefer_floor", "roi": (), **params}
    return oracle([x.astype(dtype)], [(shape, dtype)], whole, ())[0]


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of the next launches."""
    device = harness.device
    names: list[str] = []
    assert device is not None

    def noted(launch: Any, bases: Any, threads: int) -> None:
        names.extend(call.fn for call in plan_launch(launch).calls)
        device(launch, bases, threads)

    monkeypatch.setattr(harness, "device", noted)
    return names


def test_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    names = calls_of(monkeypatch)
    x = np.random.default_rng(6).standard_normal((1, 64, 6, 6)).astype(np.float32)
    double = {"coordinates": "half_pixel", "nearest": "floor", "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()}
    for a, vectors in ((x, 0), (channels_last(x), 1)):
        for op in ("nearest", "linear"):
            out = (np.array if vectors == 0 else channels_last)(np.zeros((1, 64, 12, 12), np.float32))
            (y,) = run("resample", [a], [out], {"op": op, **double})
            assert names == (["resample.nearest[4]"] if op == "nearest" else [f"resample.lines[:float32,float32,{vectors}]"])
            names.clear()
            np.testing.assert_allclose(y, reference(x, (1, 1, 2, 2), (), mode=op, nearest_mode="floor"), rtol=1e-5, atol=1e-5)
    cube = np.random.default_rng(7).standard_normal((2, 5, 6, 7)).astype(np.float32)
    params = {"op": "cubic", "scales": (2.0, 0.5, 1.5, 2.0)}
    (y,) = run("resample", [cube], [((4, 2, 9, 14), np.float32)], {**double, **params})
    assert len(names) > 1
    np.testing.assert_allclose(y, expected(cube, y.shape, {**double, **params}), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("threads", [1, 2])
def test_epilogue(op: str, threads: int) -> None:
    """In place, with all four pairs of layouts."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 37, 6, 5)).astype(np.float32)
    other = rng.standard_normal((2, 37, 13, 10)).astype(np.float32)
    params = {"op": op, "coordinates": "half_pixel", "nearest": "floor", "scales": (1.0, 1.0, 13 / 6, 2.0), "roi": ()}
    want = expected(x, other.shape, params) + other
    for a in (x, channels_last(x), strided(rng, x)):
        for out in (other.copy(), channels_last(other), strided(rng, other)):
            (y,) = run("resample", [a], [out], params, epilogue=lambda acc, z: acc + z, epi_ins=[out], threads=threads)
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


WIDE = ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int4", "bool"]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("op", ["nearest", "linear", "cubic"])
def test_dtypes(op: str, dtype: str) -> None:
    rng = np.random.default_rng(9)
    kind: Any = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    x = rng.integers(0, 2 if dtype == "bool" else 7, (2, 5, 4, 6)).astype(kind)
    params = {"op": op, "coordinates": "asymmetric", "nearest": "floor", "scales": (1.0, 1.0, 2.0, 0.5), "roi": ()}
    shape = (2, 5, 8, 3)
    want: Any = oracle([x], [(shape, np.dtype(kind))], params, ())[0]
    for a in (x, channels_last(x), strided(rng, x)):
        (y,) = run("resample", [a], [(shape, kind)], params)
        tolerance = {"float16": 1e-3, "bfloat16": 1e-2, "float8_e4m3fn": 0.1}.get(dtype, 1e-6)
        np.testing.assert_allclose(y.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_saturation() -> None:
    """Cubic results of integers overshoot, and are clamped."""
    for dtype, low, high in (("uint8", 0, 255), ("int8", -128, 127), ("int32", -(2**31), 2**31 - 1)):
        x = np.array([low, high, low, low, high, high, low, high], dtype)
        params = {"op": "cubic", "coordinates": "half_pixel", "scales": (4.0,), "roi": ()}
        (y,) = run("resample", [x], [((32,), dtype)], params)
        want = expected(x.astype(np.float64), (32,), params)
        assert (want < low).any() and (want > high).any()
        np.testing.assert_array_equal(y, np.trunc(np.clip(want, low, high)).astype(dtype))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_nearest(dtype: str) -> None:
    rng = np.random.default_rng(10)
    x = (rng.standard_normal((3, 4, 5)) + 1j * rng.standard_normal((3, 4, 5))).astype(dtype)
    params = {"op": "nearest", "coordinates": "asymmetric", "nearest": "floor", "scales": (1.0, 2.0, 3.0), "roi": ()}
    (y,) = run("resample", [strided(rng, x)], [strided(rng, np.zeros((3, 8, 15), dtype))], params)
    np.testing.assert_array_equal(y, x.repeat(2, 1).repeat(3, 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_random_shapes(threads: int) -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        rank = int(rng.integers(1, 6))
        shape = tuple(int(n) for n in rng.integers(1, 7, rank))
        out = tuple(n if rng.random() < 0.4 else int(rng.integers(1, 12)) for n in shape)
        op = str(rng.choice(["nearest", "linear", "cubic"]))
        params: dict[str, Any] = {
            "op": op, "coordinates": str(rng.choice(["half_pixel", "asymmetric", "tf_crop_and_resize"])), "scales": tuple(m / n for n, m in zip(shape, out)),
            "nearest": "floor", "roi": (), "antialias": int(rng.integers(2)) if op != "nearest" else 0, "exclude_outside": int(rng.integers(2)),
            "extrapolation": 9.0,
        }  # fmt: skip
        if params["coordinates"] == "tf_crop_and_resize":
            params["roi"] = (*rng.uniform(-0.2, 0.4, rank), *rng.uniform(0.6, 1.2, rank))
        x = rng.standard_normal(shape).astype(np.float32)
        want = expected(x, out, params)
        for a, y in ((x, (out, np.float32)), (strided(rng, x), strided(rng, np.zeros(out, np.float32)))):
            (got,) = run("resample", [a], [y], params, threads=threads)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=str((shape, out, params)))


@pytest.mark.parametrize("op", ["linear", "cubic"])
def test_passes_over_one_axis_each(op: str) -> None:
    """Four resampled axes of which none, one or another is contiguous, with a fifth one that is not resampled."""
    rng = np.random.default_rng(13)
    x = rng.standard_normal((3, 5, 4, 6, 7)).astype(np.float32)
    params = {"op": op, "coordinates": "tf_crop_and_resize", "scales": (1.0, 0.8, 2.0, 0.5, 1.0 + 2 / 7), "antialias": 1, "extrapolation": 5.0,
              "roi": (0.0, 0.0, 0.1, 0.0, -0.1, 1.0, 1.1, 0.9, 1.0, 1.0)}  # fmt: skip
    want = expected(x, (3, 4, 8, 3, 9), params)
    for axes in ((0, 1, 2, 3, 4), (1, 2, 3, 4, 0), (4, 3, 2, 1, 0)):
        for step in (1, 2):
            held = np.zeros([x.shape[a] * step for a in axes], np.float32)[(slice(None, None, step),) * 5].transpose(np.argsort(axes))
            held[...] = x
            for dtype in (np.float32, np.float16):
                (y,) = run("resample", [held.astype(dtype) if dtype is np.float16 else held], [(want.shape, dtype)], params)
                tolerance = 1e-4 if dtype is np.float32 else 1e-2
                np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)


def test_many_channels_and_long_lines() -> None:
    """Lines that are divided into blocks of their width."""
    x = np.random.default_rng(12).standard_normal((1, 700, 3, 90)).astype(np.float32)
    params = {"op": "linear", "coordinates": "half_pixel", "scales": (1.0, 1.0, 2.0, 1.5), "roi": ()}
    want = expected(x, (1, 700, 6, 135), params)
    for threads in (1, 2):
        for out in (np.zeros((1, 700, 6, 135), np.float32), channels_last(np.zeros((1, 700, 6, 135), np.float32))):
            (y,) = run("resample", [channels_last(x)], [out], params, threads=threads)
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_empty_input_is_refused_where_it_would_be_read() -> None:
    with pytest.raises(Exception, match="bad scale"):
        run("resample", [np.zeros((0, 2), np.float32)], [((1, 2), np.float32)], {"op": "linear", "scales": (2.0, 1.0), "roi": ()})
