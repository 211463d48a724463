"""com.microsoft MoE against onnxruntime, and against the definition where its CPU kernel stops."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, both, close, normal, run, session

Array = np.ndarray[Any, Any]
H, I = 8, 12


def operands(
    tokens: tuple[int, ...], experts: int, *, fused: bool = False, fc3: bool = False, biased: bool = True, dtype: Any = np.float32
) -> dict[str, Any]:
    f = 2 * I if fused else I
    t = int(np.prod(tokens))
    feeds: dict[str, Any] = {
        "x": normal(*tokens, H), "p": np.random.default_rng(3).permuted(np.linspace(-2, 2, t * experts)).reshape(t, experts),
        "w1": normal(experts, f, H) / 2, "b1": normal(experts, f) if biased else None, "w2": normal(experts, H, I) / 3,
    }  # fmt: skip
    if biased:
        feeds["b2"] = normal(experts, H, seed=1)
    if fc3:
        feeds |= {} if biased else {"b2": None}
        feeds |= {"w3": normal(experts, I, H, seed=2) / 2} | ({"b3": normal(experts, I, seed=3)} if biased else {})
    return {name: None if v is None else v.astype(dtype) for name, v in feeds.items()}


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))  # type: ignore[no-any-return]


def gelu(v: Array) -> Array:
    """The tanh approximation, as in onnxruntime."""
    return v * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))  # type: ignore[no-any-return]


PLAIN: dict[str, Any] = {
    "relu": lambda v: np.maximum(v, 0), "gelu": gelu, "silu": lambda v: v * sigmoid(v), "identity": lambda v: v, "relu2": lambda v: np.maximum(v, 0) ** 2,
}  # fmt: skip


def reference(
    feeds: dict[str, Any], k: int = 1, normalize_routing_weights: int = 0, activation_type: str = "relu", activation_alpha: float = 1,
    activation_beta: float = 0, swiglu_limit: float = inf, swiglu_fusion: int = 0, swiglu_limit_after_activation: int = 0,
) -> Array:  # fmt: skip
    """Token by token, in float64."""
    d = {name: v.astype(np.float64) for name, v in feeds.items() if v is not None}
    x = d["x"].reshape(-1, H)
    y = np.zeros_like(x)
    for token, scores in enumerate(d["p"]):
        chosen = np.argsort(-scores)[:k]
        odds = np.exp(scores)
        weights = odds[chosen] / (odds[chosen].sum() if normalize_routing_weights else odds.sum())
        for i, w in zip(chosen, weights):
            h = d["w1"][i] @ x[token] + (d["b1"][i] if "b1" in d else 0)
            l: Any = d["w3"][i] @ x[token] + (d["b3"][i] if "b3" in d else 0) if "w3" in d else 1.0
            if activation_type in ("swiglu", "geglu"):
                h, l = {0: (h, l), 1: (h[::2], h[1::2]), 2: (h[:I], h[I:])}[swiglu_fusion]
            if activation_type == "swiglu":
                l = np.clip(l, -swiglu_limit, swiglu_limit)
                h = h if swiglu_limit_after_activation else np.minimum(h, swiglu_limit)
                g = h * sigmoid(activation_alpha * h)
                h = (np.minimum(g, swiglu_limit) if swiglu_limit_after_activation else g) * (l + activation_beta)
            else:
                h = PLAIN["gelu" if activation_type == "geglu" else activation_type](h) * l
            y[token] += w * (d["w2"][i] @ h + (d["b2"][i] if "b2" in d else 0))
    return y.reshape(d["x"].shape)


SIZES: list[tuple[tuple[int, ...], int, int]] = [  # tokens, experts, k: chosen experts gathered, or all of them
    ((1,), 8, 2), ((2, 3), 32, 4), ((9,), 4, 1), ((2, 7), 4, 2), ((5,), 3, 3), ((1,), 1, 1),
]  # fmt: skip


def weights(given: dict[str, Any]) -> list[str]:
    return [name for name, v in given.items() if name not in "xp" and v is not None]


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity", "swiglu"])
@pytest.mark.parametrize("normalized", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_against_onnxruntime(activation: str, normalized: int, dtype: Any) -> None:
    extra: list[dict[str, Any]] = [{}]
    if activation == "swiglu":
        extra = [{"swiglu_fusion": 1}, {"swiglu_fusion": 1, "swiglu_limit": 0.5, "activation_alpha": 1.7, "activation_beta": 1.0}]
    for (tokens, experts, k), biased, more in product(SIZES, (False, True), extra):
        feeds = operands(tokens, experts, fused=activation == "swiglu", biased=biased, dtype=dtype)
        attrs = {"k": k, "activation_type": activation, "normalize_routing_weights": normalized, **more}
        for constants in (lambda given: [], weights):
            pairs = both("MoE", feeds, constants=constants, **attrs)
            close([*pairs, (pairs[0][0], reference(feeds, **attrs))], 1e-2 if dtype == np.float16 else 1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "relu2", "swiglu", "geglu"])
def test_against_the_definition(activation: str) -> None:
    """fc3, rows of gates ahead of the others, the limit behind the activation."""
    cases: list[dict[str, Any]] = [{}]
    if activation in ("swiglu", "geglu"):
        cases = [{"swiglu_fusion": 1}, {"swiglu_fusion": 2}]
    if activation == "swiglu":
        cases += [
            {"swiglu_fusion": 0},
            {"swiglu_limit": 0.3},
            {"swiglu_fusion": 2, "swiglu_limit": 0.3, "swiglu_limit_after_activation": 1},
        ]
    for (tokens, experts, k), biased, more in product(SIZES, (False, True), cases):
        fused = bool(more.get("swiglu_fusion"))
        feeds = operands(tokens, experts, fused=fused, fc3=not fused, biased=biased)
        attrs = {"k": k, "activation_type": activation, **more}
        close([(run("MoE", feeds, **MS, **attrs)[0], reference(feeds, **attrs))], 1e-5)


def test_bfloat16_and_any_number_of_tokens() -> None:
    feeds = operands((3,), 8, dtype=ml_dtypes.bfloat16)
    (got,) = run("MoE", feeds, k=2, **MS)
    assert got.dtype == ml_dtypes.bfloat16
    close([(got.astype(np.float64), reference(feeds, k=2))], 3e-2)
    feeds = operands((16,), 8)
    s = session("MoE", feeds, constants=weights(feeds), k=2, **MS)
    for n in (16, 1, 5, 3, 0, 1):
        part = {**feeds, "x": feeds["x"][:n], "p": feeds["p"][:n]}
        (got,) = s.run(None, {"x": part["x"], "p": part["p"]})
        assert got.shape == (n, H)
        close([(got, reference(part, k=2))], 1e-5)


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({}, {"k": 5}, "k must be from 1 to the number of experts 4, got 5"),
        ({}, {"k": 0}, "k must be from 1 to the number of experts 4, got 0"),
        ({"p": normal(3, 5)}, {}, r"expected router_probs of shape \[3, 4\], got \[3, 5\]"),
        ({"w1": normal(4, I, H + 1)}, {}, r"expected fc1_experts_weights of shape \[4, 12, 8\], got \[4, 12, 9\]"),
        ({"b1": normal(4, H)}, {}, r"expected fc1_experts_bias of shape \[4, 12\], got \[4, 8\]"),
        ({"w2": normal(4, H + 1, I)}, {}, r"expected fc2_experts_weights of shape \[4, 8, 12\], got \[4, 9, 12\]"),
        ({"b2": normal(4, I)}, {}, r"expected fc2_experts_bias of shape \[4, 8\], got \[4, 12\]"),
        ({"w3": normal(4, I, I)}, {}, r"expected fc3_experts_weights of shape \[4, 12, 8\], got \[4, 12, 12\]"),
        ({"x": normal(H)}, {}, "expected input of rank 2 or 3"),
        ({}, {"activation_type": "swiglu"}, "swiglu without fc3 needs swiglu_fusion 1 or 2, got 0"),
        ({"w3": normal(4, I, H)}, {"swiglu_fusion": 1, "activation_type": "swiglu"}, "fc3 does not go with swiglu_fusion 1"),
        ({}, {"activation_type": "tanh"}, "activation_type 'tanh' is not supported"),
        ({}, {"use_sparse_mixer": 1}, "use_sparse_mixer is not supported"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_so(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds = {**operands((3,), 4), **change}
    with pytest.raises((rt.PlanError, rt.UnsupportedError), match=rf"\[com.microsoft.MoE\] 'n': {message}"):
        run("MoE", feeds, **MS, **attrs)
