"""reduce, arg_reduce, scan, softmax and normalize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dtypes import BOOL, F64, I64, DType, is_float
from .common import Array, Out, Params, Program, int_range, optional, out_spec, required, result, wide


def reduce(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x = required(ins[0])
    if x.dtype == np.dtype(object):
        return [result(_reduce_objects(x, tuple(params["axes"]), params["op"]), out_spec(outs))]
    with np.errstate(all="ignore"):
        return [result(_reduce(wide(x), tuple(params["axes"]), params["op"], x.dtype), out_spec(outs))]


def _reduce(x: Array, axes: tuple[int, ...], op: str, dtype: DType) -> Any:
    """Over `x`, which is wide already; `dtype` is the type it came from."""
    floating = x.dtype == F64
    if op == "max" or op == "min":
        return getattr(np, op)(x, axis=axes, keepdims=True, initial=_neutral(op, dtype))
    if op == "sum":
        return np.add.reduce(x, axis=axes, keepdims=True)
    if op == "prod":
        return np.multiply.reduce(x, axis=axes, keepdims=True)
    if op == "l1":
        return np.add.reduce(np.abs(x), axis=axes, keepdims=True)
    if op == "sum_square":
        return np.add.reduce(x * x, axis=axes, keepdims=True)
    if op == "mean" and not floating:
        total = np.add.reduce(x, axis=axes, keepdims=True)
        n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        return np.zeros_like(total) if n == 0 else np.where(total < 0, -(-total // n), total // n)
    if op == "mean":
        n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        return np.add.reduce(x, axis=axes, keepdims=True) / np.float64(n)
    if op == "log_sum_exp":
        x = x.astype(F64)
        top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
        shift = np.where(np.isfinite(top), top, 0.0)
        return np.log(np.add.reduce(np.exp(x - shift), axis=axes, keepdims=True)) + shift
    x = x.astype(F64)
    if op == "l2":
        return _l2(x, axes)
    if op == "log_sum":
        return np.log(np.add.reduce(x, axis=axes, keepdims=True))
    raise ValueError(f"unknown reduction {op!r}")


def _l2(x: Array, axes: tuple[int, ...]) -> Any:
    """Scaled by the largest magnitude, so that squares neither overflow nor vanish."""
    top = np.max(np.abs(x), axis=axes, keepdims=True, initial=0.0)
    scale = np.where((top > 0) & np.isfinite(top), top, 1.0)
    return np.sqrt(np.add.reduce((x / scale) ** 2, axis=axes, keepdims=True)) * scale


def _neutral(op: str, dtype: DType) -> Any:
    if is_float(dtype):
        return -np.inf if op == "max" else np.inf
    if dtype == BOOL:
        return 0 if op == "max" else 1
    lo, hi = int_range(dtype)
    return np.uint64(lo if op == "max" else hi) if dtype == np.uint64 else lo if op == "max" else hi


def _reduce_objects(x: Array, axes: tuple[int, ...], op: str) -> Array:
    """Sum, product, max and min of symbolic integers, by Python operators."""
    steps = {
        "sum": lambda a, b: a + b,
        "prod": lambda a, b: a * b,
        "max": lambda a, b: a if a >= b else b,
        "min": lambda a, b: a if a <= b else b,
    }
    if op not in steps:
        raise NotImplementedError(f"`{op}` of symbolic integers")
    kept = [i for i in range(x.ndim) if i not in axes]
    rows = x.transpose([*kept, *axes]).reshape([int(np.prod([x.shape[i] for i in kept], dtype=np.int64)), -1 if x.size else 0])
    out = np.empty(rows.shape[0], np.dtype(object))
    start = {"sum": 0, "prod": 1, "max": -(2**63), "min": 2**63 - 1}[op]
    for i in range(rows.shape[0]):
        values = rows[i].tolist()
        value = values[0] if values else start
        for v in values[1:]:
            value = steps[op](value, v)
        out[i] = value
    return out.reshape([1 if i in axes else n for i, n in enumerate(x.shape)])


def arg_reduce(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, axis = wide(required(ins[0])), params["axis"]
    find = np.argmax if params["op"] == "max" else np.argmin  # both take the first NaN for the extreme
    if params.get("select_last", 0):
        y = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=True)
    else:
        y = find(x, axis=axis, keepdims=True)
    return [result(np.asarray(y).astype(I64), out_spec(outs))]


def scan(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, axis = required(ins[0]), params["axis"]
    if x.dtype == np.dtype(object):
        raise NotImplementedError("a scan of symbolic integers")
    w = wide(x)
    reverse = params.get("reverse", 0)
    if reverse:
        w = np.flip(w, axis)
    with np.errstate(all="ignore"):
        y = (np.cumsum if params["op"] == "sum" else np.cumprod)(w, axis=axis)
    if params.get("exclusive", 0) and x.shape[axis] > 0:
        first = np.full_like(np.take(y, [0], axis), 0 if params["op"] == "sum" else 1)
        y = np.concatenate([first, np.delete(y, -1, axis)], axis)
    if reverse:
        y = np.flip(y, axis)
    return [result(y, out_spec(outs))]


def softmax(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, axis, op = wide(required(ins[0])), params["axis"], params["op"]
    if x.size == 0:
        return [result(x, out_spec(outs))]
    if op == "hardmax":
        best = np.argmax(x, axis=axis, keepdims=True)
        n = np.arange(x.shape[axis]).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
        return [result(np.asarray(n == best).astype(F64), out_spec(outs))]
    with np.errstate(all="ignore"):
        z = x - np.max(x, axis=axis, keepdims=True)
        total = np.exp(z).sum(axis=axis, keepdims=True)
        return [result(np.exp(z) / total if op == "softmax" else z - np.log(total), out_spec(outs))]


def normalize(ins: Sequence[Array | None], outs: Sequence[Out | None], params: Params, body: Program) -> list[Array | None]:
    x, axes = wide(required(ins[0])), tuple(params["axes"])
    scale, bias = optional(ins, 1), optional(ins, 2)
    with np.errstate(all="ignore"):
        if params["op"] == "layer":
            mean = x.mean(axis=axes, keepdims=True)
            x = x - mean
        else:
            mean = np.zeros([1 if i in axes else n for i, n in enumerate(x.shape)])
        inv_std = 1.0 / np.sqrt((x * x).mean(axis=axes, keepdims=True) + params["epsilon"])
        y = x * inv_std
        if scale is not None:
            y = y * wide(scale)
        if bias is not None:
            y = y + wide(bias)
    extra = [result(v, o) if o is not None else None for v, o in zip((mean, inv_std), outs[1:])]
    return [result(y, out_spec(outs)), *extra]
