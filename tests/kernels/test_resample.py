"""The resample kernel against onnx.reference's Resize."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from .harness import run, strided

A = np.ndarray[Any, Any]
MODES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]


@functools.lru_cache
def evaluator(items: tuple[tuple[str, Any], ...]) -> Any:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node("Resize", ["x", "roi", "scales"], ["y"], **dict(items))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "roi", "scales", "y")]
    graph = helper.make_graph([node], "g", value[:3], value[3:])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]))


def reference(x: A, scales: tuple[float, ...], roi: tuple[float, ...], **attributes: Any) -> A:
    feeds = {"x": x.astype(np.float32), "roi": np.array(roi, np.float32), "scales": np.array(scales, np.float32)}
    return evaluator(tuple(sorted(attributes.items()))).run(None, feeds)[0]


def channels_last(x: A) -> A:
    axes = (0, *range(2, x.ndim), 1)
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def check(x: A, want: A, params: dict[str, Any], tol: float = 1e-5) -> None:
    params = {"op": "nearest", "coordinates": "half_pixel", "nearest": "round_prefer_floor", "roi": (), "cubic_a": -0.75, **params}
    rng = np.random.default_rng(0)
    sources = [x, strided(rng, x)] + ([channels_last(x)] if x.ndim > 2 else [])
    for k, a in enumerate(sources):
        outs: list[Any] = [
            (want.shape, x.dtype),
            strided(rng, np.zeros(want.shape, x.dtype)),
            channels_last(np.zeros(want.shape, x.dtype)) if x.ndim > 2 else None,
        ]
        results = [run("resample", [a], [outs[k]], params, threads=t)[0].copy() for t in (1, 2)]
        assert results[0].tobytes() == results[1].tobytes()
        np.testing.assert_allclose(results[0].astype(np.float64), want.astype(np.float64), rtol=tol, atol=tol, err_msg=str(params))


SCALES = [(2.0, 3.0), (0.5, 0.6), (1.0, 2.5), (0.6, 1.0), (1.7, 0.4)]


@pytest.mark.parametrize("coordinates", MODES)
def test_nearest(coordinates: str) -> None:
    x = np.random.default_rng(1).standard_normal((1, 5, 5, 7)).astype(np.float32)
    for scale, nearest in itertools.product(SCALES, ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")):
        roi = (0, 0, 0.125, 0.25, 1, 1, 0.75, 1.25) if coordinates == "tf_crop_and_resize" else ()
        scales = (1.0, 1.0, *np.float32(scale).tolist())
        want = reference(
            x, scales, roi, mode="nearest", nearest_mode=nearest, coordinate_transformation_mode=coordinates, extrapolation_value=2.5
        )
        params = {"coordinates": coordinates, "nearest": nearest, "scales": scales, "roi": roi, "extrapolation": 2.5}
        check(x, want, params, 0)


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("op", ["linear", "cubic"])
def test_interpolation(op: str, coordinates: str) -> None:
    x = np.random.default_rng(2).standard_normal((1, 4, 5, 6)).astype(np.float32)
    for scale, exclude, antialias in itertools.product(SCALES, (0, 1), (0, 1)):
        if exclude and op == "linear":
            continue
        roi = (0, 0, 0.125, 0.25, 1, 1, 0.75, 1.25) if coordinates == "tf_crop_and_resize" else ()
        scales = (1.0, 1.0, *np.float32(scale).tolist())
        want = reference(x[:, :2], scales, roi, mode=op, coordinate_transformation_mode=coordinates, exclude_outside=exclude, antialias=antialias,
                         extrapolation_value=2.5)  # fmt: skip
        params = {"op": op, "coordinates": coordinates, "scales": scales, "roi": roi, "exclude_outside": exclude, "antialias": antialias,
                  "extrapolation": 2.5}  # fmt: skip
        check(x[:, :2], want, params)
        full = np.concatenate([want, want[:, :1], want[:, 1:]], 1)
        check(np.concatenate([x[:, :2], x[:, :2]], 1), full, params)  # four channels: vectors, where channels are last


def test_other_ranks() -> None:
    rng = np.random.default_rng(3)
    for shape, scales in (
        ((7,), (1.6,)),
        ((4, 5), (2.0, 1.0)),
        ((1, 2, 3, 4, 3), (1.0, 1.0, 2.0, 0.5, 1.5)),
        ((3, 2, 4), (2.0, 1.0, 2.0)),
        ((2, 3), (1.0, 1.0)),
    ):
        x = rng.standard_normal(shape).astype(np.float32)
        for op in ("nearest", "linear", "cubic"):
            check(x, reference(x, scales, (), mode=op), {"op": op, "scales": scales})


@pytest.mark.parametrize("dtype", ["float64", "float16", ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_float_types(dtype: Any) -> None:
    x = np.random.default_rng(4).standard_normal((2, 5, 6, 7)).astype(dtype)
    for op in ("nearest", "linear"):
        want = reference(x, (1, 1, 2, 2), (), mode=op)
        check(x, want, {"op": op, "scales": (1.0, 1.0, 2.0, 2.0)}, {"float64": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}[x.dtype.name])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_integers(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.random.default_rng(5).integers(info.min, info.max, (1, 4, 3, 5), np.dtype(dtype), endpoint=True)
    check(
        x,
        x.repeat(2, 2).repeat(3, 3),
        {"op": "nearest", "scales": (1.0, 1.0, 2.0, 3.0), "coordinates": "asymmetric", "nearest": "floor"},
        0,
    )
    small = (x % 50).astype(dtype)
    check(small, np.trunc(reference(small, (1, 1, 2, 2), (), mode="linear")), {"op": "linear", "scales": (1.0, 1.0, 2.0, 2.0)}, 0)


def test_lines_of_every_layout() -> None:
    """Enlarged by whole and by odd factors, shrunk by less and by more than half: longer lines than a vector, pixels of few channels, vectors."""
    rng = np.random.default_rng(7)
    for channels, n, m in ((1, 37, 74), (3, 19, 31), (21, 9, 36), (2, 90, 50), (3, 90, 20), (5, 33, 13)):
        x = rng.standard_normal((2, channels, 5, n)).astype(np.float32)
        scales = (1.0, 1.0, 7 / 5, m / n)
        for op, antialias in (("nearest", 0), ("linear", 0), ("cubic", 0), ("linear", 1)):
            want = reference(x, scales, (), mode=op, antialias=antialias)
            check(x, want, {"op": op, "scales": scales, "antialias": antialias}, 1e-4)
    x = rng.standard_normal((2, 40, 5, 7)).astype(np.float32)  # x channels-last, y channels-first
    for op in ("nearest", "linear"):
        (y,) = run("resample", [channels_last(x)], [((2, 40, 10, 21), np.float32)],
                   {"op": op, "coordinates": "half_pixel", "nearest": "round_prefer_floor", "scales": (1.0, 1.0, 2.0, 3.0), "roi": ()})  # fmt: skip
        np.testing.assert_allclose(y, reference(x, (1, 1, 2, 3), (), mode=op), rtol=1e-5, atol=1e-5)


def test_nearest_moves_bits() -> None:
    rng = np.random.default_rng(8)
    params = {"op": "nearest", "coordinates": "asymmetric", "nearest": "floor", "roi": ()}
    for dtype in ("uint8", "uint16", "uint32", "uint64"):
        info = np.iinfo(dtype)
        x = rng.integers(0, info.max, (1, 3, 2, 37), np.dtype(dtype), endpoint=True)
        for factor in (2, 3, 4):
            want = x.repeat(2, 2).repeat(factor, 3)
            for a, out in ((x, np.zeros(want.shape, dtype)), (channels_last(x), channels_last(np.zeros(want.shape, dtype)))):
                (y,) = run("resample", [a], [out], {**params, "scales": (1.0, 1.0, 2.0, float(factor))})
                np.testing.assert_array_equal(y, want)
    big = np.arange(12, dtype=np.int64).reshape(1, 1, 3, 4) + 2**60  # more than a double holds, through programs
    (y,) = run("resample", [big], [((1, 1, 6, 8), np.int64)], {**params, "scales": (1.0, 1.0, 2.0, 2.0)}, epilogue=lambda acc, z: acc + z,
               epi_ins=[np.ones((1, 1, 6, 8), np.int64)])  # fmt: skip
    np.testing.assert_array_equal(y, big.repeat(2, 2).repeat(2, 3) + 1)


def test_integer_results_are_clamped() -> None:
    x = np.array([0, 255, 255, 0, 0, 255], np.uint8).reshape(1, 1, 1, 6)
    (y,) = run("resample", [x], [((1, 1, 1, 24), np.uint8)],
               {"op": "cubic", "coordinates": "half_pixel", "nearest": "floor", "scales": (1.0, 1.0, 1.0, 4.0), "roi": (), "cubic_a": -0.75})  # fmt: skip
    want = reference(x, (1, 1, 1, 4), (), mode="cubic", cubic_coeff_a=-0.75)
    np.testing.assert_array_equal(y, np.trunc(np.clip(want, 0, 255)))


def test_strategies_and_epilogue() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 64, 6, 6)).astype(np.float32)
    other = rng.standard_normal((1, 64, 12, 12)).astype(np.float32)
    for a, name in ((x, "elements"), (channels_last(x), "vectors")):
        for op in ("nearest", "linear"):
            describe: list[str] = []
            out = channels_last(other) if name == "vectors" else other.copy()
            (y,) = run("resample", [a], [out], {"op": op, "coordinates": "half_pixel", "nearest": "floor", "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()},
                       epilogue=lambda acc, z: acc + z, epi_ins=[out], describe=describe)  # fmt: skip
            assert describe == [name]
            want = reference(x, (1, 1, 2, 2), (), mode=op, nearest_mode="floor") + other
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
