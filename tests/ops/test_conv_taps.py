"""Taps of a convolution that meet nothing but padding are left out of the launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytensor_rt.lowering.tensor import CONST, Buffer, Tensor
from pytensor_rt.ops.convolution import reaching_taps
from tests.kernels import conv_reference as ref

from .nodes import run, session


def conv_feeds(rng: np.random.Generator, xs: Any, ws: Any) -> dict[str, Any]:
    return {"x": rng.standard_normal(xs).astype(np.float32), "w": rng.standard_normal(ws).astype(np.float32)}


def test_random_windows_on_small_images() -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):
        n, group = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        size, kernel = ([int(v) for v in rng.integers(1, 6, n)] for _ in range(2))
        strides, dilations = ([int(v) for v in rng.integers(1, 4, n)] for _ in range(2))
        pads = [int(v) for v in rng.integers(0, 8, 2 * n)]
        for i in range(n):
            pads[n + i] += max(0, (kernel[i] - 1) * dilations[i] + 1 - size[i] - pads[i] - pads[n + i])
        feeds = conv_feeds(rng, (2, 4 * group, *size), (6 * group, 4, *kernel))
        constants = ["w"] if rng.integers(2) else []
        attrs: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
        (got,) = run("Conv", feeds, constants=constants, **attrs)
        want = ref.conv(feeds["x"], feeds["w"], None, strides, dilations, pads, group)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_exactly_the_taps_that_meet_padding_only_are_left_out() -> None:
    rng, left_out = np.random.default_rng(2), 0
    for _ in range(400):
        size, kernel, stride, step = (int(v) for v in rng.integers(1, 7, 4))
        begin, end = (int(v) for v in rng.integers(0, 20, 2))
        free = size + begin + end - (kernel - 1) * step - 1
        if free < 0:
            continue
        out = free // stride + 1
        met = [k for k in range(kernel) if any(0 <= o * stride - begin + k * step < size for o in range(out))]
        weights = Tensor(Buffer(0, CONST, 3 * kernel, np.dtype(np.float32)), 0, (3, 1, kernel), (kernel, 0, 1), np.dtype(np.float32))
        w, params = reaching_taps((size,), weights, {"strides": (stride,), "dilations": (step,), "pads": (begin, end)}, (out,))
        if not met:
            continue
        # No pad becomes negative: a tap that would need that stays.
        first = min(met[0], begin // step)
        last = max(met[-1], kernel - 1 - end // step)
        assert (w.offset, w.shape[2]) == (first, last - first + 1)
        assert params["pads"] == (begin - first * step, end - (kernel - 1 - last) * step)
        left_out += w.shape[2] < kernel
    assert left_out > 100


def test_integers_with_a_zero_point() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (1, 8, 1, 2), np.uint8), rng.integers(-128, 128, (6, 8, 3, 3), np.int8)
    (got,) = run(
        "ConvInteger", {"x": x, "w": w, "xz": np.array(7, np.uint8), "wz": np.array(-3, np.int8)}, constants=["w", "xz", "wz"], pads=[1] * 4
    )
    wide = np.zeros((1, 8, 3, 4), np.int64)
    wide[:, :, 1:2, 1:3] = x.astype(np.int64) - 7
    want = ref.conv(wide.astype(np.float64), w.astype(np.float64) + 3, None, [1, 1], [1, 1], [0] * 4, 1)
    np.testing.assert_array_equal(got, want.astype(np.int32))


def test_one_session_at_sizes_that_reach_other_taps() -> None:
    rng = np.random.default_rng(4)
    feeds = conv_feeds(rng, (1, 8, 3, 3), (4, 8, 5, 5))
    s = session("Conv", feeds, constants=["w"], pads=[2] * 4)
    for h, w in ((3, 3), (1, 1), (2, 7), (7, 1), (1, 2), (9, 8), (1, 1), (4, 4), (2, 2)) * 2:
        x = rng.standard_normal((1, 8, h, w)).astype(np.float32)
        (got,) = s.run(None, {"x": x})
        np.testing.assert_allclose(got, ref.conv(x, feeds["w"], None, [1, 1], [1, 1], [2] * 4, 1), rtol=1e-4, atol=1e-4)
