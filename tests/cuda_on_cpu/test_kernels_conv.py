"""The cases of `conv`, on the CUDA kernels, and cases of the paths that only they have."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build, plans
from pytensor_rt.kernels.cuda.plans import conv_winograd
from tests.cuda_on_cpu import launcher
from tests.kernels import conv_reference as ref
from tests.kernels import harness
from tests.kernels import test_conv as cases
from tests.kernels.test_conv import *  # noqa: F403
from tests.kernels.test_conv import DEPTHWISE, EPILOGUES, PATHS, channels_last, check, data, tolerance_of

_COST = "asserts which path the C++ kernel's cost model chooses; the shapes are those of test_winograd_shapes and others below"
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
    "test_epilogues": "1500 variants to compile; test_each_epilogue has every program, path and layout",
}


def strategy(launch: Any) -> str:
    names = [c.entry.name for c in plans.plan_launch(launch)]
    return "winograd F(4,3)" if any(n.startswith("winograd") for n in names) else ", ".join(names)


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`describe` of the harness, for the CUDA kernels: the entries that were called."""

    def run(*args: Any, describe: list[str] | None = None, **options: Any) -> Any:
        device = harness.device
        assert device is not None

        def spied(launch: Any, bases: Any, threads: int) -> None:
            if describe is not None:
                describe.append(strategy(launch))
            device(launch, bases, threads)

        with monkeypatch.context() as m:
            m.setattr(harness, "device", spied)
            return harness.run(*args, **options)

    monkeypatch.setattr(cases, "run", run)


@pytest.mark.parametrize("name", EPILOGUES)
def test_each_epilogue(name: str) -> None:
    """On one path and layout each: those take turns, in place and not."""
    turn = list(EPILOGUES).index(name)
    for k, ly in ((turn, ("last", "first", "any")[turn % 3]), (turn + 5, "last")):
        case = PATHS[k % len(PATHS)]
        tolerance = tolerance_of(np.float32, int(np.prod(case[1][1:]))) + 2.0**-21
        cases.check_epilogue(name, case, ly, tolerance, places=(turn % 2 == 1,))


SHAPES = [
    # x shape, w shape, strides, dilations, pads, group, dtype, the entry it must use
    ((1, 32, 40, 41), (160, 32, 1, 1), [1, 1], [1, 1], [0] * 4, 1, np.float32, "conv_tile"),
    ((3, 24, 80, 80), (136, 24, 1, 1), [1, 1], [1, 1], [0] * 4, 1, np.float32, "conv_tile"),  # tiles of 128 x 128
    ((1, 512, 5, 5), (70, 512, 3, 3), [1, 1], [1, 1], [0] * 4, 1, np.float32, "conv_tile, conv_finish"),  # slices
    ((1, 64, 90, 30), (64, 1, 3, 3), [1, 1], [1, 1], [1] * 4, 64, np.float32, "conv_direct"),  # several pixels per thread
    ((1, 64, 90, 61), (64, 1, 5, 3), [1, 2], [1, 1], [2, 1, 2, 1], 64, np.float16, "conv_direct"),
    ((1, 64, 90, 61), (64, 1, 3, 3), [1, 1], [1, 2], [1, 2, 1, 2], 64, np.float32, "conv_direct"),
    ((1, 32, 9, 12), (32, 4, 3, 3), [1, 1], [1, 1], [1] * 4, 8, np.float32, "conv_direct"),
    ((2, 64, 30, 41), (96, 64, 3, 3), [1, 1], [1, 1], [1] * 4, 1, np.float16, "conv_mma, conv_finish"),
    ((1, 64, 9, 9), (96, 64, 3, 3), [1, 1], [1, 1], [1] * 4, 1, ml_dtypes.bfloat16, "conv_mma, conv_finish"),
    ((2, 48, 100, 99), (64, 48, 1, 1), [1, 1], [1, 1], [0] * 4, 1, np.float16, "conv_mma"),  # tiles of 128 x 64
    ((1, 3, 33, 35), (40, 3, 7, 7), [2, 2], [1, 1], [3] * 4, 1, np.float16, "conv_mma"),
    ((1, 32, 6, 5), (70, 32, 3, 3), [1, 1], [2, 2], [2] * 4, 1, np.float16, "conv_mma, conv_finish"),
]


@pytest.mark.parametrize("case", SHAPES, ids=lambda c: f"{c[-1]}-{'x'.join(map(str, c[1]))}-{np.dtype(c[-2]).name}")
def test_strategies(case: Any) -> None:
    says: list[str] = []
    check(np.random.default_rng(20), *case[:-2], dtype=case[-2], describe=says)
    assert says == [case[-1]] * 2
    check(np.random.default_rng(20), *case[:-2], dtype=case[-2], lx="first", ly="first", describe=says)


@pytest.mark.parametrize("lx,ly", [("last", "last"), ("first", "first"), ("any", "any")])
@pytest.mark.parametrize(
    "n,c,m,h,w,pads,group",
    [
        (1, 16, 16, 14, 14, [1, 1, 1, 1], 1), (2, 32, 48, 17, 23, [1, 1, 1, 1], 1), (1, 20, 37, 30, 41, [0, 2, 1, 0], 1),
        (1, 128, 64, 7, 7, [1, 1, 1, 1], 1), (3, 17, 18, 5, 9, [2, 2, 2, 2], 1), (1, 24, 16, 6, 6, [0, 0, 0, 0], 1),
        (11, 20, 40, 14, 11, [1, 1, 1, 1], 1), (2, 64, 96, 13, 20, [1, 1, 1, 1], 2), (1, 48, 48, 9, 30, [1, 0, 1, 1], 3),
    ],
)  # fmt: skip
def test_winograd_shapes(
    n: int, c: int, m: int, h: int, w: int, pads: list[int], group: int, lx: str, ly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_winograd, "pays", lambda p: True)
    says: list[str] = []
    check(np.random.default_rng(7), (n, c, h, w), (m, c // group, 3, 3), pads=pads, group=group, lx=lx, ly=ly, describe=says)
    assert says == ["winograd F(4,3)"] * 2


def test_winograd_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    says: list[str] = []
    rng = np.random.default_rng(8)
    check(rng, (1, 64, 56, 57), (72, 64, 3, 3), pads=[1] * 4, describe=says)
    monkeypatch.setenv("PTRT_WINOGRAD", "0")
    check(rng, (1, 64, 56, 57), (72, 64, 3, 3), pads=[1] * 4, describe=says)
    monkeypatch.delenv("PTRT_WINOGRAD")
    check(rng, (1, 512, 7, 7), (64, 512, 3, 3), pads=[1] * 4, describe=says)
    assert says == ["winograd F(4,3)"] * 2 + ["conv_tile, conv_finish"] * 4


def test_windows_that_mostly_lie_in_the_padding() -> None:
    rng = np.random.default_rng(21)
    for xs, ws, d in [((2, 40, 14, 14), (70, 40, 3, 3), 12), ((2, 40, 14, 14), (70, 40, 3, 3), 36), ((1, 16, 5, 300), (20, 16, 3, 3), 5)]:
        check(rng, xs, ws, [1, 1], [d, d], [d] * 4)


def test_bytes_on_tensor_cores() -> None:
    """Weights that fit 8 bits without their zero points, x with known and unknown zero points."""
    rng = np.random.default_rng(22)
    for xs, ws, pads in (
        ((2, 32, 11, 9), (40, 32, 3, 3), [1] * 4),
        ((1, 64, 20, 21), (72, 64, 1, 1), [0] * 4),
        ((1, 3, 30, 20), (33, 3, 5, 5), [2] * 4),
    ):
        for xt, wt, wz in ((np.uint8, np.int8, None), (np.int8, np.uint8, 128), (np.uint8, np.uint8, None)):
            x, w = channels_last(data(rng, xs, xt)), data(rng, ws, wt)
            zero, w_zero = np.array(7, xt), None if wz is None else np.array(wz, wt)
            want = ref.conv(x, w, None, [1, 1], [1, 1], pads, 1, 7, 0 if wz is None else wz)
            for consts in ((1, 3, 4), (1, 4)):
                y, says = channels_last(np.zeros(want.shape, np.int32)), []  # type: ignore[var-annotated]
                params = {"strides": [1, 1], "dilations": [1, 1], "pads": pads, "group": 1}
                cases.run("conv", [x, w, None, zero, w_zero], [y], params, threads=2, consts=consts, describe=says)
                assert says[0].startswith("conv_mma")
                np.testing.assert_array_equal(y, want)


def test_depthwise_bytes() -> None:
    rng = np.random.default_rng(23)
    for xs, ws, strides, dilations, pads, group in DEPTHWISE[:3]:
        x, w, z = channels_last(data(rng, xs, np.uint8)), data(rng, ws, np.int8), np.array(9, np.uint8)
        want = ref.conv(x, w, None, strides, dilations, pads, group, 9)
        y = channels_last(np.zeros(want.shape, np.int32))
        params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
        cases.run("conv", [x, w, None, z], [y], params, consts=(1, 3))
        np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("case", [PATHS[0], PATHS[2], PATHS[6], SHAPES[7], SHAPES[10], SHAPES[2]], ids=lambda c: "x".join(map(str, c[1])))
def test_64_bit_indices(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for tensors of more than 2**31 elements."""
    monkeypatch.setattr(build, "NARROW", -1)
    rng = np.random.default_rng(24)
    check(rng, *case[:6], dtype=case[6] if len(case) > 6 else np.float32)
    check(rng, *case[:6], dtype=case[6] if len(case) > 6 else np.float32, lx="any", ly="first", const=False)


def test_winograd_with_64_bit_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NARROW", -1)
    monkeypatch.setattr(conv_winograd, "pays", lambda p: True)
    check(np.random.default_rng(25), (2, 20, 9, 10), (24, 20, 3, 3), pads=[1, 0, 1, 2], describe=[])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_turing(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cp.async, and with the smaller products of sm_75."""
    compiled = launcher.module
    monkeypatch.setattr(launcher, "module", lambda source: compiled(source, "compute_75"))
    check(np.random.default_rng(26), (2, 24, 9, 11), (40, 24, 3, 3), [2, 1], [1, 1], [1] * 4, dtype=dtype)
    check(np.random.default_rng(26), (1, 3, 20, 11), (40, 3, 3, 3), [2, 1], [1, 1], [1] * 4, dtype=dtype)


def test_turing_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = launcher.module
    monkeypatch.setattr(launcher, "module", lambda source: compiled(source, "compute_75"))
    test_bytes_on_tensor_cores()


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
