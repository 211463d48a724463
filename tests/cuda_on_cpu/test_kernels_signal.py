"""The cases of `fft`, `random` and `linear_algebra`, on the CUDA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import fourier
from pytensor_rt.kernels.cuda.plans.fourier import LONG_STEP, ONE_STEP, _steps
from tests.kernels.harness import run
from tests.kernels.test_signal import *  # noqa: F403
from tests.kernels.test_signal import split


def test_steps_make_up_the_length() -> None:
    for n in (1, 2048, 4096, 3**8, 31**3, 2**20, 2**27, 5**9 * 3):
        steps = _steps(n)
        assert np.prod(steps) == n and max(steps) <= (ONE_STEP if len(steps) == 1 else LONG_STEP)


def transform(n: int, inverse: int = 0, lines: int = 2) -> None:
    rng = np.random.default_rng(n)
    z = rng.standard_normal((lines, n)) + 1j * rng.standard_normal((lines, n))
    want = (np.fft.ifft if inverse else np.fft.fft)(z, n, 1)
    (got,) = run("fft", [split(z)], [((lines, n, 2), np.float64)], {"axis": 1, "inverse": inverse}, threads=2)
    np.testing.assert_allclose(got, split(want), rtol=1e-12, atol=1e-12 * n)


def test_the_longest_of_one_step() -> None:
    transform(2048)


@pytest.mark.parametrize("n", [2187, 3 * 31 * 31, 2050])
def test_two_steps_and_long_convolutions(n: int) -> None:
    """Odd radices, the largest one, and a length that is no product of small primes (2 * 5**2 * 41)."""
    transform(n, lines=3)
    transform(n, inverse=1, lines=1)


def test_three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With short steps, so that a short transform has three and both halves of the scratch are used."""
    monkeypatch.setattr(fourier, "ONE_STEP", 16)
    monkeypatch.setattr(fourier, "LONG_STEP", 8)
    for n in (210, 512, 37):
        transform(n)
        transform(n, inverse=1)


def test_many_short_lines_in_either_layout() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((700, 8, 2)).astype(np.float32)
    want = split(np.fft.fft(x[..., 0] + 1j * x[..., 1], axis=1))
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        back = np.argsort(order)
        a: Any = np.ascontiguousarray(x.transpose(order)).transpose(back)
        y: Any = np.zeros([x.shape[i] for i in order], np.float32).transpose(back)
        (got,) = run("fft", [a], [y], {"axis": 1}, threads=2)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_determinants_of_each_size_class() -> None:
    rng = np.random.default_rng(6)
    for n in (32, 33, 76):
        x = rng.standard_normal((2, n, n)) / np.sqrt(n)
        (got,) = run("linear_algebra", [x], [((2,), np.float64)], {"op": "det"}, threads=2)
        np.testing.assert_allclose(got, np.linalg.det(x), rtol=1e-10)
    x[0, 3, 5] = np.nan
    (got,) = run("linear_algebra", [x], [((2,), np.float64)], {"op": "det"})
    assert np.isnan(got[0]) and not np.isnan(got[1])


def test_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    test_three_steps(monkeypatch)
    test_determinants_of_each_size_class()
    test_random_moments_and_known_answer()  # noqa: F405
