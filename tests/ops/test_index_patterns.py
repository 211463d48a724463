"""Operators whose results depend on where an element is: ReverseSequence, OneHot, Trilu, EyeLike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.errors import ExecutionError

from .nodes import run

DTYPES: list[Any] = [np.float32, np.uint8, np.float16, np.int64]


def numbers(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("shape", [(5, 3), (5, 5, 4), (7, 4, 2, 3), (1, 1), (300, 2, 64), (4, 0, 2)], ids=str)
def test_reverse_sequence(shape: tuple[int, ...], time: int, dtype: Any) -> None:
    x = numbers(shape, dtype)
    lengths = np.random.default_rng(0).integers(1, shape[time] + 1, shape[1 - time]) if x.size else np.ones(shape[1 - time], np.int64)
    want = x.copy().swapaxes(0, 1 - time)  # [batch, time, ...]
    for row, n in zip(want, lengths):
        row[:n] = row[:n][::-1].copy()
    for constants in ([], ["sequence_lens"]):
        feeds = {"x": x, "sequence_lens": lengths.astype(np.int64)}
        (got,) = run("ReverseSequence", feeds, constants=constants, time_axis=time, batch_axis=1 - time)
        np.testing.assert_array_equal(got, want.swapaxes(0, 1 - time))


def test_lengths_beyond_the_axis_are_refused() -> None:
    with pytest.raises(ExecutionError):
        run("ReverseSequence", {"x": numbers((4, 3), np.float32), "n": np.array([4, 5, 1])}, time_axis=0, batch_axis=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("index", [np.int64, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 600)], ids=str)
def test_one_hot(shape: tuple[int, ...], index: Any, axis: int) -> None:
    i = np.random.default_rng(1).integers(-9, 9, shape).astype(index)  # what is out of range is off
    feeds = {"i": i, "depth": np.array(7), "values": np.array([2, 5], np.float32)}
    (got,) = run("OneHot", feeds, constants=["depth"], axis=axis)
    k = np.where(i < 0, i + 7, i)
    want = np.where(
        np.expand_dims(k, axis) == np.arange(7).reshape([7 if d == axis % (i.ndim + 1) else 1 for d in range(i.ndim + 1)]), 5, 2
    )
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("dtype", [*DTYPES, np.bool_])
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (2, 9, 5), (1, 1), (40, 700), (700, 40), (3, 2000)], ids=str)
def test_trilu(shape: tuple[int, ...], upper: int, dtype: Any) -> None:
    x = numbers(shape, dtype)
    for k in (0, 1, -2, 3, 5000, -5000):
        (got,) = run("Trilu", {"x": x, "k": np.array(k)}, upper=upper)
        np.testing.assert_array_equal(got, np.triu(x, k) if upper else np.tril(x, k))


@pytest.mark.parametrize("shape", [(4, 4), (3, 700), (700, 3), (1, 1), (90, 90)], ids=str)
def test_eye_like(shape: tuple[int, ...]) -> None:
    for k in (0, 2, -1, 1000):
        (got,) = run("EyeLike", {"x": np.zeros(shape, np.int32)}, dtype=1, k=k)
        np.testing.assert_array_equal(got, np.eye(*shape, k, dtype=np.float32))
