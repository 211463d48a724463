"""recurrent of the NumPy backend against onnxruntime (onnx.reference ignores most attributes)."""

from __future__ import annotations

import numpy as np
import pytest

from pytensor_rt.dtypes import F32, I32, U8
from pytensor_rt.kernels.ref import execute
from pytensor_rt.kernels.spec import ACTIVATIONS

from .onnx_oracle import check, ort_run

RNG = np.random.default_rng(0)
T, N, I, H = 5, 3, 4, 6
OPS = {"lstm": ("LSTM", 4, ("sigmoid", "tanh", "tanh")), "gru": ("GRU", 3, ("sigmoid", "tanh")), "rnn": ("RNN", 1, ("tanh",))}
ONNX_NAMES = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine", "leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh", "hard_sigmoid": "HardSigmoid", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip


def floats(*shape):
    return RNG.uniform(-0.7, 0.7, shape).astype(F32)


def operands(cell, dirs, *, state=True, lengths=None, peephole=False):
    g = OPS[cell][1]
    ins = [floats(T, N, I), floats(dirs, g * H, I), floats(dirs, g * H, H), floats(dirs, 2 * g * H), lengths]
    ins += [floats(dirs, N, H) if state else None]
    if cell == "lstm":
        ins += [floats(dirs, N, H) if state else None, floats(dirs, 3 * H) if peephole else None]
    return ins


def params(cell, direction="forward", activations=None, **more):
    dirs = 2 if direction == "bidirectional" else 1
    names = list(activations or OPS[cell][2]) * dirs
    return {"cell": cell, "direction": direction, "activations": tuple(ACTIVATIONS.index(n) for n in names), **more}


@pytest.mark.parametrize("cell", OPS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_directions_and_lengths(cell, direction, lengths):
    dirs = 2 if direction == "bidirectional" else 1
    for state in (False, True):
        ins = operands(cell, dirs, state=state, lengths=None if lengths is None else np.array(lengths, I32), peephole=state)
        want = ort_run(OPS[cell][0], ins, 3 if cell == "lstm" else 2, hidden_size=H, direction=direction)
        check("recurrent", ins, want, params(cell, direction), atol=1e-5)


@pytest.mark.parametrize("cell", OPS)
def test_activations(cell):
    ins = operands(cell, 1)
    ins[0] = ins[0][:2]  # short: some of these functions are unbounded, and float32 would drift from float64
    for name in ACTIVATIONS:
        alpha, beta = {"affine": (0.6, 0.1), "scaled_tanh": (1.2, 0.7), "hard_sigmoid": (0.3, 0.4)}.get(name, (0.2, 0.0))
        functions = [name] * len(OPS[cell][2])
        attrs = {"activations": [ONNX_NAMES[f] for f in functions]}
        if name in ("affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu"):
            attrs["activation_alpha"] = [alpha] * len(functions)
        if name in ("affine", "scaled_tanh", "hard_sigmoid"):
            attrs["activation_beta"] = [beta] * len(functions)
        want = ort_run(OPS[cell][0], ins, 2, hidden_size=H, **attrs)
        check("recurrent", ins, want, params(cell, activations=functions, alphas=(alpha,) * 3, betas=(beta,) * 3), atol=1e-5)


def test_clip_and_variants():
    for linear in (0, 1):
        ins = operands("gru", 2)
        want = ort_run("GRU", ins, 2, hidden_size=H, linear_before_reset=linear, direction="bidirectional")
        check("recurrent", ins, want, params("gru", "bidirectional", linear_before_reset=linear), atol=1e-5)
    ins = operands("lstm", 1, peephole=True)
    want = ort_run("LSTM", ins, 3, hidden_size=H, input_forget=1)
    check("recurrent", ins, want, params("lstm", input_forget=1), atol=1e-5)
    for cell in ("lstm", "gru", "rnn"):
        ins = operands(cell, 1)
        want = ort_run(OPS[cell][0], ins, 2, hidden_size=H, clip=0.3)
        check("recurrent", ins, want, params(cell, clip=0.3), atol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [U8, np.dtype(np.int8)], ids=str)
def test_quantised_lstm(per_channel, dtype):
    dirs, g = 2, 4
    lo = 0 if dtype == U8 else -128
    w, r = (RNG.integers(lo, lo + 256, s).astype(dtype) for s in ((dirs, I, g * H), (dirs, H, g * H)))
    scale_shape = (dirs, g * H) if per_channel else (dirs,)
    ws, rs = (RNG.uniform(0.002, 0.01, scale_shape).astype(F32) for _ in range(2))
    wz, rz = (np.full(scale_shape, 128 if dtype == U8 else 0, dtype) for _ in range(2))
    x, b, h0, c0 = floats(T, N, I), floats(dirs, 2 * g * H), floats(dirs, N, H), floats(dirs, N, H)
    ins = [x, w, r, b, None, h0, c0, None, ws, wz, rs, rz]
    want = ort_run("DynamicQuantizeLSTM", ins, 3, domain="com.microsoft", hidden_size=H, direction="bidirectional")
    check("recurrent", ins, want, params("lstm", "bidirectional"), atol=1e-4)


def test_a_length_out_of_range_raises():
    ins = operands("rnn", 1, lengths=np.array([1, 2, 6], I32))
    with pytest.raises(IndexError):
        execute("recurrent", ins, [((T, 1, N, H), F32)], params("rnn"))
