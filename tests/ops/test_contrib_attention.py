"""Attention operators of com.microsoft against onnxruntime."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt

from . import nodes
from .nodes import MS, both, node_model, normal, run, trimmed

Array = np.ndarray[Any, Any]


def close(pairs: list[tuple[Any, Any]], tolerance: float = 3e-6) -> None:
    """Two products and a softmax round more than one product."""
    nodes.close(pairs, tolerance)


B, S, N, H, P = 2, 5, 3, 8, 4


def masks(total: int) -> dict[str, Array | None]:
    """Every kind of mask_index; some rows see no key."""
    rng = np.random.default_rng(1)
    return {
        "none": None, "ends": np.array([total - 2, total], np.int32), "empty": np.array([0, 1], np.int32),
        "ends and starts": np.array([total, total - 1, 2, 0], np.int32), "keys": (rng.random((B, total)) < 0.6).astype(np.int32),
        "left": np.tile((np.arange(total) > 1).astype(np.int32), (B, 1)), "queries": (rng.random((B, S, total)) < 0.6).astype(np.int32),
    }  # fmt: skip


def sees(mask: Array | None, total: int, unidirectional: int) -> Array:
    """[B, S]: does a query see any key?"""
    key = np.arange(total)
    if mask is None:
        allowed = np.ones((B, 1, total), bool)
    elif mask.ndim == 1:
        starts = mask[B:] if len(mask) > B else np.zeros(B, int)
        allowed = ((key < mask[:B, None]) & (key >= starts[:, None]))[:, None]
    else:
        allowed = (mask if mask.ndim == 3 else mask[:, None]) > 0
    if unidirectional:
        allowed = allowed & (key <= np.arange(total - S, total)[:, None])
    out: Array = np.broadcast_to(allowed, (B, S, total)).any(-1)
    return out


def close_masked(pairs: list[tuple[Any, Any]], seen: Array) -> None:
    """Where all keys are masked their scores lie near -10000, at which float32 has steps of 2^-10."""
    (got, want), *rest = pairs
    close([(got[seen], want[seen]), *rest])
    close([(got[~seen], want[~seen])], 2e-3)


# ------------------------------------------------------------------------------------------------------------------------- Attention
@pytest.mark.parametrize("kind", list(masks(S)))
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention(kind: str, past: bool, unidirectional: int) -> None:
    total = S + (P if past else 0)
    for biased, summand, constant in product((False, True), (None, (B, N), (1, 1), (B, 1)), (False, True)):
        if past and summand:  # onnxruntime takes one of them
            continue
        feeds = {
            "x": normal(B, S, 12), "w": normal(12, 3 * N * H) / 3, "b": normal(3 * N * H) if biased else None, "mask": masks(total)[kind],
            "past": normal(2, B, N, P, H) if past else None, "bias": None if summand is None else normal(*summand, S, total),
        }  # fmt: skip
        spelled = feeds if biased else {**feeds, "b": np.zeros(3 * N * H, np.float32)}  # onnxruntime crashes without a bias
        fixed: Any = (lambda given: [k for k in given if k in "wb" and given[k] is not None]) if constant else lambda given: []
        attrs: dict[str, Any] = {"num_heads": N, "unidirectional": unidirectional, "constants": fixed}
        pairs = both("Attention", trimmed(feeds), trimmed(spelled), outputs=2 if past else 1, **attrs)
        close_masked(pairs, sees(feeds["mask"], total, unidirectional))


@pytest.mark.parametrize("attrs", [{"scale": 0.3}, {"mask_filter_value": -3.0}, {"qkv_hidden_sizes": [24, 24, 9]}])
def test_attention_attributes(attrs: dict[str, Any]) -> None:
    wide = sum(attrs.get("qkv_hidden_sizes", [72]))
    feeds = {"x": normal(B, S, 12), "w": normal(12, wide) / 3, "b": normal(wide), "mask": masks(S)["keys"]}
    close(both("Attention", feeds, num_heads=N, **attrs))


def test_attention_present_without_past() -> None:
    close(both("Attention", {"x": normal(B, S, 12), "w": normal(12, 3 * N * H), "b": normal(3 * N * H)}, outputs=2, num_heads=N))


@pytest.mark.parametrize(
    "attrs,reason",
    [
        ({"do_rotary": 1}, "do_rotary"),
        ({"past_present_share_buffer": 1}, "past_present_share_buffer"),
        ({}, r"a mask of shape \[2, 1, 5, 5\]"),
    ],
)
def test_attention_that_is_not_supported(attrs: dict[str, Any], reason: str) -> None:
    feeds = {"x": normal(B, S, 12), "w": normal(12, 3 * N * H), "b": normal(3 * N * H), "mask": np.ones((B, 1, S, S), np.int32)}
    with pytest.raises(rt.UnsupportedError, match=rf"\[com.microsoft.Attention\] 'n': {reason}"):
        run("Attention", feeds, num_heads=N, **attrs, **MS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("kind", ["none", "ends", "keys", "queries"])
def test_qattention(kind: str, past: bool, dtype: Any) -> None:
    total = S + (P if past else 0)
    rng = np.random.default_rng(0)
    wide = 3 * N * H
    for column, zero, unidirectional, constant in product((False, True), (False, True), (0, 1), (False, True)):
        feeds = trimmed(
            {
                "x": rng.integers(0, 256, (B, S, 12)).astype(np.uint8), "w": rng.integers(-64, 64, (12, wide)).astype(np.int8).view(dtype),
                "b": normal(wide), "x_scale": np.array(0.01, np.float32),
                "w_scale": np.linspace(0.005, 0.01, wide).astype(np.float32) if column else np.array(0.01, np.float32), "mask": masks(total)[kind],
                "x_zero": np.array(120, np.uint8) if zero else None,
                "w_zero": (np.arange(wide).astype(dtype) if column else np.array(3, dtype)) if zero else None,
                "past": normal(2, B, N, P, H) if past else None,
            }
        )  # fmt: skip
        names = ("w", "x_scale", "w_scale", "x_zero", "w_zero")
        fixed: Any = (lambda given: [k for k in given if k in names and given[k] is not None]) if constant else lambda given: []  # noqa: B023
        close(both("QAttention", feeds, outputs=2 if past else 1, num_heads=N, unidirectional=unidirectional, constants=fixed), 1e-5)


# ---------------------------------------------------------------------------------------------------------------- MultiHeadAttention
@pytest.mark.parametrize("kind", ["none", "ends", "empty", "keys", "left", "queries"])
@pytest.mark.parametrize("past", [False, True])
def test_multi_head_attention(kind: str, past: bool) -> None:
    total = S + (P if past else 0)
    for unidirectional, biased, summand in product((0, 1), (False, True), (None, (B, N), (1, 1))):
        feeds = trimmed(
            {
                "q": normal(B, S, N * H), "k": normal(B, S, N * H, seed=1), "v": normal(B, S, N * H, seed=2), "b": normal(3 * N * H) if biased else None,
                "mask": masks(total)[kind], "bias": None if summand is None else normal(*summand, S, total),
                "pk": normal(B, N, P, H) if past else None, "pv": normal(B, N, P, H, seed=4) if past else None,
            }
        )  # fmt: skip
        for outputs in (3,) if past else (1, 3):  # onnxruntime reads beyond the keys if it has past ones and nowhere to write them
            pairs = both("MultiHeadAttention", feeds, outputs=outputs, num_heads=N, unidirectional=unidirectional)
            close_masked(pairs, sees(masks(total)[kind], total, unidirectional))


@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention_across(biased: bool) -> None:
    """Other keys than queries, wider values, and keys that have their heads already."""
    for scale, mask in product((0.0, 0.4), (None, np.array([[1, 1, 0, 1, 1, 0, 1], [1] * 7], np.int32))):
        attrs: dict[str, Any] = {"num_heads": N} | ({"scale": scale} if scale else {})
        feeds = {
            "q": normal(B, S, N * H),
            "k": normal(B, 7, N * H),
            "v": normal(B, 7, N * 5),
            "b": normal(N * (2 * H + 5)) if biased else None,
            "mask": mask,
        }
        close(both("MultiHeadAttention", trimmed(feeds), **attrs))
        feeds |= {"k": normal(B, N, 7, H), "v": normal(B, N, 7, H), "b": None}
        close(both("MultiHeadAttention", trimmed(feeds), **attrs))


@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention_packed(biased: bool) -> None:
    """onnxruntime's CPU kernel takes neither packed form: against the unpacked one."""
    q, k, v = normal(B, S, N, H), normal(B, S, N, H, seed=1), normal(B, S, N, H, seed=2)
    bias = normal(3 * N * H) if biased else None
    flat: Any = lambda x: x.reshape(B, S, N * H)
    (want,) = run("MultiHeadAttention", trimmed({"q": flat(q), "k": flat(k), "v": flat(v), "b": bias}), num_heads=N, **MS)
    for feeds in (
        {"q": np.stack([q, k, v], 3), "k": None, "v": None, "b": bias},
        {"q": flat(q), "k": np.stack([k, v], 3), "v": None, "b": bias},
    ):
        close([(run("MultiHeadAttention", trimmed(feeds), num_heads=N, **MS)[0], want)])


# ------------------------------------------------------------------------------------------------------------------- RotaryEmbedding
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("each", [False, True])
def test_rotary_embedding(each: bool, dtype: Any, interleaved: int) -> None:
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 20, (B, S)) if each else np.array([7])
    for four, partial in product((False, True), (False, True)):
        half = 4 if partial else 8
        angles = rng.uniform(0, 6, (20, half))
        feeds = {
            "x": normal(B, N, S, 16, dtype=dtype) if four else normal(B, S, N * 16, dtype=dtype), "p": positions, "c": np.cos(angles).astype(dtype),
            "s": np.sin(angles).astype(dtype),
        }  # fmt: skip
        attrs = {"num_heads": N, "rotary_embedding_dim": 2 * half} if partial else {}
        close(both("RotaryEmbedding", feeds, interleaved=interleaved, **attrs), 2e-3 if dtype == np.float16 else 1e-6)
    with pytest.raises(rt.UnsupportedError, match="is_packed_batching"):
        run("RotaryEmbedding", feeds, is_packed_batching=1, **MS)


# --------------------------------------------------------------------------------------------------------------- GroupQueryAttention
def gqa(
    batch: int, tokens: int, past: int, ends: list[int] | None = None, *, capacity: int | None = None, packed: bool = False, cache: bool = False,
    positions: Array | None = None, bias: tuple[int, int] | None = None, sink: bool = False, dtype: Any = np.float32, heads: int = 4, groups: int = 2,
    size: int = 16,
) -> dict[str, Any]:  # fmt: skip
    """Inputs: `past` tokens of the longest sequence, in a buffer of `capacity`; `ends`: tokens of each sequence, all included."""
    total = past + tokens
    held = past if capacity is None else capacity
    old = held > 0 or capacity is not None
    angles = np.random.default_rng(0).uniform(0, 6, (40, size // 2))
    return trimmed(
        {
            "q": normal(batch, tokens, (heads + 2 * groups if packed else heads) * size, dtype=dtype),
            "k": None if packed else normal(batch, tokens, groups * size, dtype=dtype),
            "v": None if packed else normal(batch, tokens, groups * size, seed=1, dtype=dtype),
            "pk": normal(batch, groups, held, size, dtype=dtype) if old else None, "pv": normal(batch, groups, held, size, seed=1, dtype=dtype) if old else None,
            "ends": np.array(ends or [total] * batch, np.int32) - 1, "total": np.array(total, np.int32),
            "cos": np.cos(angles).astype(dtype) if cache else None, "sin": np.sin(angles).astype(dtype) if cache else None, "where": positions,
            "bias": None if bias is None else normal(*bias, tokens, total, dtype=dtype), "sink": normal(heads, dtype=dtype) if sink else None,
        }
    )  # fmt: skip


STEPS: dict[str, dict[str, Any]] = {
    "prompt": {"batch": 1, "tokens": 6, "past": 0},
    "prompt, empty past": {"batch": 2, "tokens": 6, "past": 0, "capacity": 0},
    "prompt, buffer": {"batch": 2, "tokens": 6, "past": 0, "capacity": 9},
    "prompt, padded": {"batch": 3, "tokens": 6, "past": 0, "ends": [6, 2, 4]},
    "prompt of one": {"batch": 2, "tokens": 1, "past": 0},
    "token": {"batch": 1, "tokens": 1, "past": 6},
    "token, buffer": {"batch": 1, "tokens": 1, "past": 6, "capacity": 12},
    "token of each": {"batch": 3, "tokens": 1, "past": 6, "ends": [7, 4, 1]},
    "token of each, buffer": {"batch": 3, "tokens": 1, "past": 6, "ends": [3, 7, 4], "capacity": 10},
    "more": {"batch": 1, "tokens": 3, "past": 6},
    "more, buffer": {"batch": 1, "tokens": 3, "past": 6, "capacity": 16},
}


@pytest.mark.parametrize("step", list(STEPS))
@pytest.mark.parametrize("packed", [False, True])
def test_group_query_attention(step: str, packed: bool) -> None:
    case = STEPS[step]
    attrs: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2}
    variants: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}), ({}, {"scale": 0.4}), ({}, {"softcap": 2.0}), ({"cache": True}, {"do_rotary": 1}), ({"cache": True}, {"do_rotary": 1, "rotary_interleaved": 1}),
        ({}, {"local_window_size": 1}), ({}, {"local_window_size": 3}), ({}, {"smooth_softmax": 1}), ({"sink": True}, {}),
        ({"sink": True}, {"local_window_size": 2, "softcap": 3.0}), ({"bias": (1, 1)}, {}), ({"bias": (1, 4)}, {"smooth_softmax": 1}),
        ({"bias": (case["batch"], 1), "sink": True}, {}), ({}, {"causal": 0}),
    ]  # fmt: skip
    for inputs, more in variants:
        pairs = both("GroupQueryAttention", gqa(**case, packed=packed, **inputs), outputs=3, **attrs, **more)
        if case["past"] == 0 and "ends" in case:  # what comes out for padding has no meaning
            valid = np.arange(case["tokens"]) < np.array(case["ends"])[:, None]
            pairs[0] = (pairs[0][0][valid], pairs[0][1][valid])
        close(pairs)


def test_group_query_attention_positions() -> None:
    attrs: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "outputs": 3}
    for case, positions in (
        (STEPS["prompt"], np.array([[3, 4, 5, 6, 7, 8]])), (STEPS["prompt"], np.array([[3, 9, 1, 0, 2, 8]])), (STEPS["more"], np.array([[3, 9, 1]])),
        (STEPS["token of each"], np.array([[9], [1], [5]])),
    ):  # fmt: skip
        close(both("GroupQueryAttention", gqa(**case, cache=True, positions=positions), **attrs))


@pytest.mark.parametrize("step", ["prompt, padded", "token of each", "more"])
def test_group_query_attention_in_half_precision(step: str) -> None:
    for heads, groups in ((4, 1), (4, 4)):
        feeds = gqa(**STEPS[step], cache=True, dtype=np.float16, heads=heads, groups=groups)
        close(both("GroupQueryAttention", feeds, outputs=3, num_heads=heads, kv_num_heads=groups, do_rotary=1), 5e-3)


def test_group_query_attention_with_normalised_heads() -> None:
    """onnxruntime has it on other devices than the CPU: against normalising before."""
    feeds = gqa(**STEPS["more"], cache=True)
    attrs: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "outputs": 3, **MS}
    weights = {"qw": normal(16) + 2, "kw": normal(16, seed=1) + 2}
    missing = dict.fromkeys(["where", "bias", "sink", "ks", "vs"])
    got = run("GroupQueryAttention", {**feeds, **missing, **weights}, qk_norm_epsilon=1e-5, **attrs)

    def normalised(x: Array, w: Array) -> Array:
        y = x.reshape(*x.shape[:2], -1, 16)
        out: Array = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5) * w
        return out.reshape(x.shape).astype(np.float32)

    feeds |= {"q": normalised(feeds["q"], weights["qw"]), "k": normalised(feeds["k"], weights["kw"])}
    close(list(zip(got, run("GroupQueryAttention", feeds, **attrs), strict=True)))


def test_group_query_attention_step_by_step() -> None:
    """One session through a prompt and eight tokens: the same as the whole sequence at once."""
    heads, groups, size, length = 4, 2, 16, 14
    whole = gqa(2, length, 0, cache=True)
    attrs: dict[str, Any] = {"num_heads": heads, "kv_num_heads": groups, "do_rotary": 1, "outputs": 3, **MS}
    want = run("GroupQueryAttention", whole, **attrs)
    at: Any = lambda first, n: {k: whole[k][:, first : first + n] for k in "qkv"}
    feeds = {**whole, **at(0, 6), "pk": np.zeros((2, groups, 0, size), np.float32), "pv": np.zeros((2, groups, 0, size), np.float32)}
    session = rt.InferenceSession(node_model("GroupQueryAttention", feeds, **attrs))
    outputs = []
    for first, n in [(0, 6), *((k, 1) for k in range(6, length))]:
        feeds |= at(first, n) | {"ends": np.full(2, first + n - 1, np.int32), "total": np.array(first + n, np.int32)}
        y, feeds["pk"], feeds["pv"] = session.run(None, feeds)
        outputs.append(y)
    close([(np.concatenate(outputs, 1), want[0]), (feeds["pk"], want[1]), (feeds["pv"], want[2])])


@pytest.mark.parametrize(
    "attrs,reason", [({"k_quant_type": "PER_TENSOR"}, "a quantised cache"), ({"qk_output": 1}, "qk_output"), ({}, "several tokens")]
)
def test_group_query_attention_that_is_not_supported(attrs: dict[str, Any], reason: str) -> None:
    feeds = gqa(2, 3, 4) if not attrs else gqa(1, 3, 0)
    with pytest.raises(rt.UnsupportedError, match=rf"\[com.microsoft.GroupQueryAttention\] 'n': {reason}"):
        run("GroupQueryAttention", feeds, num_heads=4, kv_num_heads=2, outputs=3, **attrs, **MS)
