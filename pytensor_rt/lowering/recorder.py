"""The Recorder: memory, constants and launches. The half of the Tracer that does not know of graphs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from typing import Any, NoReturn

import numpy as np

from ..dtypes import I64, STRING, DType
from ..errors import PlanError, PytensorRtError
from ..kernels import ref
from .expr import Builder, Program, Var
from .symbolic import is_symbolic
from .tensor import ARENA, CONST, HOST, Array, Buffer, HostCall, Launch, Shape, Tensor, dense_axes, row_major, size_of

FOLD_FREE = 1024  # constants up to this many elements are always folded
FOLD_GROWTH = 8  # larger ones only if the result is at most this many times the bytes of the operands
_UNALIGNED_OK = os.uname().machine in ("x86_64", "AMD64")


def broadcast_shapes(shapes: Seq[Shape]) -> Shape:
    """NumPy's broadcasting of several shapes. Raises ValueError if they do not fit."""
    first = shapes[0]
    for s in shapes:
        if s != first:
            break
    else:
        return first
    rank = max(len(s) for s in shapes)
    out: list[int] = [1] * rank
    for s in shapes:
        k = rank - len(s)
        for i, n in enumerate(s):
            if n != 1:
                m = out[k + i]
                if m == 1:
                    out[k + i] = n
                elif m != n:
                    raise ValueError(f"cannot broadcast shapes {', '.join(str(list(map(int, q))) for q in shapes)}")
    return tuple(out)


class Recorder:
    """Records launches on tensors, or folds them where all operands are known."""

    def __init__(self, first_buffer: int = 0) -> None:
        self.launches: list[Launch] = []
        self.node: Any = None  # the one being traced: launches remember whom they serve
        self._next = first_buffer

    def fail(self, message: str) -> NoReturn:
        """Raise a PlanError."""
        raise PlanError(message)

    # ---------------------------------------------------------------------------------------------------------------- memory
    def buffer(self, kind: str, size: int, dtype: DType, data: Any = None, name: str = "", mapped: bool = False) -> Buffer:
        self._next += 1
        return Buffer(self._next, kind, size, dtype, data, name, mapped)

    def empty(self, shape: Shape, dtype: DType, strides: Shape | None = None) -> Tensor:
        """New memory, to be written by launches. Strings live in host buffers."""
        strides = row_major(shape) if strides is None else strides
        b = self.buffer(HOST if dtype == STRING else ARENA, size_of(shape), dtype)
        b.home = (shape, strides)
        return Tensor(b, 0, shape, strides, dtype)

    def const(self, value: Any, dtype: DType | None = None, mapped: bool = False) -> Tensor:
        """A constant. Arrays are not copied if they are contiguous; they must not change afterwards."""
        a = np.asarray(value, dtype)
        if a.dtype.kind in "US":
            a = a.astype(object)
        if not a.flags.c_contiguous:
            a = np.ascontiguousarray(a)
        d = a.dtype if dtype is None else dtype
        b = self.buffer(CONST, a.size, d, a, mapped=mapped)
        t = Tensor(b, 0, a.shape, row_major(a.shape), d)
        t._value = a
        return t

    def initializer(self, init: Any) -> Tensor:
        """A graph.Initializer as a constant. Large weights stay views of the mapped file, misaligned ones too where the machine can read them."""
        in_place = init.mapped or (_UNALIGNED_OK and init.nbytes >= 1 << 16)
        array = init.unaligned if in_place else init.array
        return self.const(array, mapped=in_place and init.is_mapping)

    def int_tensor(self, values: Any, shape: Shape | None = None, dtype: DType = I64) -> Tensor:
        """A constant int64 tensor from integers that may be symbolic (a list, or one integer for rank 0 with shape=())."""
        flat = [values] if not isinstance(values, (list, tuple)) else list(values)
        for v in flat:
            if is_symbolic(v):
                a: Array = np.empty(len(flat), object)
                a[:] = flat
                break
        else:
            a = np.array(flat, dtype)
        if shape is not None:
            a = a.reshape(shape)
        b = self.buffer(CONST, a.size, dtype, a)
        t = Tensor(b, 0, a.shape, row_major(a.shape), dtype)
        t._value = a
        return t

    def known(self, value: Array, shape: Shape, dtype: DType) -> Tensor:
        """A folded result; object arrays of symbolic integers keep their declared dtype."""
        if value.dtype == dtype or value.dtype != object:
            return self.const(np.asarray(value, dtype).reshape(shape))
        a = np.ascontiguousarray(value).reshape(shape)
        b = self.buffer(CONST, a.size, dtype, a)
        return Tensor(b, 0, shape, row_major(shape), dtype)

    # ------------------------------------------------------------------------------------------------------------- recording
    def _nodes(self) -> tuple[Any, ...]:
        return (self.node,) if self.node is not None else ()

    def _may_fold(self, ins: Iterable[Tensor | None], out_size: int, out_bytes: int) -> bool:
        if is_symbolic(out_size):
            return False
        return out_size <= FOLD_FREE or out_bytes <= FOLD_GROWTH * sum(t.size * t.dtype.itemsize for t in ins if t is not None)

    def record(
        self,
        kernel: str,
        ins: Seq[Tensor | None],
        outs: Seq[tuple[Shape, DType] | None],
        params: dict[str, Any] | None = None,
    ) -> list[Tensor]:
        """Record a launch and return its outputs (None where absent), or fold it if every operand is known.

        Outputs without elements are constants; a launch whose outputs are all empty is not recorded.
        """
        params = params or {}
        for t in ins:
            if t is not None and t.buffer.kind != CONST:
                break
        else:
            size = sum(size_of(o[0]) for o in outs if o is not None)
            if self._may_fold(ins, size, sum(size_of(o[0]) * o[1].itemsize for o in outs if o is not None)):
                try:
                    values = ref.kernel(kernel)([None if t is None else t.value for t in ins], list(outs), params, ())
                except PytensorRtError:
                    raise
                except (ValueError, IndexError) as e:
                    self.fail(str(e))
                return [None if o is None else self.known(np.asarray(v), o[0], o[1]) for v, o in zip(values, outs)]  # type: ignore[misc]
        tensors = [None if o is None else self.empty(*o) for o in outs]
        for o in tensors:
            if o is not None and o.buffer.size != 0:
                self.launches.append(Launch(kernel, list(ins), tensors, params, nodes=self._nodes()))
                return tensors  # type: ignore[return-value]
        return [None if o is None else self.const(np.empty(o.shape, o.dtype)) for o in tensors]  # type: ignore[misc]

    def map(self, fn: Callable[..., Var], *xs: Tensor, programs: dict[tuple[DType, ...], Program] | None = None) -> Tensor:
        """One output, elementwise over broadcast operands: `fn` gets one Var per operand. Scalar constants become immediates.

        `programs`: where a `fn` that depends on nothing but its operands keeps the programs it made, by their dtypes.
        """
        if programs is not None:
            constants = 0
            for x in xs:
                if x.buffer.kind == CONST:
                    constants += 1
                    if x.size == 1:
                        constants = len(xs)  # an immediate
            if constants < len(xs):
                key = tuple([x.dtype for x in xs])
                made = programs.get(key)
                if made is None:
                    made = programs[key] = _program(fn, key)
                shape = self._broadcast(xs)
                return self.map_program(made, [x.expand(shape) for x in xs], shape, made[-1][2])
        b = Builder()
        args: list[Var] = []
        operands: list[Tensor] = []
        all_known = True
        for x in xs:
            if x.known:
                if x.size == 1 and x.dtype.kind != "c" and x.dtype != STRING:
                    v = x.value.reshape(-1)[0]  # type: ignore[union-attr]
                    args.append(
                        Var(
                            b,
                            b.emit(
                                "const", (v if is_symbolic(v) or x.dtype.kind == "V" else v.item() if hasattr(v, "item") else v,), x.dtype
                            ),
                            x.dtype,
                        )
                    )
                    continue
            else:
                all_known = False
            args.append(Var(b, b.emit("load", (len(operands),), x.dtype), x.dtype))
            operands.append(x)
        program = _finish(b, fn(*args))
        out_dtype = program[-1][2]
        shape = self._broadcast(xs)
        if all_known and self._may_fold(xs, size_of(shape), size_of(shape) * out_dtype.itemsize):
            value = ref.evaluate(program, [v for x in operands if (v := x.value) is not None], None, shape, out_dtype)
            return self.known(value, shape, out_dtype)
        return self.map_program(program, [x.expand(shape) for x in operands], shape, out_dtype)

    def _broadcast(self, xs: Seq[Tensor]) -> Shape:
        shape = xs[0].shape
        for x in xs:
            if x.shape != shape:
                try:
                    return broadcast_shapes([x.shape for x in xs])
                except ValueError as e:
                    self.fail(str(e))
        return shape

    def map_program(self, program: tuple[Any, ...], operands: list[Tensor], shape: Shape, dtype: DType) -> Tensor:
        """Record a map of a ready-made program; operands already have `shape`. The output inherits the first full operand's axis order."""
        strides = plain = row_major(shape)
        for o in operands:
            if o.strides == plain:
                break
        else:
            for o in operands:
                if dense_axes(o.shape, o.strides, size_of(shape)) is not None:
                    strides = o.strides
                    break
        if size_of(shape) == 0:
            return self.const(np.empty(shape, dtype))
        out = self.empty(shape, dtype, strides)
        self.launches.append(Launch("map", list(operands), [out], None, program, self._nodes()))
        return out

    def copy(self, src: Tensor, dst: Tensor) -> None:
        """dst[...] = src, same shape and dtype. Elided later if the value can be computed in place."""
        if src.dtype == STRING:
            self.host(lambda x: (x,), [src], [dst])
        elif src.size != 0:
            self.launches.append(Launch("map", [src], [dst], None, (("load", (0,), src.dtype),), self._nodes()))

    def fill(self, value: Any, dst: Tensor) -> None:
        """dst[...] = a scalar."""
        if dst.size != 0:
            self.launches.append(Launch("map", [], [dst], None, (("const", (value,), dst.dtype),), self._nodes()))

    def iota(self, n: int, dtype: DType = I64) -> Tensor:
        """0, 1, ..., n-1."""
        if not is_symbolic(n) and n <= FOLD_FREE:
            return self.const(np.arange(n, dtype=dtype))
        out = self.empty((n,), dtype)
        program: tuple[Any, ...] = (("iota", (0,), I64),)
        if dtype != I64:
            program = (*program, ("cast", (0,), dtype))
        self.launches.append(Launch("map", [], [out], None, program, self._nodes()))
        return out

    def host(self, fn: Callable[..., tuple[Any, ...]], ins: Seq[Tensor | None], outs: Seq[Tensor | tuple[Shape, DType]]) -> list[Tensor]:
        """Record a Python function run between kernels (see HostCall). Folds if every operand is known. outs: (shape, dtype) or destinations.

        Outputs of dtype STRING hold any Python object: an object array, or whatever the graph output should be (a list of dicts for ZipMap).
        """
        if all(t is None or t.known for t in ins) and not any(isinstance(o, Tensor) for o in outs):
            values = fn(*[None if t is None else t.value for t in ins])
            return [self.const(np.asarray(v, o[1]).reshape(o[0])) for v, o in zip(values, outs)]  # type: ignore[index]
        tensors = [o if isinstance(o, Tensor) else self.empty(*o) for o in outs]
        self.launches.append(HostCall(fn, list(ins), list(tensors), self._nodes()))
        return tensors

    # ------------------------------------------------------------------------------------------------------------ composites
    def contiguous(self, x: Tensor) -> Tensor:
        """x in row-major order: itself, or a copy."""
        if x.contiguous:
            return x
        if x.known and self._may_fold([x], x.size, x.size * x.dtype.itemsize):
            return self.known(np.ascontiguousarray(x.value), x.shape, x.dtype)
        y = self.empty(x.shape, x.dtype)
        self.copy(x, y)
        return y

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """x with another shape of the same size: a view if strides allow, else a copy."""
        if x.shape == shape:
            return x
        if x.size == 0:
            return self.const(np.empty(shape, x.dtype))
        y = x.reshaped(shape)
        if y is None:
            y = self.contiguous(x).view(shape, row_major(shape), 0)
        return y

    def concat(self, xs: Seq[Tensor], axis: int) -> Tensor:
        """Concatenation along a non-negative axis: copies into one destination, elided later where possible."""
        parts = [x for x in xs if x.shape[axis] != 0] or [xs[0]]
        if len(parts) == 1:
            return parts[0]
        total = parts[0].shape[axis]
        for x in parts[1:]:
            total = total + x.shape[axis]
        shape = (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :])
        if all(x.known for x in parts):
            if len(shape) == 1 and not is_symbolic(total) and total <= 16 and parts[0].dtype == I64:  # a shape in the making
                dims: list[int] = []
                for x in parts:
                    dims += x.value.tolist()  # type: ignore[union-attr]
                return self.int_tensor(dims)
            values = [x.value for x in parts]
            if any(v.dtype == object for v in values):  # type: ignore[union-attr]
                values = [v.astype(object) for v in values]  # type: ignore[union-attr]
            return self.known(np.concatenate(values, axis), shape, parts[0].dtype)  # type: ignore[arg-type]
        merged = [parts[0]]  # adjacent slices of one tensor (Split then Concat) become one source again
        for x in parts[1:]:
            p = merged[-1]
            joined = _join(p, x, axis)
            if joined is None:
                merged.append(x)
            else:
                merged[-1] = joined
        if len(merged) == 1:
            return merged[0]
        out = self.empty(shape, parts[0].dtype)
        at: int = 0
        for x in merged:
            self.copy(x, out.slice(axis, at, x.shape[axis]))
            at = at + x.shape[axis]
        return out

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        """ONNX Cast between numeric dtypes."""
        from .expr import cast

        return x if x.dtype == dtype else self.map(lambda v: cast(v, dtype), x)

    def full(self, shape: Shape, value: Any, dtype: DType) -> Tensor:
        """A constant of one repeated value: a broadcast view of a scalar, no memory."""
        return self.const(np.asarray(value, dtype).reshape(())).expand(shape)


def _program(fn: Callable[..., Var], dtypes: tuple[DType, ...]) -> Program:
    """The program of `fn` over operands of these dtypes, none of which is a constant."""
    b = Builder()
    return _finish(b, fn(*[Var(b, b.emit("load", (k,), d), d) for k, d in enumerate(dtypes)]))


def _finish(b: Builder, result: Var) -> Program:
    if not isinstance(result, Var):
        raise TypeError("an elementwise function did not return a Var")
    if result.index != len(b.code) - 1:
        b.code.append(("id", (result.index,), result.dtype))
    return tuple(b.code)


def _join(a: Tensor, b: Tensor, axis: int) -> Tensor | None:
    """One view covering a then b along axis, if they are adjacent slices of one buffer."""
    if a.buffer is not b.buffer or a.known or a.dtype != b.dtype:
        return None
    step = a.strides[axis] if a.shape[axis] != 1 else b.strides[axis]
    if b.shape[axis] == 1 and a.shape[axis] == 1:
        step = b.offset - a.offset
    if step <= 0 or b.offset != a.offset + a.shape[axis] * step or (b.shape[axis] != 1 and b.strides[axis] != step):
        return None
    if any(p != q for i, (p, q) in enumerate(zip(a.strides, b.strides)) if i != axis):
        return None
    n = a.shape[axis] + b.shape[axis]
    return a.view((*a.shape[:axis], n, *a.shape[axis + 1 :]), (*a.strides[:axis], step, *a.strides[axis + 1 :]))
