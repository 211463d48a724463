"""One runtime, one model, in a process of its own: answers the commands of compare.py, a line of JSON each, over its standard input and output.

    {"do": "open", "model": path, "feeds": file.npz, "threads": n}   -> {"import_s", "load_s", "rss"}: opened and run once
    {"do": "block", "seconds": s}                                    -> {"times": [seconds, ...]}
    {"do": "outputs", "file": path}                                  -> {"rss"}: a pickled list of outputs of the last run
    {"do": "count"}                                                  -> {"flops": operations of one run, or null}

An exception is answered as {"error": text}. While it waits for a command the process is blocked in a read, so only one of several is ever active.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from array import array
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Feeds = dict[str, np.ndarray[Any, Any]]
MOST_RUNS = 20_000  # of one block: millions of times of a tiny model would be most of the memory measured here


class Adapter(Protocol):
    """A runtime. The constructor imports it (not timed as loading)."""

    def open(self, model: str, threads: int) -> None: ...

    def run(self, feeds: Feeds) -> list[Any]: ...

    def flops(self) -> int | None: ...


class Ours:
    """pytensor_rt."""

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        import pytensor_rt

        self.module = pytensor_rt

    def open(self, model: str, threads: int) -> None:
        self.session = self.module.InferenceSession(model, threads=threads)

    def run(self, feeds: Feeds) -> list[Any]:
        return self.session.run(None, feeds)

    def flops(self) -> int | None:
        from benchmarks.flops import plan_flops

        return plan_flops(self.session.plan_report())


class OnnxRuntime:
    """onnxruntime with its defaults, but for the number of threads."""

    def __init__(self) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        self.module = onnxruntime

    def open(self, model: str, threads: int) -> None:
        options = self.module.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = self.module.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Feeds) -> list[Any]:
        return list(self.session.run(None, feeds))

    def flops(self) -> int | None:
        return None


class OpenVINO:
    """openvino's CPU plugin in float32, latency hint."""

    def __init__(self) -> None:
        import openvino

        self.core = openvino.Core()

    def open(self, model: str, threads: int) -> None:
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        compiled = self.core.compile_model(self.core.read_model(model), "CPU", options)
        self.names = [p.get_names() for p in compiled.inputs]
        self.request = compiled.create_infer_request()
        self.outputs = len(compiled.outputs)

    def run(self, feeds: Feeds) -> list[Any]:
        self.request.infer([next(feeds[n] for n in names if n in feeds) for names in self.names])
        return [self.request.get_output_tensor(i).data.copy() for i in range(self.outputs)]

    def flops(self) -> int | None:
        return None


class Tract:
    """tract, which runs on one thread; it is planned for the shapes of the first feeds."""

    def __init__(self) -> None:
        import tract

        self.module = tract
        self.plan: Any = None

    def open(self, model: str, threads: int) -> None:
        if threads != 1:
            raise RuntimeError("tract runs on one thread")
        self.model = self.module.onnx().load(model)

    def run(self, feeds: Feeds) -> list[Any]:
        if self.plan is None:
            names = [self.model.input_name(i) for i in range(self.model.input_count())]
            for i, name in enumerate(names):
                kind = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "bool": "bool"}[feeds[name].dtype.name]
                self.model.set_input_fact(i, ",".join([*map(str, feeds[name].shape), kind]))
            self.names = names
            self.plan = (
                self.model.into_model().into_runnable()
                if hasattr(self.model, "into_model")
                else self.model.into_optimized().into_runnable()
            )
        return [value.to_numpy() for value in self.plan.run([feeds[n] for n in self.names])]

    def flops(self) -> int | None:
        return None


RUNTIMES: dict[str, type[Any]] = {"pytensor_rt": Ours, "onnxruntime": OnnxRuntime, "openvino": OpenVINO, "tract": Tract}


def peak_rss() -> int:
    """Peak resident bytes of this process. Not getrusage: its maximum is inherited from the process that started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Worker:
    """The commands."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.adapter: Any = None
        self.feeds: Feeds = {}
        self.last: list[Any] = []

    def open(self, model: str, feeds: str, threads: int) -> dict[str, Any]:
        with np.load(feeds) as file:
            self.feeds = {name: file[name] for name in file.files}
        start = time.perf_counter()
        self.adapter = RUNTIMES[self.runtime]()
        imported = time.perf_counter()
        self.adapter.open(model, threads)
        self.last = self.adapter.run(self.feeds)
        return {"import_s": imported - start, "load_s": time.perf_counter() - imported, "rss": peak_rss()}

    def block(self, seconds: float) -> dict[str, Any]:
        """Times runs for `seconds`, or MOST_RUNS of them, after untimed ones that bring caches and threads back."""
        until = time.perf_counter() + min(0.02, seconds / 5)
        while True:
            self.adapter.run(self.feeds)
            if time.perf_counter() > until:
                break
        times = array("d")
        until = time.perf_counter() + seconds
        while not times or (len(times) < MOST_RUNS and time.perf_counter() < until):
            start = time.perf_counter()
            self.last = self.adapter.run(self.feeds)
            times.append(time.perf_counter() - start)
        return {"times": times.tolist()}

    def outputs(self, file: str) -> dict[str, Any]:
        rss = peak_rss()
        Path(file).write_bytes(pickle.dumps(self.last))
        return {"rss": rss}

    def count(self) -> dict[str, Any]:
        return {"flops": self.adapter.flops()}


def main() -> None:
    """Serve until the input ends. Anything printed by a runtime goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
