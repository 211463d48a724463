"""The cases of `recurrent`, on the CUDA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytensor_rt.kernels.cuda import build
from pytensor_rt.kernels.cuda.plans import recurrent as plans
from tests.kernels.harness import run, strided
from tests.kernels.test_recurrent import *  # noqa: F403
from tests.kernels.test_recurrent import Case, check, quantised_case

NOT_REPLAYED = {
    "test_gates_over_the_whole_range": "it multiplies 64 million weights that are zero; test_gates asks the same of fewer hidden units",
}
CELLS = [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)]


@pytest.mark.parametrize("cell,lbr", CELLS)
def test_a_call_per_step(cell: str, lbr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What large layers do: the state goes through memory from step to step."""
    monkeypatch.setattr(plans, "RESIDENT_BYTES", 0)
    for shape in [(5, 3, 7, 33), (4, 6, 5, 20), (1, 1, 3, 17)]:
        for direction in ("reverse", "bidirectional"):
            for extra in ({"lengths": True, "initial": True}, {"bias": False, "clip": 0.5}):
                check(Case(cell, *shape, direction=direction, lbr=lbr, **extra), consts=(1, 2))


def test_gates() -> None:
    """One step whose gate sums are given values, infinities and NaN included."""
    h = 401
    sums = np.linspace(-12, 12, h).astype(np.float32)
    case = Case("rnn", 1, 1, 1, h, bias=False)
    case.x[...], case.w[0, :, 0], case.r = 1, sums, np.zeros_like(case.r)
    exact = np.tanh(sums.astype(np.float64))
    y = run("recurrent", case.inputs(), case.out_shapes(), case.params())[1][0, 0]
    assert (np.abs(y - exact) <= 6 * np.spacing(np.abs(exact).astype(np.float32))).all()
    rng = np.random.default_rng(0)
    lstm = Case("lstm", 1, 1, 1, h, bias=False, initial=True)
    assert lstm.h0 is not None and lstm.c0 is not None
    lstm.x[...], lstm.r, lstm.h0 = 1, np.zeros_like(lstm.r), np.zeros_like(lstm.h0)
    lstm.w[0, :, 0] = rng.permuted(np.tile(sums * 4, (4, 1)), axis=1).ravel()
    lstm.c0[...] = rng.uniform(-20, 20, h)
    for a, b in zip(run("recurrent", lstm.inputs(), lstm.out_shapes(), lstm.params())[1:], lstm.reference()[1:]):
        assert (np.abs(a - b) <= 6e-7 * np.maximum(1, np.abs(lstm.c0))).all()
    gru = Case("gru", 1, 1, 1, h, bias=False, initial=True, lbr=1)
    assert gru.h0 is not None
    gru.x[...], gru.r, gru.h0[...] = 1, np.zeros_like(gru.r), rng.uniform(-3, 3, h)
    gru.h0[:, :, ::2] = 0
    gru.w[0, :, 0] = rng.permuted(np.tile(sums, (3, 1)), axis=1).ravel()
    np.testing.assert_allclose(  # where h0 is 0 the result is as small as 1 - z
        run("recurrent", gru.inputs(), gru.out_shapes(), gru.params())[1], gru.reference()[1], rtol=3e-6, atol=1e-7
    )
    for bad, want in ((np.inf, 1.0), (-np.inf, -1.0), (np.nan, np.nan)):
        case.w[0, 7, 0] = bad
        assert np.array_equal(run("recurrent", case.inputs(), case.out_shapes(), case.params())[1][0, 0, 7].round(6), want, equal_nan=True)
    lstm.w[0, [3, h + 5, 2 * h + 9, 3 * h + 11], 0] = np.nan
    y_h, y_c = run("recurrent", lstm.inputs(), lstm.out_shapes(), lstm.params())[1:]
    assert np.flatnonzero(np.isnan(y_h)).tolist() == [3, 5, 9, 11] and np.flatnonzero(np.isnan(y_c)).tolist() == [3, 9, 11]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("cell,lbr", CELLS)
def test_stretches(cell: str, lbr: int, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sequences: the input products of a few steps at a time."""
    monkeypatch.setattr(plans, "STRETCH_BYTES", 20000)
    if not resident:
        monkeypatch.setattr(plans, "RESIDENT_BYTES", 0)
    check(Case(cell, 11, 5, 6, 30, direction="bidirectional", lbr=lbr, lengths=True, initial=True))
    check(Case(cell, 7, 3, 4, 40, direction="reverse", lbr=lbr), consts=(2,))


@pytest.mark.parametrize("cell,lbr", CELLS)
def test_wide_layers(cell: str, lbr: int) -> None:
    """More hidden units than shared memory takes at a time, and more than a block has threads."""
    check(Case(cell, 2, 2, 3, 530, direction="bidirectional", lbr=lbr, initial=True), consts=(1, 2))
    check(Case(cell, 3, 5, 40, 300, lbr=lbr, initial=True, lengths=True))


def test_many_rows_of_input() -> None:
    check(Case("lstm", 20, 13, 40, 16, lengths=True))
    case = Case("gru", 3, 4, 8, 12)
    case.x = np.ascontiguousarray(case.x.transpose(2, 0, 1)).transpose(1, 2, 0)  # neighbours along the batch
    check(case)


@pytest.mark.parametrize("signed", [True, False])
def test_quantised_in_every_mode(signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits whether one block runs all steps, or each step is a call, with weights in any layout."""
    rng = np.random.default_rng(0)
    for t, n, i, h in [(6, 1, 5, 20), (7, 4, 33, 40), (3, 2, 16, 65)]:
        case, ins = quantised_case(3, signed, True, t=t, n=n, i=i, h=h, direction="bidirectional", lengths=True)
        want = run("recurrent", ins, case.out_shapes(), case.params(), consts=(1, 2, 9, 11))
        odd = [None if a is None else strided(rng, a) for a in ins]
        for resident, stretch in ((0, 1 << 20), (512 << 10, 20000)):
            monkeypatch.setattr(plans, "RESIDENT_BYTES", resident)
            monkeypatch.setattr(plans, "STRETCH_BYTES", stretch)
            for given in (ins, odd):
                for a, b in zip(want, run("recurrent", given, case.out_shapes(), case.params())):
                    assert a.tobytes() == b.tobytes()


def test_quantised_wide_layer() -> None:
    """More hidden units than shared memory takes at a time: steps of a call each, against the same weights in float64."""
    case, ins = quantised_case(1, True, False, t=2, n=5, i=20, h=600)
    got = run("recurrent", ins, case.out_shapes(), case.params())
    from pytensor_rt.kernels.ref.recurrent import recurrent

    outs: list[Any] = case.out_shapes()
    for a, b in zip(got, recurrent(ins, outs, case.params(), ())):
        assert b is not None
        np.testing.assert_allclose(a, b, atol=3e-5)


@pytest.mark.parametrize("cell,lbr", CELLS)
def test_wide_indices(cell: str, lbr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = build.NARROW
    monkeypatch.setattr(build, "NARROW", -1)
    for resident in (True, False):
        if not resident:
            monkeypatch.setattr(plans, "RESIDENT_BYTES", 0)
        check(Case(cell, 4, 3, 6, 21, direction="bidirectional", lbr=lbr, lengths=True, initial=True))
    if cell == "lstm":
        case, ins = quantised_case(3, False, True, t=3, n=5, i=11, h=17, direction="reverse", lengths=True)
        got = run("recurrent", ins, case.out_shapes(), case.params())
        monkeypatch.setattr(build, "NARROW", narrow)
        for a, b in zip(got, run("recurrent", ins, case.out_shapes(), case.params())):
            assert a.tobytes() == b.tobytes()
