"""session.stream: results in order, bounded look-ahead, errors at their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pytensor_rt
from tests import models_text


def session() -> pytensor_rt.InferenceSession:
    return pytensor_rt.InferenceSession(models_text.model('g (float["n", 3] x) => (float["n", 3] y) { y = Mul(x, x) }'))


def test_results_come_in_order_and_feeds_are_taken_ahead() -> None:
    taken = []

    def feeds() -> Iterator[dict[str, Any]]:
        for i in range(12):
            taken.append(i)
            yield {"x": np.full((1 + i % 3, 3), i, np.float32)}

    s = session()
    for i, (y,) in enumerate(s.stream(feeds(), prefetch=3)):
        assert y.shape == (1 + i % 3, 3) and np.all(y == i * i)
        assert len(taken) <= i + 3
    assert taken == list(range(12))
    assert list(s.stream([])) == []
    assert [r[0].tolist() for r in s.stream([{"x": np.ones((1, 3), np.float32)}], ["y"], prefetch=1)] == [[[1, 1, 1]]]


def test_a_bad_feed_raises_when_it_is_due() -> None:
    s = session()
    good = {"x": np.ones((2, 3), np.float32)}
    results = s.stream([good, {"x": np.ones((2, 4), np.float32)}, good])
    assert next(results)[0].shape == (2, 3)
    with pytest.raises(pytensor_rt.InputError, match="size 3"):
        next(results)
    assert s.run(None, good)[0].shape == (2, 3)
    with pytest.raises(ValueError, match="prefetch"):
        s.stream([good], prefetch=0)
