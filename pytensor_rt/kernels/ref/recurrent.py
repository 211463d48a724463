"""recurrent: LSTM, GRU and RNN with every attribute, and the dynamically quantised form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import F32, I64
from ..spec import ACTIVATIONS
from .common import Array, Out, Params, Program, optional, required, result, wide
from .linear import exact_matmul
from .opcodes import sigmoid, softplus
from .signal import quantization

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_FUNCTIONS = {"lstm": 3, "gru": 2, "rnn": 1}
_FORMULAS: dict[str, Callable[[Array, float, float], Any]] = {
    "sigmoid": lambda x, a, b: sigmoid(x), "tanh": lambda x, a, b: np.tanh(x), "relu": lambda x, a, b: np.maximum(x, 0.0),
    "affine": lambda x, a, b: a * x + b, "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "thresholded_relu": lambda x, a, b: np.where(x > a, x, 0.0), "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0.0, 1.0), "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "softsign": lambda x, a, b: x / (1.0 + np.abs(x)), "softplus": lambda x, a, b: softplus(x),
}  # fmt: skip


def recurrent(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    """State is float64 throughout and rounded once at the end (the quantised form quantises float32 state, as it is defined to)."""
    with np.errstate(all="ignore"):
        results = _Recurrent(ins, params).run()
    return [None if o is None else result(v, o) for v, o in zip(results, [*outs, None, None][:3])]


class _Recurrent:
    def __init__(self, ins: Sequence[Array | None], params: Params) -> None:
        self.params, self.cell = params, params["cell"]
        self.x, self.w, self.r = wide(required(ins[0])), wide(required(ins[1])), wide(required(ins[2]))
        self.quantised = optional(ins, 8) is not None
        self.scales = [None if optional(ins, i) is None else wide(required(ins[i])) for i in (8, 9, 10, 11)]
        self.dirs = self.w.shape[0]
        self.hidden = self.r.shape[1] if self.quantised else self.r.shape[2]
        steps, batch = self.x.shape[:2]
        zeros = np.zeros((self.dirs, batch, self.hidden))
        b, lengths, h0, c0, p = (optional(ins, i) for i in range(3, 8))
        self.b = np.zeros((self.dirs, 2 * _GATES[self.cell] * self.hidden)) if b is None else wide(b)
        self.lengths = np.full(batch, steps, I64) if lengths is None else lengths.astype(I64)
        if self.lengths.size and not ((self.lengths >= 0) & (self.lengths <= steps)).all():
            raise IndexError(f"a sequence length is outside of 0..{steps}")
        self.h0, self.c0 = (zeros if v is None else wide(v) for v in (h0, c0))
        self.p = np.zeros((self.dirs, 3 * self.hidden)) if p is None else wide(p)

    def run(self) -> tuple[Array, Array, Array]:
        """y [T, dirs, N, H], y_h and y_c [dirs, N, H]."""
        steps, batch = self.x.shape[:2]
        y = np.zeros((steps, self.dirs, batch, self.hidden))
        y_h, y_c = self.h0.copy(), self.c0.copy()
        rows = np.arange(batch)
        for d in range(self.dirs):
            backward = self.params["direction"] == "reverse" or d == 1
            flat = self.x.reshape(steps * batch, -1) if self.x.size else np.zeros((steps * batch, self.x.shape[2]))
            xw = self.product(flat, 0, d).reshape(steps, batch, -1)
            h, c = y_h[d], y_c[d]
            for s in range(steps):
                active = s < self.lengths
                t = np.maximum(self.lengths - 1 - s, 0) if backward else np.full(batch, s)
                new_h, new_c = self.step(d, xw[t, rows], h, c)
                h, c = np.where(active[:, None], new_h, h), np.where(active[:, None], new_c, c)
                y[t[active], d, rows[active]] = h[active]
            y_h[d], y_c[d] = h, c
        return y, y_h, y_c

    def product(self, a: Array, which: int, d: int, part: slice = slice(None)) -> Array:
        """a times w (which 0) or r (which 1) of direction d, for some of the gates' columns."""
        m = (self.w, self.r)[which][d]
        if not self.quantised:
            return np.asarray(a @ m[part].T)
        scale, zero = (self.scales[2 * which + i] for i in range(2))
        a_scale, a_zero = quantization(a)
        v = a.astype(F32)
        q = np.clip(np.rint(v / a_scale) + a_zero, 0, 255) if a_scale > 0 else np.zeros_like(v)
        shifted = m - (0 if zero is None else np.asarray(zero[d]))
        sums = exact_matmul(q.astype(I64) - a_zero, shifted.astype(I64))
        return np.asarray(sums * (np.float64(a_scale) * np.asarray(required(scale)[d])))[:, part]

    def act(self, d: int, i: int, x: Array, clip: bool = True) -> Array:
        """Activation function i of direction d, of the clipped argument."""
        k = d * _FUNCTIONS[self.cell] + i
        limit = self.params.get("clip", 0.0)
        if limit and clip:
            x = np.clip(x, -limit, limit)
        index = self.params["activations"][k]
        alphas, betas = self.params.get("alphas") or (), self.params.get("betas") or ()
        return np.asarray(_FORMULAS[ACTIVATIONS[index]](x, alphas[k] if k < len(alphas) else 0.0, betas[k] if k < len(betas) else 0.0))

    def step(self, d: int, xw: Array, h: Array, c: Array) -> tuple[Array, Array]:
        n, b = self.hidden, self.b[d]
        gates = _GATES[self.cell]
        wb, rb = b[: gates * n], b[gates * n :]
        if self.cell == "rnn":
            return self.act(d, 0, xw + self.product(h, 1, d) + wb + rb), c
        if self.cell == "gru":
            return self.gru(d, xw + wb, h, rb), c
        g = xw + self.product(h, 1, d) + wb + rb
        p_i, p_o, p_f = np.split(self.p[d], 3)
        i = self.act(d, 0, g[:, :n] + p_i * c)
        f = 1.0 - i if self.params.get("input_forget", 0) else self.act(d, 0, g[:, 2 * n : 3 * n] + p_f * c)
        c = f * c + i * self.act(d, 1, g[:, 3 * n :])
        o = self.act(d, 0, g[:, n : 2 * n] + p_o * c)
        return o * self.act(d, 2, c, clip=False), c  # as onnxruntime: the cell's own output is not clipped

    def gru(self, d: int, xw: Array, h: Array, rb: Array) -> Array:
        n = self.hidden
        zr = self.product(h, 1, d, slice(0, 2 * n)) + xw[:, : 2 * n] + rb[: 2 * n]
        z, r = self.act(d, 0, zr[:, :n]), self.act(d, 0, zr[:, n:])
        last = slice(2 * n, 3 * n)
        if self.params.get("linear_before_reset", 0):
            candidate = xw[:, last] + r * (self.product(h, 1, d, last) + rb[last])
        else:
            candidate = xw[:, last] + self.product(r * h, 1, d, last) + rb[last]
        return np.asarray((1.0 - z) * self.act(d, 1, candidate) + z * h)
