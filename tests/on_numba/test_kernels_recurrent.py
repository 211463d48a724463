"""The cases of `recurrent`, on device "numba"."""

import numpy as np
import pytest

from pytensor_rt.kernels.numba.plans import recurrent as plans
from pytensor_rt.kernels.numba.plans.gemm_int8 import dots
from tests.kernels.harness import run
from tests.kernels.test_recurrent import *  # noqa: F403
from tests.kernels.test_recurrent import Case, quantised_case


@pytest.mark.parametrize("kind", ["madd", ""])
@pytest.mark.parametrize("signed", [True, False])
def test_sums_of_quantised_layers_are_the_same_with_all_instructions(kind: str, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "madd" and dots() == "":
        pytest.skip("this machine adds up products of 8-bit integers without special instructions")
    for seed, (t, n, i, h) in enumerate([(4, 1, 5, 3), (6, 3, 11, 17), (3, 13, 70, 130)]):
        case, ins = quantised_case(seed, signed, seed == 1, t=t, n=n, i=i, h=h, direction="bidirectional")
        want = run("recurrent", ins, case.out_shapes(), case.params())
        with monkeypatch.context() as m:
            m.setattr(plans, "dots", lambda: kind)
            got = run("recurrent", ins, case.out_shapes(), case.params())
        for a, b in zip(got, want):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("cell,lbr", [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)])
def test_stretches_and_constant_weights_change_no_bit(cell: str, lbr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(cell, 23, 5, 9, 37, direction="bidirectional", lbr=lbr, lengths=True, initial=True)
    want = run("recurrent", case.inputs(), case.out_shapes(), case.params())
    constant = run("recurrent", case.inputs(), case.out_shapes(), case.params(), consts=(1, 2, 3))
    monkeypatch.setattr(plans, "STRETCH_BYTES", 20_000)
    stretched = run("recurrent", case.inputs(), case.out_shapes(), case.params())
    for a, b, c in zip(want, constant, stretched):
        assert a is None or a.tobytes() == b.tobytes() == c.tobytes()
    for a, b in zip(want, case.reference()):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_many_sequences_of_different_lengths() -> None:
    """More than one group of sequences, of which some units have none left early."""
    for cell in ("lstm", "gru", "rnn"):
        case = Case(cell, 7, 61, 6, 19, direction="bidirectional", lengths=True, initial=True)
        case.lengths[:30] = 0  # type: ignore[index]
        got = run("recurrent", case.inputs(), case.out_shapes(), case.params(), threads=3)
        for a, b in zip(got, case.reference()):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
