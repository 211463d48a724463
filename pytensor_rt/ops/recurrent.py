"""RNN, LSTM, GRU, and com.microsoft's DynamicQuantizeLSTM."""

from __future__ import annotations

from typing import Any

from ..kernels.spec import ACTIVATIONS
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import MICROSOFT, op
from .util import wants

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
_NAMES = {n.replace("_", ""): n for n in ACTIVATIONS}
_ALPHA_BETA = {  # defaults of the ONNX operator documentation
    "affine": (1.0, 0.0), "leaky_relu": (0.01, 0.0), "thresholded_relu": (1.0, 0.0), "scaled_tanh": (1.0, 1.0), "hard_sigmoid": (0.2, 0.5), "elu": (1.0, 0.0),
}  # fmt: skip
_TAKES_ALPHA = frozenset(_ALPHA_BETA)
_TAKES_BETA = frozenset({"affine", "scaled_tanh", "hard_sigmoid"})


def activation_params(t: Tracer, cell: str, directions: int, names: Any, alphas: Any, betas: Any) -> dict[str, Any]:
    """Activation indices with one alpha and beta each; alphas and betas are listed only for the functions that take them."""
    chosen = tuple(names) if names else _DEFAULTS[cell] * directions
    if len(chosen) != len(_DEFAULTS[cell]) * directions:
        t.fail(f"{len(chosen)} activations, expected {len(_DEFAULTS[cell]) * directions}")
    a, b = list(alphas or ()), list(betas or ())
    index, out_a, out_b = [], [], []
    for name in chosen:
        key = _NAMES.get(name.lower())
        if key is None:
            t.fail(f"unknown activation {name!r}")
        da, db = _ALPHA_BETA.get(key, (0.0, 0.0))
        index.append(ACTIVATIONS.index(key))
        out_a.append(a.pop(0) if key in _TAKES_ALPHA and a else da)
        out_b.append(b.pop(0) if key in _TAKES_BETA and b else db)
    return {"activations": tuple(index), "alphas": tuple(out_a), "betas": tuple(out_b)}


def recurrent(
    t: Tracer, cell: str, ins: list[Tensor | None], hidden: int, *, direction: str, layout: int, activations: Any, activation_alpha: Any,
    activation_beta: Any, clip: float | None, linear_before_reset: int = 0, input_forget: int = 0,
) -> list[Any]:  # fmt: skip
    """One recurrent launch. ins: x, w, r, b, lengths, h0, c0, p and, if quantised, w_scale, w_zero, r_scale, r_zero."""
    x = ins[0]
    assert x is not None
    if layout:
        swap: Any = lambda v: None if v is None else v.permute((1, 0, 2))
        ins[0], ins[5], ins[6] = swap(ins[0]), swap(ins[5]), swap(ins[6])
        x = ins[0]
        assert x is not None
    directions = 2 if direction == "bidirectional" else 1
    steps, batch = x.shape[0], x.shape[1]
    state = (directions, batch, hidden)
    outs = [((steps, directions, batch, hidden), x.dtype), (state, x.dtype), (state, x.dtype)]
    n = 3 if cell == "lstm" else 2
    params = {
        "cell": cell, "direction": direction, "clip": float(clip or 0.0), "linear_before_reset": linear_before_reset, "input_forget": input_forget,
        **activation_params(t, cell, directions, activations, activation_alpha, activation_beta),
    }  # fmt: skip
    values = t.record("recurrent", ins, [outs[k] if k < n and wants(t, k) else None for k in range(3)], params)
    if layout:
        y, h, c = values
        values = [
            None if y is None else y.permute((2, 0, 1, 3)),
            None if h is None else h.permute((1, 0, 2)),
            None if c is None else c.permute((1, 0, 2)),
        ]
    return values[:n]


@op("LSTM")
def lstm(
    t: Tracer, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h0: Tensor | None = None,
    c0: Tensor | None = None, p: Tensor | None = None, *, hidden_size: int | None = None, direction: str = "forward", layout: int = 0,
    activations: Any = None, activation_alpha: Any = None, activation_beta: Any = None, clip: float | None = None, input_forget: int = 0, **_: Any,
) -> list[Any]:  # fmt: skip
    return recurrent(
        t, "lstm", [x, w, r, b, lengths, h0, c0, p], r.shape[2], direction=direction, layout=layout, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, input_forget=input_forget,
    )  # fmt: skip


@op("GRU")
def gru(
    t: Tracer, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h0: Tensor | None = None, *,
    hidden_size: int | None = None, direction: str = "forward", layout: int = 0, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, linear_before_reset: int = 0, **_: Any,
) -> list[Any]:  # fmt: skip
    return recurrent(
        t, "gru", [x, w, r, b, lengths, h0, None, None], r.shape[2], direction=direction, layout=layout, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, linear_before_reset=linear_before_reset,
    )  # fmt: skip


@op("RNN")
def rnn(
    t: Tracer, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h0: Tensor | None = None, *,
    hidden_size: int | None = None, direction: str = "forward", layout: int = 0, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, **_: Any,
) -> list[Any]:  # fmt: skip
    return recurrent(
        t, "rnn", [x, w, r, b, lengths, h0, None, None], r.shape[2], direction=direction, layout=layout, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip,
    )  # fmt: skip


@op("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(
    t: Tracer, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None, h0: Tensor | None, c0: Tensor | None, p: Tensor | None,
    w_scale: Tensor, w_zero: Tensor, r_scale: Tensor, r_zero: Tensor, *, hidden_size: int | None = None, direction: str = "forward",
    activations: Any = None, activation_alpha: Any = None, activation_beta: Any = None, clip: float | None = None, input_forget: int = 0,
) -> list[Any]:  # fmt: skip
    """w [dirs, I, 4H] and r [dirs, H, 4H] are 8-bit with per-tensor or per-channel scales."""
    return recurrent(
        t, "lstm", [x, w, r, b, lengths, h0, c0, p, w_scale, w_zero, r_scale, r_zero], r.shape[1], direction=direction, layout=0,
        activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, input_forget=input_forget,
    )  # fmt: skip
