"""Convolution kernels against onnxruntime's, on one thread, interleaved.

    PYTHONPATH=. python benchmarks/kernels/conv/bench.py [--isa v4x] [--rounds 15] [name ...]

Ours: one launch, channels-last in and out, bias and ReLU in the epilogue. onnxruntime: the time its profiler gives the (fused, NCHWc-blocked)
Conv node alone, without its reorders. Both lower quartiles (other programs only ever add time), in microseconds; `ratio` is onnxruntime / ours.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from pytensor_rt import _native
from pytensor_rt.lowering.expr import relu
from pytensor_rt.lowering.tensor import Launch
from pytensor_rt.runtime import encode
from tests.kernels.harness import program, tensor_of

# name: (N, C, H, W, M, kernel, stride, pad, group)
SHAPES: dict[str, tuple[int, ...]] = {
    "resnet 3x3 56x64": (1, 64, 56, 56, 64, 3, 1, 1, 1),
    "resnet 3x3 28x128": (1, 128, 28, 28, 128, 3, 1, 1, 1),
    "resnet 3x3 14x256": (1, 256, 14, 14, 256, 3, 1, 1, 1),
    "resnet 3x3 7x512": (1, 512, 7, 7, 512, 3, 1, 1, 1),
    "unet 3x3 256x32": (1, 32, 256, 256, 32, 3, 1, 1, 1),
    "unet 3x3 128x64": (1, 64, 128, 128, 64, 3, 1, 1, 1),
    "unet 3x3 64x128": (1, 128, 64, 64, 128, 3, 1, 1, 1),
    "unet 3x3 32x256": (1, 256, 32, 32, 256, 3, 1, 1, 1),
    "yolo 3x3 80x32": (1, 32, 80, 80, 32, 3, 1, 1, 1),
    "yolo 3x3 160x16": (1, 16, 160, 160, 16, 3, 1, 1, 1),
    "yolo 3x3 20x128": (1, 128, 20, 20, 128, 3, 1, 1, 1),
    "resnet 7x7s2 first": (1, 3, 224, 224, 64, 7, 2, 3, 1),
    "mobilenet 3x3s2 first": (1, 3, 224, 224, 32, 3, 2, 1, 1),
    "resnet 3x3s2 128": (1, 128, 56, 56, 128, 3, 2, 1, 1),
    "resnet 3x3s2 512": (1, 512, 14, 14, 512, 3, 2, 1, 1),
    "resnet 1x1 56 64-64": (1, 64, 56, 56, 64, 1, 1, 0, 1),
    "resnet 1x1 56 64-256": (1, 64, 56, 56, 256, 1, 1, 0, 1),
    "resnet 1x1 56 256-64": (1, 256, 56, 56, 64, 1, 1, 0, 1),
    "resnet 1x1 28 512-128": (1, 512, 28, 28, 128, 1, 1, 0, 1),
    "resnet 1x1 14 1024-256": (1, 1024, 14, 14, 256, 1, 1, 0, 1),
    "resnet 1x1 14 256-1024": (1, 256, 14, 14, 1024, 1, 1, 0, 1),
    "resnet 1x1 7 2048-512": (1, 2048, 7, 7, 512, 1, 1, 0, 1),
    "resnet 1x1 7 512-2048": (1, 512, 7, 7, 2048, 1, 1, 0, 1),
    "resnet 1x1s2 512-1024": (1, 512, 28, 28, 1024, 1, 2, 0, 1),
    "mobilenet 1x1 112 32-16": (1, 32, 112, 112, 16, 1, 1, 0, 1),
    "mobilenet 1x1 112 16-96": (1, 16, 112, 112, 96, 1, 1, 0, 1),
    "mobilenet 1x1 56 144-24": (1, 144, 56, 56, 24, 1, 1, 0, 1),
    "mobilenet 1x1 14 384-64": (1, 384, 14, 14, 64, 1, 1, 0, 1),
    "mobilenet 1x1 7 960-320": (1, 960, 7, 7, 320, 1, 1, 0, 1),
    "mobilenet 1x1 7 320-1280": (1, 320, 7, 7, 1280, 1, 1, 0, 1),
    "mobilenet dw3 112x32": (1, 32, 112, 112, 32, 3, 1, 1, 32),
    "mobilenet dw3s2 112x96": (1, 96, 112, 112, 96, 3, 2, 1, 96),
    "mobilenet dw3 56x144": (1, 144, 56, 56, 144, 3, 1, 1, 144),
    "mobilenet dw3 14x384": (1, 384, 14, 14, 384, 3, 1, 1, 384),
    "mobilenet dw3 7x960": (1, 960, 7, 7, 960, 3, 1, 1, 960),
    "efficientnet dw5 14x672": (1, 672, 14, 14, 672, 5, 1, 2, 672),
    "efficientnet dw5s2 28x240": (1, 240, 28, 28, 240, 5, 2, 2, 240),
    "convnext dw7 56x96": (1, 96, 56, 56, 96, 7, 1, 3, 96),
    "convnext dw7 14x384": (1, 384, 14, 14, 384, 7, 1, 3, 384),
    "resnext 3x3 28 g32": (1, 256, 28, 28, 256, 3, 1, 1, 32),
    "segment 1x1 128 32-1": (1, 32, 128, 128, 1, 1, 1, 0, 1),
    "segment 3x3 128 32-2": (1, 32, 128, 128, 2, 3, 1, 1, 1),
    "whisper k3 1500x384": (1, 384, 1, 1500, 384, 3, 1, 1, 1),
    "magika k5 512": (1, 256, 1, 512, 512, 5, 1, 2, 1),
    "vocoder k3 8192": (1, 64, 1, 8192, 64, 3, 1, 1, 1),
    "vocoder k7 4096": (1, 128, 1, 4096, 128, 7, 1, 3, 1),
    "wav2vec k3 800": (1, 512, 1, 800, 512, 3, 1, 1, 1),
    "inception 5x5 28": (1, 48, 28, 28, 64, 5, 1, 2, 1),
    "pitch k512s8": (1, 1, 1, 44100, 32, 512, 8, 0, 1),
}


def aligned(shape: Any) -> Any:
    """An array whose memory starts on a cache line, as the arena's tensors do."""
    n = int(np.prod(shape)) * 4
    raw = np.empty(n + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n].view(np.float32).reshape(shape)


def quartile(times: list[float]) -> float:
    return sorted(times)[len(times) // 4]


class Ours:
    def __init__(self, x: Any, w: Any, b: Any, y: Any, stride: int, pad: list[int], group: int, isa: str) -> None:
        n = x.ndim - 2
        buffers: list[list[int]] = []
        index: dict[Any, int] = {}

        def operand(a: Any, kind: int, number: int) -> tuple[Any, Any]:
            t, base = tensor_of(a, "input", len(buffers))
            index[t.buffer] = len(buffers)
            buffers.append([kind, number, base.nbytes])
            return t, base

        (tx, ax), (tw, aw), (tb, ab), (ty, ay) = (
            operand(x, encode.INPUT, 0), operand(w, encode.CONST, 0), operand(b, encode.CONST, 1), operand(y, encode.OUTPUT, 0),
        )  # fmt: skip
        launch = Launch("conv", [tx, tw, tb], [ty], {"strides": [stride] * n, "dilations": [1] * n, "pads": pad * 2, "group": group})
        launch.acc_dtype = y.dtype
        launch.epilogue = program(lambda acc: relu(acc), [], acc=y.dtype)
        words = encode.words(encode.encode_plan([v for q in buffers for v in q], [launch], index))
        self.native = _native.Program(words, [aw, ab], [False] * 2, isa, _native.Arena(), _native.Packs(), 1)
        self.args = ((ax,), (ay,))
        self.describe = self.native.describe(0)

    def run(self) -> float:
        return float(self.native.profile(*self.args)[0]) / 1000


def ort_session(shape: tuple[int, ...], w: Any, b: Any, stride: int, pad: list[int], group: int, folder: str) -> Any:
    n = len(shape) - 2
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[stride] * n, pads=pad * 2, group=group),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(folder, "p")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(name: str, isa: str, rounds: int) -> None:
    N, C, H, W, M, k, stride, pad, group = SHAPES[name]
    rng = np.random.default_rng(0)
    one_d = H == 1
    spatial = [W] if one_d else [H, W]
    pads = [pad] * len(spatial)
    out = [(s + 2 * pad - k) // stride + 1 for s in spatial]
    x = rng.standard_normal((N, C, *spatial), np.float32)
    w = rng.standard_normal((M, C // group, *[k] * len(spatial)), np.float32)
    b = rng.standard_normal(M, np.float32)
    xl, yl = (np.moveaxis(aligned((N, *s, c)), -1, 1) for s, c in ((spatial, C), (out, M)))
    xl[...] = x
    ours = Ours(xl, w, b, yl, stride, pads, group, isa)
    with tempfile.TemporaryDirectory() as folder:
        session = ort_session(x.shape, w, b, stride, pads, group, folder)
        want = session.run(None, {"x": x})[0]
        ours.run()
        error = float(np.abs(yl - want).max() / np.abs(want).max())
        times = []
        for _ in range(rounds):
            session.run(None, {"x": x})
            ours.run()  # not counted: it finds its data evicted
            times += [ours.run(), ours.run()]
            session.run(None, {"x": x})
            session.run(None, {"x": x})
        with open(session.end_profiling()) as f:
            events = json.load(f)
    convs = [
        e["dur"] for e in events if e.get("cat") == "Node" and "Conv" in e["args"].get("op_name", "") and e["name"].endswith("kernel_time")
    ]
    theirs = quartile([d for i, d in enumerate(convs[1:]) if i % 3])
    mine = quartile(times)
    flops = 2 * N * M * (C // group) * k ** len(spatial) * float(np.prod(out))
    print(
        f"{name:26} {theirs:9.0f} {mine:9.1f}  ratio {theirs / mine:5.2f}  {flops / mine / 1e3:6.0f} GFLOP/s  error {error:.1e}  {ours.describe}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--isa", default=_native.isa_levels()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("names", nargs="*")
    a = parser.parse_args()
    for shape in SHAPES:
        if not a.names or any(n in shape for n in a.names):
            measure(shape, a.isa, a.rounds)
