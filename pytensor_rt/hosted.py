"""Loops of host calls: by the compiled extension where this installation has it, else by NumPy and Python. Imported by rules that need them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

try:
    _native: Any = import_module("._native", __package__)
except ImportError:  # an installation without the extension
    _native = None


def positions_by_python(values: Any, table: dict[Any, int], missing: int) -> Any:
    """int64: what `table` has for every object of an array; `missing` for those it lacks."""
    get = table.get
    return np.array([get(v, missing) for v in values.reshape(-1).tolist()], np.int64).reshape(values.shape)


def records_by_python(labels: tuple[Any, ...]) -> Callable[[Any], list[dict[Any, Any]]]:
    """A function from an array of scores [n, labels] to [{label: score}, ...]; `records` takes float32 and float64."""
    if 0 < len(labels) <= 16 and all(
        type(label) in (int, str) for label in labels
    ):  # a dict display takes a third of the time of dict(zip())
        names = [f"x{k}" for k in range(len(labels))]
        items = ", ".join(f"{label!r}: {name}" for label, name in zip(labels, names))
        made: Callable[[Any], list[dict[Any, Any]]] = eval(
            f"lambda v: [{{{items}}} for {', '.join(names)}, in v.tolist()]"
        )  # literals only
        return made
    return lambda v: [dict(zip(labels, row)) for row in v.tolist()]


def couple_by_numpy(scores: Any, a: Any, b: Any, classes: int) -> Any:
    """Class probabilities float32 [n, classes] from scores [n, pairs], one for each pair of classes i < j in order.

    libsvm's coupling (Wu, Lin and Weng 2004, second method): the pairwise probability of i is 1 / (1 + exp(score * a + b)), and a row is done
    when its own error is small enough, whatever the others'.
    """
    n = classes
    pairwise = np.clip(1 / (1 + np.exp(scores.astype(np.float64) * a + b)), 1e-7, 1 - 1e-7)
    out = np.empty((len(scores), n), np.float32)
    i, j = np.triu_indices(n, 1)
    r = np.zeros((len(scores), n, n))
    r[:, i, j], r[:, j, i] = pairwise, 1 - pairwise
    q = -r.transpose(0, 2, 1) * r
    every = np.arange(n)
    q[:, every, every] = (r**2).sum(1)
    p = np.full((len(scores), n), 1 / n)
    rows = np.arange(len(scores))
    for _ in range(max(100, n)):
        qp = (q @ p[:, :, None])[:, :, 0]
        pqp = (p * qp).sum(1)
        done = np.abs(qp - pqp[:, None]).max(1) < 0.005 / n
        if done.any():
            out[rows[done]] = p[done]
            going = ~done
            rows, q, p, qp, pqp = rows[going], q[going], p[going], qp[going], pqp[going]
            if not len(rows):
                break
        for k in range(n):
            d = q[:, k, k]
            step = (pqp - qp[:, k]) / d
            pqp = (pqp + step * (step * d + 2 * qp[:, k])) / (1 + step) ** 2
            p[:, k] += step
            p /= (1 + step)[:, None]
            qp = (qp + step[:, None] * q[:, k]) / (1 + step)[:, None]
    out[rows] = p
    return out


grams: Any = None if _native is None else _native.Grams  # counts n-grams of strings; ops/strings.py has the Python form
records: Any = records_by_python if _native is None else _native.Records
positions: Any = positions_by_python if _native is None else _native.positions
couple: Any = couple_by_numpy if _native is None else _native.couple
