"""The elementwise half of a recurrent step, for one row (a sequence of the batch): gate activations, new states.

Rows of sums hold one gate after another, `padded` elements each. Those functions called `plain` are for float32 layers with the usual activations, no
clip, no peepholes, no coupling: they work on whole vectors (padding included) and put gates over common denominators, as a division costs as much as
an exponential. The others apply activations in passes, each a function by address: words (function, alpha, beta) per gate function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32

from .elementary import expm1_32, sigmoid32, sigmoid64, softplus32, tanh32
from .intrinsics import at, bits_f64, inline, invoke
from .vector_math import odds, tanh_parts, vdiv
from .vectors import WIDTH, fma, splat, vadd, vload, vmul, vstore


def activation(X: Any, name: str) -> Callable[..., int]:
    """(d, a, alpha, beta, n): d[i] = f(a[i]); alpha and beta are bits of float64."""
    short = X is float32
    sigmoid, tanh = (sigmoid32, tanh32) if short else (sigmoid64, inline(lambda x: math.tanh(x)))
    expm1 = expm1_32 if short else inline(lambda x: math.expm1(x))
    softplus = softplus32 if short else inline(lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))))
    zero, one = X(0.0), X(1.0)
    functions = {
        "sigmoid": lambda x, a, b: sigmoid(x),
        "tanh": lambda x, a, b: tanh(x),
        "relu": lambda x, a, b: zero if x < zero else x,
        "affine": lambda x, a, b: x * a + b,
        "leaky_relu": lambda x, a, b: x * a if x < zero else x,
        "thresholded_relu": lambda x, a, b: zero if x < a else x,
        "scaled_tanh": lambda x, a, b: tanh(x * b) * a,
        "hard_sigmoid": lambda x, a, b: unit(x * a + b),
        "elu": lambda x, a, b: expm1(x) * a if x < zero else x,
        "softsign": lambda x, a, b: x / ((-x if x < zero else x) + one),
        "softplus": lambda x, a, b: softplus(x),
    }

    @inline
    def unit(x: Any) -> Any:
        y = zero if x < zero else x
        return one if y > one else y

    f = inline(functions[name])

    def run(d, a, alpha, beta, n):  # type: ignore[no-untyped-def]
        x, y, p, q = at(a, X), at(d, X), X(bits_f64(alpha)), X(bits_f64(beta))
        for i in range(n):
            y[i] = f(x[i], p, q)
        return 0

    return run


@inline
def activate(functions: Any, k: Any, target: Any, source: Any, n: Any) -> Any:
    """Gate function k of a direction."""
    invoke(functions[3 * k], (target, source, functions[3 * k + 1], functions[3 * k + 2], n))


def clipping(X: Any) -> Callable[..., Any]:
    """(address, n, limit): values are clipped to [-limit, limit], if it is not 0."""

    @inline
    def clip(address, n, limit):  # type: ignore[no-untyped-def]
        if limit > X(0.0):
            x = at(address, X)
            for j in range(n):
                v = limit if x[j] > limit else x[j]
                x[j] = -limit if v < -limit else v

    return clip  # type: ignore[no-any-return]


def lstm(X: Any) -> Callable[..., Any]:
    """(functions, clip, coupled, sums, peepholes or 0, h, c, n, padded): gates i, o, f, c to the new states; `sums` is overwritten."""
    size = X.bitwidth // 8
    clip = clipping(X)

    @inline
    def step(functions, limit, coupled, sums, peepholes, h_at, c_at, n, padded):  # type: ignore[no-untyped-def]
        pitch = padded * size
        si, so, sf, sc = at(sums, X), at(sums + pitch, X), at(sums + 2 * pitch, X), at(sums + 3 * pitch, X)
        h, c = at(h_at, X), at(c_at, X)
        if peepholes != 0:
            p, q = at(peepholes, X), at(peepholes + 2 * pitch, X)
            for j in range(n):
                si[j] = si[j] + p[j] * c[j]
            for j in range(n):
                sf[j] = sf[j] + q[j] * c[j]
        clip(sums, n, limit)
        activate(functions, 0, sums, sums, n)
        if coupled != 0:
            for j in range(n):
                sf[j] = X(1.0) - si[j]
        else:
            clip(sums + 2 * pitch, n, limit)
            activate(functions, 0, sums + 2 * pitch, sums + 2 * pitch, n)
        clip(sums + 3 * pitch, n, limit)
        activate(functions, 1, sums + 3 * pitch, sums + 3 * pitch, n)
        for j in range(n):
            c[j] = sf[j] * c[j] + si[j] * sc[j]
        if peepholes != 0:
            p = at(peepholes + pitch, X)
            for j in range(n):
                so[j] = so[j] + p[j] * c[j]
        clip(sums + pitch, n, limit)
        activate(functions, 0, sums + pitch, sums + pitch, n)
        activate(functions, 2, sums, c_at, n)
        for j in range(n):
            h[j] = so[j] * si[j]

    return step  # type: ignore[no-any-return]


def gru_gates(X: Any) -> Callable[..., Any]:
    """(functions, clip, sums, h, reset or 0, n, padded): sums of gates z, r become their values, reset becomes r * h."""
    size = X.bitwidth // 8
    clip = clipping(X)

    @inline
    def step(functions, limit, sums, h_at, reset, n, padded):  # type: ignore[no-untyped-def]
        for gate in range(2):
            clip(sums + gate * padded * size, n, limit)
            activate(functions, 0, sums + gate * padded * size, sums + gate * padded * size, n)
        if reset != 0:
            r, h, y = at(sums + padded * size, X), at(h_at, X), at(reset, X)
            for j in range(n):
                y[j] = r[j] * h[j]

    return step  # type: ignore[no-any-return]


def gru_update(X: Any) -> Callable[..., Any]:
    """(functions, clip, sums, inputs or 0, h, n, padded): the candidate's sums (with `inputs`: its recurrent ones) and gates to the new state."""
    size = X.bitwidth // 8
    clip = clipping(X)

    @inline
    def step(functions, limit, sums, inputs, h_at, n, padded):  # type: ignore[no-untyped-def]
        candidate = sums + 2 * padded * size
        z, r, s, h = at(sums, X), at(sums + padded * size, X), at(candidate, X), at(h_at, X)
        if inputs != 0:
            x = at(inputs, X)
            for j in range(n):
                s[j] = s[j] * r[j] + x[j]
        clip(candidate, n, limit)
        activate(functions, 1, candidate, candidate, n)
        for j in range(n):
            h[j] = (X(1.0) - z[j]) * s[j] + z[j] * h[j]

    return step  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------------- plain float32 layers
STEP = 4 * WIDTH  # bytes of a vector


@inline
def lstm_plain(sums: Any, h: Any, c: Any, padded: Any) -> Any:
    pitch, one = 4 * padded, splat(np.float32(1.0))
    for j in range(0, pitch, STEP):
        i = vadd(odds(vload(sums + j, float32)), one)
        f = vadd(odds(vload(sums + 2 * pitch + j, float32)), one)
        p, q = tanh_parts(vload(sums + 3 * pitch + j, float32))
        iq = vmul(i, q)
        now = vdiv(fma(vload(c + j, float32), iq, vmul(p, f)), vmul(iq, f))
        vstore(c + j, now)
        p, q = tanh_parts(now)
        vstore(h + j, vdiv(p, vmul(vadd(odds(vload(sums + pitch + j, float32)), one), q)))


@inline
def gru_gates_plain(sums: Any, h: Any, reset: Any, padded: Any) -> Any:
    """z is left as its odds."""
    pitch, one = 4 * padded, splat(np.float32(1.0))
    for j in range(0, pitch, STEP):
        vstore(sums + j, odds(vload(sums + j, float32)))
        r = vdiv(one, vadd(odds(vload(sums + pitch + j, float32)), one))
        vstore(sums + pitch + j, r)
        if reset != 0:
            vstore(reset + j, vmul(r, vload(h + j, float32)))


@inline
def gru_update_plain(sums: Any, inputs: Any, h: Any, padded: Any) -> Any:
    pitch, one = 4 * padded, splat(np.float32(1.0))
    for j in range(0, pitch, STEP):
        x = vload(sums + 2 * pitch + j, float32)
        if inputs != 0:
            x = fma(x, vload(sums + pitch + j, float32), vload(inputs + j, float32))
        p, q = tanh_parts(x)
        z = vload(sums + j, float32)
        vstore(h + j, vdiv(fma(z, p, vmul(vload(h + j, float32), q)), vmul(vadd(z, one), q)))


@inline
def rnn_plain(sums: Any, h: Any, padded: Any) -> Any:
    for j in range(0, 4 * padded, STEP):
        p, q = tanh_parts(vload(sums + j, float32))
        vstore(h + j, vdiv(p, q))
