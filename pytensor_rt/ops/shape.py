"""Shapes and views: no kernels, no copies where strides can say it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtypes import F32, from_code, is_float
from ..lowering import expr as e
from ..lowering.recorder import broadcast_shapes
from ..lowering.symbolic import is_symbolic
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .registry import INTERNAL, MICROSOFT, op
from .util import norm_axes, norm_axis


@op("Identity")
def identity(t: Tracer, x: Any) -> Any:
    return x


@op("Shape")
def shape(t: Tracer, x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return t.int_tensor(list(x.shape[start:end]))


@op("Size")
def size(t: Tracer, x: Tensor) -> Tensor:
    return t.int_tensor(x.size, ())


@op("Reshape")
def reshape(
    t: Tracer, x: Tensor, target: Tensor | None = None, *, shape: tuple[int, ...] | None = None, allowzero: int = 0, **_: Any
) -> Tensor:
    dims = list(t.ints(target)) if target is not None else list(shape or ())
    if not allowzero:
        for i, n in enumerate(dims):
            if n == 0:
                if i >= x.ndim:
                    t.fail(f"shape {dims}: 0 at position {i} copies a dimension that the input (rank {x.ndim}) does not have")
                dims[i] = x.shape[i]
    unknown = [i for i, n in enumerate(dims) if n == -1]
    if len(unknown) > 1:
        t.fail(f"shape {dims} has more than one -1")
    if unknown:
        rest = size_of(tuple(n for n in dims if n is not dims[unknown[0]] or n != -1))
        if rest == 0 or x.size % rest != 0:
            t.fail(f"cannot reshape {list(x.shape)} to {dims}")
        dims[unknown[0]] = x.size // rest
    if size_of(tuple(dims)) != x.size:
        t.fail(f"cannot reshape {list(x.shape)} ({x.size} elements) to {dims}")
    return t.reshape(x, tuple(dims))


@op("Flatten")
def flatten(t: Tracer, x: Tensor, *, axis: int = 1) -> Tensor:
    a = norm_axis(t, axis, x.ndim + 1) if axis >= 0 else norm_axis(t, axis, x.ndim)
    return t.reshape(x, (size_of(x.shape[:a]), size_of(x.shape[a:])))


@op("Transpose")
def transpose(t: Tracer, x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    order = tuple(perm) if perm is not None else tuple(range(x.ndim - 1, -1, -1))
    if sorted(order) != list(range(x.ndim)):
        t.fail(f"perm {list(order)} is not a permutation of the axes of a rank {x.ndim} tensor")
    return x.permute(order)


@op("Unsqueeze")
def unsqueeze(t: Tracer, x: Tensor, axes_in: Tensor | None = None, *, axes: tuple[int, ...] | None = None) -> Tensor:
    values = t.ints(axes_in) if axes_in is not None else tuple(axes or ())
    if len(values) == 1:
        return x.unsqueeze(norm_axis(t, int(values[0]), x.ndim + 1))
    for a in norm_axes(t, values, x.ndim + len(values)) or ():
        x = x.unsqueeze(a)
    return x


@op("Squeeze")
def squeeze(t: Tracer, x: Tensor, axes_in: Tensor | None = None, *, axes: tuple[int, ...] | None = None) -> Tensor:
    chosen = norm_axes(t, axes_in if axes_in is not None else axes, x.ndim)
    if chosen is None:
        chosen = tuple(i for i, n in enumerate(x.shape) if n == 1)
    for a in reversed(chosen):
        if x.shape[a] != 1:
            t.fail(f"cannot squeeze axis {a} of size {x.shape[a]}")
        x = x.squeeze(a)
    return x


@op("Expand")
def expand(t: Tracer, x: Tensor, target: Tensor) -> Tensor:
    return x.expand(broadcast_shapes([x.shape, t.ints(target)]))


def _slice_axis(t: Tracer, x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """One axis of ONNX Slice, in integer arithmetic that keeps symbols (slice.indices would lose them)."""
    n = x.shape[axis]
    if step == 0:
        t.fail("step 0")
    if step > 0:
        start = start + n if start < 0 else start
        end = end + n if end < 0 else end
        start = 0 if start < 0 else n if start > n else start
        end = 0 if end < 0 else n if end > n else end
        count = 0 if end <= start else end - start if step == 1 else (end - start + step - 1) // step
    else:
        start = start + n if start < 0 else start
        end = end + n if end < 0 else end
        start = -1 if start < 0 else n - 1 if start > n - 1 else start
        end = -1 if end < 0 else n - 1 if end > n - 1 else end
        count = 0 if end >= start else (start - end - step - 1) // -step
    if count == 0:
        return t.const(np.empty((*x.shape[:axis], 0, *x.shape[axis + 1 :]), x.dtype))
    return x.slice(axis, start, count, step)


@op("Slice")
def slice_(
    t: Tracer, x: Tensor, starts_in: Tensor | None = None, ends_in: Tensor | None = None, axes_in: Tensor | None = None, steps_in: Tensor | None = None,
    *, starts: Any = None, ends: Any = None, axes: Any = None,
) -> Tensor:  # fmt: skip
    s = t.ints(starts_in) if starts_in is not None else tuple(starts)
    d = t.ints(ends_in) if ends_in is not None else tuple(ends)
    a = t.ints(axes_in) if axes_in is not None else tuple(axes) if axes is not None else tuple(range(len(s)))
    k = t.ints(steps_in) if steps_in is not None else (1,) * len(s)
    for start, end, axis, step in zip(s, d, a, k):
        x = _slice_axis(t, x, norm_axis(t, int(axis), x.ndim), start, end, int(step))
    return x


@op("Split")
def split(
    t: Tracer,
    x: Tensor,
    sizes_in: Tensor | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: tuple[int, ...] | None = None,
) -> list[Tensor]:
    a = norm_axis(t, axis, x.ndim)
    n = x.shape[a]
    if sizes_in is not None:
        sizes: list[int] = list(t.ints(sizes_in))
    elif split is not None:
        sizes = list(split)
    else:
        k = num_outputs or len(t.node.outputs)
        each = (n + k - 1) // k
        sizes = [each] * (k - 1) + [n - each * (k - 1)]
    out, at = [], 0
    total = 0
    for m in sizes:
        total = total + m
    if total != n or any(m < 0 for m in sizes):
        t.fail(f"split sizes {sizes} do not add up to {n}")
    for m in sizes:
        out.append(x.slice(a, at, m) if m != 0 else t.const(np.empty((*x.shape[:a], 0, *x.shape[a + 1 :]), x.dtype)))
        at = at + m
    return out


@op("Concat")
def concat(t: Tracer, *xs: Tensor, axis: int = 1) -> Tensor:
    a = norm_axis(t, axis, xs[0].ndim)
    for x in xs[1:]:
        if x.ndim != xs[0].ndim or any(p != q for i, (p, q) in enumerate(zip(x.shape, xs[0].shape)) if i != a):
            t.fail(f"shapes do not match except along axis {a}")
    return t.concat(xs, a)


@op("ConstantOfShape")
def constant_of_shape(t: Tracer, shape_in: Tensor, *, value: Any = None) -> Tensor:
    v = np.zeros(1, F32) if value is None else np.asarray(value)
    return t.full(t.ints(shape_in), v.reshape(-1)[0], v.dtype)


@op("Range", domain=MICROSOFT)
@op("Range")
def range_(t: Tracer, start: Tensor, limit: Tensor, delta: Tensor | None = None, *, stash_type: int = 1) -> Tensor:
    """Values narrower than float are computed in float, as opset 27 has it by default (stash_type)."""
    lo, hi, step = t.item(start), t.item(limit), t.item(delta) if delta is not None else 1
    if step == 0:
        t.fail("delta is 0")
    if is_float(start.dtype):
        n = max(0, int(np.ceil((float(hi) - float(lo)) / float(step))))
    else:
        n = (hi - lo + step - (1 if step > 0 else -1)) // step
        n = 0 if n < 0 else n
    if n == 0:
        return t.const(np.empty(0, start.dtype))
    wide = from_code(stash_type) if is_float(start.dtype) and start.dtype.itemsize < 4 else start.dtype
    steps = t.iota(n, wide)
    if step != 1:
        steps = t.map(lambda v: v * step, steps)
    if is_symbolic(lo) or lo != 0:
        steps = t.map(lambda v: v + lo, steps)
    return t.cast(steps, start.dtype)


@op("Tile")
def tile(t: Tracer, x: Tensor, repeats: Tensor, axis_in: Tensor | None = None) -> Tensor:
    if axis_in is not None:  # opset 1: tiles, axis
        r = [1] * x.ndim
        r[int(t.item(axis_in))] = t.item(repeats)
    else:
        r = list(t.ints(repeats))
    if len(r) != x.ndim:
        t.fail(f"repeats has {len(r)} entries for rank {x.ndim}")
    mid: list[int] = []
    big: list[int] = []
    for n, k in zip(x.shape, r):
        mid += [1, n]
        big += [k, n]
    for i in range(x.ndim):
        x = x.unsqueeze(2 * i)
    out = tuple(k * n for k, n in zip(r, mid[1::2]))
    return t.reshape(x.expand(tuple(big)), out)


@op("SpaceToDepth")
def space_to_depth(t: Tracer, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    y = t.reshape(x, (n, c, h // b, b, w // b, b)).permute((0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return t.reshape(y, (n, c * b * b, h // b, w // b))


@op("DepthToSpace")
def depth_to_space(t: Tracer, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        y = t.reshape(x, (n, b, b, c // (b * b), h, w)).permute((0, 3, 4, 1, 5, 2))
    else:
        y = t.reshape(x, (n, c // (b * b), b, b, h, w)).permute((0, 1, 4, 2, 5, 3))
    return t.reshape(y, (n, c // (b * b), h * b, w * b))


@op("Interleave", domain=INTERNAL)
def interleave(t: Tracer, *xs: Tensor) -> Tensor:
    """y[:, :, i::n, j::n] is number n * i + j of n * n tensors [N, C, H, W]; copies that go away if those can be computed in place."""
    n = math.isqrt(len(xs))
    b, c, h, w = xs[0].shape
    y = t.empty((b, h, n, w, n, c), xs[0].dtype).permute((0, 5, 1, 2, 3, 4))  # channels-last is what products write fastest
    for k, x in enumerate(xs):
        t.copy(x, y.slice(3, k // n, 1).slice(5, k % n, 1).squeeze(5).squeeze(3))
    return t.reshape(y, (b, c, h * n, w * n))


@op("Pad", domain=MICROSOFT)
@op("Pad")
def pad(
    t: Tracer, x: Tensor, pads_in: Tensor | None = None, value_in: Tensor | None = None, axes_in: Tensor | None = None, *, mode: str = "constant",
    pads: Any = None, paddings: Any = None, value: float = 0.0,
) -> Tensor:  # fmt: skip
    p = t.ints(pads_in) if pads_in is not None else tuple(pads if pads is not None else paddings)
    axes = norm_axes_ordered(t, t.ints(axes_in), x.ndim) if axes_in is not None else tuple(range(x.ndim))
    k = len(axes)
    if len(p) != 2 * k:
        t.fail(f"pads has {len(p)} entries, expected {2 * k}")
    v: Any = (t.item(value_in) if value_in.known else value_in) if value_in is not None and value_in.size else value
    for j, a in enumerate(axes):  # axis by axis: the interior copy is elided by write-into-place
        x = _pad_axis(t, x, a, p[j], p[j + k], mode, v)
    return x


def norm_axes_ordered(t: Tracer, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return tuple(norm_axis(t, int(a), rank) for a in axes)


def _pad_axis(t: Tracer, x: Tensor, a: int, begin: int, end: int, mode: str, value: Any) -> Tensor:
    if begin < 0 or end < 0:
        cut_b, cut_e = (-begin if begin < 0 else 0), (-end if end < 0 else 0)
        n = x.shape[a] - cut_b - cut_e
        x = x.slice(a, cut_b, n) if n > 0 else t.const(np.empty((*x.shape[:a], 0, *x.shape[a + 1 :]), x.dtype))
        begin, end = (0 if begin < 0 else begin), (0 if end < 0 else end)
    if begin == 0 and end == 0:
        return x
    n = x.shape[a]
    shape = (*x.shape[:a], n + begin + end, *x.shape[a + 1 :])
    if size_of(shape) == 0:
        return t.const(np.empty(shape, x.dtype))
    if (
        x.known
        and x.size <= 1024
        and not isinstance(value, Tensor)
        and not is_symbolic(begin)
        and not is_symbolic(end)
        and x.value is not None
        and x.value.dtype != object
    ):
        width = [(begin, end) if i == a else (0, 0) for i in range(x.ndim)]
        if mode == "constant":
            return t.const(np.pad(x.value, width, constant_values=np.asarray(value).astype(x.dtype)))
        return t.const(np.pad(x.value, width, mode=mode))  # type: ignore[call-overload]
    y = t.empty(shape, x.dtype)
    t.copy(x, y.slice(a, begin, n))
    if mode == "constant":
        for at, m in ((0, begin), (begin + n, end)):
            if m != 0:
                if isinstance(value, Tensor):
                    dst = y.slice(a, at, m)
                    t.copy(t.reshape(value, ()).expand(dst.shape), dst)
                else:
                    t.fill(value, y.slice(a, at, m))
        return y
    fits = {"reflect": n - 1, "wrap": n, "edge": begin + end}[mode]  # how far one view of x reaches
    if begin > fits or end > fits:
        index = np.pad(np.arange(int(n)), (int(begin), int(end)), mode=mode)  # type: ignore[call-overload]
        return t.record("gather", [x, t.const(index)], [(shape, x.dtype)], {"mode": "axis", "axis": a})[0]
    if begin != 0:
        lead = (
            x.slice(a, begin, begin, -1)
            if mode == "reflect"
            else x.slice(a, n - begin, begin)
            if mode == "wrap"
            else x.slice(a, 0, begin, 0)
        )
        t.copy(lead, y.slice(a, 0, begin))
    if end != 0:
        tail = x.slice(a, n - 2, end, -1) if mode == "reflect" else x.slice(a, 0, end) if mode == "wrap" else x.slice(a, n - 1, end, 0)
        t.copy(tail, y.slice(a, begin + n, end))
    return y


@op("EyeLike")
def eye_like(t: Tracer, x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    d = from_code(dtype) if dtype is not None else x.dtype
    n, m = x.shape
    if n * m == 0:
        return t.const(np.empty((n, m), d))
    rows, cols = t.iota(n), t.iota(m)
    return t.map(lambda r, c: e.cast(c == r + k, d), rows.unsqueeze(1), cols.unsqueeze(0))


@op("Trilu", domain=MICROSOFT)
@op("Trilu")
def trilu(t: Tracer, x: Tensor, k_in: Tensor | None = None, *, upper: int = 1) -> Tensor:
    k = t.item(k_in) if k_in is not None else 0
    n, m = x.shape[-2], x.shape[-1]
    if x.size == 0:
        return x
    rows, cols = t.iota(n).unsqueeze(1), t.iota(m).unsqueeze(0)
    zero = False if x.dtype.kind == "b" else 0
    keep: Any = (lambda r, c: c >= r + k) if upper else (lambda r, c: c <= r + k)  # the sum is one per row
    return t.map(lambda v, r, c: e.where(keep(r, c), v, zero), x, rows, cols)
