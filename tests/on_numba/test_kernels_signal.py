"""The cases of `fft`, `random` and `linear_algebra`, on device "numba"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import signal
from tests.kernels import harness
from tests.kernels.harness import run
from tests.kernels.test_signal import *  # noqa: F403
from tests.kernels.test_signal import FLOATS, split

Array = np.ndarray[Any, Any]


def transform(n: int, inverse: int = 0, lines: int = 2) -> None:
    rng = np.random.default_rng(n)
    z = rng.standard_normal((lines, n)) + 1j * rng.standard_normal((lines, n))
    want = (np.fft.ifft if inverse else np.fft.fft)(z, n, 1)
    (got,) = run("fft", [split(z)], [((lines, n, 2), np.float64)], {"axis": 1, "inverse": inverse}, threads=2)
    np.testing.assert_allclose(got, split(want), rtol=1e-12, atol=1e-13 * n)


@pytest.mark.parametrize("n", [2, 8, 9, 25, 30, 49, 64, 77, 101, 128, 360, 29 * 31])
def test_every_radix_over_every_number_of_lines(n: int) -> None:
    """Whole vectors of lines, parts of vectors, groups that are not full."""
    for lines in (1, 2, 7, 8, 9, 70):
        transform(n, lines % 2, lines)


@pytest.mark.parametrize("n", [2048, 2050, 2187, 3 * 31 * 31, 8192, 32768, 20011])
def test_long_transforms(n: int) -> None:
    """Groups of fewer lines than a vector has lanes; long convolutions."""
    transform(n, lines=5)
    transform(n, inverse=1, lines=1)


def test_radices_make_up_the_length() -> None:
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 2048, 3**8, 31**3, 2**20, 5**9 * 12):
        assert np.prod(signal._radices(n)) == n


def test_many_short_lines_in_any_layout() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((70, 10, 8, 2)).astype(np.float32)
    want = split(np.fft.fft(x[..., 0] + 1j * x[..., 1], axis=2))
    for order in ((0, 1, 2, 3), (2, 1, 0, 3), (3, 2, 1, 0), (1, 0, 2, 3), (3, 0, 2, 1)):
        back = np.argsort(order)
        a: Any = np.ascontiguousarray(x.transpose(order)).transpose(back)
        y: Any = np.zeros([x.shape[i] for i in order], np.float32).transpose(back)
        (got,) = run("fft", [a], [y], {"axis": 2}, threads=2)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        (got,) = run("fft", [a], [np.zeros(x.shape, np.float32)[::-1, :, ::-1]], {"axis": -2}, threads=2)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 67, 128, 400])
def test_halves_of_spectra(n: int) -> None:
    """One-sided transforms of cropped and padded signals, and back from cropped and padded spectra; odd lengths where x says so."""
    rng = np.random.default_rng(n)
    m = n // 2 + 1
    for given in (n, n + 3, max(1, n - 2)):
        if n % 2 == 1 and given != n:
            continue  # y's size does not tell an odd length
        x = rng.standard_normal((9, given, 1))
        (got,) = run("fft", [x], [((9, m, 2), np.float64)], {"axis": 1, "onesided": 1}, threads=2)
        if given != 2 * m - 1 or n % 2 == 1:
            np.testing.assert_allclose(got, split(np.fft.rfft(x[..., 0], n, 1)), rtol=1e-12, atol=1e-12 * n)
    for given in (m, m + 2, max(1, m - 1)):
        z = rng.standard_normal((9, given)) + 1j * rng.standard_normal((9, given))
        (got,) = run("fft", [split(z)], [((9, n, 1), np.float64)], {"axis": 1, "onesided": 1, "inverse": 1}, threads=2)
        np.testing.assert_allclose(got[..., 0], np.fft.irfft(z, n, 1), rtol=1e-12, atol=1e-13)


def test_empty_signals_and_broadcast_lines() -> None:
    (got,) = run("fft", [np.zeros((3, 0, 2), np.float32)], [((3, 4, 2), np.float32)], {"axis": 1})
    assert not got.any()
    x = np.broadcast_to(np.arange(6.0)[:, None], (20, 6, 1))
    (got,) = run("fft", [x], [((20, 6, 2), np.float64)], {"axis": 1})
    np.testing.assert_allclose(got, np.broadcast_to(split(np.fft.fft(np.arange(6.0))), (20, 6, 2)), atol=1e-13)


def test_lines_do_not_touch_each_other() -> None:
    x = np.random.default_rng(4).standard_normal((9, 24, 2))
    (want,) = run("fft", [x], [((9, 24, 2), np.float64)], {"axis": 1})
    x[4, 3, 0] = np.nan
    (got,) = run("fft", [x], [((9, 24, 2), np.float64)], {"axis": 1})
    assert np.isnan(got[4, :, 0]).all()
    np.testing.assert_array_equal(np.delete(got, 4, 0), np.delete(want, 4, 0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["uniform", "normal"])
def test_random_numbers_are_those_of_the_cpu(op: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, a, b, n in [
        (0, 0.0, 1.0, 5001),
        (12345, -2.0, 3.0, 4100),
        (9, 0.3, 0.3, 3),
        (77, 0.1, 0.7, 2049),
        (5, 1.0, 1.0 + 2**-9, 3000),
    ]:
        params = {"op": op, "a": a, "b": b, "stream": 3}
        outs = [((n,), dtype)]
        (got,) = run("random", [np.array([seed], np.uint64)], outs, params, threads=2)
        with monkeypatch.context() as m:
            m.setattr(harness, "device", None)
            (want,) = run("random", [np.array([seed], np.uint64)], outs, params)
        if np.dtype(dtype).itemsize < 8:
            assert got.tobytes() == want.tobytes()
        else:  # a + (b - a) * u has one rounding or two, as the CPU has fused multiply-adds or not
            np.testing.assert_allclose(got, want, rtol=1e-15, atol=1e-15)


def test_determinants_of_larger_matrices() -> None:
    rng = np.random.default_rng(6)
    for n in (2, 32, 33, 76):
        x = rng.standard_normal((2, n, n)) / np.sqrt(n)
        (got,) = run("linear_algebra", [x], [((2,), np.float64)], {"op": "det"}, threads=2)
        np.testing.assert_allclose(got, np.linalg.det(x), rtol=1e-10)
    x[0, 3, 5] = np.nan
    (got,) = run("linear_algebra", [x], [((2,), np.float64)], {"op": "det"})
    assert np.isnan(got[0]) and not np.isnan(got[1])
