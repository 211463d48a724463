"""fft, random, tree_ensemble and quantize_stats.

`random` is counter-based, so that every backend can produce the same stream. Philox4x32-10 (Salmon et al., SC'11; its known-answer tests are in
tests/ref) maps a 128-bit counter and a 64-bit key to four uint32 words w0..w3. With `i` the index of a block,

    counter = (i & 0xffffffff, i >> 32, stream & 0xffffffff, stream >> 32)        key = (seed & 0xffffffff, seed >> 32)

Word n of the stream is word n % 4 of block n // 4. Element e of y, in row-major order, takes

    uniform, float64:  u = ((w[2e] << 32 | w[2e+1]) >> 11) * 2**-53          uniform, other types:  u = (w[e] >> 8) * 2**-24
    normal, float64:   v = words 4p .. 4p+3 with p = e // 2, u1 = ((v0 << 32 | v1) >> 11) * 2**-53 + 2**-53, u2 = ((v2 << 32 | v3) >> 11) * 2**-53
    normal, others:    v = words 2p, 2p+1 with p = e // 2, u1 = (v0 + 1) * 2**-32, u2 = v1 * 2**-32

all in double. uniform: y = a + (b - a) * u, rounded to y's type; what rounds up to b becomes the next value of that type below b. normal, by
Box-Muller: r = sqrt(-2 log u1), y = a + b * r * cos(2 pi u2) for even e and a + b * r * sin(2 pi u2) for odd e.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dtypes import F32, F64, I64, U8, U32, U64
from ..spec import NODE_MODES
from .common import Array, Out, Params, Program, narrow, optional, out_spec, required, result, wide

_LOW = U64.type(0xFFFFFFFF)


def fft(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    """The inverse is scaled by 1/n. Inverse and onesided: from half a spectrum to a real signal of y's size along axis.

    Forward and onesided, y's size m does not tell the transform length: it is x's size where that is 2m-1, else 2m-2.
    """
    x, axis = wide(required(ins[0])), params["axis"]
    shape, dtype = out_spec(outs)
    n = shape[axis]
    signal = x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]
    if params.get("onesided", 0):
        if params.get("inverse", 0):
            return [result(np.fft.irfft(signal, n, axis)[..., None], (shape, dtype))]
        n = 2 * n - 1 if x.shape[axis] == 2 * n - 1 else 2 * n - 2
    y = (np.fft.ifft if params.get("inverse", 0) else np.fft.fft)(signal, max(n, 1), axis)
    y = np.take(y, np.arange(shape[axis]), axis)
    parts = [y.real, y.imag] if shape[-1] == 2 else [y.real]
    return [result(np.stack(parts, -1), (shape, dtype))]


def philox(blocks: Array, stream: int, seed: int) -> Array:
    """uint32 [n, 4]: Philox4x32-10 of the uint64 block numbers."""
    c = [
        blocks & _LOW,
        blocks >> U64.type(32),
        np.full_like(blocks, stream & 0xFFFFFFFF),
        np.full_like(blocks, (stream >> 32) & 0xFFFFFFFF),
    ]
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = U64.type(0xD2511F53) * c[0], U64.type(0xCD9E8D57) * c[2]
        c = [(p1 >> U64.type(32)) ^ c[1] ^ U64.type(k0), p1 & _LOW, (p0 >> U64.type(32)) ^ c[3] ^ U64.type(k1), p0 & _LOW]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, -1).astype(U32)


def random(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    shape, dtype = out_spec(outs)
    n = int(np.prod(shape, dtype=np.int64))
    seed, stream = int(required(ins[0]).reshape(-1)[0]) & 0xFFFFFFFFFFFFFFFF, int(params["stream"]) & 0xFFFFFFFFFFFFFFFF
    a, b = float(params["a"]), float(params["b"])
    double = dtype == F64
    pairs = (n + 1) // 2 * 2
    count = pairs * (2 if double else 1)
    words = philox(np.arange((count + 3) // 4, dtype=U64), stream, seed).reshape(-1)[:count].astype(U64)
    if double:
        bits = words.reshape(-1, 2)
        u = (((bits[:, 0] << U64.type(32)) | bits[:, 1]) >> U64.type(11)).astype(F64) * 2.0**-53
    elif params["op"] == "uniform":
        u = (words >> U64.type(8)).astype(F64) * 2.0**-24
    else:
        u = words.astype(F64) * 2.0**-32
    if params["op"] == "uniform":
        y = narrow(a + (b - a) * u[:n], dtype)
        below = np.nextafter(narrow(np.asarray(b), dtype), narrow(np.asarray(a), dtype))
        return [np.where(wide(y) >= b, below, y).astype(dtype).reshape(shape)] if a < b else [y.reshape(shape)]
    r = np.sqrt(-2.0 * np.log(u[0::2] + (2.0**-53 if double else 2.0**-32)))
    angle = 2.0 * np.pi * u[1::2]
    z = np.stack([r * np.cos(angle), r * np.sin(angle)], -1).reshape(-1)[:n]
    return [result((a + b * z).reshape(shape), (shape, dtype))]


def tree_ensemble(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    """The k-th `member` node, in node order, tests the k-th NaN-separated stretch of member_sets. A target that no leaf reached is 0."""
    x, thresholds = wide(required(ins[0])), wide(required(ins[2]))
    features, modes, true_child, false_child, roots, targets = (required(ins[i]).astype(I64) for i in (1, 3, 4, 5, 6, 7))
    weights, ranges, missing = wide(required(ins[8])), required(ins[9]).astype(I64), required(ins[10])
    n, trees = x.shape[0], roots.size
    member = NODE_MODES.index("member")
    sets = dict(zip(np.flatnonzero(modes == member), _stretches(optional(ins, 11))))
    at = np.broadcast_to(roots, (n, trees)).copy()
    rows = np.broadcast_to(np.arange(n)[:, None], at.shape)
    while True:
        mode = modes[at]
        active = mode != NODE_MODES.index("leaf")
        if not active.any():
            break
        v, t = x[rows, np.where(active, features[at], 0)], thresholds[at]
        taken = _compare(mode, v, t) | (np.isnan(v) & missing[at])
        for row, tree in np.argwhere(mode == member):
            taken[row, tree] |= v[row, tree] in sets[at[row, tree]]
        at = np.where(active, np.where(taken, true_child[at], false_child[at]), at)
    aggregate, n_targets = params["aggregate"], params["n_targets"]
    y = np.full((n, n_targets), {"min": np.inf, "max": -np.inf}.get(aggregate, 0.0))
    touched = np.zeros((n, n_targets), np.bool_)
    ufunc = {"min": np.minimum, "max": np.maximum}.get(aggregate, np.add)
    for tree in range(trees):
        begin, end = ranges[at[:, tree]], ranges[at[:, tree] + 1]
        for j in range(int((end - begin).max(initial=0))):
            has = begin + j < end
            leaf = (begin + j)[has]
            where = (np.flatnonzero(has), targets[leaf])
            ufunc.at(y, where, weights[leaf])
            touched[where] = True
    if aggregate == "average":
        y = y / trees
    return [result(np.where(touched, y, 0.0), out_spec(outs))]


def _stretches(members: Array | None) -> list[set[float]]:
    """The NaN-separated sets of an array."""
    sets: list[set[float]] = [set()]
    for v in [] if members is None else wide(members).tolist():
        if v != v:
            sets.append(set())
        else:
            sets[-1].add(v)
    return sets


def _compare(mode: Array, v: Array, t: Array) -> Array:
    """Does each value satisfy its node? NaN satisfies nothing but neq."""
    tests = {"leq": v <= t, "lt": v < t, "gte": v >= t, "gt": v > t, "eq": v == t, "neq": v != t}
    out = np.zeros(mode.shape, np.bool_)
    for name, test in tests.items():
        out |= (mode == NODE_MODES.index(name)) & test
    return out


def quantize_stats(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    scale, zero_point = quantization(required(ins[0]))
    return [np.asarray(scale, F32), np.asarray(zero_point, U8)]


def quantization(x: Array) -> tuple[np.float32, int]:
    """DynamicQuantizeLinear's scale and zero point, in float32 as the operator is specified."""
    v = x.astype(F32)
    low, high = min(np.float32(0), v.min(initial=0)), max(np.float32(0), v.max(initial=0))
    with np.errstate(all="ignore"):
        scale = np.float32(np.float32(high - low) / np.float32(255))
        if not scale > 0:
            return scale, 0
        return scale, int(np.clip(np.rint(np.float32(-low) / scale), 0, 255))
