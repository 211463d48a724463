"""Operators of com.microsoft for diffusion models against their definitions in NumPy: onnxruntime has no CPU kernels of them."""

from __future__ import annotations

from itertools import product
from math import erf
from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, close, normal, run, session, trimmed

Array = np.ndarray[Any, Any]
TOLERANCE = {np.float32: 2e-5, np.float16: 4e-3, np.float64: 1e-12}


# ------------------------------------------------------------------------------------------------------------------ convolution
def from_conv(x: Array, w: Array, b: Array | None, **attrs: Any) -> Array:
    """ai.onnx Conv between transpositions; w [M, k..., C / group]."""
    first = lambda a: np.ascontiguousarray(np.moveaxis(a, -1, 1))
    (y,) = run("Conv", {"x": first(x), "w": first(w)} | ({} if b is None else {"b": b}), **attrs)
    return np.moveaxis(y, 1, -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("biased", [False, True])
def test_nhwc_conv(dtype: Any, biased: bool) -> None:
    cases: list[dict[str, Any]] = [
        {}, {"pads": [1, 0, 1, 2], "strides": [2, 1]}, {"group": 2, "auto_pad": "SAME_UPPER"}, {"dilations": [2, 1], "kernel_shape": [3, 3]},
        {"group": 4, "auto_pad": "VALID"},
    ]  # fmt: skip
    for attrs in cases:
        x, w, b = normal(2, 9, 8, 4, dtype=dtype), normal(8, 3, 3, 4 // attrs.get("group", 1), dtype=dtype) / 6, normal(8, dtype=dtype)
        feeds = {"x": x, "w": w} | ({"b": b} if biased else {})
        for constants in ((), ("w",)):
            (got,) = run("NhwcConv", feeds, constants=constants, **MS, **attrs)
            want = from_conv(x, w, b if biased else None, **attrs)
            assert got.shape == want.shape and got.dtype == want.dtype
            close([(got, want)], TOLERANCE[dtype])


@pytest.mark.parametrize("spatial", [(7,), (4, 1), (4, 5, 6)])
def test_nhwc_conv_of_other_ranks(spatial: tuple[int, ...]) -> None:
    x, w = normal(2, *spatial, 3), normal(5, *(min(n, 2) for n in spatial), 3)
    close([(run("NhwcConv", {"x": x, "w": w}, **MS)[0], from_conv(x, w, None))], 2e-5)
    empty = np.zeros((0, *spatial, 3), np.float32)
    assert run("NhwcConv", {"x": empty, "w": w}, **MS)[0].shape == (0, *(n - min(n, 2) + 1 for n in spatial), 5)


def test_nhwc_conv_by_hand() -> None:
    x, w, b = normal(1, 5, 6, 3), normal(4, 2, 3, 3), normal(4)
    (got,) = run("NhwcConv", {"x": x, "w": w, "b": b}, **MS)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (2, 3), (0, 1))  # [4, 4, C, 2, 3]
    close([(got, np.einsum("ijckl,mklc->ijm", windows, w)[None] + b)], 1e-5)


# ---------------------------------------------------------------------------------------------------------------- normalisation
def group_norm(x: Array, gamma: Array, beta: Array, groups: int, epsilon: float, activation: int, channels_last: int) -> Array:
    v = x.astype(np.float64)
    v = v if channels_last else np.moveaxis(v, 1, -1)
    s = v.reshape(v.shape[0], -1, groups, v.shape[-1] // groups)
    s = (s - s.mean((1, 3), keepdims=True)) / np.sqrt(s.var((1, 3), keepdims=True) + epsilon)
    v = s.reshape(v.shape) * gamma + beta
    v = v / (1 + np.exp(-v)) if activation else v
    return v if channels_last else np.moveaxis(v, -1, 1)


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize(
    "dtype,factors", [(np.float32, np.float32), (np.float16, np.float32), (np.float16, np.float16), (np.float32, np.float16)]
)
def test_group_norm(dtype: Any, factors: Any, activation: int, channels_last: int) -> None:
    for (*spatial, c), groups in (((5, 7, 8), 2), ((64, 80, 8), 1), ((8, 8, 320), 32), ((4, 4, 6), 6), ((9, 12), 3), ((8,), 2)):
        for n, constants in ((2, ()), (1, ("g", "b"))):
            x = (normal(n, *spatial, c) * 3 + 1).astype(dtype)
            x = x if channels_last else np.ascontiguousarray(np.moveaxis(x, -1, 1))
            feeds = {"x": x, "g": normal(c, dtype=factors), "b": normal(c, seed=1, dtype=factors)}
            attrs = {"groups": groups, "activation": activation, "epsilon": 1e-3}
            for given in ({"channels_last": channels_last}, {}) if channels_last else ({"channels_last": 0},):
                (got,) = run("GroupNorm", feeds, constants=constants, **MS, **attrs, **given)
                want = group_norm(x, feeds["g"], feeds["b"], groups, 1e-3, activation, channels_last)
                assert got.dtype == dtype and got.shape == x.shape
                close([(got, want)], TOLERANCE[dtype])


def test_a_layout_needs_no_copies() -> None:
    """One launch that reads and writes channels-last memory, with the activation inside."""
    feeds = {"x": normal(1, 8, 8, 64), "g": normal(64), "b": normal(64)}
    s = session("GroupNorm", feeds, constants=("g", "b"), groups=8, activation=1, **MS)
    s.run(None, {"x": feeds["x"]})
    assert [launch.kernel for launch in s.plan_report().launches] == ["normalize"]
    feeds = {"x": normal(1, 8, 8, 64), "w": normal(32, 3, 3, 64)}
    s = session("NhwcConv", feeds, constants=("w",), **MS)
    s.run(None, {"x": feeds["x"]})
    assert [launch.kernel for launch in s.plan_report().launches] == ["conv"]


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_skip_group_norm(dtype: Any, activation: int, channels_last: int) -> None:
    n, h, w, c = 2, 5, 7, 12
    place = lambda a: a if channels_last else np.ascontiguousarray(np.moveaxis(a, -1, 1))
    skips = [(place(normal(n, h, w, c, seed=3)), None)]
    for spelled in ((n, c), (n, 1, 1, c)) + (() if channels_last else ((n, c, 1, 1),)):
        skip = normal(n, c, seed=3)
        skips.append((skip.reshape(spelled), skip[:, None, None] if channels_last else skip[:, :, None, None]))
    x = place(normal(n, h, w, c)).astype(dtype)
    for (skip, seen), biased, outputs in product(skips, (False, True), (1, 2)):
        skip = skip.astype(dtype)
        wide = skip if seen is None else seen.astype(dtype)
        bias = normal(c, seed=5, dtype=dtype)
        feeds: dict[str, Any] = {"x": x, "g": normal(c), "b": normal(c, seed=1), "skip": skip, "bias": bias if biased else None}
        attrs = {"groups": 4, "activation": activation, "channels_last": channels_last}
        got = run("SkipGroupNorm", trimmed(feeds), outputs=outputs, **MS, **attrs)
        total = x.astype(np.float64) + wide
        if biased:
            total = total + (bias if channels_last else bias[:, None, None])
        want = [group_norm(total, feeds["g"], feeds["b"], 4, 1e-5, activation, channels_last), total][:outputs]
        assert all(g.dtype == dtype and g.shape == x.shape for g in got)
        close(list(zip(got, want, strict=True)), 2 * TOLERANCE[dtype])


def test_one_session_takes_images_of_any_size() -> None:
    g, b, w = normal(8), normal(8, seed=1), normal(6, 3, 3, 8)
    norm = session("SkipGroupNorm", {"x": np.zeros((1, 1, 1, 8), np.float32), "g": g, "b": b, "s": normal(1, 8)}, constants=("g", "b"), outputs=2,
                   groups=2, activation=1, **MS)  # fmt: skip
    conv = session("NhwcConv", {"x": np.zeros((1, 3, 3, 8), np.float32), "w": w}, constants=("w",), **MS)
    for n, height, width in ((1, 4, 4), (2, 5, 9), (1, 8, 3), (8, 3, 3), (1, 4, 4)):
        x, skip = normal(n, height, width, 8), normal(n, 8, seed=4)
        y, total = norm.run(None, {"x": x, "s": skip})
        want = x + skip[:, None, None]
        close([(total, want), (y, group_norm(want, g, b, 2, 1e-5, 1, 1))], 2e-5)
        close([(conv.run(None, {"x": x})[0], from_conv(x, w, None))], 2e-5)


def test_empty_images() -> None:
    for shape in ((0, 4, 4, 8), (2, 0, 4, 8)):
        feeds = {"x": np.zeros(shape, np.float32), "g": normal(8), "b": normal(8)}
        assert run("GroupNorm", feeds, groups=2, activation=1, **MS)[0].shape == shape
        y, total = run("SkipGroupNorm", {**feeds, "s": np.zeros((shape[0], 8), np.float32)}, outputs=2, groups=2, activation=0, **MS)
        assert y.shape == total.shape == shape


# ------------------------------------------------------------------------------------------------------------------ elementwise
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 1, 2), (0, 6, 8), (2, 3, 0)])
def test_bias_add_and_bias_split_gelu(shape: tuple[int, ...], dtype: Any) -> None:
    x, bias, skip = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype), normal(*shape, seed=2, dtype=dtype)
    (got,) = run("BiasAdd", {"x": x, "b": bias, "s": skip}, **MS)
    assert got.dtype == dtype
    close([(got, x.astype(np.float64) + bias + skip)], TOLERANCE[dtype])
    (got,) = run("BiasSplitGelu", {"x": x, "b": bias}, **MS)
    left, right = np.split(x.astype(np.float64) + bias, 2, -1)
    gelu = right * 0.5 * (1 + np.array([erf(v / 2**0.5) for v in right.reshape(-1)]).reshape(right.shape))
    assert got.dtype == dtype and got.shape == left.shape
    close([(got, left * gelu)], TOLERANCE[dtype])


# ----------------------------------------------------------------------------------------------------------------------- errors
IMAGE: dict[str, Any] = {"x": normal(1, 4, 4, 8), "g": normal(8), "b": normal(8)}
SKIP: dict[str, Any] = {**IMAGE, "s": normal(1, 8)}
HIDDEN: dict[str, Any] = {"x": normal(2, 3, 8), "b": normal(8)}


@pytest.mark.parametrize(
    "name,feeds,attrs,message",
    [
        ("GroupNorm", IMAGE, {"groups": 3, "activation": 0}, "groups must divide the 8 channels, got 3"),
        ("GroupNorm", IMAGE, {"groups": 0, "activation": 0}, "groups must divide the 8 channels, got 0"),
        ("GroupNorm", IMAGE, {"groups": 2, "activation": 2}, r"activation must be 0 \(none\) or 1 \(SiLU\), got 2"),
        ("GroupNorm", IMAGE, {"groups": 2, "activation": 0, "channels_last": 0}, r"expected gamma of shape \[4\], got \[8\]"),
        ("GroupNorm", {**IMAGE, "b": normal(4)}, {"groups": 2, "activation": 0}, r"expected beta of shape \[8\], got \[4\]"),
        ("GroupNorm", {**IMAGE, "x": normal(8)}, {"groups": 2, "activation": 0}, "expected x of rank 2 at least, got rank 1"),
        ("SkipGroupNorm", {**SKIP, "s": normal(1, 4)}, {"groups": 2, "activation": 0}, r"expected skip of shape \[1, 4, 4, 8\], \[1, 8\] or"),
        ("SkipGroupNorm", {**SKIP, "s": normal(1, 8, 1, 1)}, {"groups": 2, "activation": 0}, r"expected skip of shape .* got \[1, 8, 1, 1\]"),
        ("SkipGroupNorm", {**SKIP, "c": normal(4)}, {"groups": 2, "activation": 0}, r"expected bias of shape \[8\], got \[4\]"),
        ("BiasAdd", {**HIDDEN, "s": normal(3, 8)}, {}, r"expected skip of shape \[2, 3, 8\], got \[3, 8\]"),
        ("BiasAdd", {"x": HIDDEN["x"], "b": normal(1), "s": HIDDEN["x"]}, {}, r"expected bias of shape \[8\], got \[1\]"),
        ("BiasSplitGelu", {"x": normal(2, 3, 7), "b": normal(7)}, {}, r"an even D, got \[2, 3, 7\]"),
        ("BiasSplitGelu", {**HIDDEN, "b": normal(4)}, {}, r"expected bias of shape \[8\], got \[4\]"),
        ("NhwcConv", {"x": normal(1, 4, 4, 8), "w": normal(6, 8, 3, 3)}, {}, r"expected w \[M, kernel..., 8 / group 1\], channels last.*got \[6, 8, 3, 3\]"),
        ("NhwcConv", {"x": normal(1, 4, 4, 8), "w": normal(6, 3, 8)}, {}, "of the same rank, got ranks 4 and 3"),
        ("NhwcConv", {"x": normal(1, 4, 4, 8), "w": normal(6, 3, 2, 8)}, {"kernel_shape": [2, 3]}, r"kernel_shape \[2, 3\] does not fit w"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_so(name: str, feeds: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(rt.PlanError, match=rf"\[com.microsoft.{name}\] 'n': .*{message}"):
        run(name, feeds, **MS, **attrs)
