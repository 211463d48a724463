"""Kernels `fft`, `random` and `linear_algebra`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.ref.signal import philox
from pytensor_rt.kernels.ref.signal import random as reference_random
from tests.kernels.harness import run, strided

Array = np.ndarray[Any, Any]
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def both_threads(kernel: str, ins: list[Any], outs: list[Any], params: dict[str, Any]) -> Array:
    one = run(kernel, ins, outs, params)[0]
    two = run(kernel, ins, [(o.shape, o.dtype) if isinstance(o, np.ndarray) else o for o in outs], params, threads=2)[0]
    assert one.tobytes() == two.tobytes()
    return one


def split(z: Array) -> Array:
    return np.stack([z.real, z.imag], -1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 12, 31, 37, 60, 64, 97, 128, 210, 400, 512, 1000, 1024, 1027, 4096])
def test_fft_lengths(n: int) -> None:
    rng = np.random.default_rng(n)
    for x_size in {n, n + 3, max(n - 2, 1)}:
        z = rng.standard_normal((3, x_size, 2)) + 1j * rng.standard_normal((3, x_size, 2))
        x = split(z)  # [3, n, 2, complex]
        for inverse in (0, 1):
            want = (np.fft.ifft if inverse else np.fft.fft)(z, n, 1)
            got = both_threads("fft", [x], [((3, n, 2, 2), np.float64)], {"axis": 1, "inverse": inverse})
            np.testing.assert_allclose(got, split(want), rtol=1e-12, atol=1e-12 * n)
    real = rng.standard_normal((4, n, 1)).astype(np.float32)
    got = both_threads("fft", [real], [((4, n // 2 + 1, 2), np.float32)], {"axis": 1, "onesided": 1})
    want = np.fft.rfft(real[..., 0].astype(np.float64), n, 1)
    np.testing.assert_allclose(got, split(want), rtol=1e-6, atol=1e-6 * np.sqrt(n))
    back = both_threads("fft", [got], [((4, n, 1), np.float32)], {"axis": 1, "inverse": 1, "onesided": 1})
    np.testing.assert_allclose(back, real, rtol=1e-5, atol=1e-5)


def test_fft_axes_strides_and_dtypes() -> None:
    rng = np.random.default_rng(1)
    for dtype in FLOATS:
        for axis in range(3):
            for parts in (1, 2):
                x = strided(rng, rng.standard_normal((5, 6, 7, parts)).astype(dtype))
                y = strided(rng, np.zeros((5, 6, 7, 2), dtype))
                z = x.astype(np.float64)
                want = np.fft.fft(z[..., 0] + (1j * z[..., 1] if parts == 2 else 0), axis=axis)
                got = both_threads("fft", [x], [y], {"axis": axis})
                tolerance = {2: 1e-2, 4: 1e-6, 8: 1e-13}[np.dtype(dtype).itemsize]
                np.testing.assert_allclose(got.astype(np.float64), split(want), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [2, 6, 9, 64, 74, 400, 97])
def test_fft_of_many_lines(n: int) -> None:
    """Groups of lines, the last one not full: one after the other, side by side, and windows that overlap."""
    rng = np.random.default_rng(4)
    signal = rng.standard_normal(n + 36 * 5).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, n)[::5][..., None]
    dense = rng.standard_normal((37, n, 2)).astype(np.float32)
    for x in (windows, dense, np.ascontiguousarray(dense.transpose(1, 0, 2)).transpose(1, 0, 2), dense[..., :1]):
        z = x[..., 0].astype(np.float64) + (1j * x[..., 1] if x.shape[-1] == 2 else 0)
        for m, onesided in ((n, 0), (n // 2 + 1, 1)):
            got = both_threads("fft", [x], [((37, m, 2), np.float32)], {"axis": 1, "onesided": onesided})
            np.testing.assert_allclose(got, split(np.fft.fft(z, axis=1)[:, :m]), rtol=1e-6, atol=1e-6 * np.sqrt(n))
        for parts in (1, 2):
            half = dense[:, : n // 2 + 1]
            got = both_threads("fft", [half], [((37, n, parts), np.float32)], {"axis": 1, "onesided": 1, "inverse": 1})
            want = np.fft.irfft(half[..., 0].astype(np.float64) + 1j * half[..., 1], n, 1)
            np.testing.assert_allclose(got, split(want + 0j)[..., :parts], rtol=1e-6, atol=1e-6)


def test_fft_keeps_lines_apart() -> None:
    x = np.random.default_rng(5).standard_normal((9, 64, 1)).astype(np.float32)
    want = run("fft", [x], [((9, 33, 2), np.float32)], {"axis": 1, "onesided": 1})[0]
    x[4] = np.nan
    got = run("fft", [x], [((9, 33, 2), np.float32)], {"axis": 1, "onesided": 1})[0]
    assert np.isnan(got[4, :, 0]).all() and np.array_equal(np.delete(got, 4, 0), np.delete(want, 4, 0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["uniform", "normal"])
def test_random_is_the_documented_stream(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for n, seed, stream, a, b in [
        (1, 0, 0, 0.0, 1.0),
        (7, 1 << 40, 3, -2.0, 3.0),
        (5000, 2**64 - 1, 1 << 33, 0.5, 0.25),
    ]:
        params = {"op": op, "a": a, "b": b, "stream": stream}
        seeds = np.array([seed], np.uint64)
        got = both_threads("random", [seeds], [((n,), dtype)], params)
        want = reference_random([seeds], [((n,), np.dtype(dtype))], params, ())[0]
        assert want is not None
        if op == "uniform":
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=1e-2 if np.dtype(dtype).itemsize == 2 else 1e-6, atol=1e-12
            )
    flat = run("random", [seeds], [((4 * 5 * 90,), dtype)], params)[0]
    y = strided(rng, np.zeros((4, 5, 90), dtype))
    np.testing.assert_array_equal(both_threads("random", [seeds], [y], params).reshape(-1), flat)


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_has_the_bits_of_the_documented_stream(dtype: Any) -> None:
    for first, last in ((-2.3, 0.3), (0.1, 0.7), (1e-3, 3e4)):
        params = {"op": "uniform", "a": first, "b": last, "stream": 1}
        want = reference_random([np.array([9], np.uint64)], [((3001,), np.dtype(dtype))], params, ())[0]
        np.testing.assert_array_equal(both_threads("random", [np.array([9], np.uint64)], [((3001,), dtype)], params), want)


def test_random_moments_and_known_answer() -> None:
    # Philox4x32-10 of a zero counter and key (known-answer test of Random123).
    assert [hex(v) for v in philox(np.zeros(1, np.uint64), 0, 0)[0]] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    seed = np.array([0], np.uint64)
    first = run("random", [seed], [((4,), np.float32)], {"op": "uniform", "a": 0.0, "b": 1.0, "stream": 0})[0]
    np.testing.assert_array_equal(first, np.array([0x6627E8, 0xE169C5, 0xBC57AC, 0x9B00DB]) / 2.0**24)
    y = run("random", [seed], [((200000,), np.float32)], {"op": "normal", "a": 1.0, "b": 2.0, "stream": 5})[0]
    assert abs(y.mean() - 1) < 0.02 and abs(y.std() - 2) < 0.02


@pytest.mark.parametrize("dtype", FLOATS)
def test_determinant(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    tolerance = {2: 1e-2, 4: 1e-6, 8: 1e-10}[np.dtype(dtype).itemsize]
    for shape in [(0, 0), (1, 1), (3, 3), (2, 3, 4, 4), (5, 9, 9)]:
        x = strided(rng, rng.standard_normal(shape).astype(dtype))
        got = both_threads("linear_algebra", [x], [(shape[:-2], dtype)], {"op": "det"})
        np.testing.assert_allclose(got.astype(np.float64), np.linalg.det(x.astype(np.float64)), rtol=tolerance, atol=tolerance)
    singular = np.ones((3, 3), dtype)
    assert both_threads("linear_algebra", [singular], [((), dtype)], {"op": "det"}) == 0
    hard = np.array([[0, 2], [3, 4]], dtype)
    assert both_threads("linear_algebra", [hard], [((), dtype)], {"op": "det"}) == -6
