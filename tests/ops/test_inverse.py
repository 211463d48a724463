"""com.microsoft Inverse against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, both, close, normal, run

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12, np.float16: 1e-2}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_against_onnxruntime(lead: tuple[int, ...], dtype: Any) -> None:
    for n in (1, 2, 3, 9):
        x = (normal(*lead, n, n) + 3 * np.eye(n)).astype(dtype)
        close(both("Inverse", {"x": x}), TOLERANCE[dtype])
        (got,) = run("Inverse", {"x": x}, constants=("x",), **MS)
        close([(got.astype(np.float64), np.linalg.inv(x.astype(np.float64)))], TOLERANCE[dtype])
    assert run("Inverse", {"x": np.zeros((*lead, 0, 0), dtype)}, **MS)[0].shape == (*lead, 0, 0)


def test_of_a_view() -> None:
    x = normal(3, 4, 4) + 3 * np.eye(4, dtype=np.float32)
    close([(run("Inverse", {"x": np.ascontiguousarray(x.swapaxes(1, 2))}, **MS)[0], np.linalg.inv(x).swapaxes(1, 2))], 1e-5)


def test_one_singular_matrix_spoils_no_other() -> None:
    x = np.stack([np.eye(2), np.ones((2, 2)), 2 * np.eye(2)])[None].astype(np.float32)
    (got,) = run("Inverse", {"x": x}, **MS)
    assert np.isnan(got[0, 1]).all()
    close([(got[0, ::2], np.stack([np.eye(2), np.eye(2) / 2]))])


def test_matrices_must_be_square() -> None:
    for shape in ((2, 3), (3,)):
        with pytest.raises(rt.PlanError, match=r"\[com.microsoft.Inverse\] 'n': expected square matrices"):
            run("Inverse", {"x": normal(*shape)}, **MS)
