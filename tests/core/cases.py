"""One small valid program per kernel: what the encoding tests truncate and mutate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytensor_rt import _native
from pytensor_rt.kernels.spec import NODE_MODES
from tests.kernels import harness

F32, I64 = np.float32, np.int64


@dataclass
class Case:
    """An encoded program with what it needs to run."""

    name: str
    code: np.ndarray[Any, np.dtype[np.int64]]
    consts: list[Any]
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    def bind(self, code: Any = None, threads: int = 1) -> Any:
        return self.bind_all(self.code if code is None else code, threads=threads)[0]

    def bind_all(self, *codes: Any, threads: int = 1) -> list[Any]:
        """Programs on one arena, each sharing what it can with the one before."""
        isa = harness.os.environ.get("PTRT_ISA") or harness.ISAS[0]
        arena, packs, programs = _native.Arena(), _native.Packs(), []
        for code in codes:
            like = programs[-1] if programs else None
            programs.append(_native.Program(code, self.consts, [False] * len(self.consts), isa, arena, packs, threads, like))
        return programs


class _Recorder:
    """Stands in for `_native` while the harness runs: keeps the arguments of the one program and of its run."""

    def __init__(self) -> None:
        self.case = Case("", np.zeros(0, I64), [])
        self.Arena, self.Packs = _native.Arena, _native.Packs

    def Program(self, code: Any, consts: list[Any], *rest: Any) -> _Recorder:
        self.case.code, self.case.consts = code, consts
        return self

    def run(self, inputs: tuple[Any, ...], outputs: tuple[Any, ...], begin: int, end: int) -> None:
        self.case.inputs, self.case.outputs = inputs, outputs


@contextmanager
def recording() -> Iterator[_Recorder]:
    recorder = _Recorder()
    original, harness._native = harness._native, recorder  # type: ignore[assignment]
    try:
        yield recorder
    finally:
        harness._native = original


def record(kernel: str, ins: list[Any], outs: list[Any], params: dict[str, Any] | None = None, **kw: Any) -> Case:
    keep = [None if o is None else np.zeros(*o) for o in outs]
    with recording() as r:
        harness.run(kernel, ins, keep, params, **kw)
    r.case.name = kernel
    r.case.keep = (ins, keep, kw)  # type: ignore[attr-defined]
    return r.case


def _tree() -> list[Any]:
    i32 = np.int32
    modes = [NODE_MODES.index(m) for m in ("leq", "leaf", "gt", "leaf", "leaf")]
    return [
        np.array([0, 0, 1, 0, 0], i32), np.zeros(5, F32), np.array(modes, np.uint8), np.array([1, 0, 3, 0, 0], i32), np.array([2, 0, 4, 0, 0], i32),
        np.array([0], i32), np.zeros(3, i32), np.ones(3, F32), np.array([0, 0, 1, 1, 2, 3], i32), np.zeros(5, np.bool_),
    ]  # fmt: skip


def _f(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(F32)


def _i(n: int, *shape: int) -> Any:
    return np.random.default_rng(1).integers(0, n, shape)


def _recurrent() -> tuple[list[Any], list[Any], dict[str, Any]]:
    ins = [_f(3, 2, 4), _f(1, 12, 4), _f(1, 12, 3), _f(1, 24), np.array([3, 2], np.int32), None, None, None, None, None, None, None]
    return (
        ins,
        [((3, 1, 2, 3), F32), ((1, 2, 3), F32), ((1, 2, 3), F32)],
        {"cell": "lstm", "activations": (0, 1, 1), "alphas": (0.0,) * 3, "betas": (0.0,) * 3},
    )


_WINDOW = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}

BUILDERS: dict[str, Callable[[], Case]] = {
    "map": lambda: record("map", [_f(4, 5), _f(4, 5)], [((4, 5), F32)], body=lambda a, b: a * b + 2.0),
    "reduce": lambda: record("reduce", [_f(4, 5)], [((4, 1), F32)], {"op": "sum", "axes": (1,)}, epilogue=lambda a: a * 2.0),
    "arg_reduce": lambda: record("arg_reduce", [_f(4, 5)], [((4, 1), I64)], {"axis": 1}),
    "scan": lambda: record("scan", [_f(4, 5)], [((4, 5), F32)], {"axis": 1}),
    "softmax": lambda: record("softmax", [_f(4, 5)], [((4, 5), F32)], {"axis": 1}, prologue=lambda a: a * 2.0, pro_ins=[_f(4, 5)]),
    "normalize": lambda: record("normalize", [_f(4, 5), _f(4, 5)], [((4, 5), F32)], {"op": "layer", "axes": (1,), "epsilon": 1e-5}),
    "gemm": lambda: record("gemm", [_f(4, 5), _f(5, 6)], [((4, 6), F32)], epilogue=lambda a, b: a + b, epi_ins=[_f(4, 6)], consts=[1]),
    "conv": lambda: record("conv", [_f(1, 3, 6, 6), _f(4, 3, 3, 3), _f(4)], [((1, 4, 6, 6), F32)], _WINDOW, consts=[1, 2]),
    "conv_transpose": lambda: record("conv_transpose", [_f(1, 3, 6, 6), _f(3, 4, 3, 3)], [((1, 4, 6, 6), F32)], _WINDOW, consts=[1]),
    "pool": lambda: record("pool", [_f(1, 3, 6, 6)], [((1, 3, 6, 6), F32), ((1, 3, 6, 6), I64)], {"kernel": (3, 3), **_WINDOW}),
    "gather": lambda: record(
        "gather", [_f(7, 5), _i(7, 3)], [((3, 5), F32)], {"mode": "axis"}, epilogue=lambda a, b: a + b, epi_ins=[_f(3, 5)]
    ),
    "scatter": lambda: record("scatter", [_f(7, 5), _i(7, 3, 5), _f(3, 5)], [((7, 5), F32)], {"mode": "elements", "reduction": "add"}),
    "attention": lambda: record("attention", [_f(1, 2, 3, 4), _f(1, 2, 5, 4), _f(1, 2, 5, 4)], [((1, 2, 3, 4), F32)], {"scale": 0.5}),
    "recurrent": lambda: record("recurrent", *_recurrent()),
    "resample": lambda: record(
        "resample", [_f(1, 2, 4, 4)], [((1, 2, 8, 8), F32)],
        {"op": "linear", "coordinates": "half_pixel", "nearest": "floor", "scales": (1.0, 1.0, 2.0, 2.0), "roi": ()},
    ),
    "grid_sample": lambda: record("grid_sample", [_f(1, 2, 4, 4), _f(1, 3, 3, 2)], [((1, 2, 3, 3), F32)], {}),
    "roi_align": lambda: record("roi_align", [_f(1, 2, 4, 4), _f(3, 4), np.zeros(3, I64)], [((3, 2, 2, 2), F32)], {}),
    "topk": lambda: record("topk", [_f(3, 40)], [((3, 4), F32), ((3, 4), I64)], {"axis": 1, "k": 4}),
    "nonzero": lambda: record("nonzero", [_f(3, 4)], [((2, 12), I64)]),
    "compress": lambda: record("compress", [_f(3, 4), np.array([True, False, True])], [((2, 4), F32)], {"axis": 0}),
    "unique": lambda: record("unique", [_i(5, 20)], [((20,), I64), ((20,), I64), ((20,), I64), ((20,), I64), ((1,), I64)]),
    "nms": lambda: record(
        "nms", [_f(1, 6, 4), _f(1, 2, 6)], [((12, 3), I64), ((1,), I64)], {"max_per_class": 6, "iou_threshold": 0.5, "score_threshold": 0.0}
    ),
    "fft": lambda: record("fft", [_f(2, 8, 1)], [((2, 8, 2), F32)], {"axis": 1}),
    "random": lambda: record("random", [np.array([1], np.uint64)], [((3, 4), F32)], {"op": "uniform", "a": 0.0, "b": 1.0, "stream": 0}),
    "tree_ensemble": lambda: record("tree_ensemble", [_f(3, 2), *_tree()], [((3, 1), F32)], {"n_targets": 1}, consts=list(range(1, 11))),
    "linear_algebra": lambda: record("linear_algebra", [_f(2, 3, 3)], [((2,), F32)], {"op": "det"}),
    "col2im": lambda: record("col2im", [_f(1, 9, 16)], [((1, 1, 4, 4), F32)], {"kernel": (3, 3), **_WINDOW}),
    "max_unpool": lambda: record("max_unpool", [_f(1, 1, 2, 2), _i(16, 1, 1, 2, 2)], [((1, 1, 4, 4), F32)], {"reference_shape": (1, 1, 4, 4)}),
    "quantize_stats": lambda: record("quantize_stats", [_f(3, 4)], [((), F32), ((), np.uint8)]),
    "linear_attention": lambda: record(
        "linear_attention",
        [_f(1, 2, 3, 4), _f(1, 2, 3, 4), _f(1, 2, 3, 5), _f(1, 2, 4, 5), _f(1, 2, 3, 4), _f(1, 2, 3)],
        [((1, 2, 3, 5), F32), ((1, 1, 2, 4, 5), F32)],
        {"scale": 0.5, "delta": 1},
    ),
}  # fmt: skip


def available() -> list[str]:
    """Kernels with a case that this build has."""
    have = _native.available_kernels(harness.os.environ.get("PTRT_ISA") or harness.ISAS[0])
    return [k for k in BUILDERS if k in have]
