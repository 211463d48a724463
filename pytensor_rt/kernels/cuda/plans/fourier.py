"""`fft`: the steps of a transform (see csrc/cuda/fft.cuh), their tables and the memory between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ...axes import merge
from ...parameters import param
from ..build import Builder, Call, Pointer, Scratch, Table, is_wide
from ..manifest import Entry
from .walk import is_standard

LARGEST_PRIME = 31
ONE_STEP = 2048  # elements of a transform in one block: 64 KiB of shared memory
LONG_STEP = 512  # radix of a step of longer ones, at most: leaves room for two columns
TILE = 1024  # elements of all columns of a block, where the radix is smaller
STAGES = 12
MAX_LENGTH = 1 << 40

STEP = Entry("fft_step", "fft.cuh", 256)


@dataclass(frozen=True)
class _Job:
    """A launch of `fft`: `n` is its length, `work` that of the transforms carried out, `lines` their number."""

    x: Tensor
    y: Tensor
    axis: int
    inverse: bool
    onesided: bool
    n: int
    work: int
    lines: int

    @property
    def chirped(self) -> bool:
        return self.work != self.n


def plan(launch: Launch) -> list[Call]:
    """The calls of an fft launch."""
    job = _job(launch)
    steps = _steps(job.work)
    fused = job.chirped and len(steps) == 1
    rounds = [steps, steps] if job.chirped and not fused else [steps]
    calls, count = [], sum(len(r) for r in rounds)
    half = -(-16 * job.lines * job.work // 256) * 256  # bytes between two steps
    scratch = half * min(2, count - 1)
    number = 0
    for k, radices in enumerate(rounds):
        before = 1
        for radix in radices:
            here, last = Scratch(half * (number % 2)), number == count - 1
            source = Scratch(half * ((number + 1) % 2))
            spectrum = fused or (len(rounds) == 2 and k == 0 and before * radix == job.work)
            calls.append(_step(launch, job, radix, before, source if number else None, None if last else here, spectrum, fused, scratch))
            before *= radix
            number += 1
    return calls


def _job(launch: Launch) -> _Job:
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    axis, inverse, onesided = int(launch.params["axis"]), bool(param(launch, "inverse")), bool(param(launch, "onesided"))
    axis += x.ndim if axis < 0 else 0
    ok = x.ndim >= 2 and y.ndim == x.ndim and is_standard(x.dtype) and is_standard(y.dtype) and 0 <= axis < x.ndim - 1
    ok = ok and max(x.shape[-1], y.shape[-1]) <= 2 and all(x.shape[i] == y.shape[i] for i in range(x.ndim - 1) if i != axis)
    if not ok:
        raise UnsupportedError("fft: x and y must be [..., n, ..., 1 or 2] of floating dtype with equal batch axes")
    m = int(y.shape[axis])
    n = max(1, m if not onesided or inverse else 2 * m - 1 if x.shape[axis] == 2 * m - 1 else 2 * m - 2)
    if n > MAX_LENGTH:
        raise UnsupportedError("fft: the transform is too long")
    work = n if _primes(n) is not None else 1 << (2 * n - 2).bit_length()
    lines = prod(s for i, s in enumerate(y.shape[:-1]) if i != axis)
    return _Job(x, y, axis, inverse, onesided, n, work, lines)


def _primes(n: int) -> list[int] | None:
    """The prime factors of n in rising order, or None if one is larger than LARGEST_PRIME."""
    out = []
    for p in range(2, LARGEST_PRIME + 1):
        while n % p == 0:
            out.append(p)
            n //= p
    return out if n == 1 else None


def _steps(n: int) -> list[int]:
    """Radices of the steps of a transform of length n: as few as there can be, of about equal size."""
    primes = _primes(n)
    assert primes is not None
    if n <= ONE_STEP:
        return [n]
    count = 2
    while True:
        radices = [1] * count
        for p in reversed(primes):
            radices[radices.index(min(radices))] *= p
        if max(radices) <= LONG_STEP:
            return radices
        count += 1


def _stages(radix: int) -> list[int]:
    """Radices of the stages in shared memory: fours, a two, odd primes."""
    primes = _primes(radix) or []
    twos = primes.count(2)
    return [4] * (twos // 2) + [2] * (twos % 2) + [p for p in primes if p > 2]


@lru_cache(maxsize=64)
def _roots(n: int, count: int, stride: int) -> Table:
    """exp(-2 pi i k stride / n) for k < count."""
    return Table(_unit(np.arange(count, dtype=np.float64) * stride / n), ("roots", n, count, stride))


def _unit(turns: Any) -> np.ndarray[Any, Any]:
    angle = 2 * np.pi * turns
    out: np.ndarray[Any, Any] = np.cos(angle) - 1j * np.sin(angle)
    return out


@lru_cache(maxsize=8)
def _chirp(n: int, work: int) -> tuple[Table, Table]:
    """exp(-i pi k^2 / n), and the transform of its conjugate's cyclic extension to `work`."""
    k = np.arange(n, dtype=np.int64)
    square = k * k % (2 * n) if n < 1 << 31 else np.array([int(v) * int(v) % (2 * n) for v in k], np.int64)
    chirp = _unit(square / (2.0 * n))
    extended = np.zeros(work, np.complex128)
    extended[:n] = chirp.conj()
    extended[work - n + 1 :] = chirp.conj()[:0:-1]
    return Table(chirp, ("chirp", n)), Table(np.fft.fft(extended), ("chirp spectrum", n, work))


def _step(
    launch: Launch,
    job: _Job,
    radix: int,
    before: int,
    source: Pointer | None,
    target: Pointer | None,
    spectrum: bool,
    fused: bool,
    scratch: int,
) -> Call:
    """One step: from x or scratch to scratch or y. `before`: the product of the radices of earlier steps of the same transform."""
    x, y, axis, last = job.x, job.y, job.axis, job.x.ndim - 1
    batch_axes = [i for i in range(last) if i != axis]
    shape = [y.shape[i] for i in batch_axes]
    axes = merge(shape, [tuple(t.strides[i] for i in batch_axes) for t in (x, y)])
    quotient = job.work // radix
    units = job.lines * quotient
    along = quotient == 1 and _along(axes.strides[0], x.strides[axis])
    along_out = (before == 1 and quotient > 1) or (quotient == 1 and _along(axes.strides[1], y.strides[axis]))
    columns = max(1, min(TILE // radix, units))
    if quotient == 1 and (along or along_out):
        columns -= columns > 1 and columns % 2 == 0
    b = Builder(launch, STEP, is_wide(x, y, sizes=[job.lines * job.work]))
    nothing = Scratch(0)
    chirp, chirp_spectrum = _chirp(job.n, job.work) if job.chirped else (nothing, nothing)
    stages = _stages(radix)
    twiddled = before * radix < job.work
    for name, value in (
        ("RANK", max(1, len(axes.sizes))), ("FIRST", source is None), ("LAST", target is None), ("CHIRP", job.chirped),
        ("SPECTRUM", spectrum and not fused), ("FUSED", fused), ("TWIDDLED", twiddled),
    ):  # fmt: skip
        b.define(name, value)
    b.type("X", x.dtype)
    b.type("Y", y.dtype)
    b.view("x", x, axes.strides[0])
    b.view("y", y, axes.strides[1])
    b.pointer("source", "const c128", source or nothing)
    b.pointer("target", "c128", target or nothing)
    b.pointer("roots", "const c128", _roots(radix, radix, 1))
    coarse = 1 << ((job.work - 1).bit_length() + 1) // 2
    b.pointer("low_roots", "const c128", _roots(job.work, coarse, 1) if twiddled else nothing)
    b.pointer("high_roots", "const c128", _roots(job.work, -(-job.work // coarse), coarse) if twiddled else nothing)
    b.pointer("chirp", "const c128", chirp)
    b.pointer("spectrum", "const c128", chirp_spectrum)
    b.scalar("scale", "f64", 1.0 / job.work)
    b.sizes("size", axes.sizes)
    for name, n in (("batch", columns), ("column", radix), ("quotient", quotient), ("before", before), ("coarse", coarse)):
        b.sizes(name, [n])
    spans = [columns * prod(stages[:i]) for i in range(len(stages))]
    room = [1] * (STAGES - len(stages))
    b.sizes("span", [*spans, *room])
    b.sizes("block", [*[s * p for s, p in zip(spans, stages)], *room])
    b.array("radices", "i32", [*stages, *room])
    b.array("unit", "i32", [*[s // columns for s in spans], *room])
    b.array("apart", "i32", [*[radix * columns // p for p in stages], *room])
    hermitian = job.onesided and job.inverse
    for name, n in (
        ("units", units), ("total", job.work), ("length", job.n), ("given", min(x.shape[axis], job.n // 2 + 1 if hermitian else job.n)),
        ("wanted", min(y.shape[axis], job.n)), ("x_step", x.strides[axis]), ("x_part", x.strides[last]), ("y_step", y.strides[axis]),
        ("y_part", y.strides[last]),
    ):  # fmt: skip
        b.scalar(name, "idx", n)
    b.scalar("radix", "i32", radix)
    b.scalar("stages", "i32", len(stages))
    flags = {
        "hermitian": hermitian, "inverse": job.inverse, "x_complex": x.shape[last] == 2, "y_complex": y.shape[last] == 2, "along": along,
        "along_out": along_out,
    }  # fmt: skip
    for name, flag in flags.items():
        b.scalar(name, "bool", bool(flag))
    return b.call(-(-units // columns), shared=32 * radix * columns, scratch=scratch)


def _along(lines: tuple[int, ...], step: int) -> bool:
    """Are elements of a line nearer to each other than lines are?"""
    return abs(step) <= min([abs(s) for s in lines if s], default=abs(step))
