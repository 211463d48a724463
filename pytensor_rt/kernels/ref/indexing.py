"""gather, scatter, compress, nonzero and max_unpool: moving elements by index, with bounds checks. Any dtype, also object arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dtypes import I64
from .common import Array, Out, Params, Program, narrow, out_spec, required, wide

_OBJECT = np.dtype(object)


def checked(indices: Array, size: int, what: str = "index") -> Array:
    """int64 indices in [0, size), negative ones counted from the end. Raises IndexError, naming the first one out of range."""
    i = concrete(indices)
    if i.size and not ((i >= -size) & (i < size)).all():
        bad = i[(i < -size) | (i >= size)].reshape(-1)[0]
        raise IndexError(f"{what} {bad} is out of range for an axis of size {size}")
    return np.where(i < 0, i + size, i)


def concrete(indices: Array) -> Array:
    """int64 values of an index array. Raises NotImplementedError if one of them is symbolic."""
    if indices.dtype == _OBJECT and any(type(v) is not int for v in indices.reshape(-1).tolist()):
        raise NotImplementedError("a symbolic index")
    return indices.astype(I64)


def gather(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, indices = required(ins[0]), required(ins[1])
    shape, _ = out_spec(outs)
    mode, axis = params["mode"], params.get("axis", 0)
    if mode == "axis":
        i = indices if indices.dtype is I64 else concrete(indices)
        return [x.take(i.reshape(-1), axis).reshape(shape)]  # take checks the bounds, and counts negative indices from the end
    if mode == "elements":
        return [x[_element_index(x, indices, axis)].reshape(shape)]
    b = params.get("batch_dims", 0)
    at = _nd_index(x.shape[b:], indices)  # each [batch..., outer...]
    batch = [np.arange(n).reshape([-1 if i == d else 1 for i in range(indices.ndim - 1)]) for d, n in enumerate(x.shape[:b])]
    if not batch and not at:
        return [np.broadcast_to(x, shape).copy()]
    flat = [v.reshape(-1) for v in np.broadcast_arrays(*batch, *at)] if at else []
    if not at:
        return [np.broadcast_to(x.reshape([*x.shape[:b], *[1] * (indices.ndim - 1 - b), *x.shape[b:]]), shape).copy()]
    return [x[tuple(flat)].reshape(shape)]


def _element_index(x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
    """The full index of GatherElements and ScatterElements; every other axis of `indices` is at most as long as that of x."""
    axis %= max(x.ndim, 1)
    for d in range(x.ndim):
        if d != axis and indices.shape[d] > x.shape[d]:
            raise IndexError(f"indices {indices.shape} do not fit {x.shape}")
    grid = list(np.meshgrid(*[np.arange(n) for n in indices.shape], indexing="ij"))
    grid[axis] = checked(indices, x.shape[axis])
    return tuple(grid)


def _nd_index(shape: Sequence[int], indices: Array) -> list[Array]:
    """The index tuples along the last axis of `indices`, one array per axis of `shape` that they name."""
    return [checked(indices[..., d], shape[d], f"index {d} of a tuple,") for d in range(indices.shape[-1])]


def scatter(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, indices, updates = required(ins[0]), required(ins[1]), required(ins[2])
    reduction = params.get("reduction", "none")
    if params["mode"] == "elements":
        at = _element_index(x, indices, params.get("axis", 0))
    else:
        parts = _nd_index(x.shape, indices)
        at = tuple(parts)
        updates = updates.reshape(indices.shape[:-1] + x.shape[indices.shape[-1] :])
        if not at:  # empty tuples: each update replaces all of x
            y = _reduced(x[None], (np.zeros(int(np.prod(indices.shape[:-1])), I64),), updates.reshape(-1, *x.shape), reduction)[0]
            return [np.ascontiguousarray(y).reshape(x.shape)]
    return [_reduced(x, at, updates, reduction)]


def _reduced(x: Array, at: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    if reduction == "none":
        y = np.array(x, order="C")
        k = at[0].size
        tail = updates.shape[at[0].ndim :]
        flat = updates.reshape(k, *tail) if updates.size else np.empty((k, *tail), updates.dtype)
        y[tuple([a.reshape(-1) for a in at])] = flat  # in order: of equal indices the last one wins
        return y
    if _OBJECT in (x.dtype, updates.dtype):
        raise NotImplementedError("a reducing scatter of symbolic integers")
    w = np.array(wide(x), order="C")
    ufunc = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    with np.errstate(all="ignore"):
        ufunc.at(w, at, wide(updates))
        return narrow(w, x.dtype)


def compress(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, condition = required(ins[0]), required(ins[1])
    shape, _ = out_spec(outs)
    axis = params["axis"]
    if condition.size > x.shape[axis]:
        raise IndexError(f"a condition of {condition.size} elements for an axis of size {x.shape[axis]}")
    y = np.take(x, np.flatnonzero(condition), axis)
    if y.shape != tuple(shape):
        raise ValueError(f"compress: {y.shape[axis]} elements are true, {shape[axis]} were declared")
    return [y]


def nonzero(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = wide(required(ins[0]))
    shape, _ = out_spec(outs)
    y = np.argwhere(x != 0).T.astype(I64) if x.ndim else np.zeros((0, int(bool(x))), I64)
    if y.shape != tuple(shape):
        raise ValueError(f"nonzero: the result is {y.shape}, {tuple(shape)} was declared")
    return [np.ascontiguousarray(y)]


def max_unpool(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, indices = required(ins[0]), required(ins[1])
    shape, dtype = out_spec(outs)
    reference = tuple(params["reference_shape"])
    size = int(np.prod(reference, dtype=np.int64))
    flat = indices.reshape(-1).astype(I64)
    if flat.size and not ((flat >= 0) & (flat < size)).all():
        raise IndexError(f"an index is outside of the {size} elements of {reference}")
    y = np.zeros(shape, dtype)
    at = np.unravel_index(flat, reference)
    if flat.size and any(int(a.max()) >= n for a, n in zip(at, shape)):
        raise IndexError(f"an index is outside of the output {tuple(shape)}")
    y[at] = x.reshape(-1)
    return [y]
