"""Kernel `recurrent` against a float64 reference, and both against onnxruntime's LSTM, GRU, RNN and DynamicQuantizeLSTM."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from pytensor_rt._native import LaunchError

from pytensor_rt.kernels.spec import ACTIVATIONS
from tests.kernels.harness import run, strided

Array = np.ndarray[Any, Any]
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
DEFAULTS = {"lstm": ["sigmoid", "tanh", "tanh"], "gru": ["sigmoid", "tanh"], "rnn": ["tanh"]}
ONNX_NAMES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine", "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu", "scaled_tanh": "ScaledTanh", "hard_sigmoid": "HardSigmoid", "elu": "Elu", "softsign": "Softsign",
    "softplus": "Softplus",
}  # fmt: skip
USES_ALPHA = {"affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu"}
USES_BETA = {"affine", "scaled_tanh", "hard_sigmoid"}


def activation(name: str, a: float, b: float, x: Array) -> Array:
    y: Array = {
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "tanh": lambda: np.tanh(x),
        "relu": lambda: np.maximum(x, 0),
        "affine": lambda: a * x + b,
        "leaky_relu": lambda: np.where(x < 0, a * x, x),
        "thresholded_relu": lambda: np.where(x < a, 0, x),
        "scaled_tanh": lambda: a * np.tanh(b * x),
        "hard_sigmoid": lambda: np.clip(a * x + b, 0, 1),
        "elu": lambda: np.where(x < 0, a * np.expm1(x), x),
        "softsign": lambda: x / (1 + np.abs(x)),
        "softplus": lambda: np.log1p(np.exp(x)),
    }[name]()
    return y


class Case:
    """One random layer. `names` holds one activation per gate function and direction."""

    def __init__(self, cell: str, t: int, n: int, i: int, h: int, seed: int = 0, **o: Any) -> None:
        rng = np.random.default_rng(seed)
        self.cell, self.t, self.n, self.i, self.h = cell, t, n, i, h
        self.direction = o.get("direction", "forward")
        d = self.d = 2 if self.direction == "bidirectional" else 1
        g = GATES[cell]
        self.names: list[str] = o.get("names") or DEFAULTS[cell] * d
        self.alphas: list[float] = o.get("alphas") or [0.3 + 0.1 * k for k in range(len(self.names))]
        self.betas: list[float] = o.get("betas") or [0.4 + 0.1 * k for k in range(len(self.names))]
        self.clip, self.lbr, self.input_forget = o.get("clip", 0.0), o.get("lbr", 0), o.get("input_forget", 0)

        def make(*shape: int, scale: float = 1.0) -> Array:
            return (rng.standard_normal(shape) * scale).astype(np.float32)

        self.x = make(t, n, i)
        self.w, self.r = make(d, g * h, i, scale=0.6 / np.sqrt(max(i, 1))), make(d, g * h, h, scale=0.6 / np.sqrt(h))
        self.b = make(d, 2 * g * h, scale=0.3) if o.get("bias", True) else None
        self.lengths = rng.integers(0, t + 1, n).astype(np.int32) if o.get("lengths") else None
        self.h0 = make(d, n, h) if o.get("initial") else None
        self.c0 = make(d, n, h) if o.get("initial") and cell == "lstm" else None
        self.p = make(d, 3 * h, scale=0.5) if o.get("peepholes") else None

    def params(self) -> dict[str, Any]:
        return {
            "cell": self.cell, "direction": self.direction, "activations": [ACTIVATIONS.index(a) for a in self.names], "alphas": self.alphas,
            "betas": self.betas, "clip": self.clip, "linear_before_reset": self.lbr, "input_forget": self.input_forget,
        }  # fmt: skip

    def inputs(self) -> list[Array | None]:
        return [self.x, self.w, self.r, self.b, self.lengths, self.h0, self.c0, self.p]

    def out_shapes(self, dtype: Any = np.float32) -> list[Any]:
        d, h = self.d, self.h
        outs = [((self.t, d, self.n, h), dtype), ((d, self.n, h), dtype)]
        return [*outs, ((d, self.n, h), dtype) if self.cell == "lstm" else None]

    def reference(self) -> list[Array]:
        h, cast = self.h, lambda a: None if a is None else a.astype(np.float64)
        x, w, r, b, p = cast(self.x), cast(self.w), cast(self.r), cast(self.b), cast(self.p)
        y = np.zeros((self.t, self.d, self.n, h))
        y_h, y_c = np.zeros((self.d, self.n, h)), np.zeros((self.d, self.n, h))
        for d in range(self.d):
            backwards = self.direction == "reverse" or d == 1
            count = len(DEFAULTS[self.cell])
            acts = [lambda v, k=k: activation(self.names[k], self.alphas[k], self.betas[k], v) for k in range(d * count, (d + 1) * count)]
            bias = np.zeros(2 * GATES[self.cell] * h) if b is None else b[d]
            wb, rb = np.split(bias, 2)
            for n in range(self.n):
                length = self.t if self.lengths is None else int(self.lengths[n])
                hs = np.zeros(h) if self.h0 is None else self.h0[d, n].astype(np.float64)
                cs = np.zeros(h) if self.c0 is None else self.c0[d, n].astype(np.float64)
                for s in range(length):
                    t = length - 1 - s if backwards else s
                    hs, cs = self.step(w[d] @ x[t, n] + wb, r[d], rb, hs, cs, None if p is None else p[d], acts)
                    y[t, d, n] = hs
                if length:
                    y_h[d, n], y_c[d, n] = hs, cs
        return [y, y_h] + ([y_c] if self.cell == "lstm" else [])

    def step(self, wx: Array, r: Array, rb: Array, h: Array, c: Array, p: Array | None, acts: list[Any]) -> tuple[Array, Array]:
        def clip(v: Array) -> Array:
            return np.clip(v, -self.clip, self.clip) if self.clip else v

        k = self.h
        if self.cell == "rnn":
            return acts[0](clip(wx + r @ h + rb)), c
        if self.cell == "gru":
            z, reset = np.split(acts[0](clip((wx + r @ h + rb)[: 2 * k])), 2)
            if self.lbr:
                cand = wx[2 * k :] + reset * (r[2 * k :] @ h + rb[2 * k :])
            else:
                cand = wx[2 * k :] + r[2 * k :] @ (reset * h) + rb[2 * k :]
            return (1 - z) * acts[1](clip(cand)) + z * h, c
        gi, go, gf, gc = np.split(wx + r @ h + rb, 4)
        pi, po, pf = np.split(np.zeros(3 * k) if p is None else p, 3)
        i = acts[0](clip(gi + pi * c))
        f = 1 - i if self.input_forget else acts[0](clip(gf + pf * c))
        c = f * c + i * acts[1](clip(gc))
        return acts[0](clip(go + po * c)) * acts[2](c), c

    def onnxruntime(self) -> list[Array]:
        """The same layer as a one-node model (inputs that are absent here are absent there)."""
        names = ["x", "w", "r", "b", "lengths", "h0", "c0", "p"][: 8 if self.cell == "lstm" else 6]
        values = dict(zip(names, self.inputs()))
        attributes: dict[str, Any] = {
            "hidden_size": self.h, "direction": self.direction, "activations": [ONNX_NAMES[a] for a in self.names],
            "activation_alpha": [a for a, name in zip(self.alphas, self.names) if name in USES_ALPHA],
            "activation_beta": [a for a, name in zip(self.betas, self.names) if name in USES_BETA],
        }  # fmt: skip
        if self.clip:
            attributes["clip"] = self.clip
        if self.cell == "gru":
            attributes["linear_before_reset"] = self.lbr
        if self.cell == "lstm":
            attributes["input_forget"] = self.input_forget
        outputs = ["y", "y_h"] + (["y_c"] if self.cell == "lstm" else [])
        attributes = {k: v for k, v in attributes.items() if v != []}
        node = helper.make_node(self.cell.upper(), [k if values[k] is not None else "" for k in names], outputs, **attributes)
        return run_onnxruntime(node, values, outputs)


def run_onnxruntime(node: Any, values: dict[str, Array | None], outputs: list[str]) -> list[Array]:
    ort = pytest.importorskip("onnxruntime")
    given = {k: v for k, v in values.items() if v is not None}
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items()],
        [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, None) for k in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    results: list[Array] = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, given)
    return results


def check(case: Case, **options: Any) -> list[Array]:
    expected = case.reference()
    got = run("recurrent", case.inputs(), case.out_shapes(), case.params(), **options)
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    two = run("recurrent", case.inputs(), case.out_shapes(), case.params(), **{**options, "threads": 2})
    for a, c in zip(got, two):
        assert a is None or a.tobytes() == c.tobytes()
    return [a for a in got if a is not None]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cell,lbr", [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 1, 7, 16), (4, 3, 33, 20), (3, 5, 16, 33), (2, 30, 9, 17), (9, 2, 40, 64)])
def test_shapes(cell: str, lbr: int, direction: str, shape: tuple[int, int, int, int]) -> None:
    for k, extra in enumerate([{}, {"lengths": True, "initial": True}, {"bias": False, "initial": True}]):
        case = Case(cell, *shape, seed=k, direction=direction, lbr=lbr, **extra)
        got = check(case, consts=(1, 2, 3) if k else ())
        if case.lengths is None or (case.lengths > 0).all():  # onnxruntime's GRU and RNN disagree among themselves about length 0
            for a, b in zip(got, case.onnxruntime()):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("cell,lbr,h", [("lstm", 0, 130), ("gru", 0, 150), ("gru", 1, 150), ("rnn", 0, 261)])
def test_hidden_units_divided_over_threads(cell: str, lbr: int, h: int, direction: str) -> None:
    """A recurrent matrix of 256 KB and more: with more threads than directions, each does some of the units of every step."""
    for k, extra in enumerate([{}, {"lengths": True, "initial": True, "clip": 0.6}]):
        case = Case(cell, 6, 1 + 2 * k, 7, h, seed=k, direction=direction, lbr=lbr, **extra)
        described: list[str] = []
        one = run("recurrent", case.inputs(), case.out_shapes(), case.params(), describe=described, consts=(1, 2, 3))
        if described:
            assert "units" in described[0]
        for a, b in zip(one, case.reference()):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
        for threads in (2, 3, 5):
            got = run("recurrent", case.inputs(), case.out_shapes(), case.params(), threads=threads, consts=(1, 2, 3))
            for a, c in zip(one, got):
                assert a is None or a.tobytes() == c.tobytes(), threads


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("sequences", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "cell,h", [("lstm", 5), ("lstm", 48), ("lstm", 150), ("gru", 5), ("gru", 48), ("gru", 33), ("gru", 150), ("gru", 290)]
)
def test_products_and_gates_of_few_sequences_at_once(cell: str, h: int, sequences: int, direction: str) -> None:
    """Odd and even numbers of blocks of units, of steps, and of steps per stretch of input products."""
    for steps in (1, 4, 7, 700 if h == 150 and sequences < 3 else 5):
        case = Case(cell, steps, sequences, 3, h, seed=h + steps, direction=direction, lbr=1, initial=True)
        described: list[str] = []
        one = run("recurrent", case.inputs(), case.out_shapes(), case.params(), describe=described, consts=(1, 2, 3))
        if described:
            assert sequences > 2 or "whole steps" in described[0]  # (AVX2 and SSE take three and more sequences apart)
        for a, b in zip(one, case.reference()):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
        got = run("recurrent", case.inputs(), case.out_shapes(), case.params(), threads=3, consts=(1, 2, 3))
        for a, c in zip(one, got):
            assert a is None or a.tobytes() == c.tobytes()


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(cell: str, name: str) -> None:
    for k in range(len(DEFAULTS[cell])):
        names = DEFAULTS[cell] * 2
        names[k] = names[-1 - k] = name
        case = Case(cell, 3, 2, 5, 18, seed=k, direction="bidirectional", names=names, lbr=k, initial=True)
        got = check(case)
        for a, b in zip(got, case.onnxruntime()):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("cell,lbr", [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)])
@pytest.mark.parametrize("peepholes,input_forget,clip", [(1, 0, 0.0), (0, 1, 0.0), (1, 1, 0.5), (0, 0, 0.3)])
def test_attributes(cell: str, lbr: int, peepholes: int, input_forget: int, clip: float) -> None:
    if cell != "lstm" and not clip:
        clip = 0.7
    options = {"peepholes": peepholes, "input_forget": input_forget} if cell == "lstm" else {}
    case = Case(cell, 4, 3, 6, 21, direction="bidirectional", lbr=lbr, clip=clip, initial=True, **options)
    got = check(case)
    for a, b in zip(got, case.onnxruntime()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("cell,lbr", [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)])
def test_strides_and_absent_outputs(cell: str, lbr: int) -> None:
    rng = np.random.default_rng(3)
    for seed in range(12):
        t, n, i, h = (int(v) for v in rng.integers(1, [7, 6, 20, 40]))
        direction = ["forward", "reverse", "bidirectional"][seed % 3]
        case = Case(cell, t, n, i, h, seed=seed, direction=direction, lbr=lbr, lengths=seed % 2, initial=True)
        expected = case.reference()
        ins = [None if a is None else strided(rng, a) for a in case.inputs()]
        outs = [None if o is None else strided(rng, np.full(*o[:1], np.nan, o[1])) for o in case.out_shapes()]
        absent = seed % 4
        if absent < 3 and outs[absent] is not None:
            outs[absent] = None
        got = run("recurrent", ins, outs, case.params(), consts=(1, 2) if seed % 3 else ())
        for a, b in zip(got, expected):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype,tolerance", [(np.float64, 1e-12), (np.float16, 2e-3), (ml_dtypes.bfloat16, 1.5e-2)])
@pytest.mark.parametrize("cell,lbr", [("lstm", 0), ("gru", 0), ("gru", 1), ("rnn", 0)])
def test_dtypes(cell: str, lbr: int, dtype: Any, tolerance: float) -> None:
    case = Case(cell, 6, 3, 11, 19, direction="bidirectional", lbr=lbr, initial=True, lengths=True)
    for name in ("x", "w", "r", "b", "h0", "c0", "p"):
        value = getattr(case, name)
        setattr(case, name, None if value is None else value.astype(dtype))
    got = run("recurrent", case.inputs(), case.out_shapes(dtype), case.params(), consts=(1,))
    for a, b in zip(got, case.reference()):
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=tolerance, atol=tolerance)


def test_long_and_wide_runs_cross_stretches() -> None:
    check(Case("lstm", 300, 2, 8, 128, direction="bidirectional", lengths=True), consts=(1, 2))
    check(Case("gru", 150, 3, 8, 200, direction="reverse", lengths=True), consts=(1, 2))
    check(Case("rnn", 3, 1, 1024, 30))  # a pitch of 4096 bytes


def test_zero_sizes() -> None:
    case = Case("lstm", 3, 2, 0, 5, initial=True)
    check(case)
    check(Case("lstm", 0, 2, 4, 5, initial=True))


def test_bad_lengths_are_refused() -> None:
    case = Case("lstm", 3, 2, 4, 5, lengths=True)
    for bad in (-1, 4):
        case.lengths = np.array([1, bad], np.int32)
        with pytest.raises(LaunchError, match="sequence length"):
            run("recurrent", case.inputs(), case.out_shapes(), case.params())


def test_gates_over_the_whole_range() -> None:
    """One step whose gate sums are given values: the bounds that recurrent_gates.h states, infinities and NaN included."""
    h = 4001
    sums = np.linspace(-12, 12, h).astype(np.float32)
    case = Case("rnn", 1, 1, 1, h, bias=False)
    case.x[...], case.w[0, :, 0], case.r = 1, sums, np.zeros_like(case.r)
    exact = np.tanh(sums.astype(np.float64))
    y = run("recurrent", case.inputs(), case.out_shapes(), case.params())[1][0, 0]
    assert (np.abs(y - exact) <= 6 * np.spacing(np.abs(exact).astype(np.float32))).all()
    rng = np.random.default_rng(0)
    lstm = Case("lstm", 1, 1, 1, h, bias=False, initial=True)
    lstm.x[...], lstm.r, lstm.h0 = 1, np.zeros_like(lstm.r), np.zeros_like(lstm.h0)
    lstm.w[0, :, 0] = rng.permuted(np.tile(sums * 4, (4, 1)), axis=1).ravel()
    lstm.c0[...] = rng.uniform(-20, 20, h)
    for a, b in zip(run("recurrent", lstm.inputs(), lstm.out_shapes(), lstm.params())[1:], lstm.reference()[1:]):
        assert (np.abs(a - b) <= 6e-7 * np.maximum(1, np.abs(lstm.c0))).all()
    gru = Case("gru", 1, 1, 1, h, bias=False, initial=True, lbr=1)
    gru.x[...], gru.r, gru.h0[...] = 1, np.zeros_like(gru.r), rng.uniform(-3, 3, h)
    gru.h0[:, :, ::2] = 0
    gru.w[0, :, 0] = rng.permuted(np.tile(sums, (3, 1)), axis=1).ravel()
    np.testing.assert_allclose(  # saturated gates included: where h0 is 0 the result is as small as 1 - z
        run("recurrent", gru.inputs(), gru.out_shapes(), gru.params())[1], gru.reference()[1], rtol=3e-6, atol=1e-7
    )
    assert (np.abs(gru.reference()[1]) < 1e-4).any()
    for bad, want in ((np.inf, 1.0), (-np.inf, -1.0), (np.nan, np.nan)):
        case.w[0, 7, 0] = bad
        assert np.array_equal(run("recurrent", case.inputs(), case.out_shapes(), case.params())[1][0, 0, 7].round(6), want, equal_nan=True)
    lstm.w[0, [3, h + 5, 2 * h + 9, 3 * h + 11], 0] = np.nan
    y_h, y_c = run("recurrent", lstm.inputs(), lstm.out_shapes(), lstm.params())[1:]
    assert np.flatnonzero(np.isnan(y_h)).tolist() == [3, 5, 9, 11] and np.flatnonzero(np.isnan(y_c)).tolist() == [3, 9, 11]


def quantised_case(seed: int, signed: bool, per_channel: bool, **shape: Any) -> tuple[Case, list[Array | None]]:
    """A random layer with its weights quantised as DynamicQuantizeLSTM expects them (zero points of uint8 weights are not 128)."""
    rng = np.random.default_rng(seed)
    case = Case("lstm", shape["t"], shape["n"], shape["i"], shape["h"], seed=seed, direction=shape.get("direction", "forward"),
                lengths=shape.get("lengths"), initial=True, peepholes=shape.get("peepholes"))  # fmt: skip
    extra: list[Array | None] = []
    packed = []
    for k in (case.i, case.h):
        channels = (case.d, 4 * case.h) if per_channel else (case.d,)
        scale = rng.uniform(0.002, 0.006, channels).astype(np.float32)
        zero = np.zeros(channels, np.int8) if signed else np.full(channels, int(rng.integers(110, 140)), np.uint8)
        packed.append(rng.integers(-127 if signed else 0, 127 if signed else 256, (case.d, k, 4 * case.h)).astype(zero.dtype))
        extra += [scale, zero]
    case.w, case.r = packed
    return case, [*case.inputs(), *extra]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantised(direction: str, signed: bool, per_channel: bool) -> None:
    names = ["x", "w", "r", "b", "lengths", "h0", "c0", "p", "w_scale", "w_zero", "r_scale", "r_zero"]
    for seed, (t, n, i, h) in enumerate([(1, 1, 5, 3), (7, 1, 16, 20), (6, 3, 11, 17), (5, 6, 33, 40), (3, 13, 70, 130)]):
        options = {"direction": direction, "lengths": seed % 2 == 0 and n > 1, "peepholes": seed == 3}
        case, ins = quantised_case(seed, signed, per_channel, t=t, n=n, i=i, h=h, **options)
        got = run("recurrent", ins, case.out_shapes(), case.params(), consts=(1, 2, 9, 11) if seed % 2 else ())
        two = run("recurrent", ins, case.out_shapes(), case.params(), threads=2)
        for a, b in zip(got, two):
            assert a.tobytes() == b.tobytes()
        node = helper.make_node(
            "DynamicQuantizeLSTM", [k if v is not None else "" for k, v in zip(names, ins)], ["y", "y_h", "y_c"], domain="com.microsoft",
            hidden_size=h, direction=direction,
        )  # fmt: skip
        for a, b in zip(got, run_onnxruntime(node, dict(zip(names, ins)), ["y", "y_h", "y_c"])):
            np.testing.assert_allclose(a, b, atol=3e-5)
