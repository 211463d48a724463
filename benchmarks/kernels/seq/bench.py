"""Times `recurrent` and `attention` against onnxruntime, one thread, interleaved; prints the median ratio of each shape.

PYTHONPATH=. python benchmarks/kernels/seq/bench.py [lstm|gru|attention|decode|int8]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from pytensor_rt.kernels.spec import ACTIVATIONS
from tests.kernels.harness import run
from tests.kernels.test_recurrent import Case, quantised_case

Array = np.ndarray[Any, Any]
ROUNDS = 15


def session(nodes: list[Any], inputs: dict[str, Array], constants: dict[str, Array], outputs: list[str]) -> Any:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
        [helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v.tobytes(), raw=True) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(label: str, ours: Any, theirs: Any, repeat: int) -> None:
    """`ours(repeat)` and `theirs(repeat)` return nanoseconds of single runs."""
    mine: list[float] = []
    other: list[float] = []
    for _ in range(ROUNDS):
        mine.append(float(np.median(ours(repeat))))
        other.append(float(np.median(theirs(repeat))))
    ratio = np.median(np.array(other) / np.array(mine))
    print(f"{label:44s} {min(mine) / 1e3:10.1f} us   onnxruntime {min(other) / 1e3:10.1f} us   ratio {ratio:5.2f}", flush=True)


def timed(f: Any) -> Any:
    def loop(repeat: int) -> list[float]:
        result = []
        for _ in range(repeat):
            start = time.perf_counter_ns()
            f()
            result.append(float(time.perf_counter_ns() - start))
        return result

    return loop


def launch(kernel: str, ins: list[Any], outs: list[Any], params: dict[str, Any], consts: tuple[int, ...] = ()) -> Any:
    def loop(repeat: int) -> list[float]:
        timer: list[float] = []
        run(kernel, ins, outs, params, consts=consts, repeat=repeat + 2, timer=timer)
        return timer[2:]

    return loop


def recurrent(cell: str, t: int, n: int, i: int, h: int, direction: str, lbr: int = 1, quantised: bool = False) -> None:
    names = ["x", "w", "r", "b", "", "h0", "c0", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    if quantised:
        case, ins = quantised_case(0, True, False, t=t, n=n, i=i, h=h, direction=direction)
    else:
        case = Case(cell, t, n, i, h, direction=direction, initial=True, lbr=lbr)
        ins = case.inputs()
    values = {k: v for k, v in zip(names, ins) if v is not None}
    used = [k if v is not None else "" for k, v in zip(names, ins)]
    used = used if cell == "lstm" else used[:6]
    outputs = ["y", "y_h"] + (["y_c"] if cell == "lstm" else [])
    attributes: dict[str, Any] = {"hidden_size": h, "direction": direction}
    if cell == "gru":
        attributes["linear_before_reset"] = lbr
    op = "DynamicQuantizeLSTM" if quantised else cell.upper()
    node = helper.make_node(op, used, outputs, domain="com.microsoft" if quantised else "", **attributes)
    inputs = {k: v for k, v in values.items() if k in ("x", "h0", "c0")}
    s = session([node], inputs, {k: v for k, v in values.items() if k not in inputs}, outputs)
    ours = launch("recurrent", ins, case.out_shapes(), case.params(), (1, 2, 3, 8, 9, 10, 11))
    repeat = max(3, min(200, int(2e8 / (t * n * case.d * 8 * h * (i + h) + 1))))
    compare(f"{op} T={t} N={n} I={i} H={h} {direction}", ours, timed(lambda: s.run(None, inputs)), repeat)


def attention(b: int, heads: int, s: int, t: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x = {k: rng.standard_normal((b, n, heads * d)).astype(np.float32) for k, n in (("q", s), ("k", t), ("v", t))}
    mask = np.zeros((b, 1, 1, t), np.float32)
    view = {k: a.reshape(b, -1, heads, d).transpose(0, 2, 1, 3) for k, a in x.items()}
    y = np.empty((b, s, heads, d), np.float32).transpose(0, 2, 1, 3)
    if s == 1:  # decoding: keys and values come from a cache that has heads outside
        view = {k: np.ascontiguousarray(a) for k, a in view.items()}
    inputs = {k: np.ascontiguousarray(a) for k, a in view.items()}
    inputs["k"] = np.ascontiguousarray(inputs["k"].swapaxes(2, 3))
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["m"]),
        helper.make_node("Softmax", ["m"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]  # without the mask addition and the transposes that a model has around it
    session_ = session(nodes, inputs, {"scale": np.array(d**-0.5, np.float32)}, ["y"])
    mine = launch("attention", [view["q"], view["k"], view["v"], np.broadcast_to(mask, (b, heads, s, t))], [y], {"scale": d**-0.5})
    bind = session_.io_binding()
    for k, v in inputs.items():
        bind.bind_cpu_input(k, v)
    bind.bind_output("y")
    compare(f"attention {b}x{heads}x{s}x{t}x{d} (masked)", mine, timed(lambda: session_.run_with_iobinding(bind)), 20 if s * t < 1e6 else 3)


def main(which: list[str]) -> None:
    def wanted(name: str) -> bool:
        return not which or name in which

    assert ACTIVATIONS[0] == "sigmoid"
    if wanted("lstm"):
        recurrent("lstm", 200, 1, 256, 256, "bidirectional")
        recurrent("lstm", 1, 1, 128, 128, "forward")
        recurrent("lstm", 31, 1, 128, 128, "forward")
        recurrent("lstm", 500, 1, 100, 32, "bidirectional")
        recurrent("lstm", 50, 8, 128, 128, "bidirectional")
        recurrent("lstm", 30, 64, 256, 256, "forward")
    if wanted("gru"):
        recurrent("gru", 200, 1, 256, 256, "bidirectional", 1)
        recurrent("gru", 100, 1, 64, 128, "forward", 0)
        recurrent("rnn", 100, 4, 64, 128, "bidirectional")
    if wanted("int8"):
        recurrent("lstm", 200, 1, 128, 256, "bidirectional", quantised=True)
        recurrent("lstm", 50, 4, 128, 256, "bidirectional", quantised=True)
    if wanted("attention"):
        attention(1, 12, 128, 128, 64)
        attention(1, 12, 197, 197, 64)
        attention(1, 12, 16, 16, 64)
        attention(8, 12, 64, 64, 32)
        attention(1, 8, 1024, 1024, 64)
    if wanted("decode"):
        attention(1, 12, 1, 512, 64)
        attention(1, 32, 1, 2048, 128)


if __name__ == "__main__":
    main(sys.argv[1:])
