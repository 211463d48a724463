"""Times device "cuda" on a real GPU: models against onnxruntime's CUDA provider, products against cuBLAS, convolutions against cuDNN where installed.

    python benchmarks/gpu.py                # everything, as a table
    python benchmarks/gpu.py --only resnet  # models and shapes whose name contains this

Medians over blocks taken in turns, with the spread. Without a GPU it says what is missing and exits with 2. Nobody has run it on a GPU yet.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

import pytensor_rt as rt
from benchmarks import architectures
from pytensor_rt.cli.common import table
from pytensor_rt.kernels.cuda import device

GEMMS = [(1, 4096, 4096), (16, 4096, 4096), (128, 768, 3072), (512, 512, 512), (2048, 2048, 2048), (4096, 4096, 4096)]
CONVOLUTIONS = [(1, 64, 56, 64, 3), (1, 256, 14, 256, 3), (8, 64, 56, 256, 1), (8, 512, 7, 512, 3)]  # n, channels, size, outputs, kernel


def milliseconds(work: Callable[[], None], stream: Any, seconds: float) -> list[float]:
    """Times of single calls on a stream by events, for about this long."""
    import cupy

    work()
    stream.synchronize()
    out: list[float] = []
    while sum(out) < 1e3 * seconds and len(out) < 1000:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        out.append(cupy.cuda.get_elapsed_time(start, end))
    return out


def one_node(op: str, inputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray[Any, Any]], **attributes: Any) -> onnx.ModelProto:
    """A float32 model of one node."""
    names = [*inputs, *weights]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        op,
        [helper.make_tensor_value_info(n, 1, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def ours(model: Any, feeds: dict[str, Any], seconds: float) -> list[float]:
    """Replays of a bound plan: nothing crosses the bus."""
    session = rt.InferenceSession(model, device="cuda")
    runner = session.bind(**feeds)
    bound = runner._segment.bound
    stream = runner._memory.device.stream
    for _ in range(2):  # launched one by one, then captured
        runner.replay()
    return milliseconds(lambda: bound.run(runner._in, runner._out, {}), stream, seconds)


def theirs(model: Any, feeds: dict[str, Any], seconds: float) -> list[float] | None:
    """onnxruntime's CUDA provider with inputs and outputs bound on the device; None where it is not installed."""
    import cupy
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    session = onnxruntime.InferenceSession(
        model if isinstance(model, str) else model.SerializeToString(), providers=[("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
    )
    binding = session.io_binding()
    for name, a in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(a, "cuda", 0))
    for o in session.get_outputs():
        binding.bind_output(o.name, "cuda")
    return milliseconds(lambda: session.run_with_iobinding(binding), cupy.cuda.Stream.null, seconds)


def row(name: str, blocks: dict[str, Callable[[], list[float] | None]], rounds: int) -> tuple[str, ...]:
    """Medians of each side over blocks in turns, the spread of ours, and the ratio."""
    times: dict[str, list[float]] = {k: [] for k in blocks}
    for _ in range(rounds):
        for k, block in blocks.items():
            times[k] += block() or []
    mine, peers = times.pop("pytensor_rt"), times
    low, middle, high = statistics.quantiles(mine, n=4)
    cells = [f"{statistics.median(t):.3f} ({statistics.median(t) / middle:.2f})" if t else "not installed" for t in peers.values()]
    return (name, f"{middle:.3f} ({low:.3f} to {high:.3f})", *cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=0.3, help="of one block (default 0.3)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    missing = [f"{what}: {problem}" for what, problem in device.why_not().items() if problem]
    if missing:
        print("no GPU to measure: " + "; ".join(missing), file=sys.stderr)
        return 2
    import cupy

    s = args.seconds
    print(f"{device.Device().name()}; milliseconds, median (quartiles); in brackets the peer's time over ours\n")
    rows: list[tuple[str, ...]] = [("", "pytensor_rt", "onnxruntime CUDA", "cuBLAS")]
    rng = np.random.default_rng(0)
    for m, k, n in GEMMS:
        name = f"gemm {m}x{k}x{n}"
        if args.only in name:
            a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
            model, x, w = one_node("MatMul", {"a": a.shape}, {"b": b}), cupy.asarray(a), cupy.asarray(b)
            y = cupy.empty((m, n), np.float32)
            blocks = {
                "pytensor_rt": lambda m=model, a=a: ours(m, {"a": a}, s),
                "onnxruntime": lambda m=model, a=a: theirs(m, {"a": a}, s),
                "cuBLAS": lambda x=x, w=w, y=y: milliseconds(lambda: cupy.matmul(x, w, out=y), cupy.cuda.Stream.null, s),
            }
            rows.append(row(name, blocks, args.rounds))
    for n, c, size, out, kernel in CONVOLUTIONS:  # onnxruntime's CUDA provider calls cuDNN
        name = f"conv {n}x{c}x{size}x{size} {kernel}x{kernel} to {out}"
        if args.only in name:
            x = rng.standard_normal((n, c, size, size)).astype(np.float32)
            weights = {"w": rng.standard_normal((out, c, kernel, kernel)).astype(np.float32)}
            model = one_node("Conv", {"x": x.shape}, weights, pads=[kernel // 2] * 4)
            blocks = {"pytensor_rt": lambda m=model, x=x: ours(m, {"x": x}, s), "cuDNN": lambda m=model, x=x: theirs(m, {"x": x}, s)}
            rows.append((*row(name, blocks, args.rounds), ""))
    for name, architecture in architectures.MODELS.items():
        if args.only in name:
            path, feeds = str(architecture.path()), architecture.inputs(rng)
            blocks = {"pytensor_rt": lambda p=path, f=feeds: ours(p, f, s), "onnxruntime": lambda p=path, f=feeds: theirs(p, f, s)}
            rows.append((*row(name, blocks, args.rounds), ""))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
