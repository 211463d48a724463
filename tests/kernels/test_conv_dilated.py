"""Windows whose taps lie apart: Winograd of residues, in one and two dimensions, rows of V of their own, and windows too wide to stage.

What the C++ kernels choose; the same arithmetic on other devices is replayed by test_conv.py's cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native

from . import conv_reference as ref
from .harness import run
from .test_conv import EPILOGUES, WINOGRAD_TOLERANCE, channels_last, check, check_epilogue, data

FAR = [  # x shape, w shape, strides, dilations, pads, axis: a block of tiles has not room for all residues
    ((1, 16, 1600), (16, 16, 3), [1], [120], [120, 120], 2),
    ((2, 17, 1290), (33, 17, 5), [1], [211], [600, 244], 2),
    ((1, 40, 2000), (18, 40, 7), [1], [230], [690, 690], 2),
    ((1, 16, 20, 240), (16, 16, 3, 5), [1, 1], [4, 30], [4, 60, 4, 60], 3),  # rows of the cross taps apart, too
    ((2, 20, 41, 130), (18, 20, 2, 3), [2, 1], [11, 26], [11, 0, 0, 52], 3),
    ((1, 16, 180, 29), (37, 16, 4, 2), [1, 1], [40, 13], [60, 13, 60, 0], 2),
    ((1, 24, 31, 60), (20, 24, 3, 3), [1, 1], [7, 2], [7, 2, 7, 2], 3),  # rows apart, all residues in a block
]


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize("xs,ws,strides,dilations,pads,axis", FAR)
def test_residues_are_divided(xs: Any, ws: Any, strides: Any, dilations: Any, pads: Any, axis: int, lx: str, ly: str) -> None:
    says: list[str] = []
    check(np.random.default_rng(31), xs, ws, strides, dilations, pads, lx=lx, ly=ly, describe=says, tolerance=2e-5)
    k = ws[axis]
    assert all(s.startswith(f"winograd F({9 - k},{k}) along axis {axis}") for s in says), says


@pytest.mark.parametrize("ly", ["last", "first", "any"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues_of_divided_residues(name: str, ly: str) -> None:
    for case in (FAR[0], FAR[3]):
        check_epilogue(name, (*case[:5], 1), ly, 2e-5)


SQUARE = [  # x shape, output channels, dilations, pads: images of residues, of unequal sizes
    ((1, 64, 28, 28), 64, [2, 2], [2, 2, 2, 2]),
    ((2, 32, 29, 31), 48, [2, 3], [2, 3, 2, 3]),
    ((1, 17, 40, 23), 33, [4, 1], [4, 1, 4, 1]),
    ((3, 40, 21, 34), 16, [1, 3], [0, 2, 1, 5]),
    ((1, 48, 33, 30), 64, [4, 4], [1, 7, 6, 2]),
    ((1, 128, 14, 14), 256, [2, 2], [2, 2, 2, 2]),
    ((1, 32, 32, 28), 32, [8, 7], [8, 7, 8, 7]),
]


@pytest.mark.parametrize("xs,m,dilations,pads", SQUARE)
def test_winograd_of_residues(xs: Any, m: int, dilations: Any, pads: Any) -> None:
    rng, says = np.random.default_rng(35), []  # type: ignore[var-annotated]
    ws = (m, xs[1], 3, 3)
    check(rng, xs, ws, None, dilations, pads, describe=says, tolerance=WINOGRAD_TOLERANCE + 1e-5)
    assert all(s.startswith(("winograd F(4,3), ", "winograd F(2,3), ")) for s in says), says
    # Results and inputs that lie otherwise cannot be scattered.
    for lx, ly in (("last", "first"), ("first", "last"), ("any", "any")):
        check(rng, xs, ws, None, dilations, pads, lx=lx, ly=ly, tolerance=WINOGRAD_TOLERANCE + 1e-5)


@pytest.mark.parametrize("ly", ["last", "first"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues_of_winograd_of_residues(name: str, ly: str) -> None:
    xs, m, dilations, pads = SQUARE[1]
    check_epilogue(name, (xs, (m, xs[1], 3, 3), [1, 1], dilations, pads, 1), ly, WINOGRAD_TOLERANCE + 1e-5)


def test_windows_too_wide_to_stage_go_tap_by_tap() -> None:
    rng = np.random.default_rng(33)
    for xs, ws, dilations, pads in (
        ((1, 128, 3000), (32, 128, 3), [1300], [1300, 1300]),
        ((1, 300, 90, 40), (40, 300, 3, 2), [33, 9], [20, 0, 20, 9]),
    ):
        for ly in ("last", "first"):
            says: list[str] = []
            check(rng, xs, ws, None, dilations, pads, ly=ly, describe=says)
            assert all(s.startswith("tap by tap") for s in says), says
    says = []
    check(rng, (1, 128, 3000), (32, 128, 3), None, [1300], [1300, 1300], lx="first", describe=says)  # not where x lies elsewhere
    assert all(s.startswith("direct") for s in says), says


def test_dilations_beyond_the_image() -> None:
    """Almost all of the window is padding, which no memory and no loop may be as large as."""
    rng, d = np.random.default_rng(37), 2**29
    params = {"strides": [1, 1], "dilations": [d, d], "pads": [d - 1] * 4}
    x, w = data(rng, (2, 32, 4, 3)), data(rng, (32, 32, 3, 3))
    y = channels_last(np.zeros((2, 32, 2, 1), np.float32))
    run("conv", [channels_last(x), w], [y], {**params, "group": 1}, consts=(1,))
    centre = ref.conv(x[:, :, 1:-1, 1:-1], w[:, :, 1:2, 1:2], None, [1, 1], [1, 1], [0] * 4, 1)
    np.testing.assert_allclose(y, centre, rtol=0, atol=1e-5 * np.abs(centre).max())
    for a, weights, group in ((x, w, 1), (channels_last(x), w[:, :16], 2), (x, w[:, :16], 2)):  # that would have to be staged
        with pytest.raises(_native.LaunchError, match="the window spans too much of the input"):
            run("conv", [a, weights], [y], {**params, "group": group}, consts=(1,))


def test_random_far_taps() -> None:
    rng, fired = np.random.default_rng(34), 0
    for _ in range(60):
        n = int(rng.integers(1, 3))
        size = [int(v) for v in (rng.integers(100, 1500, 1) if n == 1 else rng.integers(20, 90, 2))]
        kernel, strides = [int(v) for v in rng.integers(1, 8, n)], [int(v) for v in rng.choice([1, 1, 2], n)]
        dilations = [int(rng.integers(1, max(2, s // k))) for s, k in zip(size, kernel)]
        pads = [int(rng.integers(0, 1 + d * (k - 1) // 2)) for k, d in zip(kernel * 2, dilations * 2)]
        says: list[str] = []
        lx, ly = (str(v) for v in rng.choice(["last", "first", "any"], 2))
        c, m = (int(v) for v in rng.integers(16, 50, 2))
        check(
            rng, (int(rng.integers(1, 3)), c, *size), (m, c, *kernel), strides, dilations, pads, lx=lx, ly=ly, describe=says, tolerance=3e-5
        )
        fired += "along axis" in says[0]
    assert fired > 20
