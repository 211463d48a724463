"""Buffer, Tensor and Launch: what tracing produces and the planner rewrites.

Conventions: strides and offsets are in elements; the stride of every axis of size 1 is stored as 0, so equal layouts are equal tuples. A
Buffer is a piece of memory holding one SSA value; a Tensor is a strided view of it. Dimensions may be symbolic integers (see symbolic.py),
so arithmetic on them uses only `+ - * // %` and comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ..dtypes import DType
from .symbolic import is_symbolic

Shape = tuple[int, ...]
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

ARENA, CONST, INPUT, OUTPUT, HOST = "arena", "const", "input", "output", "host"


def row_major(shape: Shape) -> Shape:
    """Row-major strides of `shape`, 0 for axes of size 1."""
    out = [0] * len(shape)
    step = 1
    for i in range(len(shape) - 1, -1, -1):
        n = shape[i]
        if n != 1:
            out[i] = step
            step = step * n
    return tuple(out)


def size_of(shape: Shape) -> int:
    """Number of elements."""
    return prod(shape)  # symbolic integers multiply by their own method


class Buffer:
    """Memory for one value. `kind`: arena (placed by the planner), const (`data` holds it), input or output (`name`), host (a Python object).

    `size` is in elements. `home` is the (shape, strides) the buffer was created with; layout changes start from it.
    """

    __slots__ = ("data", "dtype", "home", "id", "kind", "mapped", "name", "size")

    def __init__(self, id: int, kind: str, size: int, dtype: DType, data: Any = None, name: str = "", mapped: bool = False) -> None:
        self.id, self.kind, self.size, self.dtype, self.data, self.name, self.mapped = id, kind, size, dtype, data, name, mapped
        self.home: tuple[Shape, Shape] | None = None

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.kind}{self.id}"


class Tensor:
    """A strided view of a buffer: what op rules see. Constant tensors have a known `value`; all others have None."""

    __slots__ = ("_value", "buffer", "dtype", "offset", "shape", "strides", "vid")

    def __init__(self, buffer: Buffer, offset: int, shape: Shape, strides: Shape, dtype: DType) -> None:
        self.buffer, self.offset, self.shape, self.strides, self.dtype = buffer, offset, shape, strides, dtype
        self._value: Array | None = None
        self.vid = buffer.id  # SSA name: survives re-homing, checked by the verifier

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return size_of(self.shape)

    @property
    def contiguous(self) -> bool:
        return self.strides == row_major(self.shape)

    @property
    def known(self) -> bool:
        """Is the value known while planning?"""
        return self.buffer.kind == CONST

    @property
    def value(self) -> Array | None:
        """The value if known, as a read-only view: an ndarray of this dtype (object arrays of integers when dimensions are symbolic)."""
        if self.buffer.kind != CONST:
            return None
        if self._value is None:
            data: Array = self.buffer.data
            size = self.size
            if size == 1:
                self._value = data.reshape(-1)[self.offset : self.offset + 1].reshape(self.shape)
            elif size == data.size and self.offset == 0 and self.strides == row_major(self.shape):
                self._value = data.reshape(self.shape)
            else:
                k = data.itemsize
                flat = data.reshape(-1)[self.offset :]
                self._value = np.lib.stride_tricks.as_strided(flat, self.shape, tuple(k * s for s in self.strides), writeable=False)
            if self._value.dtype == object and self.dtype != object and not any(is_symbolic(v) for v in self._value.reshape(-1)):
                self._value = self._value.astype(self.dtype)
        return self._value

    def view(self, shape: Shape, strides: Shape, offset: int | None = None) -> Tensor:
        """Another view of the same buffer. `strides` must be 0 on axes of size 1."""
        t = Tensor(self.buffer, self.offset if offset is None else offset, shape, strides, self.dtype)
        t.vid = self.vid
        return t

    def permute(self, perm: tuple[int, ...]) -> Tensor:
        return self.view(tuple([self.shape[p] for p in perm]), tuple([self.strides[p] for p in perm]))

    def expand(self, shape: Shape) -> Tensor:
        """Broadcast to `shape` (NumPy rules, one direction); raises ValueError if it does not fit."""
        if self.shape == shape:
            return self
        k = len(shape) - len(self.shape)
        if k < 0:
            raise ValueError(f"cannot broadcast {self.shape} to {shape}")
        strides = [0] * k
        for n, m, s in zip(self.shape, shape[k:], self.strides):
            if n == m:
                strides.append(s)
            elif n == 1:
                strides.append(0)
            else:
                raise ValueError(f"cannot broadcast {self.shape} to {shape}")
        return self.view(shape, tuple(strides))

    def slice(self, axis: int, start: int, n: int, step: int = 1) -> Tensor:
        """`n` elements from `start` by `step` (may be negative) along `axis`. The caller has checked the bounds."""
        s = self.strides[axis]
        shape = (*self.shape[:axis], n, *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], s * step if n != 1 else 0, *self.strides[axis + 1 :])
        return self.view(shape, strides, self.offset + s * start if n != 0 else self.offset)

    def unsqueeze(self, axis: int) -> Tensor:
        """Insert an axis of size 1 so that it becomes axis `axis`."""
        return self.view((*self.shape[:axis], 1, *self.shape[axis:]), (*self.strides[:axis], 0, *self.strides[axis:]))

    def squeeze(self, axis: int) -> Tensor:
        """Remove axis `axis`, which must have size 1."""
        return self.view(self.shape[:axis] + self.shape[axis + 1 :], self.strides[:axis] + self.strides[axis + 1 :])

    def reshaped(self, shape: Shape) -> Tensor | None:
        """A view with another shape of the same size, or None if no strides can express it."""
        strides = reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else self.view(shape, strides)

    def clone(self) -> Tensor:
        t = self.view(self.shape, self.strides)
        t._value = self._value
        return t

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}@{self.buffer}+{self.offset}:{list(self.strides)}"


def tensors_of(v: Any) -> list[Tensor]:
    """The tensors of a value: a tensor, a sequence or dictionary of values, or something without tensors."""
    if isinstance(v, Tensor):
        return [v]
    items = v.values() if isinstance(v, dict) else getattr(v, "items", None)
    return [t for item in items for t in tensors_of(item)] if items else []


class Launch:
    """One kernel call. `prologue`, when set, replaces operand 0: `ins[0]` is then a Tensor whose buffer must not be touched.

    body/prologue/epilogue are programs (see expr.py); `params` holds the spec's parameters by name; `nodes` names the ONNX nodes served.
    """

    __slots__ = ("acc_dtype", "body", "epi_ins", "epilogue", "ins", "kernel", "nodes", "outs", "params", "pro_ins", "prologue")

    def __init__(
        self,
        kernel: str,
        ins: list[Tensor | None],
        outs: list[Tensor | None],
        params: dict[str, Any] | None = None,
        body: tuple[Any, ...] = (),
        nodes: tuple[Any, ...] = (),
    ) -> None:
        self.kernel, self.ins, self.outs, self.params, self.body, self.nodes = kernel, ins, outs, params or {}, body, nodes
        self.prologue: tuple[Any, ...] = ()
        self.pro_ins: list[Tensor] = []
        self.epilogue: tuple[Any, ...] = ()
        self.epi_ins: list[Tensor] = []
        self.acc_dtype: DType | None = None

    def reads(self) -> list[Tensor]:
        if not self.prologue:
            return [t for t in self.ins if t is not None] + self.epi_ins
        return [t for t in self.ins[1:] if t is not None] + self.pro_ins + self.epi_ins

    def elementwise_reads(self) -> list[Tensor]:
        """Operands of which an element is read just before output 0 is written there: they may lie in the same memory."""
        if self.kernel == "map":
            return [t for t in self.ins if t is not None]
        if self.kernel == "scatter" and not self.prologue:
            return [t for t in self.ins[:1] if t is not None]
        return self.epi_ins

    def other_reads(self) -> list[Tensor]:
        """Operands that may be read anywhere at any time. A tensor may be among both."""
        first = len(self.ins) if self.kernel == "map" else 1 if self.kernel == "scatter" or self.prologue else 0
        others = [t for t in self.ins[first:] if t is not None] + (self.pro_ins if self.prologue else [])
        return others + self.epi_ins if self.kernel in ("map", "scatter") else others

    def writes(self) -> list[Tensor]:
        return [t for t in self.outs if t is not None]

    def tensors(self) -> list[Tensor]:
        return self.reads() + self.writes()

    @property
    def is_copy(self) -> bool:
        x = self.ins[0] if self.ins else None
        y = self.outs[0]
        return (
            self.kernel == "map"
            and len(self.body) == 1
            and self.body[0][0] == "load"
            and x is not None
            and y is not None
            and x.dtype == y.dtype
        )

    def clone(self) -> Launch:
        """A copy with its own Tensor objects (identical tensors stay identical), so that a planner may move them."""
        memo: dict[int, Tensor] = {}

        def c(t: Tensor | None) -> Tensor | None:
            if t is None:
                return None
            if id(t) not in memo:
                memo[id(t)] = t.clone()
            return memo[id(t)]

        new = Launch(self.kernel, [c(t) for t in self.ins], [c(t) for t in self.outs], self.params, self.body, self.nodes)
        new.prologue, new.epilogue, new.acc_dtype = self.prologue, self.epilogue, self.acc_dtype
        new.pro_ins = [c(t) for t in self.pro_ins]  # type: ignore[misc]
        new.epi_ins = [c(t) for t in self.epi_ins]  # type: ignore[misc]
        return new

    def __repr__(self) -> str:
        return f"{self.kernel}({', '.join(map(str, self.ins))}) -> {', '.join(map(str, self.outs))}"


class HostCall(Launch):
    """A Python function run between kernels: strings, sequences, maps and optionals. `fn(*values) -> tuple of values`.

    Operands are ndarrays for tensors and Python objects for host buffers; results for tensor outputs must have the outputs' shape and dtype.
    """

    __slots__ = ("fn",)

    def __init__(
        self, fn: Callable[..., tuple[Any, ...]], ins: list[Tensor | None], outs: list[Tensor | None], nodes: tuple[Any, ...]
    ) -> None:
        super().__init__("host", ins, outs, nodes=nodes)
        self.fn = fn

    def clone(self) -> HostCall:
        base = super().clone()
        return HostCall(self.fn, base.ins, base.outs, self.nodes)


def dense_axes(shape: Shape, strides: Shape, size: int) -> list[tuple[int, int, int]] | None:
    """(stride, n, axis) of every axis with n > 1, slowest first, if the view enumerates 0..size-1 exactly once in some axis order, else None."""
    axes = [(s, n, i) for i, (n, s) in enumerate(zip(shape, strides)) if n != 1]
    axes.sort(key=lambda a: a[0], reverse=True)
    want = size
    for s, n, _ in axes:
        if s <= 0 or s * n != want:
            return None
        want = s
    return axes if want == 1 else None


def reshape_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides that view (shape, strides) as shape `new` of the same size, or None if there are none."""
    if strides == row_major(shape):
        return row_major(new)
    runs: list[tuple[int, int]] = []  # (size, stride) of maximal mergeable runs of axes
    for n, s in zip(shape, strides):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * s:
            runs[-1] = (runs[-1][0] * n, s)
        else:
            runs.append((n, s))
    out = [0] * len(new)
    j = len(new) - 1
    for n, s in reversed(runs):
        acc = 1
        while acc < n:
            if j < 0:
                return None
            m = new[j]
            if m == 0 or n % (acc * m) != 0:
                return None
            if m != 1:
                out[j] = acc * s
            acc = acc * m
            j -= 1
    return tuple(out)


def compose(shape: Shape, strides: Shape, offset: int, base: list[tuple[int, int, int]]) -> tuple[Shape, int] | None:
    """Re-express a view when the memory under it changes its own layout.

    `base` lists (n, old stride, new stride) of the memory's axes, slowest first and dense in the old strides. (shape, strides, offset) is a view
    in old terms; the result (strides, offset) addresses the same elements in new terms, or None if no strides can. This one primitive serves
    fusing through views (new = a producer's operand), write-into-place (new = strides inside the bigger buffer), layout changes and epilogues.
    """
    merged: list[tuple[int, int, int]] = []  # neighbours that stay mergeable in the new layout
    for n, old, new in base:
        if merged and merged[-1][2] == n * new:
            merged[-1] = (merged[-1][0] * n, old, new)
        else:
            merged.append((n, old, new))
    lo: list[int] = []
    new_offset: int = 0
    for n, old, new in merged:
        d, offset = offset // old, offset % old
        if d >= n or d < 0:
            return None
        lo.append(d)
        new_offset = new_offset + d * new
    if offset != 0:
        return None
    hi = list(lo)
    out: list[int] = []
    for n, s in zip(shape, strides):
        if n == 1 or s == 0:
            out.append(0)
            continue
        size = s if s > 0 else -s
        for i, (m, old, new) in enumerate(merged):
            if old <= size:
                k, r = size // old, size % old
                if r != 0 or k >= m:
                    return None
                if s < 0:
                    k = -k
                move = k * (n - 1)
                if move > 0:
                    hi[i] = hi[i] + move
                else:
                    lo[i] = lo[i] + move
                if hi[i] >= m or lo[i] < 0:
                    return None  # would carry into the neighbouring axis
                out.append(k * new)
                break
        else:
            return None
    return tuple(out), new_offset
