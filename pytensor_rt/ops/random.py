"""Random tensors: the counter-based `random` kernel, keyed by a node's seed, or by a fresh one in every run.

A node with a `seed` attribute gives the same values in every run and on every device, as do two nodes with equal seeds (ONNX leaves this open). A
node without one draws its seed from the operating system in every run, each node and each loop iteration on its own.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..dtypes import BOOL, F32, F64, I64, U64, DType, from_code, is_float
from ..lowering import expr as e
from ..lowering.tensor import Shape, Tensor
from ..lowering.tracer import Tracer
from .reduction import reduce_axes
from .registry import op
from .util import wants


def _fresh_seed() -> tuple[Any, ...]:
    return (np.frombuffer(os.urandom(8), U64),)


def seed_tensor(t: Tracer, seed: float | None) -> Tensor:
    """uint64 [1]: the bits of the seed attribute as double, or a new value in every run."""
    if seed is None:
        return t.host(_fresh_seed, [], [t.empty((1,), U64)])[0]
    return t.const(np.array([seed], np.float64).view(U64))


def draw(t: Tracer, kind: str, shape: Shape, dtype: DType, a: float, b: float, seed: float | None) -> Tensor:
    """`kind` uniform in [a, b) or normal with mean a and deviation b."""
    if not is_float(dtype):
        t.fail(f"random values of type {dtype} are not defined; expected a floating-point type")
    if any(n == 0 for n in shape):
        return t.const(np.empty(shape, dtype))
    return t.record("random", [seed_tensor(t, seed)], [(shape, dtype)], {"op": kind, "a": a, "b": b, "stream": 0})[0]


def _like(x: Tensor, dtype: int | None) -> DType:
    return from_code(dtype) if dtype else x.dtype


@op("RandomUniform")
def random_uniform(
    t: Tracer, *, shape: tuple[int, ...], dtype: int = 1, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> Tensor:
    return draw(t, "uniform", tuple(shape), from_code(dtype), low, high, seed)


@op("RandomNormal")
def random_normal(
    t: Tracer, *, shape: tuple[int, ...], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    return draw(t, "normal", tuple(shape), from_code(dtype), mean, scale, seed)


@op("RandomUniformLike")
def random_uniform_like(
    t: Tracer, x: Tensor, *, dtype: int | None = None, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> Tensor:
    return draw(t, "uniform", x.shape, _like(x, dtype), low, high, seed)


@op("RandomNormalLike")
def random_normal_like(
    t: Tracer, x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Tensor:
    return draw(t, "normal", x.shape, _like(x, dtype), mean, scale, seed)


@op("Bernoulli", since=15)
def bernoulli(t: Tracer, p: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    """1 with probability p, else 0; p in [0, 1]."""
    wide = F64 if p.dtype == F64 else F32
    u = draw(t, "uniform", p.shape, wide, 0.0, 1.0, seed)
    return t.map(lambda v, q: e.cast(v < e.cast(q, wide), _like(p, dtype)), u, p)


@op("Multinomial", since=7)
def multinomial(t: Tracer, x: Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Tensor:
    """[batch, sample_size] class numbers drawn with the unnormalised log-probabilities x [batch, classes]."""
    if x.ndim != 2:
        t.fail(f"expected log-probabilities of shape [batch, classes], got rank {x.ndim}")
    batch, classes = x.shape
    out = from_code(dtype)
    if classes == 0:
        t.fail("there are no classes to choose from")
    if classes == 1 or batch == 0 or sample_size == 0:
        return t.full((batch, sample_size), 0, out)
    p = t.record("softmax", [t.cast(x, F64)], [(x.shape, F64)], {"op": "softmax", "axis": 1})[0]
    ends = t.record("scan", [p], [(x.shape, F64)], {"op": "sum", "axis": 1, "exclusive": 0, "reverse": 0})[0]
    u = draw(t, "uniform", (batch, sample_size), F64, 0.0, 1.0, seed)
    below = ends.slice(1, 0, classes - 1).unsqueeze(1)  # without the last end, no rounding can lead past the last class
    total = ends.slice(1, classes - 1, 1).unsqueeze(2)
    passed = t.map(lambda q, v, s: e.cast(q <= v * s, I64), below, u.unsqueeze(2), total)
    return t.cast(reduce_axes(t, passed, "sum", (2,), False), out)


@op("Dropout")
def dropout(t: Tracer, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None, *, seed: int | None = None, **_: Any) -> Any:
    """The identity unless `training_mode` is true: then elements are kept with probability 1 - ratio and divided by it.

    Before opset 12 the operator is the identity. With a seed, the mask is that of onnx.reference (NumPy's RandomState).
    """
    mask = None
    if training is not None and bool(t.item(training)) and x.size != 0:
        limit = t.cast(ratio, F32) if ratio is not None else t.const(np.float32(0.5))
        mask = _mask(t, x, t.reshape(limit, ()), seed)
        x = t.map(lambda v, m, r: e.where(m, v * (1.0 / (1.0 - e.cast(r, v.dtype))), 0), x, mask, t.reshape(limit, ()))
    if not wants(t, 1):
        return x
    return x, mask if mask is not None else t.full(x.shape, True, BOOL)


def _mask(t: Tracer, x: Tensor, ratio: Tensor, seed: int | None) -> Tensor:
    if seed is None:
        u = draw(t, "uniform", x.shape, F32, 0.0, 1.0, None)
        return t.map(lambda v, r: v >= r, u, ratio)
    shape = tuple(int(n) for n in x.shape)

    def numpy_mask(r: Any) -> tuple[Any, ...]:
        return (np.random.RandomState(seed % (1 << 32)).uniform(0, 1.0, shape) >= np.asarray(r).reshape(()),)

    return t.host(numpy_mask, [ratio], [t.empty(x.shape, BOOL)])[0]
