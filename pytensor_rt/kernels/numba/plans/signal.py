"""`fft`, `random` and `linear_algebra`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ....dtypes import F16, F32, F64, U64, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Tensor
from ...axes import merge
from ...parameters import param
from ...ref.common import narrow, wide
from ..build import Block, Builder, Fn, Table, Word, byte_strides, f64, view

Array = np.ndarray[Any, Any]
LARGEST_PRIME = 31  # of a length that is transformed without a chirp
MAX_LENGTH = 1 << 40
LANES = 8  # lines of a group are at least so many, where there are
MOST_LINES = 64
NEAR, FAR = 1536, 16384  # numbers of a group that fit the first-level cache, and the second
STRETCH = 1024  # elements of a unit of `random`


def is_standard(dtype: DType) -> bool:
    """Is it f64, f32, f16 or bf16?"""
    return dtype in (F64, F32, F16) or (is_float(dtype) and dtype.name == "bfloat16")


def walk(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Word]:
    """The words of a walk over lines (jit/floats.py): `strides` of each tensor in bytes, over the axes that number the lines."""
    axes = merge(shape, [tuple(s) for s in strides])
    return [len(axes.sizes), *[w for k, n in enumerate(axes.sizes) for w in (n, *[s[k] for s in axes.strides])]]


# ------------------------------------------------------------------------------------------------------------------------------------- fft
def fft(b: Builder) -> None:
    """Discrete Fourier transforms along an axis."""
    launch = b.launch
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    axis, inverse, onesided = int(param(launch, "axis")), bool(param(launch, "inverse")), bool(param(launch, "onesided"))
    axis += x.ndim if axis < 0 else 0
    _check_fft(x, y, axis)
    m = int(y.shape[axis])
    n = max(1, m if not onesided or inverse else 2 * m - 1 if x.shape[axis] == 2 * m - 1 else 2 * m - 2)
    if n > MAX_LENGTH:
        raise UnsupportedError("fft: the transform is too long")
    plain = _primes(n)[-1:] <= [LARGEST_PRIME]
    work = n if plain else 1 << (2 * n - 2).bit_length()
    last = x.ndim - 1
    batch = [i for i in range(last) if i != axis]
    shape = [int(y.shape[i]) for i in batch]
    lines = prod(shape)
    group = _group(lines, work)
    units = -(-lines // group)
    nbytes = 4 * 8 * work * group
    slot, step = b.slots(nbytes) if units > 1 else (b.scratch(nbytes), 0)
    hermitian = onesided and inverse
    given = min(int(x.shape[axis]), n // 2 + 1 if hermitian else n) if x.size else 0
    xs, ys = byte_strides(view(x)), byte_strides(view(y))
    chirp, spectrum = (0, 0) if plain else _chirp(n, work)
    words: list[Word] = [
        view(x).address, view(y).address, xs[axis], xs[last] if x.shape[last] == 2 else 0, ys[axis], ys[last] if y.shape[last] == 2 else 0,
        lines, group, given, m, n, work, int(inverse), int(hermitian),
        f64(1.0 / n if inverse else 1.0), _transform(work), chirp, spectrum, slot, step,
        int(_apart([xs[i] for i in batch if y.shape[i] > 1], xs[axis])), int(_apart([ys[i] for i in batch if y.shape[i] > 1], ys[axis])),
        *walk(shape, [[s[i] for i in batch] for s in (xs, ys)]),
    ]  # fmt: skip
    b.call(
        f"fft.lines[:{x.dtype.name},:{y.dtype.name}]", words, units, lines * work * (3.0 + 0.4 * work.bit_length()) * (1 if plain else 2)
    )


def _check_fft(x: Tensor, y: Tensor, axis: int) -> None:
    ok = x.ndim >= 2 and y.ndim == x.ndim and is_standard(x.dtype) and is_standard(y.dtype) and 0 <= axis < x.ndim - 1
    ok = ok and max(x.shape[-1], y.shape[-1]) <= 2 and all(x.shape[i] == y.shape[i] for i in range(x.ndim - 1) if i != axis)
    if not ok:
        raise UnsupportedError("fft: x and y must be [..., n, ..., 1 or 2] of floating dtype with equal batch axes")


def _group(lines: int, work: int) -> int:
    """Lines that are transformed side by side: whole vectors of them, as far as they stay in a cache."""
    if work * LANES > NEAR:
        return max(1, min(LANES, FAR // work, lines))
    return min(lines, MOST_LINES, NEAR // work // LANES * LANES)


def _apart(lines: Sequence[int], step: int) -> bool:
    """Are elements of a line farther from each other than lines are? Strides in bytes."""
    return abs(step) > min([abs(s) for s in lines], default=abs(step))


@lru_cache(maxsize=256)
def _primes(n: int) -> list[int]:
    """Prime factors in rising order; what remains after those up to LARGEST_PRIME counts as one."""
    out: list[int] = []
    for p in range(2, LARGEST_PRIME + 1):
        while n % p == 0:
            out.append(p)
            n //= p
    return out + ([n] if n > 1 else [])


def _radices(n: int) -> list[int]:
    """Radices of the stages: eights, one or two fours or a two, odd primes."""
    primes = _primes(n)
    twos = primes.count(2)
    eights, fours = (twos // 3, 0) if twos % 3 == 0 else (twos // 3 - 1, 2) if twos % 3 == 1 and twos > 1 else (twos // 3, twos % 3 == 2)
    return [8] * eights + [4] * int(fours) + [2] * (twos == 1) + [p for p in primes if p > 2]


def _unit(turns: Array) -> Array:
    """exp(-2 pi i turns) as pairs of numbers."""
    angle = 2 * np.pi * turns
    return np.stack([np.cos(angle), -np.sin(angle)], -1)


@lru_cache(maxsize=16)
def _transform(n: int) -> Block:
    """The plan of a transform (jit/fft_stages.py)."""
    words: list[Word] = []
    rest = n
    radices = _radices(n)
    for p in radices:
        whole, rest = rest, rest // p
        turns = np.arange(rest)[:, None] * np.arange(1, p)[None, :] % whole / whole
        roots: Word = 0 if p in (2, 3, 4, 5, 8) else Table(_unit(np.arange(p) / p), ("roots", p))
        words += [Fn(f"fft_stages.stage[{p if p in (2, 3, 4, 5, 8) else 0}]"), p, rest, Table(_unit(turns), ("twiddles", whole, p)), roots]
    return Block([len(radices), *words])


@lru_cache(maxsize=8)
def _chirp(n: int, work: int) -> tuple[Table, Table]:
    """exp(-i pi k^2 / n), and the transform of its conjugate's cyclic extension to `work`, divided by `work`."""
    k = np.arange(n, dtype=np.int64)
    square = k * k % (2 * n) if n < 1 << 31 else np.array([int(v) * int(v) % (2 * n) for v in k], np.int64)
    chirp = _unit(square / (2.0 * n))
    extended = np.zeros(work, np.complex128)
    extended[:n] = chirp[:, 0] - 1j * chirp[:, 1]
    extended[work - n + 1 :] = extended[1:n][::-1]
    spectrum = np.fft.fft(extended) / work
    return Table(chirp, ("chirp", n)), Table(np.stack([spectrum.real, spectrum.imag], -1), ("chirp spectrum", n, work))


# ---------------------------------------------------------------------------------------------------------------------------------- random
def random(b: Builder) -> None:
    """The documented stream of random numbers of a seed (kernels/ref/signal.py)."""
    launch = b.launch
    seed, y = launch.ins[0], launch.outs[0]
    assert seed is not None and y is not None
    if seed.dtype != U64 or seed.size != 1:
        raise UnsupportedError("random: seed must be uint64 [1]")
    if not is_standard(y.dtype):
        raise UnsupportedError("random: y must be floating point")
    op, first, last = param(launch, "op"), float(param(launch, "a")), float(param(launch, "b"))
    with np.errstate(all="ignore"):
        held = narrow(np.asarray(last), y.dtype)
        below = float(wide(np.nextafter(held, np.asarray(-np.inf).astype(y.dtype))))
    n = int(y.size)
    stream = int(param(launch, "stream")) & ((1 << 64) - 1)
    strides = byte_strides(view(y))
    lines = walk([int(s) for s in y.shape], [strides])
    dense = lines[0] == 0 or (lines[0] == 1 and lines[2] == y.dtype.itemsize)
    slot, step = b.slots(STRETCH * (y.dtype.itemsize + 8))
    words: list[Word] = [
        view(seed).address, stream, view(y).address, n, int(dense), f64(first), f64(last), f64(below), slot, step, *lines,
    ]  # fmt: skip
    b.call(f"philox.fill[:{y.dtype.name},:{op}]", words, -(-n // STRETCH), n * (20.0 if op == "normal" else 3.0))


# ---------------------------------------------------------------------------------------------------------------------------- determinants
def linear_algebra(b: Builder) -> None:
    """Determinants of matrices [..., n, n]."""
    launch = b.launch
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    if x.ndim < 2 or tuple(y.shape) != tuple(x.shape[:-2]) or x.shape[-1] != x.shape[-2]:
        raise UnsupportedError("linear_algebra: x must be [..., n, n] and y [...]")
    if not is_standard(x.dtype) or not is_standard(y.dtype):
        raise UnsupportedError("linear_algebra: a float dtype is expected")
    n, count = int(x.shape[-1]), int(y.size)
    xs, ys = byte_strides(view(x)), byte_strides(view(y))
    nbytes = 8 * n * n
    slot, step = b.slots(nbytes) if count > 1 else (b.scratch(nbytes), 0)
    lines = walk([int(s) for s in y.shape], [xs[:-2], ys])
    words: list[Word] = [view(x).address, view(y).address, n, xs[-2], xs[-1], slot, step, *lines]
    b.call(f"det.det[:{x.dtype.name},:{y.dtype.name}]", words, count, count * (50.0 + n * n * 2.0 + 0.1 * n**3))
