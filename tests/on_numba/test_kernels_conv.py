"""The cases of `conv`, on device "numba", and cases of the paths that only it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.kernels.numba.plans import plan_launch
from pytensor_rt.lowering.expr import min_, relu
from tests.kernels import conv_reference as ref
from tests.kernels import harness
from tests.kernels import test_conv as cases
from tests.kernels.test_conv import *  # noqa: F403
from tests.kernels.test_conv import PATHS, WINOGRAD_TOLERANCE, channels_last, check, data

_COST = "asserts which path the C++ kernel's cost model chooses"
NOT_REPLAYED = {
    "test_winograd": _COST,
    "test_winograd_of_groups": _COST,
    "test_winograd_along_one_axis": _COST,
    "test_winograd_along_one_axis_on_random_shapes": _COST,
    "test_windows_that_mostly_lie_in_the_padding_go_tap_by_tap": _COST,
    "test_winograd_takes_16_bit_types_and_can_be_forbidden": _COST,
    "test_activations_are_applied_while_results_are_in_cache": "asserts how the C++ kernel fuses epilogues",
    "test_narrow_groups_share_a_vector": "asserts a tile of the C++ kernel",
    "test_few_channels_go_plane_by_plane": "asserts a path of the C++ kernel",
}


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`describe` of the harness: the functions that were called."""

    def run(*args: Any, describe: list[str] | None = None, **options: Any) -> Any:
        device = harness.device
        assert device is not None

        def spied(launch: Any, bases: Any, threads: int) -> None:
            if describe is not None:
                names = ", ".join(c.fn for c in plan_launch(launch).calls)
                describe.append(f"winograd F(4,3): {names}" if "conv_winograd" in names else names)
            device(launch, bases, threads)

        with monkeypatch.context() as m:
            m.setattr(harness, "device", spied)
            return harness.run(*args, **options)

    monkeypatch.setattr(cases, "run", run)


WINOGRAD = [
    # n, c, m, h, w, pads
    (1, 16, 16, 14, 14, [1, 1, 1, 1]), (2, 32, 48, 17, 23, [1, 1, 1, 1]), (1, 20, 37, 30, 41, [0, 2, 1, 0]), (1, 64, 96, 13, 150, [1, 1, 1, 1]),
    (3, 17, 18, 15, 19, [2, 2, 2, 2]), (1, 24, 16, 18, 18, [0, 0, 0, 0]), (1, 130, 260, 33, 25, [1, 1, 1, 1]), (2, 256, 70, 14, 14, [1, 1, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize("n,c,m,h,w,pads", WINOGRAD)
def test_winograd_shapes(n: int, c: int, m: int, h: int, w: int, pads: list[int], lx: str, ly: str) -> None:
    says: list[str] = []
    check(np.random.default_rng(7), (n, c, h, w), (m, c, 3, 3), pads=pads, lx=lx, ly=ly, describe=says, tolerance=WINOGRAD_TOLERANCE)
    assert len(says) == 2 and all(s.startswith("winograd") for s in says)


def test_winograd_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    says: list[str] = []
    rng = np.random.default_rng(8)
    check(rng, (1, 32, 30, 31), (48, 32, 3, 3), pads=[1] * 4, describe=says)
    check(rng, (1, 32, 30, 31), (48, 32, 3, 3), pads=[1] * 4, dtype=np.float16, describe=says)
    assert all(s.startswith("winograd") for s in says)
    says = []
    check(rng, (1, 32, 7, 7), (48, 32, 3, 3), pads=[1] * 4, describe=says)
    check(rng, (1, 8, 30, 31), (48, 8, 3, 3), pads=[1] * 4, describe=says)
    check(rng, (1, 32, 30, 31), (48, 32, 3, 3), pads=[1] * 4, const=False, describe=says)
    check(rng, (1, 32, 30, 31), (48, 32, 3, 3), pads=[1] * 4, dtype=np.float64, describe=says)
    monkeypatch.setenv("PTRT_WINOGRAD", "0")
    check(rng, (1, 32, 30, 31), (48, 32, 3, 3), pads=[1] * 4, describe=says)
    assert not any("winograd" in s for s in says)


def test_winograd_of_a_transposed_convolution() -> None:
    rng = np.random.default_rng(9)
    x, w, b = channels_last(data(rng, (1, 20, 19, 22))), data(rng, (20, 36, 3, 3)), data(rng, 36)
    params = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 1}
    want = ref.conv_transpose(x, w, b, [19, 22], [1, 1], [1, 1], [1, 1, 1, 1])
    y, says = channels_last(np.zeros(want.shape, np.float32)), []  # type: ignore[var-annotated]
    cases.run("conv_transpose", [x, w, b], [y], params, consts=(1, 2), describe=says)
    assert says[0].startswith("winograd")
    assert np.abs(y - want).max() <= WINOGRAD_TOLERANCE * np.abs(want).max()


LAYOUTS = [
    # x shape, w shape, strides, dilations, pads, group, dtype, what is called
    ((1, 1024, 6, 6), (64, 512, 1, 1), [1, 1], [1, 1], [0] * 4, 2, np.float32, "conv_block.products"),  # gathered, in groups
    ((1, 512, 9, 9), (20, 512, 1, 1), [2, 2], [1, 1], [0] * 4, 1, np.float32, "conv_block.products"),
    ((1, 512, 5, 5), (20, 512, 1, 1), [1, 1], [1, 1], [0] * 4, 1, np.float64, "conv_block.products"),
    ((1, 5, 9, 40), (20, 5, 3, 3), [1, 1], [1, 3], [1, 3, 1, 3], 1, np.float32, "conv_block.products"),  # gathered: few channels, apart
    ((1, 3, 33, 35), (40, 3, 7, 7), [2, 2], [1, 1], [3] * 4, 1, np.float32, "conv_pack.stage[float32,float32], conv_block.products"),
    ((2, 7, 20), (40, 7, 5), [3], [1], [9, 30], 1, np.float64, "conv_pack.stage[float64,float64], conv_block.products"),
    ((1, 64, 30, 61), (64, 1, 5, 3), [1, 2], [1, 1], [2, 1, 2, 1], 64, np.float32, "conv_block.strips"),
    ((1, 64, 30, 61), (64, 1, 3, 3), [1, 1], [2, 7], [2, 7, 2, 7], 64, np.float64, "conv_block.strips"),
    ((1, 40, 6, 90), (40, 1, 2, 40), [1, 1], [1, 1], [1, 20, 1, 20], 40, np.float32, "conv_block.channels"),
    ((1, 32, 9, 12), (32, 4, 3, 3), [1, 1], [1, 1], [1] * 4, 8, np.float32, "conv_block.products"),
    ((2, 37, 9, 12), (4, 37, 3, 3), [1, 2], [1, 2], [1] * 4, 1, np.float64, "conv_block.products"),  # few filters
    ((1, 53, 9, 12), (2, 53, 1, 1), [1, 1], [1, 1], [0] * 4, 1, np.float32, "conv_block.products"),
]


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda c: f"{c[-1]}-{'x'.join(map(str, c[1]))}-{np.dtype(c[-2]).name}")
def test_strategies(case: Any) -> None:
    says: list[str] = []
    check(np.random.default_rng(20), *case[:-2], dtype=case[-2], describe=says)
    assert says == [case[-1]] * 2
    check(np.random.default_rng(20), *case[:-2], dtype=case[-2], lx="first", ly="any")


@pytest.mark.parametrize("case", [*PATHS[:4], *(LAYOUTS[k][:6] for k in (0, 4, 6, 11))], ids=lambda c: "x".join(map(str, c[1])))
def test_threads_and_residuals(case: Any) -> None:
    """More threads than there is work for, and a residual in the output's memory that must be read once."""
    rng = np.random.default_rng(28)
    xs, ws, strides, dilations, pads, group = case
    x, w = channels_last(data(rng, xs)), data(rng, ws)
    plain = ref.conv(x, w, None, strides, dilations, pads, group)
    residual = data(rng, plain.shape)
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    results = []
    for threads in (1, 3, 16):
        y = channels_last(residual)
        cases.run("conv", [x, w], [y], params, epilogue=lambda a, r: relu(a + r), epi_ins=[y], consts=(1,), threads=threads)
        np.testing.assert_allclose(y, np.maximum(plain + residual, 0), rtol=0, atol=WINOGRAD_TOLERANCE * np.abs(plain).max())
        results.append(y.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("epilogue", [None, "relu", "min"])
def test_nan_stays(epilogue: str | None) -> None:
    x, w = np.ones((1, 20, 16, 16), np.float32), np.ones((17, 20, 3, 3), np.float32)
    x[0, 3, 5, 6] = np.nan
    for group, filters in ((1, w), (1, w[:, :, :1, :1]), (1, w[:4]), (20, np.ones((20, 1, 3, 3), np.float32))):
        params = {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "group": group}
        fn = {"relu": lambda a: relu(a), "min": lambda a: min_(a, 1.0), None: None}[epilogue]
        shape = (1, filters.shape[0], 17 - filters.shape[2], 17 - filters.shape[3])
        (y,) = cases.run(
            "conv", [channels_last(x), filters], [channels_last(np.zeros(shape, np.float32))], params, epilogue=fn, consts=(1,)
        )
        assert np.isnan(y[0, 3, 5, 6 - filters.shape[3] // 2])


def test_bytes_whose_filters_need_no_zero_point() -> None:
    """Zero points of x that are known and not, x in place and copied, filters in 8 bits and in 16."""
    rng = np.random.default_rng(22)
    for xs, ws, pads, group in (
        ((2, 32, 11, 9), (40, 32, 3, 3), [1] * 4, 1),
        ((1, 64, 20, 21), (72, 64, 1, 1), [0] * 4, 1),
        ((1, 3, 30, 20), (33, 3, 5, 5), [2] * 4, 1),
        ((1, 24, 9, 9), (30, 8, 3, 3), [1] * 4, 3),
        ((1, 21, 9, 9), (30, 7, 3, 3), [1, 0, 0, 1], 3),
        ((1, 2048, 5, 5), (33, 2048, 1, 1), [0] * 4, 1),
        ((1, 40, 9, 30), (40, 1, 3, 3), [1] * 4, 40),
    ):
        params = {"strides": [1, 1], "dilations": [1, 1], "pads": pads, "group": group}
        for xt, wt, wz in ((np.uint8, np.int8, None), (np.int8, np.uint8, 128), (np.uint8, np.uint8, None), (np.int8, np.int8, 0)):
            x, w, b = channels_last(data(rng, xs, xt)), data(rng, ws, wt), rng.integers(-99, 99, ws[0]).astype(np.int32)
            zero, w_zero = np.array(7, xt), None if wz is None else np.array(wz, wt)
            for bias, z in ((b, zero), (None, None)):
                want = ref.conv(x, w, bias, [1, 1], [1, 1], pads, group, 0 if z is None else 7, 0 if wz is None else wz)
                for consts in ((1, 2, 3, 4), (1, 4), (4,)):
                    y = channels_last(np.zeros(want.shape, np.int32))
                    cases.run("conv", [x, w, bias, z, w_zero], [y], params, threads=2, consts=consts)
                    np.testing.assert_array_equal(y, want)


def test_windows_far_outside() -> None:
    """Pads, strides and dilations that leave 32 bits: nothing is read there."""
    rng = np.random.default_rng(27)
    x, w = channels_last(data(rng, (1, 8, 5, 6))), data(rng, (40, 8, 2, 2))
    far = (1 << 31) - 100
    params = {"strides": [1, 1], "dilations": [far, 1], "pads": [1, 1, far + 1, 0], "group": 1}
    y = channels_last(np.zeros((1, 40, 6, 6), np.float32))
    cases.run("conv", [x, w], [y], params, consts=(1,))
    want = ref.conv(x, w[:, :, :1], None, [1, 1], [1, 1], [1, 1, 0, 0])
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5)


def test_refusals() -> None:
    x, w = np.zeros((1, 4, 5, 5), np.float32), np.zeros((6, 4, 3, 3), np.float32)
    good = {"strides": [1, 1], "dilations": [1, 1], "pads": [1] * 4, "group": 1}
    for ins, changed, what in (
        ([x, w[:, :3]], {}, "weight shape"), ([x, w], {"group": 3}, "groups"), ([x, w], {"pads": [1, 1]}, "must match the spatial axes"),
        ([x, w], {"strides": [0, 1]}, "out of range"), ([x.astype(np.int32), w.astype(np.int32)], {}, "unsupported dtype"),
        ([x, w, np.zeros(5, np.float32)], {}, "b must be"),
    ):  # fmt: skip
        with pytest.raises(_native.LaunchError, match=what):
            cases.run("conv", ins, [np.zeros((1, 6, 5, 5), np.float32)], {**good, **changed})
