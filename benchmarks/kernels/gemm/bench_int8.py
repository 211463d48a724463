"""8-bit gemm (uint8 x constant int8, dequantised with a scale and a bias per column) against onnxruntime, one thread, interleaved.

    python -m benchmarks.kernels.gemm.bench_int8

The peer's graph is MatMulInteger - Cast - Mul - Add, which it fuses.
"""

from __future__ import annotations

import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from pytensor_rt.lowering import expr as E
from tests.kernels.harness import run

F32, I32 = np.dtype(np.float32), np.dtype(np.int32)
SHAPES = [(1, 768, 768), (8, 768, 768), (128, 768, 768), (128, 768, 3072), (128, 3072, 768), (197, 768, 768), (12, 384, 384)]


def main() -> None:
    rng = np.random.default_rng(0)
    for m, k, n in SHAPES:
        a, b = rng.integers(0, 255, (m, k)).astype(np.uint8), rng.integers(-127, 127, (k, n)).astype(np.int8)
        zero, scale, bias = np.array(117, np.uint8), rng.random(n).astype(np.float32), rng.random(n).astype(np.float32)
        nodes = [
            helper.make_node("MatMulInteger", ["a", "b", "z"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "s"], ["g"]),
            helper.make_node("Add", ["g", "c"], ["y"]),
        ]
        inits = [numpy_helper.from_array(v, name) for name, v in (("b", b), ("z", zero), ("s", scale), ("c", bias))]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], inits,
        )  # fmt: skip
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        binding = (peer := ort.InferenceSession(model.SerializeToString(), options)).io_binding()
        y, y_peer = np.empty((m, n), F32), np.empty((m, n), F32)
        binding.bind_cpu_input("a", a)
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y_peer.ctypes.data)
        columns = [np.broadcast_to(v, (m, n)) for v in (scale, bias)]
        ours: list[float] = []
        plain: list[float] = []
        theirs: list[float] = []
        repeat = max(5, min(200, int(4e7 / (2.0 * m * k * n / 200))))
        for _ in range(7):
            for timer, epilogue in ((ours, lambda acc, s, c: E.cast(acc, F32) * s + c), (plain, None)):
                fresh: list[float] = []
                out = y if epilogue else np.empty((m, n), np.int32)
                run(
                    "gemm", [a, b, np.broadcast_to(zero, (m, 1))], [out], consts=[1, 2], epilogue=epilogue,
                    epi_ins=columns if epilogue else [], acc_dtype=I32, repeat=repeat, timer=fresh,
                )  # fmt: skip
                timer += fresh[2:]
            for _ in range(repeat):
                start = time.perf_counter_ns()
                peer.run_with_iobinding(binding)
                theirs.append(time.perf_counter_ns() - start)
        np.testing.assert_allclose(y, y_peer, rtol=1e-3, atol=1e-2)
        t, p, o = (min(v) for v in (ours, plain, theirs))
        ops = 2.0 * m * k * n
        print(f"{m}x{k}x{n}: {t / 1e3:8.1f} us {ops / t:6.0f} Gop/s (int32 only {ops / p:6.0f})   ort {o / 1e3:8.1f} us   x{o / t:5.2f}")


if __name__ == "__main__":
    main()
