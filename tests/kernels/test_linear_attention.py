"""Kernel `linear_attention` against the NumPy kernel, which tests/ref holds against onnx.reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.kernels.ref import execute
from tests.kernels.harness import run, strided

Array = np.ndarray[Any, Any]
HALVES: dict[Any, float] = {np.float16: 2e-3, ml_dtypes.bfloat16: 2e-2}


def make(
    rng: np.random.Generator, b: int, heads: tuple[int, int, int], steps: int, d: int, e: int, dtype: Any = np.float32, state: Any = None
) -> list[Array]:
    """All operands, the decay one number per row of the state; `heads`: of queries, keys and states. Keys have length 1."""
    h, g, n = heads
    k = rng.standard_normal((b, g, steps, d))
    k /= np.maximum(np.linalg.norm(k, axis=-1, keepdims=True), 1e-3)
    arrays = [
        rng.standard_normal((b, h, steps, d)), k, rng.standard_normal((b, n, steps, e)), rng.standard_normal((b, n, d, e)),
        -rng.random((b, n, steps, d)), rng.random((b, n, steps)),
    ]  # fmt: skip
    return [a.astype(state if i == 3 and state is not None else dtype) for i, a in enumerate(arrays)]


def per_head(decay: Array) -> Array:
    """The decay of the first row for all, by stride 0."""
    return np.broadcast_to(decay[..., :1], decay.shape)


def check(ins: list[Any], *, delta: int = 1, window: int = 1, tolerance: float = 1e-5, outs: list[Any] | None = None) -> None:
    q, v = ins[0], ins[2]
    b, n, steps, e = v.shape
    held = ins[3].dtype if ins[3] is not None else q.dtype
    specs: list[Any] = [((b, max(q.shape[1], n), steps, e), q.dtype), ((window, b, n, q.shape[3], e), held) if window else None]
    params = {"scale": 0.4, "delta": delta}
    want = execute("linear_attention", [None if a is None else a.astype(np.float64) for a in ins], [(s[0], np.float64) if s else None for s in specs],
                   params)  # fmt: skip
    got = run("linear_attention", ins, specs if outs is None else outs, params)
    for g, w in zip(got, want):
        if w is not None:
            np.testing.assert_allclose(g.astype(np.float64), w, rtol=tolerance, atol=tolerance)
    two = run("linear_attention", ins, specs, params, threads=2)
    assert all(a is None or np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes() for a, b in zip(got, two))


@pytest.mark.parametrize("heads", [(1, 1, 1), (3, 3, 3), (4, 2, 2), (2, 2, 4), (1, 2, 2), (2, 1, 4), (6, 1, 1)])
def test_heads(heads: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(heads))
    ins = make(rng, 2, heads, 4, 5, 7)
    check(ins)
    check([*ins[:4], per_head(ins[4]), ins[5]], delta=0)


@pytest.mark.parametrize(
    "steps,d,e", [(1, 1, 1), (2, 16, 16), (1, 8, 64), (3, 7, 33), (5, 33, 17), (40, 5, 3), (9, 24, 70), (0, 3, 4), (3, 0, 4)]
)
def test_sizes(steps: int, d: int, e: int) -> None:
    rng = np.random.default_rng(100 * steps + d)
    ins = make(rng, 1, (2, 2, 2), steps, d, e)
    check(ins)
    check([*ins[:4], per_head(ins[4]), ins[5]], window=2)
    check([*ins[:3], None, None, None], delta=0, window=0)


def test_empty_tensors() -> None:
    rng = np.random.default_rng(3)
    for b, steps, d, e in [(0, 3, 4, 4), (1, 3, 4, 0), (2, 0, 4, 0)]:
        check(make(rng, b, (1, 1, 1), steps, d, e))


def test_absent_operands() -> None:
    rng = np.random.default_rng(4)
    ins = make(rng, 2, (2, 1, 1), 5, 6, 20)
    for keep in range(8):
        for delta in (0, 1):
            check([*ins[:3], *[a if keep >> i & 1 else None for i, a in enumerate(ins[3:])]], delta=delta, window=keep % 3)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_windows(window: int) -> None:
    """Slots of steps that this call does not have are zeros; with no steps at all the last one is the state."""
    rng = np.random.default_rng(window)
    for steps in (0, 1, 2, 6):
        for e in (5, 32):
            check(make(rng, 1, (1, 1, 2), steps, 4, e), window=window)


@pytest.mark.parametrize("dtype", list(HALVES))
def test_halves(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    for state in (dtype, np.float32, np.float16):
        ins = make(rng, 1, (2, 1, 2), 6, 9, 37, dtype, state)
        check(ins, tolerance=HALVES[dtype], window=2)
        check([*ins[:4], per_head(ins[4]), ins[5]], delta=0, tolerance=HALVES[dtype])
    mixed = make(rng, 1, (2, 1, 2), 6, 9, 37)
    mixed[2], mixed[4] = mixed[2].astype(dtype), mixed[4].astype(dtype)
    check(mixed)


def test_double() -> None:
    rng = np.random.default_rng(6)
    for e in (5, 16, 41):
        ins = make(rng, 2, (2, 1, 2), 7, 9, e, np.float64)
        check(ins, tolerance=1e-13, window=2)
        check([*ins[:4], per_head(ins[4]), ins[5]], tolerance=1e-13)


@pytest.mark.parametrize("seed", range(8))
def test_strides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, steps, d, e = (int(rng.integers(1, n)) for n in (3, 9, 20, 50))
    dtype = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64][seed % 4]
    window = int(rng.integers(1, 4))
    ins: list[Any] = [strided(rng, a) for a in make(rng, b, (2, 2, 4), steps, d, e, dtype)]
    outs = [strided(rng, np.zeros(s, dtype)) for s in ((b, 4, steps, e), (window, b, 4, d, e))]
    check(ins, tolerance=HALVES.get(dtype, 1e-5), window=window, outs=outs)
    ins[1] = np.broadcast_to(ins[1][:, :1, :1], ins[1].shape)
    ins[5] = np.broadcast_to(ins[5][:, :, :1], ins[5].shape)
    check([*ins[:4], per_head(ins[4]), ins[5]], tolerance=HALVES.get(dtype, 1e-5), delta=seed % 2)


def test_packed_heads() -> None:
    """[B, T, H * D] seen as [B, H, T, D], and a state stored as [B, N, E, D]."""
    rng = np.random.default_rng(7)
    ins = make(rng, 2, (2, 2, 2), 5, 16, 48)
    packed: list[Any] = [np.ascontiguousarray(a.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for a in ins[:3]]
    y = np.zeros((2, 5, 2, 48), np.float32).transpose(0, 2, 1, 3)
    present = np.zeros((1, 2, 2, 48, 16), np.float32).swapaxes(3, 4)
    check([*packed, np.ascontiguousarray(ins[3].swapaxes(2, 3)).swapaxes(2, 3), *ins[4:]], outs=[y, present])


def test_decays_at_the_ends() -> None:
    """-inf forgets all, 0 nothing."""
    ones = np.ones((1, 1, 3, 2), np.float32)
    for decay, want in ((-np.inf, [2, 2, 2]), (0.0, [4, 6, 8])):
        for rows in (np.full((1, 1, 3, 2), decay, np.float32), np.broadcast_to(np.float32(decay), (1, 1, 3, 2))):
            y = run("linear_attention", [ones, ones, ones[..., :1], np.ones((1, 1, 2, 1), np.float32), rows, None],
                    [((1, 1, 3, 1), np.float32), None], {"scale": 1.0})[0]  # fmt: skip
            np.testing.assert_array_equal(y[0, 0, :, 0], want)


@pytest.mark.parametrize(
    "change",
    [
        {0: (1, 3, 4, 5)}, {1: (1, 3, 4, 5)}, {1: (1, 2, 4, 6)}, {2: (1, 2, 3, 7)}, {3: (1, 2, 7, 5)}, {4: (1, 2, 4, 1)}, {5: (1, 2, 1)},
        {2: (1, 0, 4, 7), 3: (1, 0, 5, 7), 4: (1, 0, 4, 5), 5: (1, 0, 4)},
    ],
)  # fmt: skip
def test_operands_that_do_not_fit(change: dict[int, tuple[int, ...]]) -> None:
    ins = make(np.random.default_rng(8), 1, (2, 2, 2), 4, 5, 7)
    bad = [np.zeros(change.get(i, a.shape), np.float32) for i, a in enumerate(ins)]
    with pytest.raises(Exception, match="linear_attention: "):
        run("linear_attention", bad, [((1, 2, 4, 7), np.float32), None], {"scale": 1.0})


def test_random_shapes() -> None:
    rng = np.random.default_rng(9)
    for _ in range(12):
        n, share, group = (int(rng.integers(1, 3)) for _ in range(3))
        heads = [(n * group * share, n, n * group), (n, n, n * share), (n, n * group, n * share * group)][int(rng.integers(3))]
        steps, d, e = (int(rng.integers(1, top)) for top in (12, 24, 80))
        ins = make(rng, int(rng.integers(1, 3)), heads, steps, d, e)
        if rng.random() < 0.5:
            ins[4] = per_head(ins[4])
        check(ins, delta=int(rng.integers(2)), window=int(rng.integers(3)))
