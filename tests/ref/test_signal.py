"""fft, random, tree_ensemble and quantize_stats of the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import BOOL, F16, F32, F64, I32, U8, from_code
from pytensor_rt.kernels.ref import execute
from pytensor_rt.kernels.ref.signal import philox
from pytensor_rt.kernels.spec import NODE_MODES

from .onnx_oracle import check, onnx_run, ort_run

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 5, 8])
def test_fft(n):
    for last in (1, 2):
        x = RNG.standard_normal((2, n, 3, last)).astype(F32)
        for axis in (1, 2):
            for length in (n, n + 3, max(n - 2, 1)):
                for inverse in (0, 1):
                    want = onnx_run("DFT", [x, np.array(length), np.array(axis)], inverse=inverse)
                    check("fft", [x], want, {"axis": axis, "inverse": inverse, "onesided": 0}, rtol=1e-4, atol=1e-5)
            if last == 1:
                want = onnx_run("DFT", [x, np.array(x.shape[axis]), np.array(axis)], onesided=1)
                check("fft", [x], want, {"axis": axis, "onesided": 1}, rtol=1e-4, atol=1e-5)
    half = np.fft.rfft(RNG.standard_normal((2, 8)), axis=1)
    x = np.stack([half.real, half.imag], -1)
    for length in (8, 9):
        check("fft", [x], [np.fft.irfft(half, length, 1)[..., None]], {"axis": 1, "inverse": 1, "onesided": 1})


def test_philox_known_answers():
    """From the Random123 distribution's kat_vectors; a counter word beyond the block number is the stream."""
    one = lambda counter, key: [int(v) for v in philox(np.array([counter & (2**64 - 1)], np.uint64), counter >> 64, key)[0]]
    assert one(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert one(2**128 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter = 0x03707344_13198A2E_85A308D3_243F6A88
    assert one(counter, 0x299F31D0_A4093822) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("dtype", [F64, F32, F16, from_code(16)], ids=str)
def test_random(dtype):
    draw = lambda op, a, b, shape=(4001,), seed=7, stream=3: execute(
        "random", [np.array([seed], np.uint64)], [(shape, dtype)], {"op": op, "a": a, "b": b, "stream": stream}
    )[0].astype(F64)
    u = draw("uniform", -1.0, 2.0)
    assert (u >= -1).all() and (u < 2).all() and abs(u.mean() - 0.5) < 0.05 and abs(u.std() - 3 / np.sqrt(12)) < 0.05
    z = draw("normal", 1.0, 2.0)
    assert abs(z.mean() - 1) < 0.1 and abs(z.std() - 2) < 0.1 and abs(((z - 1) ** 3).mean()) < 1
    for op in ("uniform", "normal"):
        full = draw(op, 0.0, 1.0, (6, 5))
        assert (full.reshape(-1)[:7] == draw(op, 0.0, 1.0, (7,))).all()
        assert (full != draw(op, 0.0, 1.0, (6, 5), seed=8)).any() and (full != draw(op, 0.0, 1.0, (6, 5), stream=4)).any()
    assert draw("uniform", 3.0, 3.0).tolist() == [3.0] * 4001


def test_random_mapping():
    words = philox(np.arange(2, dtype=np.uint64), 0, 5).reshape(-1)
    seed = [np.array([5], np.uint64)]
    y = execute("random", seed, [((8,), F32)], {"op": "uniform", "a": 0.0, "b": 1.0, "stream": 0})[0]
    assert y.tolist() == [(int(w) >> 8) * 2.0**-24 for w in words]
    z = execute("random", seed, [((3,), F32)], {"op": "normal", "a": 0.0, "b": 1.0, "stream": 0})[0]
    u1, u2 = (int(words[2]) + 1) * 2.0**-32, int(words[3]) * 2.0**-32
    assert z[2] == F32.type(np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2))


LEAF, LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(8)


def forest(depth, trees, targets, modes):
    """Complete random trees as the kernel's flat arrays."""
    feature, threshold, mode, yes, no, roots, ranges, leaf_targets, weights = [], [], [], [], [], [], [0], [], []
    for _ in range(trees):
        base = len(feature)
        roots.append(base)
        inner = 2**depth - 1
        for k in range(2 * inner + 1):
            leaf = k >= inner
            feature.append(int(RNG.integers(0, 4)))
            threshold.append(float(RNG.integers(-2, 3)))
            mode.append(LEAF if leaf else int(RNG.choice(modes)))
            yes.append(0 if leaf else base + 2 * k + 1)
            no.append(0 if leaf else base + 2 * k + 2)
            if leaf:
                leaf_targets.append(int(RNG.integers(0, targets)))
                weights.append(float(RNG.standard_normal()))
            ranges.append(len(weights))
    ints = lambda v: np.array(v, I32)
    missing = RNG.random(len(mode)) < 0.5
    return [ints(feature), np.array(threshold, F32), np.array(mode, U8), ints(yes), ints(no), ints(roots), ints(leaf_targets),
            np.array(weights, F32), ints(ranges), missing]  # fmt: skip


def walk(trees, row, node, members):
    feature, threshold, mode, yes, no, _, targets, weights, ranges, missing = trees
    while mode[node] != LEAF:
        v, t = row[feature[node]], threshold[node]
        test = {LEQ: v <= t, LT: v < t, GTE: v >= t, GT: v > t, EQ: v == t, NEQ: v != t, MEMBER: v in members.get(int(node), ())}[
            int(mode[node])
        ]
        node = yes[node] if test or (np.isnan(v) and missing[node]) else no[node]
    return [(targets[j], weights[j]) for j in range(ranges[node], ranges[node + 1])]


@pytest.mark.parametrize("aggregate", ["sum", "average", "min", "max"])
def test_tree_ensemble(aggregate):
    trees = forest(3, 5, 3, [LEQ, LT, GTE, GT, EQ, NEQ])
    x = RNG.integers(-2, 3, (20, 4)).astype(F32)
    x[RNG.random(x.shape) < 0.1] = np.nan
    want = np.zeros((20, 3))
    for i in range(20):
        hits = [hit for root in trees[5] for hit in walk(trees, x[i], root, {})]
        for target in range(3):
            values = [float(w) for t, w in hits if t == target]
            if values:
                want[i, target] = {"sum": sum, "average": lambda v: sum(v) / 5, "min": min, "max": max}[aggregate](values)
    check("tree_ensemble", [x, *trees], [want.astype(F32)], {"aggregate": aggregate, "n_targets": 3})


def test_tree_ensemble_members():
    trees = forest(2, 4, 2, [MEMBER, LEQ])
    members = {int(i): set(RNG.integers(-2, 3, 3).astype(float).tolist()) for i in np.flatnonzero(trees[2] == MEMBER)}
    sets = np.array([v for i in sorted(members) for v in (*members[i], np.nan)], F32)
    x = RNG.integers(-2, 3, (20, 4)).astype(F32)
    want = np.zeros((20, 2))
    for i in range(20):
        for t, w in [hit for root in trees[5] for hit in walk(trees, x[i], root, members)]:
            want[i, t] += w
    check("tree_ensemble", [x, *trees, sets], [want.astype(F32)], {"aggregate": "sum", "n_targets": 2})
    assert len(NODE_MODES) == 8 and trees[9].dtype == BOOL


def test_quantize_stats():
    for x in (RNG.standard_normal((3, 4)), RNG.random(5) + 1, -RNG.random(5) - 1, np.array([1e-3, 5.0, -255.0])):
        x = x.astype(F32)
        _, scale, zero = ort_run("DynamicQuantizeLinear", [x], 3)
        check("quantize_stats", [x], [np.asarray(scale, F32), np.asarray(zero, U8)], {}, rtol=0, atol=0)
    scale, zero = execute("quantize_stats", [np.zeros(3, F32)], [((), F32), ((), U8)], {})
    assert scale == 0 and zero == 0
