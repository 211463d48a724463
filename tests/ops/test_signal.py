"""DFT, STFT and MelWeightMatrix against numpy.fft and onnx.reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

from .nodes import node_model, run

rng = np.random.default_rng(11)
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 37, 60, 64, 97, 100, 121, 128]


def complex_of(y: np.ndarray) -> np.ndarray:
    y = y.astype(np.float64)
    return y[..., 0] + 1j * y[..., 1]


def near(got: np.ndarray, want: np.ndarray, dtype: Any) -> None:
    scale = max(1.0, np.abs(want).max(initial=0))
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= scale * {np.float64: 1e-12, np.float32: 1e-6, np.float16: 2e-3}[dtype]


def scalar(n: int) -> np.ndarray:
    return np.array(n, np.int64)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("parts", [1, 2])
def test_dft_and_inverse(n: int, parts: int) -> None:
    x = rng.standard_normal((2, n, 3, parts)).astype(np.float32)
    z = x[..., 0] + 1j * x[..., 1] if parts == 2 else x[..., 0]
    for inverse, peer in ((0, np.fft.fft), (1, np.fft.ifft)):
        got = run("DFT", {"x": x, "n": None, "axis": scalar(1)}, inverse=inverse)[0]
        near(complex_of(got), peer(z.astype(np.complex128), axis=1), np.float32)
        assert np.array_equal(got, run("DFT", {"x": x}, opset=17, inverse=inverse)[0])  # axis is 1 by default, an attribute


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("length", [None, 1, 6, 9, 40, 150])
def test_onesided_of_any_length(n: int, length: int | None) -> None:
    """Cropped or padded to the transform length first; the size of half a spectrum alone does not tell an odd length from an even one."""
    x = rng.standard_normal((2, n, 1))
    feeds = {"x": x, "n": None if length is None else scalar(length)}
    for device in ("cpu", "reference"):
        got = run("DFT", feeds, device, opset=20, onesided=1)[0]
        near(complex_of(got), np.fft.rfft(x[..., 0], length, axis=1), np.float64)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 17])
@pytest.mark.parametrize("length", [None, 1, 2, 5, 16, 33])
def test_inverse_of_half_a_spectrum(n: int, length: int | None) -> None:
    x = rng.standard_normal((n, 4, 2))
    feeds = {"x": x, "n": None if length is None else scalar(length), "axis": scalar(0)}
    for device in ("cpu", "reference"):
        got = run("DFT", feeds, device, onesided=1, inverse=1)[0]
        near(got[..., 0], np.fft.irfft(complex_of(x), length, axis=0), np.float64)


@pytest.mark.parametrize("axis", [-4, -3, -2, 0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("length", [4, 11])
def test_every_axis_and_type(axis: int, dtype: Any, length: int) -> None:
    x = rng.standard_normal((5, 6, 7, 2)).astype(dtype)
    got = run("DFT", {"x": x, "n": scalar(length), "axis": scalar(axis)})[0]
    assert got.dtype == dtype
    near(complex_of(got), np.fft.fft(complex_of(x), length, axis=axis % 4), dtype)


def test_errors_are_typed() -> None:
    x = np.zeros((2, 4, 1), np.float32)
    for feeds in ({"x": x, "n": None, "axis": scalar(2)}, {"x": x, "n": scalar(0)}, {"x": np.zeros((2, 4, 3), np.float32)}):
        with pytest.raises(rt.PlanError):
            run("DFT", feeds)


@pytest.mark.parametrize(("length", "step", "frame"), [(32, 8, 8), (33, 5, 7), (16, 16, 16), (20, 3, 1), (20, 30, 12)])
@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
def test_stft(length: int, step: int, frame: int, onesided: int, windowed: bool) -> None:
    x = rng.standard_normal((3, length, 1)).astype(np.float32)
    window = rng.random(frame).astype(np.float32) if windowed else None
    feeds = {"x": x, "step": scalar(step), "window": window, "frame": scalar(frame)}
    frames = [x[:, i : i + frame, 0].astype(np.float64) * (1 if window is None else window) for i in range(0, length - frame + 1, step)]
    want = (np.fft.rfft if onesided else np.fft.fft)(np.stack(frames, 1), axis=-1)
    near(complex_of(run("STFT", feeds, onesided=onesided)[0]), want, np.float32)


def test_stft_of_a_view_and_of_complex_signals() -> None:
    x = rng.standard_normal((2, 24, 2)).astype(np.float32)
    feeds = {"x": x, "step": scalar(4), "window": rng.random(8).astype(np.float32)}
    want = np.stack([np.fft.fft(complex_of(x)[:, i : i + 8] * feeds["window"], axis=-1) for i in range(0, 17, 4)], 1)
    near(complex_of(run("STFT", feeds, onesided=0)[0]), want, np.float32)
    with pytest.raises(rt.PlanError, match="window"):
        run("STFT", {**feeds, "frame": scalar(9)}, onesided=0)


@pytest.mark.parametrize(
    "spec", [(8, 16, 8192, 0.0, 4000.0), (40, 512, 16000, 20.0, 8000.0), (3, 9, 100, 0.0, 40.0), (20, 8, 8000, 0.0, 1000.0)]
)
def test_mel_weight_matrix(spec: tuple[int, int, int, float, float]) -> None:
    names = ("bins", "length", "rate", "low", "high")
    feeds = {k: np.array(v, np.float32 if k in ("low", "high") else np.int64) for k, v in zip(names, spec, strict=True)}
    got = run("MelWeightMatrix", feeds)[0]
    (want,) = ReferenceEvaluator(node_model("MelWeightMatrix", feeds)).run(None, feeds)
    np.testing.assert_allclose(got, want, 1e-6)
    assert got.dtype == np.float32


def test_mel_frequencies_out_of_range() -> None:
    feeds = {
        "bins": scalar(4),
        "length": scalar(16),
        "rate": scalar(100),
        "low": np.array(0, np.float32),
        "high": np.array(4000, np.float32),
    }
    with pytest.raises(rt.ExecutionError, match="spectrogram"):
        run("MelWeightMatrix", feeds)
