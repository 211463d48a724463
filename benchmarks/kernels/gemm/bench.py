"""gemm against onnxruntime's MatMul, one thread, interleaved: python -m benchmarks.kernels.gemm.bench [substring of a case ...]

Prints GFLOP/s (or Gop/s) of both and the ratio of the best times of alternating rounds (the machine is shared). PTRT_ISA selects our ISA level.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from tests.kernels.harness import run

ROUNDS = 7
# name: batch, m, k, n, is b constant, is b stored transposed
CASES: dict[str, tuple[tuple[int, ...], int, int, int, bool, bool]] = {
    "bert qkv 128x768x768": ((), 128, 768, 768, True, False),
    "bert up 128x768x3072": ((), 128, 768, 3072, True, False),
    "bert down 128x3072x768": ((), 128, 3072, 768, True, False),
    "vit 197x768x768": ((), 197, 768, 768, True, False),
    "vit up 197x768x3072": ((), 197, 768, 3072, True, False),
    "minilm 128x384x1536": ((), 128, 384, 1536, True, False),
    "square 512": ((), 512, 512, 512, False, False),
    "square 1024": ((), 1024, 1024, 1024, False, False),
    "scores 12x128x64x128": ((12,), 128, 64, 128, False, True),
    "context 12x128x128x64": ((12,), 128, 128, 64, False, False),
    "scores 12x197x64x197": ((12,), 197, 64, 197, False, True),
    **{f"rows {m}x768x768": ((), m, 768, 768, True, False) for m in (1, 2, 4, 5, 8, 16, 32)},
    "rows 1x768x3072": ((), 1, 768, 3072, True, False),
    "rows 8x3072x768": ((), 8, 3072, 768, True, False),
    "classifier 1x2048x1000": ((), 1, 2048, 1000, True, False),
    "decode scores 12x1x64x512": ((12,), 1, 64, 512, False, True),
    "decode context 12x1x512x64": ((12,), 1, 512, 64, False, False),
    "one row, b varies 1x1024x1024": ((), 1, 1024, 1024, False, False),
    "column 768x768x1": ((), 768, 768, 1, False, False),
    "narrow 1024x512x4": ((), 1024, 512, 4, True, False),
    "thin 1024x8x256": ((), 1024, 8, 256, True, False),
    "tiny 16x16x16": ((), 16, 16, 16, True, False),
}


def session(a: Any, b: Any, const: bool, transposed: bool) -> ort.InferenceSession:
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, a.shape)]
    inits, nodes, name = [], [], "b"
    stored = np.ascontiguousarray(b.swapaxes(-1, -2)) if transposed else b
    if const:
        inits.append(onnx.numpy_helper.from_array(np.ascontiguousarray(b), "b"))
    else:
        inputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, stored.shape))
        if transposed:
            rank = b.ndim
            nodes.append(helper.make_node("Transpose", ["b"], ["bt"], perm=[*range(rank - 2), rank - 1, rank - 2]))
            name = "bt"
    nodes.append(helper.make_node("MatMul", ["a", name], ["y"]))
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], inits)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(), options
    )


def measure(case: tuple[tuple[int, ...], int, int, int, bool, bool]) -> tuple[float, float, str]:
    batch, m, k, n, const, transposed = case
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*batch, m, k), np.float32)
    stored = rng.standard_normal((*batch, *((n, k) if transposed else (k, n))), np.float32)
    b = stored.swapaxes(-1, -2) if transposed else stored
    peer = session(a, b, const, transposed)
    binding = peer.io_binding()
    y_peer, y = np.empty((*batch, m, n), np.float32), np.empty((*batch, m, n), np.float32)
    feeds = {"a": a} if const else {"a": a, "b": stored}
    for name, v in feeds.items():
        binding.bind_cpu_input(name, v)
    binding.bind_output("y", "cpu", 0, np.float32, y_peer.shape, y_peer.ctypes.data)
    repeat = max(5, min(200, int(4e7 / (2.0 * np.prod(batch, initial=1) * m * k * n / 50))))
    ours: list[float] = []
    theirs: list[float] = []
    said: list[str] = []
    for _ in range(ROUNDS):
        timer: list[float] = []
        run("gemm", [a, b], [y], consts=[1] if const else [], repeat=repeat + 2, timer=timer, describe=said)
        ours += timer[2:]
        for i in range(repeat + 2):
            start = time.perf_counter_ns()
            peer.run_with_iobinding(binding)
            if i >= 2:
                theirs.append(time.perf_counter_ns() - start)
    np.testing.assert_allclose(y, y_peer, rtol=1e-3, atol=1e-3)
    return min(ours), min(theirs), said[0]


def main() -> None:
    for name, case in CASES.items():
        if sys.argv[1:] and not any(s in name for s in sys.argv[1:]):
            continue
        ours, theirs, said = measure(case)
        batch, m, k, n, *_ = case
        flops = 2.0 * np.prod(batch, initial=1) * m * k * n
        print(
            f"{name:34s} {ours / 1e3:9.1f} us {flops / ours:6.1f} GF   ort {theirs / 1e3:9.1f} us {flops / theirs:6.1f} GF   x{theirs / ours:5.2f}  {said}"
        )


if __name__ == "__main__":
    main()
