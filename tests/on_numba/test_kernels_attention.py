"""The cases of `attention`, on device "numba"."""

from typing import Any

import numpy as np
import pytest

from tests.kernels.harness import run, strided
from tests.kernels.test_attention import *  # noqa: F403
from tests.kernels.test_attention import check, make, reference

NOT_REPLAYED = {"test_few_queries_read_keys_and_values_in_place": "it asks the C++ kernel how it works; see test_few_queries_of_any_size"}


@pytest.mark.parametrize("d,e", [(16, 16), (32, 48), (64, 64), (128, 128), (40, 20), (256, 7), (3, 130)])
def test_few_queries_of_any_size(d: int, e: int) -> None:
    rng = np.random.default_rng(d)
    for s, share in [(1, 1), (2, 1), (1, 3), (2, 2)]:
        for t in (1, 16, 37, 700):
            q, k, v = make(rng, 2, 2 * share, 2, s, t, d, e)
            check(q, k, v, scale=0.2)
            check(q, k, v, rng.random((2, 2 * share, s, t)) < 0.6, rng.integers(0, t + 1, 2), causal=1, causal_offset=t // 2)
            check(
                q, strided(rng, k), strided(rng, v), strided(rng, rng.standard_normal((2, 2 * share, s, t)).astype(np.float32)), softcap=2.0
            )


@pytest.mark.parametrize("seed", range(12))
def test_random_problems_in_float64(seed: int) -> None:
    """In float64 a wrong element cannot hide behind rounding."""
    rng = np.random.default_rng(seed)
    g, share = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    b, s, t, d, e = (int(rng.integers(1, n)) for n in (4, 70, 300, 70, 90))
    h = g * share
    q, k, v = (strided(rng, a) if rng.random() < 0.5 else a for a in make(rng, b, h, g, s, t, d, e, np.float64))
    if seed % 3 == 0:  # keys stored transposed
        k = np.ascontiguousarray(k.swapaxes(2, 3)).swapaxes(2, 3)
    shape = [n if rng.random() < 0.5 else 1 for n in (b, h, s, t)]
    masks: list[Any] = [None, rng.random(shape) < 0.5, rng.standard_normal(shape)]
    mask = masks[seed % 3]
    if mask is not None:
        mask = np.broadcast_to(mask, (b, h, s, t))
    lengths = rng.integers(-1, t + 3, b) if seed % 4 == 1 else None
    options = {"causal": seed % 2, "causal_offset": int(rng.integers(-5, t)), "softcap": 1.5 * (seed % 5 == 2)}
    check(q, k, v, mask, lengths, tolerance=1e-12, **options)


@pytest.mark.parametrize("s", [1, 40])
def test_the_epilogue_may_read_the_memory_of_the_output(s: int) -> None:
    rng = np.random.default_rng(s)
    q, k, v = make(rng, 2, 4, 2, s, 70, 24, 33)
    before = rng.standard_normal((2, 4, s, 33)).astype(np.float32)
    y = before.copy()
    run("attention", [q, k, v], [y], {"scale": 0.2}, epilogue=lambda acc, x: x + acc, epi_ins=[y])
    np.testing.assert_allclose(y, before + reference(q, k, v, None, None, 0.2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("s", [1, 7, 40])
def test_keys_beyond_the_lengths_are_not_looked_at(s: int) -> None:
    rng = np.random.default_rng(s)
    q, k, v = make(rng, 2, 2, 2, s, 90, 32, 32)
    lengths = np.array([50, 33])
    want = reference(q, k, v, None, lengths, 0.2)
    for i, n in enumerate(lengths):
        k[i, :, n:] = np.nan
        v[i, :, n:] = np.nan
    got = run("attention", [q, k, v, None, lengths], [(q.shape, np.float32)], {"scale": 0.2})[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
