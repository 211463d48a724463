"""What the commands share: opening a session, making inputs, printing tables, timing."""

from __future__ import annotations

import argparse
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import BOOL, DType, from_code, type_name
from ..errors import InputError
from ..session import InferenceSession, NodeArg

Array = np.ndarray[Any, Any]


def open_session(args: argparse.Namespace) -> InferenceSession:
    """The session that the common options describe."""
    return InferenceSession(args.model, device=args.device, threads=args.threads, weights=args.weights, precision=args.precision)


def dtype_of(arg: NodeArg) -> DType:
    """The dtype of a tensor input. Raises InputError for sequences and other non-tensors."""
    for code in range(1, 27):
        if arg.type == f"tensor({type_name(code)})":
            return from_code(code)
    raise InputError(f"input {arg.name!r} is a {arg.type}: the command line gives tensors only; use the Python API")


def _pairs(items: list[str], option: str) -> list[tuple[str, str]]:
    out = []
    for item in items:
        name, sep, value = item.rpartition("=")
        if not sep and option == "--shape":
            raise InputError(f"{option} {item}: expected NAME=VALUE")
        out.append((name, value))
    return out


def _shapes(args: argparse.Namespace, inputs: list[NodeArg]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """--shape: the shapes of inputs and the sizes of named dimensions."""
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    names = {i.name for i in inputs}
    dims = {d for i in inputs for d in i.shape if isinstance(d, str)}
    for name, text in _pairs(args.shape, "--shape"):
        try:
            shape = tuple(int(n) for n in text.replace("x", ",").split(",") if n)
        except ValueError:
            raise InputError(f"--shape {name}={text}: expected whole numbers separated by commas") from None
        if min(shape, default=0) < 0:
            raise InputError(f"--shape {name}={text}: sizes cannot be negative")
        if name in names:
            shapes[name] = shape
        elif name in dims and len(shape) == 1:
            sizes[name] = shape[0]
        else:
            known = ", ".join([*(repr(i.name) for i in inputs), *sorted(map(repr, dims))])
            raise InputError(f"--shape {name}={text}: the model has no such input or dimension; it has {known}")
    return shapes, sizes


def _load(path: Path) -> Array:
    if path.suffix == ".pb":
        import onnx

        try:
            return np.asarray(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
        except Exception as e:
            raise InputError(f"{path}: not a TensorProto: {e}") from None
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: not an array file: {e}") from None


def given_inputs(args: argparse.Namespace, inputs: list[NodeArg]) -> dict[str, Array]:
    """--input: arrays by input name."""
    feeds: dict[str, Array] = {}
    by_name = {i.name: i for i in inputs}
    for name, text in _pairs(args.input, "--input"):
        path = Path(text)
        if path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as archive:
                    feeds.update({k: archive[k] for k in ([name] if name else archive.files)})
            except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
                raise InputError(f"{path}: cannot be read as an archive of inputs: {e}") from None
            continue
        if not name:
            if len(inputs) != 1:
                raise InputError(f"--input {text}: say for which input: {', '.join(i.name + '=' + text for i in inputs)}")
            name = inputs[0].name
        if path.suffix in (".npy", ".pb") or path.exists():
            feeds[name] = _load(path)
            continue
        if name not in by_name:
            raise InputError(f"--input {name}={text}: the model's inputs are {', '.join(map(repr, by_name))}")
        try:
            feeds[name] = np.array([float(v) for v in text.split(",")]).astype(dtype_of(by_name[name]))
        except ValueError:
            raise InputError(f"--input {name}={text}: neither a file nor numbers separated by commas") from None
        if len(by_name[name].shape) == 0:
            feeds[name] = feeds[name].reshape(())
    return feeds


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Standard normal floats; integers 0 and 1, which are valid as token, index and mask alike; random bools; the string "a"."""
    if dtype == BOOL:
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "O":
        return np.full(shape, "a", dtype)
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        return rng.integers(0, 2, shape).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def make_inputs(session: InferenceSession, args: argparse.Namespace) -> dict[str, Array]:
    """An array per input of the model: those given, and random ones for the rest. Dynamic dimensions without --shape have size 1."""
    inputs = session.get_inputs()
    shapes, sizes = _shapes(args, inputs)
    feeds = given_inputs(args, inputs)
    rng = np.random.default_rng(args.seed)
    for i in inputs:
        if i.name not in feeds:
            shape = shapes.get(i.name)
            if shape is None:
                shape = tuple(n if isinstance(n, int) and n > 0 else sizes.get(n, 1) if isinstance(n, str) else 1 for n in i.shape)
            feeds[i.name] = random_array(rng, shape, dtype_of(i))
    return feeds


def describe(value: Any) -> str:
    """`float32[1, 10]  min -1.2  mean 0.1  max 3.4`, or the beginning of a value that is no tensor."""
    if not isinstance(value, np.ndarray):
        text = repr(value)
        return (
            f"{type(value).__name__} of {len(value)}: {text[:100]}{'…' if len(text) > 100 else ''}" if hasattr(value, "__len__") else text
        )
    text = f"{value.dtype}{list(value.shape)}"
    if value.size == 0 or value.dtype.kind in "OSU":
        return text + (f"  {value.reshape(-1)[:4].tolist()}" if value.size else "")
    if value.dtype.kind == "c":
        return f"{text}  max |v| {np.abs(value).max():.6g}"
    x = value.astype(np.float64)
    return f"{text}  min {x.min():.6g}  mean {x.mean():.6g}  max {x.max():.6g}"


def table(rows: Sequence[tuple[str, ...]], right: str = "") -> str:
    """Aligned columns; `right` has one letter per column, r for right-aligned. The last column is not padded."""
    if not rows:
        return ""
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = []
    for r in rows:
        cells = [v.rjust(w) if right[c : c + 1] == "r" else v.ljust(w) for c, (v, w) in enumerate(zip(r, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def seconds(t: float) -> str:
    """A duration in the unit that suits it."""
    return f"{t * 1e6:.1f} µs" if t < 1e-3 else f"{t * 1e3:.2f} ms" if t < 1 else f"{t:.2f} s"


def nbytes(n: float) -> str:
    """A number of bytes in the unit that suits it."""
    return f"{n:.0f} B" if n < 1024 else f"{n / 1024:.1f} KiB" if n < 1 << 20 else f"{n / (1 << 20):.2f} MiB"


def interleaved(runs: dict[str, Callable[[], Any]], repeat: int, block_seconds: float = 0.02) -> dict[str, list[float]]:
    """Seconds per call of each function, `repeat` times: blocks of calls in turns, so that a slow moment of the machine hits all of them."""
    count: dict[str, int] = {}
    for name, fn in runs.items():
        fn()
        start = time.perf_counter()
        fn()
        count[name] = max(1, min(1000, int(block_seconds / max(1e-7, time.perf_counter() - start))))
    out: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(1, repeat)):
        for name, fn in runs.items():
            n = count[name]
            start = time.perf_counter()
            for _ in range(n):
                fn()
            out[name].append((time.perf_counter() - start) / n)
    return out


def spread(times: list[float]) -> str:
    """`median (first to third quartile)`."""
    if len(times) < 2:
        return seconds(times[0])
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return f"{seconds(middle)} ({seconds(low)} to {seconds(high)})"


def peer(args: argparse.Namespace, model: str | bytes) -> Any:
    """An onnxruntime session with as many threads, or None if onnxruntime is not installed or cannot run the model (said on one line)."""
    try:
        import onnxruntime
    except ImportError:
        print("onnxruntime is not installed: nothing to compare with")
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its idle threads must not slow down the other's block
    if args.threads:
        options.intra_op_num_threads = args.threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's errors have no common base of their own
        print(f"onnxruntime cannot open this model: {str(e).splitlines()[0]}")
        return None
