"""ONNX's own Attention and RotaryEmbedding, against the reference: random shapes, masks and pasts of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from .nodes import node_model, run

Feeds = dict[str, Any]


def check(op: str, feeds: Feeds, outputs: int = 1, opset: int = 24, **attrs: Any) -> list[Any]:
    proto = node_model(op, feeds, outputs=outputs, opset=opset, **attrs)
    given = {k: v for k, v in feeds.items() if v is not None}
    got = run(op, feeds, outputs=outputs, opset=opset, **attrs)
    for g, w in zip(got, ReferenceEvaluator(proto).run(None, given)):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=2e-5)
    return got


@pytest.mark.parametrize("seed", range(40))
def test_attention(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normal: Any = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    batch, groups, per, tokens, new, past, size, width = (int(rng.integers(1, n)) for n in (4, 4, 4, 9, 12, 7, 17, 17))
    heads, attrs, feeds = groups * per, {}, {}
    if rng.random() < 0.5:
        feeds |= {"q": normal(batch, heads, tokens, size), "k": normal(batch, groups, new, size), "v": normal(batch, groups, new, width)}
    else:
        feeds |= {"q": normal(batch, tokens, heads * size), "k": normal(batch, new, groups * size), "v": normal(batch, new, groups * width)}
        attrs |= {"q_num_heads": heads, "kv_num_heads": groups}
    cached = rng.random() < 0.5
    total = new + past if cached else new
    if rng.random() < 0.5:
        attrs["is_causal"] = 1
    kind = rng.choice(["none", "float", "bool"])
    feeds["mask"] = None
    if kind != "none":
        rows = tokens if attrs.get("is_causal") else 1  # the reference takes the number of queries from the mask
        shape = ((tokens, total), (heads, tokens, total), (batch, 1, tokens, total), (1, heads, rows, total))[int(rng.integers(4))]
        feeds["mask"] = rng.random(shape) < 0.7 if kind == "bool" else normal(*shape)
    feeds |= (
        {"past_k": normal(batch, groups, past, size), "past_v": normal(batch, groups, past, width)}
        if cached
        else {"past_k": None, "past_v": None}
    )
    feeds["lengths"] = rng.integers(1, total + 1, batch) if not cached and rng.random() < 0.5 else None
    if rng.random() < 0.3:
        attrs["softcap"] = 1.5
    if rng.random() < 0.3:
        attrs["scale"] = 0.3
    check("Attention", feeds, outputs=int(rng.choice([1, 3])) if cached else 1, **attrs)


@pytest.mark.parametrize("mode", range(4))
def test_scores_as_an_output(mode: int) -> None:
    rng = np.random.default_rng(mode)
    q, k, v = (rng.standard_normal((2, 3, n, 8)).astype(np.float32) for n in (4, 6, 6))
    capped = {"softcap": 2.0} if mode else {}  # (the reference caps the scores of mode 0, too)
    check("Attention", {"q": q, "k": k, "v": v}, outputs=4, is_causal=1, qk_matmul_output_mode=mode, **capped)


def test_rows_without_a_visible_key_are_zero() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 2, 5, 8)).astype(np.float32) for _ in range(3))
    mask = np.ones((5, 5), bool)
    mask[2] = False
    (y,) = run("Attention", {"q": q, "k": k, "v": v, "mask": mask}, opset=24)
    assert not y[:, :, 2].any()
    assert np.isfinite(y).all()


def test_masks_that_end_before_the_last_key_hide_the_rest() -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((1, 2, n, 8)).astype(np.float32) for n in (5, 9, 9))
    check("Attention", {"q": q, "k": k, "v": v, "mask": rng.standard_normal((5, 6)).astype(np.float32)})
    check("Attention", {"q": q, "k": k, "v": v, "mask": rng.random((2, 5, 6)) < 0.8})


@pytest.mark.parametrize("seed", range(12))
def test_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k, v, past_k, past_v = (rng.standard_normal((2, 2, n, 8)).astype(np.float32) for n in (4, 6, 6, 5, 5))
    feeds: Feeds = {
        "q": q,
        "k": k,
        "v": v,
        "mask": None if seed % 2 else rng.standard_normal((4, 11)).astype(np.float32),
        "past_k": past_k,
        "past_v": past_v,
    }
    attrs: Any = {
        "left_window_size": int(rng.integers(-1, 5)),
        "right_window_size": int(rng.integers(-1, 5)),
        "is_causal": int(rng.integers(2)),
    }
    check("Attention", feeds, opset=25, **attrs)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(interleaved: int, flat: bool) -> None:
    rng = np.random.default_rng(3)
    for batch, heads, tokens, size, turned, positions in [(2, 3, 5, 8, 0, False), (1, 4, 7, 16, 6, True), (3, 1, 1, 2, 0, True)]:
        x = rng.standard_normal((batch, heads, tokens, size)).astype(np.float32)
        if flat:
            x = x.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * size)
        shape = (20, (turned or size) // 2) if positions else (batch, tokens, (turned or size) // 2)
        feeds: Feeds = {"x": x, **{n: rng.standard_normal(shape).astype(np.float32) for n in ("cos", "sin")}}
        if positions:
            feeds["at"] = rng.integers(0, 20, (batch, tokens))
        check(
            "RotaryEmbedding",
            feeds,
            opset=23,
            interleaved=interleaved,
            rotary_embedding_dim=turned,
            **({"num_heads": heads} if flat else {}),
        )
