"""LinearAttention, GatedDeltaNet and CausalConvWithState: ONNX's against onnx.reference, com.microsoft's against onnxruntime and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

from .nodes import MS, both, close, node_model, normal, run, session

Array = np.ndarray[Any, Any]
OPSET: dict[str, Any] = {"opset": 27}
RULES = ("linear", "gated", "delta", "gated_delta")


def contrib(op: str, feeds: dict[str, Any], **attrs: Any) -> list[tuple[Any, Any]]:
    """nodes.both, where this onnxruntime has the operator on the CPU."""
    ort = pytest.importorskip("onnxruntime")
    try:
        return both(op, feeds, **attrs)
    except ort.capi.onnxruntime_pybind11_state.Fail as error:
        if "is not a registered" in str(error):
            pytest.skip(f"onnxruntime {ort.__version__} has no {op}")
        raise


def packed(
    b: int, steps: int, heads: int, kv_heads: int, d: int, e: int, rule: str = "gated_delta", *, rows: bool = False, one_beta: bool = False,
    state: Any = np.float32, dtype: Any = np.float32, key_heads: int = 0, window: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The inputs of LinearAttention; keys have length 1."""
    key_heads = key_heads or kv_heads
    k = normal(b, steps, key_heads, d, seed=1)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    feeds: dict[str, Any] = {
        "query": normal(b, steps, heads * d), "key": k.reshape(b, steps, key_heads * d), "value": normal(b, steps, kv_heads * e, seed=2),
        "past": None if state is None else normal(*(window,) * bool(window), b, kv_heads, d, e, seed=3).astype(state),
        "decay": -np.abs(normal(b, steps, kv_heads * (d if rows else 1), seed=4)) if rule.startswith("gated") else None,
        "beta": np.abs(normal(b, steps, 1 if one_beta else kv_heads, seed=5)) / 3 if rule.endswith("delta") else None,
    }  # fmt: skip
    return {k: x if x is None or k == "past" else x.astype(dtype) for k, x in feeds.items()}


def against_reference(op: str, feeds: dict[str, Any], tolerance: float = 3e-6, **attrs: Any) -> None:
    given = {k: v for k, v in feeds.items() if v is not None}
    want = ReferenceEvaluator(node_model(op, feeds, outputs=2, **OPSET, **attrs)).run(None, given)
    got = run(op, feeds, outputs=2, **OPSET, **attrs)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
    close([(g.astype(np.float64), w.astype(np.float64)) for g, w in zip(got, want)], tolerance)


# ------------------------------------------------------------------------------------------------------------------ LinearAttention
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads,kv_heads", [(1, 1), (4, 2), (3, 1)])
def test_update_rules(rule: str, heads: int, kv_heads: int) -> None:
    sizes = {"q_num_heads": heads, "kv_num_heads": kv_heads, "update_rule": rule}
    against_reference("LinearAttention", packed(2, 5, heads, kv_heads, 8, 12, rule), **sizes)
    against_reference("LinearAttention", packed(1, 1, heads, kv_heads, 16, 32, rule, state=None), scale=0.3, **sizes)
    against_reference("LinearAttention", packed(2, 4, heads, kv_heads, 5, 3, rule, rows=True, one_beta=True), **sizes)


@pytest.mark.parametrize("state", [None, np.float32, np.float16])
def test_halves(state: Any) -> None:
    feeds = packed(2, 5, 4, 2, 8, 12, dtype=np.float16, state=state)
    against_reference("LinearAttention", feeds, 2e-3, q_num_heads=4, kv_num_heads=2)


def test_no_tokens_leave_the_state() -> None:
    feeds = packed(2, 0, 2, 2, 4, 5)
    y, present = run("LinearAttention", feeds, outputs=2, q_num_heads=2, kv_num_heads=2, **OPSET)
    assert y.shape == (2, 0, 10)
    np.testing.assert_array_equal(present, feeds["past"])
    y, present = run("LinearAttention", {**feeds, "past": None}, outputs=2, q_num_heads=2, kv_num_heads=2, **OPSET)
    np.testing.assert_array_equal(present, np.zeros((2, 2, 4, 5)))


def test_threads_and_calls_give_the_same_bits() -> None:
    """For any number of threads; and one call over all tokens is as many calls over one each."""
    feeds = packed(2, 7, 4, 2, 24, 80)
    attrs: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2, "outputs": 2, **OPSET}
    model = node_model("LinearAttention", feeds, **attrs)
    results = [rt.InferenceSession(model, threads=n).run(None, feeds) for n in (1, 2)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*results))
    stepwise, state = rt.InferenceSession(model), feeds["past"]
    for i in range(7):
        one = {k: state if k == "past" else v[:, i : i + 1] for k, v in feeds.items()}
        y, state = stepwise.run(None, one)
        np.testing.assert_allclose(y[:, 0], results[0][0][:, i], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state, results[0][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["LinearAttention", "GatedDeltaNet", "CausalConvWithState"])
def test_one_session_runs_many_shapes(name: str) -> None:
    """Sizes are symbolic from the second shape on."""
    attrs: dict[str, Any] = {
        "LinearAttention": {"q_num_heads": 4, "kv_num_heads": 2, "state_window": 3},
        "CausalConvWithState": {"state_window": 3},
    }
    make: dict[str, Any] = {
        "LinearAttention": lambda b, steps: packed(b, steps, 4, 2, 8, 12, window=3),
        "GatedDeltaNet": lambda b, steps: tokens(b, steps, 2, 4, 8, 12),
        "CausalConvWithState": lambda b, steps: {**inputs(b, 3, steps, 4), "past": normal(3, b, 3, 3)},
    }
    options = {"outputs": 2, **MS, **attrs.get(name, {})}
    one = session(name, make[name](1, 1), **options)
    for b, steps in [(1, 4), (1, 1), (2, 5), (2, 9), (3, 1), (1, 2), (2, 17)]:
        feeds = {k: v for k, v in make[name](b, steps).items() if v is not None}
        for got, want in zip(one.run(None, feeds), run(name, make[name](b, steps), **options), strict=True):
            assert got.shape == want.shape
            np.testing.assert_array_equal(got, want)


def test_a_step_is_one_launch() -> None:
    """Heads are views, and results are written where they belong."""
    feeds = packed(1, 3, 4, 2, 16, 32)
    s = session("LinearAttention", feeds, q_num_heads=4, kv_num_heads=2, outputs=2, **OPSET)
    s.run(None, feeds)
    report = str(s.plan_report())
    assert report.count("linear_attention") >= 1 and "map" not in report, report


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({"decay": None}, {}, "'gated_delta' needs the input decay"),
        ({"beta": None}, {}, "'gated_delta' needs the input beta"),
        ({}, {"update_rule": "delta"}, "'delta' has no input decay"),
        ({}, {"update_rule": "gated"}, "'gated' has no input beta"),
        ({}, {"update_rule": "relu"}, "expected update_rule to be one of linear, gated, delta, gated_delta, got 'relu'"),
        ({}, {"kv_num_heads": 3}, "q_num_heads 4 is not a multiple of kv_num_heads 3"),
        ({}, {"q_num_heads": 0}, "expected q_num_heads to be positive, got 0"),
        ({"query": normal(2, 5, 33)}, {}, r"expected \[batch, tokens, 4 heads \* size\], got \[2, 5, 33\]"),
        ({"key": normal(2, 5, 18)}, {}, r"expected key of shape \[2, 5, 16\], got \[2, 5, 18\]"),
        ({"value": normal(2, 4, 24)}, {}, r"expected value of shape \[2, 5, 24\], got \[2, 4, 24\]"),
        ({"past": normal(2, 2, 12, 8)}, {}, r"expected past_state of shape \[2, 2, 8, 12\], got \[2, 2, 12, 8\]"),
        ({"decay": normal(2, 5, 4)}, {}, r"expected decay of shape \[2, 5, 2 or 16\], got \[2, 5, 4\]"),
        ({"beta": normal(2, 5, 4)}, {}, r"expected beta of shape \[2, 5, 2 or 1\], got \[2, 5, 4\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds = {**packed(2, 5, 4, 2, 8, 12), **change}
    with pytest.raises(rt.PytensorRtError, match=rf"\[LinearAttention\] 'n': (update_rule )?{message}"):
        run("LinearAttention", feeds, outputs=2, **OPSET, **{"q_num_heads": 4, "kv_num_heads": 2, **attrs})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads,kv_heads,key_heads", [(2, 2, 2), (4, 2, 2), (1, 3, 3), (2, 4, 4), (2, 4, 2), (1, 2, 1)])
def test_contrib(rule: str, heads: int, kv_heads: int, key_heads: int) -> None:
    for rows, state in ((False, np.float32), (True, None)):
        feeds = packed(2, 5, heads, kv_heads, 8, 12, rule, rows=rows, key_heads=key_heads, state=state, one_beta=rows)
        close(contrib("LinearAttention", feeds, outputs=2, q_num_heads=heads, kv_num_heads=kv_heads, update_rule=rule))


def test_contrib_ignores_inputs_it_has_no_use_for() -> None:
    for rule in RULES:
        close(contrib("LinearAttention", packed(2, 3, 2, 2, 8, 12), outputs=2, q_num_heads=2, kv_num_heads=2, update_rule=rule))


def test_contrib_halves() -> None:
    for state in (np.float16, np.float32):
        feeds = packed(2, 5, 4, 2, 8, 12, dtype=np.float16, state=state)
        close(contrib("LinearAttention", feeds, outputs=2, q_num_heads=4, kv_num_heads=2), 2e-3)


@pytest.mark.parametrize("steps", [0, 1, 3, 6])
def test_windows_of_states(steps: int) -> None:
    """Against calls over ever longer prefixes. (onnxruntime has windows on GPUs only.)"""
    window = 3
    feeds = packed(2, steps, 2, 2, 4, 5, window=window)
    attrs: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2, "outputs": 2, **MS}
    y, present = run("LinearAttention", feeds, state_window=window, **attrs)
    plain = {**feeds, "past": feeds["past"][-1]}
    want, last = run("LinearAttention", plain, **attrs)
    assert y.tobytes() == want.tobytes() and present[-1].tobytes() == last.tobytes()
    for j in range(window - 1):
        n = steps - window + j + 1
        prefix = {k: v if k == "past" else v[:, :n] for k, v in plain.items()}
        expected = run("LinearAttention", prefix, **attrs)[1] if n > 0 else np.zeros_like(last)
        np.testing.assert_allclose(present[j], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(rt.PytensorRtError, match="expected state_window from 0 to 8, got 9"):
        run("LinearAttention", feeds, state_window=9, **attrs)


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(rt.PytensorRtError, match="2 query, 3 key and 3 value heads do not divide one another"):
        run("LinearAttention", packed(1, 2, 2, 3, 4, 4), q_num_heads=2, kv_num_heads=3, **MS)


# -------------------------------------------------------------------------------------------------------------------- GatedDeltaNet
def tokens(
    b: int, steps: int, heads: int, n: int, d: int, e: int, rule: str = "gated_delta", *, flat: bool = True, rows: bool = False,
    dtype: Any = np.float32, gates: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """The inputs of GatedDeltaNet."""
    lead = (b * steps,) if flat else (b, steps)
    gates = gates or dtype
    k = normal(*lead, heads, d, seed=1)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return {
        "query": normal(*lead, heads, d).astype(dtype), "key": k.astype(dtype), "value": normal(*lead, n, e, seed=2).astype(dtype), "cu_seqlens": None,
        "decay": (-np.abs(normal(*lead, n, *(d,) * rows, seed=4))).astype(gates) if rule.startswith("gated") else None,
        "beta": (np.abs(normal(*lead, n, seed=5)) / 3).astype(gates) if rule.endswith("delta") else None, "initial_state": normal(b, n, e, d, seed=6),
    }  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_gated_delta_net(rule: str) -> None:
    for b, steps, heads, n, flat, rows in [(2, 5, 2, 2, True, False), (2, 3, 2, 4, False, True), (1, 1, 1, 3, True, True)]:
        close(contrib("GatedDeltaNet", tokens(b, steps, heads, n, 8, 12, rule, flat=flat, rows=rows), outputs=2, update_rule=rule))


def test_gated_delta_net_halves() -> None:
    for gates in (np.float16, np.float32):
        feeds = tokens(2, 5, 2, 4, 8, 12, dtype=np.float16, gates=gates)
        close(contrib("GatedDeltaNet", feeds, outputs=2, qk_l2_norm=1, beta_activation="sigmoid"), 2e-3)


@pytest.mark.parametrize("flat", [True, False])
def test_packed_queries_keys_and_values(flat: bool) -> None:
    feeds = tokens(2, 4, 2, 4, 8, 12, flat=flat)
    parts = [feeds[k].reshape(*feeds[k].shape[:-2], -1) for k in ("query", "key", "value")]
    one = {**feeds, "query": np.concatenate(parts, -1), "key": None, "value": None}
    pairs = contrib("GatedDeltaNet", one, outputs=2, scale=0.7)
    close(pairs)
    close(list(zip((p[0] for p in pairs), run("GatedDeltaNet", feeds, outputs=2, scale=0.7, **MS))))


def test_without_a_state() -> None:
    close(contrib("GatedDeltaNet", {**tokens(2, 4, 2, 4, 8, 12, flat=False), "initial_state": None}, outputs=2))
    with pytest.raises(rt.PytensorRtError, match="query without a batch axis needs initial_state"):
        run("GatedDeltaNet", {**tokens(2, 4, 2, 4, 8, 12), "initial_state": None}, outputs=2, **MS)


@pytest.mark.parametrize("activation", ["softplus", "qwen", "sigmoid", "kda"])
@pytest.mark.parametrize("bias", [(4,), (4, 8), (32,)])
def test_activated_gates(activation: str, bias: tuple[int, ...]) -> None:
    feeds = {**tokens(2, 4, 2, 4, 8, 12, rows=bias != (4,)), "a_log": normal(4, seed=8) / 3, "dt_bias": normal(*bias, seed=9)}
    close(contrib("GatedDeltaNet", feeds, outputs=2, gate_activation=activation, beta_activation="sigmoid", gate_lower_bound=-3.0), 5e-6)


def test_rows_of_length_one() -> None:
    feeds = tokens(2, 4, 2, 2, 8, 12)
    feeds["query"][1] = 0
    feeds["key"][2] *= 1e-6
    close(contrib("GatedDeltaNet", feeds, outputs=2, qk_l2_norm=1))


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({"decay": None}, {}, "'gated_delta' needs the input decay"),
        ({}, {"update_rule": "linear"}, "'linear' has no input decay"),
        ({"decay": normal(8, 2)}, {}, r"expected decay of shape \[8, 4\] or \[8, 4, 8\], got \[8, 2\]"),
        ({"beta": normal(8, 2)}, {}, r"expected beta of shape \[8, 4\], got \[8, 2\]"),
        ({"initial_state": normal(2, 4, 8, 12)}, {}, r"expected initial_state of shape \[2, 4, 12, 8\], got \[2, 4, 8, 12\]"),
        ({"initial_state": normal(3, 4, 12, 8)}, {}, "8 tokens are not 3 sequences of one length"),
        ({"value": normal(8, 3, 12)}, {}, "3 value heads are not a multiple of 2 query heads"),
        ({"key": None, "value": None}, {}, "expected query, key and value"),
        ({"key": None, "value": None, "query": normal(8, 50)}, {}, r"a query of width 50 is not 2 \* heads \* 8 \+ 48"),
        ({}, {"gate_activation": "softplus"}, "gate_activation 'softplus' needs a_log and dt_bias"),
        ({}, {"gate_activation": "tanh"}, "expected gate_activation to be none, softplus or sigmoid, got 'tanh'"),
        ({}, {"beta_activation": "tanh"}, "expected beta_activation to be none or sigmoid, got 'tanh'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_gated_delta_net(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    feeds = {**tokens(2, 4, 2, 4, 8, 12), **change}
    if change.get("value") is not None:
        feeds |= {"initial_state": normal(2, 3, 12, 8), "decay": normal(8, 3), "beta": normal(8, 3)}
    if feeds["key"] is None and feeds["query"].ndim == 3:
        feeds["query"] = feeds["query"][:, :, :, None]
    with pytest.raises(rt.PytensorRtError, match=rf"\[com.microsoft.GatedDeltaNet\] 'n': .*{message}"):
        run("GatedDeltaNet", feeds, outputs=2, **MS, **attrs)


def test_what_a_gated_delta_net_does_not_do() -> None:
    feeds = tokens(2, 4, 2, 4, 8, 12)
    with pytest.raises(rt.UnsupportedError, match="cu_seqlens"):
        run("GatedDeltaNet", {**feeds, "cu_seqlens": np.array([0, 4, 8], np.int32)}, outputs=2, **MS)
    with pytest.raises(rt.UnsupportedError, match="state_update"):
        run("GatedDeltaNet", feeds, outputs=3, state_update_capacity=2, **MS)


# -------------------------------------------------------------------------------------------------------------- CausalConvWithState
def inputs(b: int, c: int, length: int, k: int, dilation: int = 1, past: bool = True, dtype: Any = np.float32) -> dict[str, Any]:
    feeds = {"x": normal(b, c, length), "w": normal(c, 1, k), "b": normal(c), "past": normal(b, c, (k - 1) * dilation) if past else None}
    return {k: v if v is None else v.astype(dtype) for k, v in feeds.items()}


@pytest.mark.parametrize("activation", ["none", "silu", "swish"])
def test_causal_conv(activation: str) -> None:
    for b, c, length, k in [(2, 3, 5, 4), (1, 8, 1, 4), (1, 2, 2, 6), (2, 3, 4, 1)]:
        feeds = inputs(b, c, length, k)
        against_reference("CausalConvWithState", feeds, activation=activation)
        against_reference("CausalConvWithState", {**feeds, "b": None, "past": None}, activation=activation)
        close(contrib("CausalConvWithState", feeds, outputs=2, activation=activation))
    against_reference("CausalConvWithState", inputs(2, 3, 5, 4, dtype=np.float16), 5e-3, activation=activation)


def test_a_conv_of_nothing_keeps_its_state() -> None:
    feeds = inputs(2, 3, 0, 4)
    y, present = run("CausalConvWithState", feeds, outputs=2, **OPSET)
    assert y.shape == (2, 3, 0)
    np.testing.assert_array_equal(present, feeds["past"])


def test_dilated_conv() -> None:
    for length, past in ((5, True), (9, False), (1, True)):
        close(contrib("CausalConvWithState", inputs(2, 3, length, 4, 2, past), outputs=2, dilation=2, activation="silu"))


@pytest.mark.parametrize("last", [(6,), (3, 2)])
def test_channels_last(last: tuple[int, ...]) -> None:
    for past in (True, False):
        feeds = {"x": normal(2, 5, *last), "w": normal(6, 1, 4), "b": normal(6), "past": normal(2, 3, *last) if past else None}
        close(contrib("CausalConvWithState", feeds, outputs=2, channels_last=1, activation="silu"))


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("length", [0, 1, 2, 6])
def test_windows_of_histories(length: int, channels_last: int) -> None:
    """Against calls over ever longer prefixes. (onnxruntime has windows on GPUs only.)"""
    window = 4
    turn: Any = (lambda a: np.swapaxes(a, -1, -2)) if channels_last else lambda a: a
    feeds = inputs(2, 3, length, 4)
    states = normal(window, 2, 3, 3)
    given = {**feeds, "x": turn(feeds["x"]), "past": turn(states)}
    y, present = run("CausalConvWithState", given, outputs=2, state_window=window, channels_last=channels_last, **MS)
    feeds["past"] = states[-1]
    want, last = run("CausalConvWithState", feeds, outputs=2, **MS)
    np.testing.assert_array_equal(turn(y), want)
    np.testing.assert_array_equal(turn(present)[-1], last)
    for j in range(window - 1):
        n = length - window + j + 1
        expected = run("CausalConvWithState", {**feeds, "x": feeds["x"][:, :, :n]}, outputs=2, **MS)[1] if n > 0 else np.zeros_like(last)
        np.testing.assert_array_equal(turn(present)[j], expected)


def test_more_axes() -> None:
    """The last one is causal, the others see as far before as behind. (onnxruntime refuses these on the CPU.)"""
    for spatial, kernel in [((4, 5), (3, 2)), ((3, 4, 5), (1, 3, 3))]:
        x, w, b = normal(2, 3, *spatial), normal(3, 1, *kernel), normal(3)
        past = normal(2, 3, *spatial[:-1], (kernel[-1] - 1) * 2)
        y, present = run("CausalConvWithState", {"x": x, "w": w, "b": b, "past": past}, outputs=2, ndim=len(spatial), dilation=2, **MS)
        whole = np.concatenate([past, x], -1)
        np.testing.assert_array_equal(present, whole[..., spatial[-1] :])
        wide = np.pad(whole, [(0, 0)] * 2 + [(k // 2, k // 2) for k in kernel[:-1]] + [(0, 0)])
        want = np.zeros(x.shape) + b.reshape(3, *(1,) * len(spatial))
        for at in np.ndindex(*kernel):
            part = wide[(..., *(slice(i, i + n) for i, n in zip(at[:-1], spatial)), slice(2 * at[-1], 2 * at[-1] + spatial[-1]))]
            want += part * w[(slice(None), 0, *at)].reshape(3, *(1,) * len(spatial))
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change,attrs,message",
    [
        ({"w": normal(4, 1, 4)}, {}, r"expected weight of shape \[3, 1\] and 1 axes of a window, got \[4, 1, 4\]"),
        ({"b": normal(4)}, {}, r"expected bias of shape \[3\], got \[4\]"),
        ({"past": normal(2, 3, 4)}, {}, r"expected past_state of shape \[2, 3, 3\], got \[2, 3, 4\]"),
        ({}, {"activation": "relu"}, "expected activation to be none, silu or swish, got 'relu'"),
        ({}, {"ndim": 2}, "expected input of rank 4, got 3"),
        ({}, {"dilation": 0}, "expected ndim from 1 to 3 and a positive dilation, got 1 and 0"),
        ({}, {"state_window": -1}, "expected state_window from 0 to 8, got -1"),
        ({}, {"channels_last": 1}, r"expected past_state to end in \[5\], got \[2, 3, 3\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_causal_conv(change: dict[str, Any], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(rt.PytensorRtError, match=rf"\[com.microsoft.CausalConvWithState\] 'n': {message}"):
        run("CausalConvWithState", {**inputs(2, 3, 5, 4), **change}, outputs=2, **MS, **attrs)


@pytest.mark.parametrize("name", ["state_length", "input_channels", "input_channel_offset", "state_channels_last", "state_update_capacity"])
def test_what_a_causal_conv_does_not_do(name: str) -> None:
    with pytest.raises(rt.UnsupportedError, match=name):
        run("CausalConvWithState", inputs(2, 3, 5, 4), outputs=2, **MS, more={name: 1})
