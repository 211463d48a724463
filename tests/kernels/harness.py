"""Run one kernel launch on any backend, from plain NumPy arrays of any strides: what every kernel test is built on.

    y, = run("gemm", [a, b], [((m, n), np.float32)], {"alpha": 1.0})
    y, = run("gemm", [a, b], [out_array], {}, epilogue=lambda acc, bias: relu(acc + bias), epi_ins=[bias])

Operands are arrays (any strides, also negative; broadcast axes as stride-0 views from np.broadcast_to) or None. Outputs are (shape, dtype) or
a preallocated strided array. Programs are functions on `Var`s (pytensor_rt.lowering.expr); the harness supplies their operands.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pytensor_rt import _native
from pytensor_rt.lowering.expr import Var
from pytensor_rt.lowering.expr import program_of as program
from pytensor_rt.lowering.tensor import Buffer, Launch, Tensor
from pytensor_rt.runtime import encode

ISAS: list[str] = _native.isa_levels()  # best first

# Another device to run launches on: a function (launch, base array of every buffer, threads). None: the C++ kernels.
Device = Callable[[Launch, dict[Buffer, np.ndarray[Any, Any]], int], None]
device: Device | None = None


def tensor_of(a: np.ndarray[Any, Any], kind: str, number: int) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """A Tensor viewing array `a`, and the 1-d array of the whole memory stretch it reaches."""
    item = a.itemsize
    assert all(s % item == 0 for s in a.strides), "byte strides must be multiples of the item size"
    strides = tuple(0 if n == 1 else s // item for n, s in zip(a.shape, a.strides))
    lo = sum(min(0, (n - 1) * s) for n, s in zip(a.shape, strides)) if a.size else 0
    hi = sum(max(0, (n - 1) * s) for n, s in zip(a.shape, strides)) if a.size else -1
    base = _stretch(a, lo, hi, item)
    buffer = Buffer(number, kind, hi - lo + 1, a.dtype)
    return Tensor(buffer, -lo, a.shape, strides, a.dtype), base


def _stretch(a: np.ndarray[Any, Any], lo: int, hi: int, item: int) -> np.ndarray[Any, Any]:
    if hi < lo:
        return np.empty(0, a.dtype)
    address = a.__array_interface__["data"][0] + lo * item
    return np.frombuffer((ctypes.c_char * ((hi - lo + 1) * item)).from_address(address), np.uint8).view(a.dtype)


def run(
    kernel: str,
    ins: Sequence[np.ndarray[Any, Any] | None],
    outs: Sequence[Any],
    params: dict[str, Any] | None = None,
    *,
    body: Callable[..., Var] | None = None,
    prologue: Callable[..., Var] | None = None,
    pro_ins: Sequence[np.ndarray[Any, Any]] = (),
    epilogue: Callable[..., Var] | None = None,
    epi_ins: Sequence[np.ndarray[Any, Any]] = (),
    acc_dtype: Any = None,
    consts: Sequence[int] = (),
    isa: str | None = None,
    threads: int = 1,
    repeat: int = 1,
    describe: list[str] | None = None,
    timer: list[float] | None = None,
) -> list[np.ndarray[Any, Any]]:
    """Run one launch; returns its outputs (absent ones as None). `consts` lists positions in `ins` that are constants (packable weights).

    With a prologue, ins[0] is only looked at for its shape and dtype. acc_dtype: the kernel's own result dtype when an epilogue changes it.
    `timer` receives the nanoseconds of each of `repeat` runs, `describe` the strategy the kernel chose.
    """
    isa = isa or os.environ.get("PTRT_ISA") or ISAS[0]
    ins = [None if a is None else np.asarray(a) for a in ins]  # a NumPy scalar has no memory of its own
    buffers: list[list[int]] = []
    index: dict[Any, int] = {}
    bases: dict[Buffer, np.ndarray[Any, Any]] = {}
    in_arrays: list[np.ndarray[Any, Any]] = []
    out_arrays: list[np.ndarray[Any, Any]] = []
    const_arrays: list[np.ndarray[Any, Any]] = []

    def operand(a: np.ndarray[Any, Any] | None, kind: str) -> Tensor | None:
        if a is None:
            return None
        t, base = tensor_of(a, kind, len(buffers))
        arrays, code = {"input": (in_arrays, encode.INPUT), "output": (out_arrays, encode.OUTPUT), "const": (const_arrays, encode.CONST)}[
            kind
        ]
        index[t.buffer] = len(buffers)
        bases[t.buffer] = base
        buffers.append([code, len(arrays), base.nbytes])
        arrays.append(base)
        return t

    results = [None if o is None else o if isinstance(o, np.ndarray) else np.empty(*o) for o in outs]
    in_tensors = [operand(a, "const" if k in consts else "input") for k, a in enumerate(ins)]
    launch = Launch(kernel, in_tensors, [operand(a, "output") for a in results], params)
    if body is not None:
        launch.body = program(body, [a.dtype for a in ins if a is not None])
    if prologue is not None:
        launch.pro_ins = [t for t in (operand(a, "input") for a in pro_ins) if t is not None]
        launch.prologue = program(prologue, [a.dtype for a in pro_ins])
    out_dtype = next(r.dtype for r in results if r is not None)
    launch.acc_dtype = np.dtype(acc_dtype) if acc_dtype is not None else out_dtype
    if epilogue is not None:
        launch.epi_ins = [t for t in (operand(a, "input") for a in epi_ins) if t is not None]
        launch.epilogue = program(epilogue, [a.dtype for a in epi_ins], acc=launch.acc_dtype)
    if device is not None:
        for b, base in bases.items():
            if b.kind == "const":
                b.data = base
        for _ in range(repeat):
            device(launch, bases, threads)
        return results  # type: ignore[return-value]
    code = encode.encode_plan([w for b in buffers for w in b], [launch], index)
    native = _native.Program(encode.words(code), const_arrays, [False] * len(const_arrays), isa, _native.Arena(), _native.Packs(), threads)
    for _ in range(repeat):
        if timer is None:
            native.run(tuple(in_arrays), tuple(out_arrays), 0, 1)
        else:
            timer.append(float(native.profile(tuple(in_arrays), tuple(out_arrays))[0]))
    if describe is not None:
        describe.append(native.describe(0))
    return results  # type: ignore[return-value]


def strided(rng: np.random.Generator, a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values in a random layout: permuted memory order, gaps between elements, negative strides."""
    perm = rng.permutation(a.ndim)
    steps = [int(rng.choice([1, 1, 2, -1, -2])) for _ in range(a.ndim)]
    big = np.zeros([abs(steps[p]) * a.shape[p] + int(rng.integers(0, 3)) for p in perm], a.dtype)
    view = big.transpose(np.argsort(perm))
    index = tuple(slice(0, abs(s) * n, abs(s)) if s > 0 else slice(abs(s) * n - 1, None, s) for s, n in zip(steps, a.shape))
    view = view[(*index, ...)] if all(n > 0 for n in a.shape) else np.zeros(a.shape, a.dtype)
    view[...] = a
    return view
