"""A language model with 4-bit weights generating token by token, its cache one longer each time, against onnxruntime.

python benchmarks/language.py [--threads 1] [--layers 8] [--hidden 896] [--heads 14] [--inner 4864] [--words 32000] [--level 4] [--prompt 64] [--tokens 40]

The graph is what exporters for onnxruntime write for Llama and Qwen (GroupQueryAttention with rotary embeddings, MatMulNBits, simplified layer
normalization); its weights are random. Each generation starts from an empty cache. In the first one every length is new; the later ones find
its plans. Prints medians and the largest difference of the last token's logits.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt

MICROSOFT = "com.microsoft"
HEAD, BLOCK, POSITIONS = 64, 32, 4096
rng = np.random.default_rng(0)


class Builder:
    def __init__(self, level: int) -> None:
        self.level = level
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, k: int, n: int, name: str) -> str:
        blocks = -(-k // BLOCK)
        q = self.weight(f"{name}.q", rng.integers(0, 256, (n, blocks, BLOCK // 2)).astype(np.uint8))
        scale = self.weight(f"{name}.scale", (rng.random(n * blocks) * 0.16 / np.sqrt(k)).astype(np.float32))
        attributes = {"K": k, "N": n, "bits": 4, "block_size": BLOCK, "accuracy_level": self.level}
        return self.node("MatMulNBits", [x, q, scale], [name], MICROSOFT, **attributes)

    def normalized(self, x: str, residual: str, size: int, name: str) -> tuple[str, str]:
        outputs = [name, "", "", f"{name}.sum"]
        gain = self.weight(f"{name}.gain", np.ones(size, np.float32))
        self.node("SkipSimplifiedLayerNormalization", [residual, x, gain], outputs, MICROSOFT, epsilon=1e-6)
        return name, outputs[3]


def language_model(layers: int, hidden: int, heads: int, inner: int, words: int, level: int) -> bytes:
    b = Builder(level)
    kv = max(1, heads // 7)
    one = b.weight("one", np.array(1))
    axis = b.weight("axis", np.array([1]))
    angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(HEAD // 2) / (HEAD // 2))
    rotary = [b.weight("cos", np.cos(angles).astype(np.float32)), b.weight("sin", np.sin(angles).astype(np.float32))]
    total = b.node("ReduceSum", ["attention_mask", axis], ["lengths"], keepdims=0)
    past = b.node("Cast", [b.node("Sub", [total, one], ["last"])], ["seqlens"], to=TensorProto.INT32)
    length = b.node("Gather", [b.node("Shape", ["attention_mask"], ["mask.shape"]), one], ["length"])
    whole = b.node("Cast", [length], ["total"], to=TensorProto.INT32)
    residual = b.node(
        "Gather",
        [b.weight("embedding", rng.standard_normal((words, hidden)).astype(np.float32) * np.float32(0.5)), "input_ids"],
        ["embedded"],
    )
    x = b.node("SimplifiedLayerNormalization", [residual, b.weight("first", np.ones(hidden, np.float32))], ["start"], epsilon=1e-6, axis=-1)
    value = helper.make_tensor_value_info
    inputs = [value("input_ids", TensorProto.INT64, ["b", "s"]), value("attention_mask", TensorProto.INT64, ["b", "t"])]
    outputs = [value("logits", TensorProto.FLOAT, ["b", "s", words])]
    for i in range(layers):
        q, k, v = (b.product(x, hidden, n * HEAD, f"{i}.{name}") for name, n in (("q", heads), ("k", kv), ("v", kv)))
        caches, presents = [f"past.{i}.key", f"past.{i}.value"], [f"present.{i}.key", f"present.{i}.value"]
        inputs += [value(name, TensorProto.FLOAT, ["b", kv, "p", HEAD]) for name in caches]
        outputs += [value(name, TensorProto.FLOAT, ["b", kv, "t", HEAD]) for name in presents]
        attributes = {"num_heads": heads, "kv_num_heads": kv, "do_rotary": 1}
        a = b.node("GroupQueryAttention", [q, k, v, *caches, past, whole, *rotary], [f"{i}.attention", *presents], MICROSOFT, **attributes)
        x, residual = b.normalized(b.product(a, heads * HEAD, hidden, f"{i}.o"), residual, hidden, f"{i}.middle")
        gate, up = b.product(x, hidden, inner, f"{i}.gate"), b.product(x, hidden, inner, f"{i}.up")
        silu = b.node("Mul", [gate, b.node("Sigmoid", [gate], [f"{i}.sigmoid"])], [f"{i}.silu"])
        down = b.product(b.node("Mul", [silu, up], [f"{i}.gated"]), inner, hidden, f"{i}.down")
        x, residual = b.normalized(down, residual, hidden, f"{i}.end")
    b.product(x, hidden, words, "logits")
    graph = helper.make_graph(b.nodes, "g", inputs, outputs, b.weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def generate(session: Any, ids: Any, prompt: int) -> tuple[list[float], Any]:
    """Seconds of every step, the prompt first, and the last token's logits."""
    infos = [i for i in session.get_inputs() if i.name.startswith("past")]
    caches = [np.zeros((1, i.shape[1], 0, HEAD), np.float32) for i in infos]
    times, outputs = [], []
    for end in range(prompt, ids.shape[1] + 1):
        part = ids[:, (0 if end == prompt else end - 1) : end]
        feed = {"input_ids": part, "attention_mask": np.ones((1, end), np.int64), **{i.name: c for i, c in zip(infos, caches)}}
        start = time.perf_counter()
        outputs = session.run(None, feed)
        times.append(time.perf_counter() - start)
        caches = outputs[1:]
    return times, outputs[0][0, -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"threads": 1, "layers": 8, "hidden": 896, "heads": 14, "inner": 4864, "words": 32000, "level": 4, "prompt": 64, "tokens": 40}
    for name, default in {**sizes, "generations": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    file = language_model(args.layers, args.hidden, args.heads, args.inner, args.words, args.level)
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    peer = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sessions = {"pytensor_rt": rt.InferenceSession(file, threads=args.threads), "onnxruntime": peer}
    ids = rng.integers(0, args.words, (1, args.prompt + args.tokens))
    logits = {}
    for _ in range(args.generations):
        for name, session in sessions.items():
            times, logits[name] = generate(session, ids, args.prompt)
            step = np.array(times[1:]) * 1e3
            print(
                f"{name:12s} prompt {times[0] * 1e3:8.1f} ms, per token {np.median(step):7.2f} ms (p10 {np.quantile(step, 0.1):.2f}, p90 {np.quantile(step, 0.9):.2f})"
            )
    print(
        f"largest difference {np.abs(logits['pytensor_rt'] - logits['onnxruntime']).max():.2g} of {np.abs(logits['onnxruntime']).max():.2g}"
    )


if __name__ == "__main__":
    main()
