"""InferenceSession: the public API, shaped like onnxruntime's, and Runner: a bound plan whose inputs and outputs are its own buffers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .dtypes import DType, from_code, type_name
from .errors import DeviceError, InputError
from .graph import ModelMetadata
from .plan.plan import PlanOptions
from .runtime.engine import Engine, InputSpec
from .runtime.lane import MAX_LANES, Lanes
from .runtime.quiet import Quiet
from .runtime.segment import segments

if TYPE_CHECKING:
    from onnx import ModelProto

    from .runtime.report import PlanReport

Feeds = Mapping[str, Any]
PRECISIONS = {"float32": "full", "bf16": "bf16", "fp16": "fp16", "int8": "int8"}  # as callers name them -> spec.GEMM_PRECISIONS


class NodeArg:
    """One input or output of a model: `type` like `tensor(float)`, `shape` with ints, names of symbolic dimensions, or None."""

    __slots__ = ("name", "shape", "type")

    def __init__(self, name: str, type: str, shape: list[int | str | None]) -> None:
        self.name, self.type, self.shape = name, type, shape

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape!r})"


class InferenceSession:
    """Runs one ONNX model.

    Args:
        model: path of an .onnx file, its bytes, or a ModelProto. Weights of a file are mapped, not read.
        device: "cpu" (the compiled kernels), "cuda" (an NVIDIA GPU, through CuPy), "numba" (the CPU, through numba: for installations without the
            compiled kernels), "auto" (the first of cuda, cpu and numba that has all it needs; `session.device` says which), or "reference" (NumPy, slow:
            the oracle of the tests). The default is "cpu", or "numba", with a warning, if this installation has no compiled kernels. A device that is
            asked for and not available is an error, never a fallback.
        threads: the most CPU threads a run may use; default: all CPUs this process may use. Results do not depend on it.
        weights: "packed" copies large weights into the order the kernels like best, at their second use. "mapped" leaves them in the model's file
            and gives its pages back after every use: BERT-base runs in 72 MB instead of 406 MB and 1.25 times the time. The results are the same
            bits. Weights that are not in a file, and those of convolutions and recurrences, are packed in either case.
        optimize: apply graph passes. Only tests want False.
        precision: how float32 products by constant matrices are stored and computed: "float32" (as the model says), "bf16", "fp16" or "int8".
            Everything else, and every tensor a caller sees, stays float32. docs/precision.md states the errors.

    Raises:
        ValueError: `threads`, `weights` or `precision` is not one of the values above.
        ModelError: the file is damaged or not ONNX. UnsupportedError: it uses operators that are not implemented; all are listed.
        DeviceError: the device or the ISA level named by PTRT_ISA is not available.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | ModelProto,
        *,
        device: str | None = None,
        threads: int | None = None,
        weights: str = "packed",
        optimize: bool = True,
        precision: str = "float32",
        providers: Sequence[Any] | None = None,
    ) -> None:
        from .graph import load_model

        device = _resolve(device)
        memory: Any = None
        if device == "cuda":
            from .kernels.cuda.device import Device
            from .runtime.cuda import CudaMemory

            memory = CudaMemory(Device())
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        if weights not in ("packed", "mapped"):
            raise ValueError(f"weights must be 'packed' or 'mapped', got {weights!r}")
        start = time.perf_counter()
        with Quiet():
            loaded = load_model(model)
            if optimize:
                from .passes import optimize as run_passes

                loaded = run_passes(loaded)
        self.device = device
        self._memory: Any
        if self.device == "reference":
            from .runtime.reference import ReferenceMemory

            self.threads, self._memory = 1, ReferenceMemory()
        elif memory is not None:
            self.threads, self._memory = 1, memory
        elif self.device == "numba":
            from .runtime.numba import NumbaMemory
            from .runtime.workers import available_cpus

            self.threads = threads or available_cpus()
            self._memory = NumbaMemory(self.threads)
        else:
            from .kernels import cpu

            self.threads = threads or cpu.available_cpus()
            self._memory = cpu.Memory(self.threads, cpu.isa_level())
            if weights == "mapped":
                self._memory.packs.leave_in_file()
        self._model = loaded
        self.precision = precision
        self._engine = Engine(
            loaded, self._memory, PlanOptions(precision=PRECISIONS[precision], workers=self.threads if self.device == "cpu" else 0)
        )
        self._inputs = {v.name: v for v in self._engine.input_infos}
        self._lanes = Lanes(self._engine, {"reference": 1, "cuda": MAX_LANES, "numba": MAX_LANES}.get(self.device) or cpu.available_cpus())
        self._lane = self._lanes.first
        self._output_names = self._engine.output_names
        self.load_seconds = time.perf_counter() - start

    # ------------------------------------------------------------------------------------------------------------- description
    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs, without initializers."""
        return [_arg(v) for v in self._engine.input_infos]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs."""
        return [_arg(v) for v in self._model.graph.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initializers that may be fed because they are inputs too."""
        return [_arg(v) for v in self._model.graph.inputs if v.name in self._engine.overridable]

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself."""
        return self._model.metadata

    def get_providers(self) -> list[str]:
        """For code written for onnxruntime."""
        return ["CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"]

    @property
    def isa(self) -> str:
        """What the kernels in use are compiled for: an ISA level (v2, v3, v4, v4x or neon), a GPU's architecture, or a CPU as LLVM names it."""
        isa: str = self._memory.isa
        return isa

    # ----------------------------------------------------------------------------------------------------------------- running
    def run(self, output_names: Sequence[str] | None, input_feed: Feeds, run_options: Any = None) -> list[Any]:
        """Run the model.

        Args:
            output_names: which outputs to return, in which order; None for all.
            input_feed: an array per input (a list of arrays for a sequence input). Initializers that are inputs may be fed too.

        Returns: one value per output: an ndarray the caller owns, a list for sequences, a list of dicts for ZipMap.

        Raises:
            InputError: an input is missing or unknown, or has the wrong dtype or shape.
            PlanError: the shapes do not fit the model. ExecutionError: bad data, e.g. an index out of range.
        """
        lane = self._lane
        if not lane.lock.acquire(False):
            lane = self._lanes.another()
        try:
            values = lane.run(input_feed)
            if values is None:
                if output_names is not None:
                    self._select(output_names, dict.fromkeys(self._output_names))
                return self._select(output_names, lane.run_checked(*self._check(input_feed)))
        finally:
            lane.lock.release()
        return values if output_names is None else self._select(output_names, dict(zip(self._output_names, values)))

    def stream(self, feeds: Iterable[Feeds], output_names: Sequence[str] | None = None, prefetch: int = 2) -> Iterator[list[Any]]:
        """Run the model on one feed after another, up to `prefetch` of them at a time, and yield their results in order.

        The next feeds are taken from the iterable, and on a GPU uploaded, while earlier ones are computed and their results downloaded. Every run in
        flight has memory of its own. Raises what `run` raises when the result of a bad feed is due; the session stays usable.
        """
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        return self._stream(iter(feeds), output_names, prefetch)

    def _stream(self, feeds: Iterator[Feeds], output_names: Sequence[str] | None, prefetch: int) -> Iterator[list[Any]]:
        from collections import deque
        from concurrent.futures import Future, ThreadPoolExecutor

        pending: deque[Future[list[Any]]] = deque()
        with ThreadPoolExecutor(prefetch, "pytensor_rt-stream") as pool:
            try:
                for feed in feeds:
                    pending.append(pool.submit(self.run, output_names, feed))
                    if len(pending) >= prefetch:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for f in pending:
                    f.cancel()

    def _select(self, output_names: Sequence[str] | None, values: dict[str, Any]) -> list[Any]:
        if output_names is None:
            return list(values.values())
        missing = [n for n in output_names if n not in values]
        if missing:
            raise InputError(f"unknown output {missing[0]!r}; the model has {', '.join(map(repr, self._output_names))}")
        return [values[n] for n in output_names]

    def _input(self, name: str, value: Any, elem_type: int | None) -> Any:
        """A validated input: a contiguous NumPy array, or an array that lies on this session's device."""
        if self.device == "cuda":
            try:
                held = self._memory.adopt(value)
            except ValueError as e:
                raise InputError(f"input {name!r}: this device array cannot be used: {e}") from None
            if held is not None:
                expected = from_code(elem_type) if elem_type else held.dtype
                if held.dtype != expected:
                    raise InputError(f"input {name!r}: expected {expected.name}, got {held.dtype.name}")
                return held
        return _array(name, value, elem_type)

    def _check(self, input_feed: Feeds) -> tuple[list[InputSpec], dict[str, Any]]:
        """Validated input specifications and contiguous arrays, in the model's input order."""
        known = set(self._inputs) | self._engine.overridable
        for name in input_feed:
            if name not in known:
                raise InputError(f"unknown input {name!r}; the model's inputs are {', '.join(map(repr, self._inputs)) or 'none'}")
        specs: list[InputSpec] = []
        feeds: dict[str, Any] = {}
        infos = [
            *self._engine.input_infos,
            *(v for v in self._model.graph.inputs if v.name in self._engine.overridable and v.name in input_feed),
        ]
        for info in infos:
            if info.name not in input_feed:
                if info.kind == "optional":
                    continue
                raise InputError(f"input {info.name!r} ({info.type_string or 'tensor'}{_shape_text(info.shape)}) is missing")
            value = input_feed[info.name]
            if info.kind == "sequence" or (info.kind == "optional" and value is not None and info.type_string.startswith("optional(seq(")):
                specs.append((f"{info.name}#len", (len(value),), np.dtype(np.int64)))
                for i, item in enumerate(value):
                    a = self._input(f"{info.name}[{i}]", item, info.elem_type)
                    specs.append((f"{info.name}#{i}", a.shape, a.dtype))
                    feeds[f"{info.name}#{i}"] = a
                continue
            if info.kind == "optional":
                if value is None:
                    continue
                a = self._input(info.name, value, info.elem_type)
                specs.append((f"{info.name}#0", a.shape, a.dtype))
                feeds[f"{info.name}#0"] = a
                continue
            a = self._input(info.name, value, info.elem_type)
            if info.shape is not None:
                _check_shape(info.name, a.shape, info.shape)
            specs.append((info.name, a.shape, a.dtype))
            feeds[info.name] = a
        return specs, feeds

    # ----------------------------------------------------------------------------------------------------------------- binding
    def bind(self, **inputs: Any) -> Runner:
        """A runner for fixed shapes: one argument per input, a shape (tuple) or an array whose shape and values to start with.

        Inputs with only fixed dimensions may be left out. Raises InputError for missing inputs, PlanError if the model needs the value of an
        input that was given as a shape, or is not a single static segment.
        """
        return Runner(self, inputs)

    def plan_report(self, **inputs: Any) -> PlanReport:
        """What was planned: for the given shapes or arrays (as for bind), or without arguments for the last signature run (or the static one)."""
        engine = self._engine
        if inputs or not engine.cache:
            runner = self.bind(**inputs)
            return _report(self._memory, [runner._segment.bound])
        entry = next(reversed(engine.cache.values()))
        return _report(self._memory, [s.bound for s in segments(entry.first)])


class Runner:
    """A plan bound to memory of its own. `inputs[name]` and `outputs[name]` are NumPy views of the plan's buffers: write, `replay()`, read.

    `replay()` copies nothing and allocates nothing. On device "cuda" they are CuPy arrays in the device's memory, and `replay()` waits for the
    results.
    """

    def __init__(self, session: InferenceSession, given: Mapping[str, Any]) -> None:
        engine = session._engine
        feeds: dict[str, Any] = {}
        valued: set[str] = set()
        for info in engine.input_infos:
            if info.kind not in (None, "tensor"):
                raise InputError(f"input {info.name!r} is a {info.kind}: bind() takes tensors only")
            dtype = from_code(info.elem_type or 1)
            g = given.get(info.name)
            if g is None:
                if info.shape is None or any(not isinstance(n, int) for n in info.shape):
                    raise InputError(f"bind: input {info.name!r}{_shape_text(info.shape)} has dynamic dimensions; give a shape or an array")
                g = tuple(n for n in info.shape if isinstance(n, int))
            if isinstance(g, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in g):
                if min(g, default=0) < 0:
                    raise InputError(f"bind: input {info.name!r}: sizes cannot be negative, got {list(g)}")
                feeds[info.name] = np.zeros(tuple(int(n) for n in g), dtype)
            else:
                feeds[info.name] = np.array(_array(info.name, g, info.elem_type))
                valued.add(info.name)
            if info.shape is not None:
                _check_shape(info.name, feeds[info.name].shape, info.shape)
        for name in given:
            if name not in feeds:
                raise InputError(f"unknown input {name!r}; the model's inputs are {', '.join(map(repr, session._inputs))}")
        self._memory = session._memory.sibling()
        self._memory.packs.pack_at_bind()
        self._segment = engine.bind_static(feeds, valued, self._memory)
        bound = self._segment.bound
        self._step: Any = None  # the native replay, bound once: looking it up would make an object per call
        self.plan = bound.plan
        self.inputs: dict[str, Any] = feeds
        if session.device == "cuda":
            held = bound.own_inputs(feeds)
            made = bound.new_outputs(self._segment.out_specs)
            self._in, self._out = tuple(held), tuple(made)
            self.inputs = feeds | {n: a.cupy() for n, a in zip(self._segment.in_names, held)}
            self.outputs: dict[str, Any] = dict(zip(self._segment.results, self._segment.collect(made, feeds, {})))
            at = {id(b): a for b, a in zip(bound.outputs, made)}
            for name, v in self._segment.results.items():
                if id(v.buffer) in at:
                    self.outputs[name] = at[id(v.buffer)].cupy()
            return
        arrays = [np.zeros(shape, dtype) for shape, dtype in self._segment.out_specs]
        self._in = tuple(bound.own_inputs(feeds))
        self._out = tuple(arrays)
        values = dict(zip(self._segment.results, self._segment.collect(arrays, feeds, {})))
        self.outputs = values
        if bound.simple and bound.program is not None:
            bound.program.attach(self._in, self._out)
            self._step = bound.program.replay

    def replay(self) -> None:
        """Run the plan on the current contents of `inputs`, leaving the results in `outputs`. Raises ExecutionError for bad data."""
        if self._step is None:
            self._segment.bound.run(self._in, self._out, {})
            self._memory.wait()
            return
        try:
            self._step()
        except self._memory.native.LaunchError as e:
            raise self._segment.bound.failure(e) from None

    def profile(self, repeat: int = 10) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Median nanoseconds of every launch of the plan over `repeat` runs."""
        bound = self._segment.bound
        times = np.array([bound.profile(self._in, self._out) for _ in range(max(1, repeat))])
        middle: np.ndarray[Any, np.dtype[np.int64]] = np.median(times, axis=0).astype(np.int64)
        return middle

    def report(self) -> PlanReport:
        """The plan report of this runner."""
        return _report(self._memory, [self._segment.bound])


def _resolve(device: str | None) -> str:
    """The device that a session's argument means. Raises DeviceError for one that does not exist."""
    if device is None:
        from .kernels import cpu

        if cpu.is_built():
            return "cpu"
        import warnings

        warnings.warn(
            "pytensor_rt was installed without its compiled kernels and uses device 'numba', which is slower and compiles at the first run; "
            "reinstall it where a C++ compiler is found to get them, or name a device to silence this",
            RuntimeWarning,
            stacklevel=3,
        )
        return "numba"
    if device == "auto":
        from .kernels import cpu
        from .kernels.cuda.device import usable

        return "cuda" if usable() else "cpu" if cpu.is_built() else "numba"
    if device not in ("cpu", "cuda", "numba", "reference"):
        raise DeviceError(f"device {device!r} is not available; there are 'cpu', 'cuda', 'numba' and 'auto'")
    return device


def _report(memory: Any, bounds: list[Any]) -> PlanReport:
    from .runtime.report import report_of

    return report_of(memory, bounds)


def _arg(v: Any) -> NodeArg:
    text = v.type_string or f"tensor({type_name(v.elem_type or 1)})"
    return NodeArg(v.name, text, list(v.shape) if v.shape is not None else [])


def _shape_text(shape: Any) -> str:
    return "" if shape is None else "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _array(name: str, value: Any, elem_type: int | None) -> np.ndarray[Any, Any]:
    """A contiguous array of exactly the expected dtype; Python numbers and lists are converted, arrays of another dtype are refused."""
    expected: DType | None = from_code(elem_type) if elem_type else None
    if isinstance(value, np.ndarray) or (hasattr(value, "dtype") and hasattr(value, "__array__")):
        a = np.asarray(value)
    else:
        try:
            a = np.asarray(value, expected)
        except (ValueError, TypeError, OverflowError) as e:
            wanted = expected.name if expected is not None else "a tensor"
            raise InputError(f"input {name!r}: cannot make {wanted} of a {type(value).__name__}: {e}; give a NumPy array") from None
    if expected is not None and a.dtype != expected:
        if expected.kind == "O" and a.dtype.kind in "US":
            a = a.astype(object)
        else:
            raise InputError(f"input {name!r}: expected {expected.name}, got {a.dtype.name}; convert it with .astype(np.{expected.name})")
    if not (a.flags.c_contiguous and a.flags.aligned):
        a = np.array(a, order="C")
    return a


def _check_shape(name: str, got: tuple[int, ...], expected: tuple[Any, ...]) -> None:
    if len(got) != len(expected):
        raise InputError(f"input {name!r}: expected rank {len(expected)} {_shape_text(expected)}, got shape {list(got)}")
    for i, (n, m) in enumerate(zip(got, expected)):
        if isinstance(m, int) and m != n and m > 0:
            raise InputError(
                f"input {name!r}: expected size {m} along axis {i}, got {n} (expected {_shape_text(expected)}, got {list(got)})"
            )
