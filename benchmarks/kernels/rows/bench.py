"""Row kernels against onnxruntime: one thread each, interleaved, best of many repeats.

PYTHONPATH=. python benchmarks/kernels/rows/bench.py [substring]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tests.kernels.harness import run

A = np.ndarray[Any, Any]
Case = tuple[str, Any, A, str, list[Any], list[Any], dict[str, Any]]


def session(op: str, consts: dict[str, A], attributes: dict[str, Any], inputs: list[str], outputs: int = 1) -> Any:
    node = helper.make_node(op, inputs, [f"y{k}" for k in range(outputs)], **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)], [helper.make_empty_tensor_value_info(n) for n in node.output],
        [numpy_helper.from_array(v, k) for k, v in consts.items()],
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def peer(s: Any, x: A, repeat: int) -> float:
    binding = s.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    for o, value in zip(s.get_outputs(), s.run(None, {"x": x})):
        binding.bind_ortvalue_output(o.name, ort.OrtValue.ortvalue_from_numpy(value))
    best = 1e18
    for _ in range(repeat):
        start = time.perf_counter_ns()
        s.run_with_iobinding(binding)
        best = min(best, time.perf_counter_ns() - start)
    return best


def channels_last(x: A) -> A:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def random(*shape: int) -> A:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def cases() -> list[Case]:
    out: list[Case] = []
    f32 = np.float32
    for shape, axis in (((1536, 128), 1), ((512, 1000), 1), ((1, 50257), 1), ((96, 1024), 1), ((1, 64, 56, 56), 1)):
        x = random(*shape)
        params: dict[str, Any] = {"op": "softmax", "axis": axis}
        out.append(
            (f"softmax {shape} axis {axis}", session("Softmax", {}, {"axis": axis}, ["x"]), x, "softmax", [x], [(shape, f32)], params)
        )
    for shape in ((128, 768), (512, 768), (512, 1024), (64, 4096)):
        x, scale, bias = random(*shape), random(shape[-1]), random(shape[-1])
        s = session("LayerNormalization", {"s": scale, "b": bias}, {"axis": -1}, ["x", "s", "b"])
        rows = [np.broadcast_to(v, shape) for v in (scale, bias)]
        params = {"op": "layer", "axes": (1,), "epsilon": 1e-5}
        out.append((f"layer_norm {shape}", s, x, "normalize", [x, *rows], [(shape, f32), None, None], params))
    for op, onnx_op in (("sum", "ReduceSum"), ("mean", "ReduceMean"), ("max", "ReduceMax"), ("l2", "ReduceL2")):
        for shape, axes in (
            ((1024, 1024), (1,)),
            ((1024, 1024), (0,)),
            ((1024, 1024), (0, 1)),
            ((64, 256, 49), (2,)),
            ((32, 128, 96), (1,)),
        ):
            x = random(*shape)
            small = tuple(1 if a in axes else n for a, n in enumerate(shape))
            s = session(onnx_op, {"a": np.array(axes, np.int64)}, {"keepdims": 1}, ["x", "a"])
            out.append((f"reduce {op} {shape} {axes}", s, x, "reduce", [x], [(small, f32)], {"op": op, "axes": axes}))
    for op, onnx_op, channels, size, k, stride, pad in (
        ("max", "MaxPool", 64, 112, 3, 2, 1), ("max", "MaxPool", 64, 112, 2, 2, 0), ("average", "AveragePool", 256, 28, 3, 1, 1),
        ("average", "AveragePool", 128, 56, 2, 2, 0),
    ):  # fmt: skip
        x = random(1, channels, size, size)
        s = session(onnx_op, {}, {"kernel_shape": (k, k), "strides": (stride, stride), "pads": (pad,) * 4}, ["x"])
        o = (size + 2 * pad - k) // stride + 1
        shape = (1, channels, o, o)
        params = {"op": op, "kernel": (k, k), "strides": (stride, stride), "dilations": (1, 1), "pads": (pad,) * 4}
        name = f"pool {op} {k}x{k}/{stride} {x.shape}"
        out.append((name, s, x, "pool", [x], [(shape, f32), None], params))
        out.append((name + " channels last", s, x, "pool", [channels_last(x)], [channels_last(np.zeros(shape, f32)), None], params))
    for op in ("nearest", "linear", "cubic"):
        x = random(1, 64, 40, 40)
        s = session("Resize", {"s": np.array([1, 1, 2, 2], f32)}, {"mode": op}, ["x", "", "s"])
        shape = (1, 64, 80, 80)
        params = {"op": op, "coordinates": "half_pixel", "nearest": "round_prefer_floor", "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()}
        out.append((f"resize {op} x2 {x.shape}", s, x, "resample", [x], [(shape, f32)], params))
        last = channels_last(np.zeros(shape, f32))
        out.append((f"resize {op} x2 {x.shape} channels last", s, x, "resample", [channels_last(x)], [last], params))
    x = random(512, 1000)
    params = {"op": "max", "axis": 1}
    out.append(("arg_max (512, 1000)", session("ArgMax", {}, {"axis": 1}, ["x"]), x, "arg_reduce", [x], [((512, 1), np.int64)], params))
    x = random(512, 768)
    s = session("DynamicQuantizeLinear", {}, {}, ["x"], 3)
    out.append(("quantize_stats (512, 768); the peer also quantises", s, x, "quantize_stats", [x], [((), f32), ((), np.uint8)], {}))
    s = session("CumSum", {"a": np.array(1, np.int64)}, {}, ["x", "a"])
    out.append(("cumsum (512, 768)", s, x, "scan", [x], [(x.shape, f32)], {"op": "sum", "axis": 1}))
    return out


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, s, x, kernel, ins, outs, params in cases():
        if wanted not in name:
            continue
        ours = theirs = 1e18
        for _ in range(5):
            timer: list[float] = []
            run(kernel, ins, outs, params, repeat=20, timer=timer)
            ours = min(ours, *timer)
            theirs = min(theirs, peer(s, x, 20))
        print(f"{name:60s} {ours / 1e3:9.1f} us   onnxruntime {theirs / 1e3:9.1f} us {theirs / ours:6.2f}x", flush=True)


if __name__ == "__main__":
    main()
