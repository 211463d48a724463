"""The loops of host calls, compiled and not, against plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytensor_rt import hosted

COUPLERS = [hosted.couple, hosted.couple_by_numpy]
FINDERS = [hosted.positions, hosted.positions_by_python]


def coupled(scores: Any, a: Any, b: Any, n: int) -> Any:
    """libsvm's multiclass_probability, row by row."""
    pairwise = np.clip(1 / (1 + np.exp(scores.astype(np.float64) * a + b)), 1e-7, 1 - 1e-7)
    out = np.empty((len(scores), n))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for row, p in zip(out, pairwise, strict=True):
        r = np.zeros((n, n))
        for k, (i, j) in enumerate(pairs):
            r[i, j], r[j, i] = p[k], 1 - p[k]
        q = -r.T * r
        np.fill_diagonal(q, (r**2).sum(0))
        row[:] = 1 / n
        for _ in range(max(100, n)):
            qp = q @ row
            pqp = row @ qp
            if np.abs(qp - pqp).max() < 0.005 / n:
                break
            for k in range(n):
                step = (pqp - qp[k]) / q[k, k]
                row[k] += step
                pqp = (pqp + step * (step * q[k, k] + 2 * qp[k])) / (1 + step) ** 2
                row /= 1 + step
                qp = (qp + step * q[k]) / (1 + step)
    return out.astype(np.float32)


@pytest.mark.parametrize("couple", COUPLERS)
@pytest.mark.parametrize("classes", [2, 3, 5, 11])
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 9, 50])
def test_coupling(couple: Callable[..., Any], rows: int, classes: int) -> None:
    rng = np.random.default_rng(rows + classes)
    pairs = classes * (classes - 1) // 2
    scores = (rng.standard_normal((rows, pairs)) * rng.choice([0.1, 3, 40], (rows, 1))).astype(
        np.float32
    )  # rows that take turns to converge
    a, b = -1 - rng.random(pairs), rng.standard_normal(pairs)
    got = couple(scores, a, b, classes)
    assert got.dtype == np.float32 and got.shape == (rows, classes)
    np.testing.assert_allclose(got, coupled(scores, a, b, classes), 1e-6, 1e-9)


@pytest.mark.parametrize("couple", COUPLERS)
def test_coupling_keeps_nan_to_its_row(couple: Callable[..., Any]) -> None:
    scores = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
    a, b = np.full(3, -1.0), np.zeros(3)
    want = coupled(scores, a, b, 3)
    scores[2, 1] = np.nan
    got = couple(scores, a, b, 3)
    assert np.isnan(got[2]).any()
    np.testing.assert_allclose(np.delete(got, 2, 0), np.delete(want, 2, 0), 1e-6)


@pytest.mark.parametrize("find", FINDERS)
def test_positions(find: Callable[..., Any]) -> None:
    table = {"a": 4, "b": -1, "": 2**40}
    values = np.array([["b", "a", "", "z"], ["a", "A", "b", "aa"]], object)
    for v in (values, values.T, values[:, ::-1], values[:0], values[0, 0:1].reshape(())):
        got = find(v, table, -7)
        assert got.dtype == np.int64 and got.shape == v.shape
        assert got.reshape(-1).tolist() == [table.get(s, -7) for s in v.reshape(-1).tolist()]
    with pytest.raises(TypeError):
        find(np.array([[], None], object)[:1], table, 0)


@pytest.mark.parametrize("records", [hosted.records, hosted.records_by_python])
@pytest.mark.parametrize("labels", [(0, 1), ("a", "b", "it's \\"), (7,), tuple(range(30)), (1, 2, 1), (2.5, True)], ids=str)
def test_records(records: Callable[..., Any], labels: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(1)
    named = records(labels)
    for dtype in (np.float32, np.float64):
        v = rng.standard_normal((6, 2 * len(labels))).astype(dtype)
        for scores in (v[:, : len(labels)].copy(), v[::-1, ::2], v[:0, ::2]):
            got = named(scores)
            assert got == [dict(zip(labels, row, strict=True)) for row in scores.tolist()]
            assert all(type(d) is dict and list(d) == list(dict.fromkeys(labels)) for d in got)
    first, second = named(np.zeros((2, len(labels)), np.float32))
    first[labels[0]] = 5.0
    assert second[labels[0]] == 0.0 and named(np.zeros((1, len(labels)), np.float32))[0][labels[0]] == 0.0


@pytest.mark.skipif(hosted._native is None, reason="needs the compiled extension")
def test_compiled_coupling_checks_its_operands() -> None:
    with pytest.raises(ValueError, match="every pair"):
        hosted.couple(np.zeros((2, 3), np.float32), np.zeros(3), np.zeros(3), 4)
    with pytest.raises(ValueError, match="objects"):
        hosted.positions(np.zeros(3), {}, 0)
