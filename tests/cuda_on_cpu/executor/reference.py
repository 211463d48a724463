"""What the tests of instructions share: kernels made of one instruction each, values of every kind, exact rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from .testing import Out, run

CUDA = {"u8": "unsigned char", "s8": "signed char", "u16": "unsigned short", "s16": "short", "u32": "unsigned", "s32": "int",
        "u64": "unsigned long long", "s64": "long long", "f32": "float", "f64": "double"}  # fmt: skip
NUMPY = {"u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
         "f32": np.float32, "f64": np.float64}  # fmt: skip
LETTER = {"u16": "h", "s16": "h", "u32": "r", "s32": "r", "u64": "l", "s64": "l", "f32": "f", "f64": "d"}
BITS = {t: np.dtype(n).itemsize * 8 for t, n in NUMPY.items()}

Row = tuple[str, str, list[str], Callable[..., Any]]  # assembly with %0 the result, its type, the operands' types, the reference


def kernels(rows: list[Row]) -> str:
    """A kernel k<i> per row that applies its assembly to arrays."""
    out = []
    for k, (asm, to, args, _) in enumerate(rows):
        members = "".join(f"const {CUDA[t]}* a{j}; " for j, t in enumerate(args))
        operands = ", ".join(f'"{LETTER[t]}"(p.a{j}[i])' for j, t in enumerate(args))
        out.append(
            f"struct P{k} {{ {CUDA[to]}* d; {members} int n; }};\n"
            f'extern "C" __global__ void k{k}(const __grid_constant__ P{k} p) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= p.n) return;\n'
            f'  {CUDA[to]} d; asm volatile("{asm}" : "={LETTER[to]}"(d) : {operands}); p.d[i] = d; }}'
        )
    return "\n".join(out)


def apply(source: str, k: int, row: Row, inputs: list[np.ndarray[Any, Any]], **options: Any) -> np.ndarray[Any, Any]:
    n = len(inputs[0])
    out = np.zeros(n, NUMPY[row[1]])
    arrays = [np.ascontiguousarray(a, NUMPY[t]) for a, t in zip(inputs, row[2], strict=True)]
    run(source, f"k{k}", -(-n // 96), 96, Out(out), *arrays, np.int32(n), **options)
    return out


def edges(t: str, rng: np.random.Generator, count: int = 12) -> list[int]:
    b = BITS[t]
    values = [0, 1, 2, 3, 31, 32, (1 << b) - 1, (1 << b) - 2, 1 << (b - 1), (1 << (b - 1)) - 1, (1 << (b - 1)) + 1, int("5" * (b // 4), 16)]
    values += [int(v) for v in rng.integers(0, 2**63, count)]
    return [wrap(v, t) for v in values]


def wrap(v: int, t: str) -> int:
    b = BITS[t]
    v &= (1 << b) - 1
    return v - (1 << b) if t[0] == "s" and v >> (b - 1) else v


FORMATS = {"f64": (52, -1022, 1023), "f32": (23, -126, 127), "tf32": (10, -126, 127), "f16": (10, -14, 15), "bf16": (7, -126, 127)}


def rounded(q: Fraction, t: str, mode: str = "rn") -> float:
    """q rounded to format t, exactly; an overflow gives inf or the largest, as the mode says."""
    mant, emin, emax = FORMATS[t]
    if q == 0:
        return 0.0
    m = abs(q)
    e = m.numerator.bit_length() - m.denominator.bit_length()
    e -= m < Fraction(2) ** e
    ulp = Fraction(2) ** (max(e, emin) - mant)
    n = m / ulp
    f = n.numerator // n.denominator
    rest = n - f
    if mode == "rn":
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and f % 2 == 1)
    elif mode == "rna":
        up = rest >= Fraction(1, 2)
    else:
        up = rest > 0 and mode == ("rp" if q > 0 else "rm")
    v = (f + up) * ulp
    if v >= Fraction(2) ** (emax + 1):
        largest = float((2 - Fraction(1, 2**mant)) * Fraction(2) ** emax)
        stays = mode == "rz" or mode == ("rm" if q > 0 else "rp")
        overflow = largest if stays else math.inf
        return overflow if q > 0 else -overflow
    return float(v) if q > 0 else -float(v)


def rounded_array(x: np.ndarray[Any, Any], t: str) -> np.ndarray[Any, Any]:
    """float64 values rounded to nearest in format t, as float64."""
    mant, emin, emax = FORMATS[t]
    with np.errstate(all="ignore"):
        ulp = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, emin) - mant)
        r = np.copysign(np.rint(x / ulp) * ulp, x)
        return np.where(np.isfinite(x), np.where(np.abs(r) >= 2.0 ** (emax + 1), np.copysign(np.inf, x), r), x)


def reals(t: str, rng: np.random.Generator, count: int = 40) -> np.ndarray[Any, Any]:
    """Values of every kind: zeros, subnormals, powers of two, neighbours, infinities, NaN, and random ones of all magnitudes."""
    info: Any = np.finfo(NUMPY[t])
    tiny, eps = float(info.tiny), float(info.eps)
    special = [0.0, 1.0, 1 + eps, 1.5, 2.0, 3.0, 0.1, 1e-3, tiny, tiny * 1.5, float(info.smallest_subnormal), float(info.max), math.inf]
    wide = np.ldexp(1 + rng.random(count), rng.integers(info.minexp // 2, info.maxexp // 2, count))
    near = np.ldexp(1 + rng.random(count), rng.integers(-3, 4, count))
    v = np.concatenate([special, wide, near])
    return np.concatenate([v, -v, [math.nan]]).astype(NUMPY[t])


def same(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bits are equal, or both are NaN."""
    word = f"u{got.itemsize}"
    return np.asarray((got.view(word) == expected.view(word)) | (np.isnan(got) & np.isnan(expected)))


def pairs(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.repeat(a, len(b)), np.tile(b, len(a))]


def ulps(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest error in units of the last place of the result's type; both NaN or the same infinity is no error."""
    with np.errstate(all="ignore"):
        e = expected.astype(got.dtype)
        error = np.abs(got.astype(np.longdouble) - expected.astype(np.longdouble)) / np.spacing(np.abs(e)).astype(np.longdouble)
    error = np.where((got == e) | (np.isnan(got) & np.isnan(e)), 0, error)
    return float(np.where(np.isnan(error), np.inf, error).max())


SIXTEEN = "struct P { const unsigned short *a, *b, *c; unsigned short* d; int n; };\nstruct W { const unsigned *a, *b, *c; unsigned* d; int n; };\n"


def half_kernel(name: str, asm: str, letters: str, pair: bool) -> str:
    args = ", ".join(f'"{"r" if pair else "h"}"(p.{x}[i])' for x in letters)
    return (
        f'extern "C" __global__ void {name}(const __grid_constant__ {"W" if pair else "P"} p) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= p.n) return; '
        f'{"unsigned" if pair else "unsigned short"} d; asm volatile("{asm}" : "={"r" if pair else "h"}"(d) : {args}); p.d[i] = d; }}\n'
    )


def decode16(bits: np.ndarray[Any, Any], t: str) -> np.ndarray[Any, Any]:
    return bits.view(np.float16).astype(np.float64) if t == "f16" else (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def encode16(x: np.ndarray[Any, Any], t: str) -> np.ndarray[Any, Any]:
    """Bits of float64 values that format t holds."""
    bits = x.astype(np.float16).view(np.uint16) if t == "f16" else (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), 0x7FFF, bits).astype(np.uint16)
