"""What a run costs besides its kernels, and how fast a process gets to its first result.

    python benchmarks/overhead.py            all of it; figures are medians (minimum) over repeats, one thread
    python benchmarks/overhead.py run        only the named parts: run, replay, host, start, shapes

- run: `session.run` of one small map minus the time of its launches by `Runner.profile`, and minus `replay()`.
- replay: a chain of small transposing copies that cannot fuse, at two lengths; the slope is the cost of a launch with its kernel, the part of it
  that is not the kernel is measured by replaying the shortest kernels there are (one element).
- host: ZipMap's rows and the call around them.
- start: process start to first result in fresh processes, beside onnxruntime, with peak memory.
- shapes: a new input shape on an open session: first time, and from a template.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt as rt


def best(f: Callable[[], Any], inner: int = 2000, repeats: int = 25) -> tuple[float, float]:
    """(median, minimum) microseconds per call."""
    for _ in range(inner):
        f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(inner):
            f()
        times.append((time.perf_counter() - start) / inner * 1e6)
    return statistics.median(times), min(times)


def show(name: str, value: tuple[float, float], unit: str = "us") -> None:
    print(f"{name:58} {value[0]:9.3f} {unit} (min {value[1]:.3f})")


def model(nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, Any], weights: dict[str, Any] | None = None) -> bytes:
    infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()]
    outs = [
        onnx.ValueInfoProto(name=k) if v is None else helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()
    ]
    inits = [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    content: bytes = helper.make_model(
        helper.make_graph(nodes, "g", infos, outs, inits), opset_imports=imports, ir_version=9
    ).SerializeToString()
    return content


def measure_run() -> None:
    """`run` with one small input."""
    session = rt.InferenceSession(model([helper.make_node("Exp", ["x"], ["y"])], {"x": [4]}, {"y": [4]}), threads=1)
    feed = {"x": np.ones(4, np.float32)}
    runner = session.bind()
    replay = best(runner.replay)
    run = best(lambda: session.run(None, feed))
    kernel = float(np.median(runner.profile(1000))) / 1e3
    show("run, one input of 4 floats", run)
    show("replay of the same", replay)
    print(
        f"{'run over replay':58} {run[0] - replay[0]:9.3f} us (min {run[1] - replay[1]:.3f}); the kernel between two clock readings {kernel:.3f} us"
    )


def measure_replay() -> None:
    """A chain of launches that cannot fuse: each permutes and adds."""

    def chain(n: int, size: int) -> Any:
        nodes, name = [], "x"
        for k in range(n):  # a sum over an axis, then broadcast back: two launches that no fusion joins into one
            nodes.append(helper.make_node("CumSum", [name, "axis"], [f"c{k}"]))
            name = f"c{k}"
        nodes.append(helper.make_node("Neg", [name], ["y"]))
        content = model(nodes, {"x": [size]}, {"y": [size]}, {"axis": np.array(0, np.int64)})
        return rt.InferenceSession(content, threads=1).bind()

    for size in (1, 8):
        short, long = chain(8, size), chain(264, size)
        launches = len(long.plan.launches) - len(short.plan.launches)
        a, b = best(short.replay, 400), best(long.replay, 100)
        slope = ((b[0] - a[0]) / launches * 1e3, (b[1] - a[1]) / launches * 1e3)
        show(f"replay, per launch of a chain of scans of {size} float(s)", slope, "ns")


def measure_host() -> None:
    """A plan with a host call: scores of three classes as a dictionary per row."""
    nodes = [
        helper.make_node("Exp", ["x"], ["s"]),
        helper.make_node("ZipMap", ["s"], ["y"], domain="ai.onnx.ml", classlabels_strings=["setosa", "versicolor", "virginica"]),
    ]
    session = rt.InferenceSession(model(nodes, {"x": [1, 3]}, {"y": None}), threads=1)
    feed, scores = {"x": np.ones((1, 3), np.float32)}, np.ones((1, 3), np.float32)
    labels = ("setosa", "versicolor", "virginica")
    show("run, one launch and a ZipMap of one row", best(lambda: session.run(None, feed)))
    show("the rows alone", best(lambda: [dict(zip(labels, row)) for row in scores.tolist()]))


_FIRST = """
import sys, time
start = time.perf_counter()
import numpy as np
after = time.perf_counter()
import {module} as rt
session = rt.InferenceSession(sys.argv[1])
feeds = {{}}
for i in session.get_inputs():
    dtype = np.int64 if "int64" in i.type else np.float32
    feeds[i.name] = np.ones([n if isinstance(n, int) else 8 for n in i.shape], dtype)
opened = time.perf_counter()
session.run(None, feeds)
done = time.perf_counter()
peak = next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1]
print(1e3 * (after - start), 1e3 * (opened - after), 1e3 * (done - opened), int(peak) / 1024)
"""


def mlp() -> bytes:
    rng = np.random.default_rng(0)
    w = {f"w{k}": rng.standard_normal((64, 64)).astype(np.float32) for k in range(3)}
    nodes = []
    for k in range(3):
        nodes += [helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"m{k}"]), helper.make_node("Relu", [f"m{k}"], [f"x{k + 1}"])]
    return model(nodes, {"x0": ["n", 64]}, {"x3": ["n", 64]}, w)


def measure_start(path: str | None = None, repeats: int = 15) -> None:
    """Fresh processes, both runtimes in turns."""
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = str(Path(folder) / "mlp.onnx")
            Path(path).write_bytes(mlp())
        rows: dict[str, list[list[float]]] = {"pytensor_rt": [], "onnxruntime": []}
        for _ in range(repeats):
            for module, found in rows.items():
                done = subprocess.run([sys.executable, "-c", _FIRST.format(module=module), path], capture_output=True, text=True)
                if done.returncode == 0:
                    found.append([float(v) for v in done.stdout.split()])
        for module, found in rows.items():
            if found:
                middle = [statistics.median(column) for column in zip(*found)]
                least = [min(column) for column in zip(*found)]
                print(
                    f"{module}: after numpy ({middle[0]:.0f} ms) import and open {middle[1]:.1f} ms (min {least[1]:.1f}), "
                    f"first run {middle[2]:.1f} ms (min {least[2]:.1f}), peak {middle[3]:.1f} MB"
                )


def measure_shapes(path: str | None = None) -> None:
    """New shapes on an open session; `path`: a model whose inputs are int64 [batch, tokens], else a small MLP."""
    session = rt.InferenceSession(path or mlp(), threads=1)

    def ready(n: int) -> float:
        feeds = {i.name: np.ones([1, n], np.int64) if "int64" in i.type else np.ones([n, 64], np.float32) for i in session.get_inputs()}
        engine = session._engine
        specs, arrays = session._check(feeds)
        start = time.perf_counter()
        if engine.templates is None or engine.templates.find(specs, {}) is None:
            engine.bind_static(arrays, set(arrays), session._memory)
        return 1e3 * (time.perf_counter() - start)

    times = [ready(n) for n in (16, 24, 33, *range(40, 80))]
    print("new shape: first {:.2f} ms, second {:.2f}, third {:.2f}, then".format(*times[:3]), end=" ")
    print(f"{statistics.median(times[3:]):.3f} ms (median of {len(times) - 3}, slowest {max(times[3:]):.3f})")


PARTS: dict[str, Callable[..., None]] = {
    "run": measure_run, "replay": measure_replay, "host": measure_host, "start": measure_start, "shapes": measure_shapes,
}  # fmt: skip


def main() -> None:
    named = [a for a in sys.argv[1:] if a in PARTS]
    files = [a for a in sys.argv[1:] if a not in PARTS]
    for name in named or PARTS:
        if name in ("start", "shapes") and files:
            for path in files:
                PARTS[name](path)
        else:
            PARTS[name]()


if __name__ == "__main__":
    main()
