"""com.microsoft MoE and QMoE against onnxruntime, and against the definition where its CPU kernels stop."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import pytensor_rt as rt

from .nodes import MS, both, close, normal, run, session, trimmed

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
    inner: int = I,
) -> Array:  # fmt: skip
    """Token by token, in float64."""
    d = {name: v.astype(np.float64) for name, v in feeds.items() if v is not None}
    x = d["x"].reshape(-1, d["x"].shape[-1])
    y = np.zeros_like(x)
    for token, scores in enumerate(d["p"]):
        chosen = np.argsort(-scores)[:k]
        odds = np.exp(scores)
        weights = odds[chosen] / (odds[chosen].sum() if normalize_routing_weights else odds.sum())
        for i, w in zip(chosen, weights):
            h = d["w1"][i] @ x[token] + (d["b1"][i] if "b1" in d else 0)
            l: Any = d["w3"][i] @ x[token] + (d["b3"][i] if "b3" in d else 0) if "w3" in d else 1.0
            if activation_type in ("swiglu", "geglu"):
                h, l = {0: (h, l), 1: (h[::2], h[1::2]), 2: (h[:inner], h[inner:])}[swiglu_fusion]
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


def test_experts_that_are_not_chosen_may_overflow() -> None:
    feeds = operands((6,), 4)
    feeds["p"][:, 0] = -100
    want = reference(feeds, k=2)
    feeds["w1"][0] = np.inf
    (got,) = run("MoE", feeds, k=2, **MS)
    close([(got, want)], 1e-5)


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


# -------------------------------------------------------------------------------------------------------------------- quantised
QH, QI = 32, 64


def packed(q: Array, bits: int) -> Array:
    """Along the last axis, the first in the low bits."""
    each = 8 // bits
    q = np.concatenate([q, np.zeros((*q.shape[:-1], -q.shape[-1] % each), q.dtype)], -1)
    q = q.reshape(*q.shape[:-1], -1, each).astype(np.int64) << (bits * np.arange(each))
    return q.sum(-1).astype(np.uint8)


def quantized(experts: int, n: int, k: int, bits: int, block: int, zeros: bool, dtype: Any) -> tuple[dict[str, Any], Array]:
    """Weight, scales and zero points, and what they stand for."""
    rng = np.random.default_rng(n + k + bits)
    blocks = k // block if block else 1
    q = rng.integers(0, 1 << bits, (experts, n, k))
    scale = (rng.uniform(0.5, 1, (experts, n, blocks)) / 2**bits).astype(dtype)
    z = rng.integers(0, 1 << bits, (experts, n, blocks)) if zeros else np.full((experts, n, blocks), 1 << (bits - 1))
    w = (q - z.repeat(k // blocks, -1)) * scale.astype(np.float64).repeat(k // blocks, -1)
    if not block:
        scale, z = scale[..., 0], z[..., 0]
    return {"w": packed(q, bits), "s": scale, "z": packed(z, bits) if zeros else None}, w


def quantized_operands(
    tokens: tuple[int, ...], experts: int, bits: tuple[int, int, int], block: int = 0, *, fused: bool = False, fc3: bool = False, zeros: bool = False,
    biased: bool = True, dtype: Any = np.float32,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The operator's inputs, and those of a MoE by the weights that they stand for."""
    t = int(np.prod(tokens))
    feeds: dict[str, Any] = {
        "x": normal(*tokens, QH).astype(dtype),
        "p": np.random.default_rng(3).permuted(np.linspace(-2, 2, t * experts)).reshape(t, experts).astype(dtype),
    }
    plain = dict(feeds)
    sizes = [((2 if fused else 1) * QI, QH), (QH, QI)] + ([(QI, QH)] if fc3 else [])
    zero_points = {}
    for i, (n, k) in enumerate(sizes, 1):
        parts, plain[f"w{i}"] = quantized(experts, n, k, bits[i - 1], block, zeros, dtype)
        plain[f"b{i}"] = normal(experts, n, seed=i, dtype=dtype) if biased else None
        feeds |= {f"w{i}": parts["w"], f"s{i}": parts["s"], f"b{i}": plain[f"b{i}"]}
        zero_points[f"z{i}"] = parts["z"]
    for name in ("w3", "s3", "b3"):
        feeds.setdefault(name, None)
    return trimmed(feeds | zero_points), plain


def mixed(feeds: dict[str, Any], **attrs: Any) -> Array:
    """reference of hidden sizes other than the module's."""
    inner = feeds["w2"].shape[-1]
    wide = {**feeds, "x": feeds["x"].reshape(-1, feeds["x"].shape[-1])}
    return reference(wide, inner=inner, **attrs).reshape(feeds["x"].shape)


QUANTIZED: list[tuple[tuple[int, ...], int, int]] = [((1,), 8, 2), ((2, 3), 4, 2), ((5,), 3, 1)]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [0, 16, 32])
@pytest.mark.parametrize("zeros", [False, True])
def test_quantized_against_onnxruntime(bits: int, block: int, zeros: bool) -> None:
    """onnxruntime quantises the tokens, too, where weights of 8 bits, or 2, come in blocks; here the definition is met as closely as elsewhere."""
    tolerance = 5e-2 if block and bits != 4 else 1e-5
    for (tokens, experts, k), biased, swiglu in product(QUANTIZED, (False, True), (False, True)):
        feeds, plain = quantized_operands(tokens, experts, (bits, bits, bits), block, fused=swiglu, zeros=zeros, biased=biased)
        attrs: dict[str, Any] = {
            "k": k,
            "normalize_routing_weights": 1,
            "activation_type": "swiglu" if swiglu else "silu",
            "swiglu_fusion": int(swiglu),
        }
        more = {"expert_weight_bits": bits} | ({"block_size": block} if block else {})
        for constants in (lambda given: [], weights):
            pairs = both("QMoE", feeds, constants=constants, **attrs, **more)
            close(pairs, tolerance)
            close([(pairs[0][0], mixed(plain, **attrs))], 1e-5)


@pytest.mark.parametrize("constant", [False, True])
def test_quantized_against_the_definition(constant: bool) -> None:
    """float16 and bfloat16, fc3, widths that differ, weights that are not normalised."""
    for (tokens, experts, k), block, zeros in product(QUANTIZED, (0, 16), (False, True)):
        attrs: dict[str, Any] = {"k": k, "activation_type": "silu"}
        more: dict[str, Any] = {"fc1_expert_weight_bits": 8, "fc3_expert_weight_bits": 2} | ({"block_size": block} if block else {})
        for dtype, tolerance in ((np.float32, 1e-5), (np.float16, 5e-3), (ml_dtypes.bfloat16, 4e-2)):
            feeds, plain = quantized_operands(tokens, experts, (8, 4, 2), block, fc3=True, zeros=zeros, dtype=dtype)
            (got,) = run("QMoE", feeds, constants=weights(feeds) if constant else (), **MS, **attrs, **more)
            assert got.dtype == dtype
            close([(got.astype(np.float64), mixed(plain, **attrs))], tolerance)
            wide = {name: v.astype(np.float32) if name[0] == "s" else v for name, v in feeds.items() if v is not None}
            (got,) = run(
                "QMoE", {name: wide.get(name) for name in feeds}, constants=weights(wide) if constant else (), **MS, **attrs, **more
            )
            assert got.dtype == dtype  # scales may be of another type
            close([(got.astype(np.float64), mixed(plain, **attrs))], tolerance)


@pytest.mark.parametrize("normalized", [0, 1])
def test_router_weights(normalized: int) -> None:
    """In place of the softmax; the scores choose."""
    for tokens, experts, k in QUANTIZED:
        feeds, _ = quantized_operands(tokens, experts, (4, 4, 4), zeros=True)
        feeds |= {"z3": None, "r": np.abs(normal(int(np.prod(tokens)), experts, seed=5)) + 0.1}
        names: Any = lambda given: [n for n in weights(given) if n != "r"]
        close(both("QMoE", feeds, constants=names, k=k, normalize_routing_weights=normalized), 1e-5)


def test_quantized_weights_are_packed_once() -> None:
    for bits, zeros in product((2, 4, 8), (False, True)):
        feeds, plain = quantized_operands((16,), 4, (bits, bits, bits), 16, zeros=zeros)
        s = session("QMoE", feeds, constants=weights(feeds), k=2, expert_weight_bits=bits, block_size=16, **MS)
        sizes = set()
        for n in (16, 5, 9, 1, 16):
            (got,) = s.run(None, {"x": feeds["x"][:n], "p": feeds["p"][:n]})
            close([(got, mixed({**plain, "x": plain["x"][:n], "p": plain["p"][:n]}, k=2))], 1e-5)
            sizes.add(s.plan_report().packed_bytes if n > 1 else 0)
        assert len(sizes) == 2, sizes


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({"w1": np.zeros((4, QI, QH), np.uint8)}, {}, r"expected fc1_experts_weights of shape \[4, 64, 16\], got \[4, 64, 32\]"),
        ({"s1": None}, {}, "fc1_scales are missing"),
        ({"s2": normal(4, QH, 2)}, {}, r"expected fc2_scales of shape \[4, 32\], got \[4, 32, 2\]"),
        ({"z1": np.zeros((4, QI), np.uint8)}, {}, r"expected fc1_zero_points of shape \[4, 32\], got \[4, 64\]"),
        ({}, {"block_size": 24}, "block_size must be a power of 2 and at least 16, got 24"),
        ({}, {"block_size": 64}, "block_size 64 does not divide the 32 columns of fc1"),
        ({}, {"expert_weight_bits": 3}, "fc1_expert_weight_bits 3 is not supported"),
        ({}, {"quant_type": "fp4"}, "quant_type 'fp4' is not supported"),
        ({}, {"weights_prepacked": 1}, "weights_prepacked 1 is not supported"),
        ({"z2": None, "z3": None, "r": normal(3, 3)}, {}, r"expected router_weights of shape \[3, 4\], got \[3, 3\]"),
    ],
)
def test_what_does_not_fit_a_quantized_mixture_says_so(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds, _ = quantized_operands((3,), 4, (4, 4, 4), zeros=True)
    with pytest.raises((rt.PlanError, rt.UnsupportedError), match=rf"\[com.microsoft.QMoE\] 'n': {message}"):
        run("QMoE", {**feeds, **change}, **MS, **attrs)
