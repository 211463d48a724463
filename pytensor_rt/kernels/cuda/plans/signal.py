"""`fft` (fourier.py), `random` and `linear_algebra`."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ....dtypes import F64, U64
from ....errors import UnsupportedError
from ....lowering.tensor import Launch
from ...axes import merge
from ...parameters import param
from ...ref.common import narrow, wide
from ..build import Builder, Call, Scratch, is_wide, operand
from ..manifest import Entry
from . import fourier
from .samples import launch, tensor
from .walk import is_standard

SHARED_BYTES = 44 << 10  # of a matrix that is worked on in shared memory

RANDOM = Entry("random_numbers", "random.cuh", 256)
DETERMINANT = Entry("determinant", "determinant.cuh", 256)
ENTRIES = (fourier.STEP, RANDOM, DETERMINANT)


def fft(launch: Launch) -> list[Call]:
    """y = the discrete Fourier transform of x along an axis."""
    return fourier.plan(launch)


def random(launch: Launch) -> list[Call]:
    """y = the documented stream of random numbers of a seed."""
    seed, y = launch.ins[0], launch.outs[0]
    assert seed is not None and y is not None
    if seed.dtype != U64 or seed.size != 1:
        raise UnsupportedError("random: seed must be uint64 [1]")
    if not is_standard(y.dtype):
        raise UnsupportedError("random: y must be floating point")
    total = int(y.size)
    axes = merge(y.shape, [y.strides])
    per = 2 if y.dtype == F64 else 4  # elements of a thread
    first, last = float(launch.params["a"]), float(launch.params["b"])
    b = Builder(launch, RANDOM, is_wide(y, sizes=[total]))
    b.define("RANK", max(1, len(axes.sizes)))
    b.define("NORMAL", launch.params["op"] == "normal")
    b.define("DENSE", axes.strides[0] in ((), (1,)) and int(y.offset) % per == 0)
    b.type("Y", y.dtype)
    b.view("y", y, axes.strides[0])
    b.pointer("seed", "const u64", operand(seed))
    b.sizes("size", axes.sizes)
    b.scalar("total", "idx", total)
    b.scalar("stream", "u64", int(param(launch, "stream")) & ((1 << 64) - 1))
    with np.errstate(all="ignore"):
        below = float(wide(np.nextafter(narrow(np.asarray(last), y.dtype), narrow(np.asarray(first), y.dtype))))
    for name, value in (("a", first), ("b", last), ("width", last - first), ("below", below)):
        b.scalar(name, "f64", value)
    threads = -(-total // per)
    return [b.call(-(-threads // RANDOM.threads))]


def linear_algebra(launch: Launch) -> list[Call]:
    """y = the determinants of x [..., n, n]."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    if x.ndim < 2 or y.shape != x.shape[:-2] or x.shape[-1] != x.shape[-2]:
        raise UnsupportedError("linear_algebra: x must be [..., n, n] and y [...]")
    if not is_standard(x.dtype) or not is_standard(y.dtype):
        raise UnsupportedError("linear_algebra: a float dtype is expected")
    n, count = int(x.shape[-1]), prod(y.shape)
    shared = 8 * n * n <= SHARED_BYTES
    axes = merge(y.shape, [x.strides[:-2], y.strides])
    b = Builder(launch, DETERMINANT, is_wide(x, y, sizes=[n * n * count]))
    b.define("RANK", max(1, len(axes.sizes)))
    b.define("IN_SHARED", shared)
    b.type("X", x.dtype)
    b.type("Y", y.dtype)
    b.view("x", x, axes.strides[0])
    b.view("y", y, axes.strides[1])
    b.pointer("work", "f64", Scratch(0))
    b.sizes("size", axes.sizes)
    b.scalar("n", "i32", n)
    b.scalar("row", "idx", x.strides[-2])
    b.scalar("column", "idx", x.strides[-1])
    threads = 32 if n <= 32 else DETERMINANT.threads
    return [b.call(count, threads, 8 * n * n if shared else 0, 0 if shared else 8 * n * n * count)]


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    for n, label in ((400, "one step"), (1 << 14, "two steps"), (97, "Bluestein"), (2053, "Bluestein, long")):
        yield fourier.STEP, label, launch("fft", [tensor((64, n, 1))], (64, n // 2 + 1, 2), axis=1, inverse=0, onesided=1)
    for dtype in ("float32", "float16", "float64"):
        for op in ("uniform", "normal"):
            yield RANDOM, f"{op}, {dtype}", launch("random", [tensor((1,), "uint64")], (1 << 16,), dtype, op=op, a=0.0, b=1.0, stream=0)
    yield DETERMINANT, "in shared memory", launch("linear_algebra", [tensor((100, 9, 9))], (100,), op="det")
    yield DETERMINANT, "in scratch", launch("linear_algebra", [tensor((4, 200, 200), "float64")], (4,), "float64", op="det")
