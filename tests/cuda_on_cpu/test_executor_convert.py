"""Conversions of the executor: all values of the 16-bit formats, ties and limits of the others, in every rounding; and CUDA's math functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")

from .executor.reference import (
    BITS,
    NUMPY,
    SIXTEEN,
    Row,
    apply,
    decode16,
    encode16,
    kernels,
    reals,
    rounded,
    rounded_array,
    same,
    ulps,
    wrap,
)  # fmt: skip
from .executor.testing import Out, run

EVERY = np.arange(65536, dtype=np.uint16)


def integral(x: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    return {"n": np.rint, "z": np.trunc, "m": np.floor, "p": np.ceil}[mode[1]](x)


@np.errstate(all="ignore")
def test_real_to_integer() -> None:
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    for source in ("f32", "f64"):
        for to in ("u16", "s16", "u32", "s32", "u64", "s64"):
            rows += [(f"cvt.{mode}.{to}.{source} %0, %1;", to, [source], None) for mode in ("rni", "rzi", "rmi", "rpi")]  # type: ignore[misc]
    code = kernels(rows)
    for k, (asm, to, (source,), _) in enumerate(rows):
        lo, hi = (-(1 << (BITS[to] - 1)), (1 << (BITS[to] - 1)) - 1) if to[0] == "s" else (0, (1 << BITS[to]) - 1)
        limits = np.array([lo, hi, hi + 1, lo - 1, hi // 2], np.float64)
        x = np.concatenate(
            [
                reals(source, rng),
                limits,
                np.nextafter(limits, 0),
                limits + 0.5,
                limits - 0.5,
                rng.uniform(-5, 5, 50),
                np.arange(-4, 4) + 0.5,
            ]
        ).astype(NUMPY[source])
        got = apply(code, k, (asm, to, [source], lambda: None), [x])
        y = integral(x.astype(np.float64), asm[4:7])
        nan = 0 if source == "f32" and BITS[to] < 64 else 1 << (BITS[to] - 1)
        expected = [wrap(nan if math.isnan(v) else lo if v < lo else hi if v > hi else int(v), to) for v in y.tolist()]
        bad = np.flatnonzero(got != np.array(expected, NUMPY[to]))
        assert not len(bad), f"{asm}: {x[bad[0]]!r} gives {got[bad[0]]}, not {expected[bad[0]]}"


def test_integer_to_real() -> None:
    rng = np.random.default_rng(2)
    rows: list[Row] = [
        (f"cvt.{mode}.{to}.{source} %0, %1;", to, [source], None)  # type: ignore[misc]
        for source in ("u16", "s16", "u32", "s32", "u64", "s64") for to in ("f32", "f64") for mode in ("rn", "rz", "rm", "rp")
    ]  # fmt: skip
    code = kernels(rows)
    for k, (asm, to, (source,), _) in enumerate(rows):
        b = BITS[source]
        near = [(1 << e) + d for e in range(b) for d in (-1, 0, 1)] + [
            (1 << e) + (1 << max(e - s, 0)) + d for e in range(b) for s in (24, 53, 54) for d in (-1, 0, 1)
        ]
        x = [
            wrap(v, source)
            for v in [*near, *(int(v) for v in rng.integers(0, 2**63, 100)), *((1 << b) - 1 - int(v) for v in rng.integers(0, 1000, 20))]
        ]
        got = apply(code, k, (asm, to, [source], lambda: None), [np.array(x, NUMPY[source])])
        mode = asm[4:6]
        expected = np.array([rounded(Fraction(v), to, mode) for v in x], NUMPY[to])
        bad = np.flatnonzero(got != expected)
        assert not len(bad), f"{asm}: {x[bad[0]]} gives {got[bad[0]]!r}, not {expected[bad[0]]!r}"


@np.errstate(all="ignore")
def test_real_to_real() -> None:
    rng = np.random.default_rng(3)
    rows: list[Row] = [(f"cvt.{mode}.{t}.{t} %0, %1;", t, [t], None) for t in ("f32", "f64") for mode in ("rni", "rzi", "rmi", "rpi")]  # type: ignore[misc]
    rows += [(f"cvt.{mode}.f32.f64 %0, %1;", "f32", ["f64"], None) for mode in ("rn", "rz", "rm", "rp")]  # type: ignore[misc]
    rows += [("cvt.f64.f32 %0, %1;", "f64", ["f32"], None), ("cvt.sat.f32.f32 %0, %1;", "f32", ["f32"], None), ("cvt.ftz.f32.f32 %0, %1;", "f32", ["f32"], None),  # type: ignore[misc]
             ("{ .reg .b32 t; cvt.rna.tf32.f32 t, %1; mov.b32 %0, t; }", "f32", ["f32"], None)]  # type: ignore[misc]  # fmt: skip
    code = kernels(rows)
    singles = reals("f32", rng, 200).astype(np.float64)
    ties = np.concatenate(
        [
            np.nextafter(v := (singles + np.nextafter(singles.astype("f"), np.float32(np.inf)).astype(float)) / 2, np.inf),
            v,
            np.nextafter(v, -np.inf),
        ]
    )
    for k, (asm, to, (source,), _) in enumerate(rows):
        x = np.concatenate([reals(source, rng), ties, rng.uniform(-9, 9, 100), np.arange(-4, 4) + 0.5]).astype(NUMPY[source])
        got = apply(code, k, (asm, to, [source], lambda: None), [x])
        d = x.astype(np.float64)
        mode = asm[4:7].strip(".")
        if mode in ("rni", "rzi", "rmi", "rpi"):
            expected = integral(x, mode)
        elif "tf32" in asm:
            expected = np.array([rounded(Fraction(v), "tf32", "rna") if np.isfinite(v) and v else v for v in d.tolist()], np.float32)
        elif mode == "sat":
            expected = np.where(x > 0, np.minimum(x, 1), 0).astype(np.float32)
        elif mode == "ftz":
            expected = np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x).astype(np.float32)
        elif to == "f64":
            expected = d
        else:
            expected = np.array([rounded(Fraction(v), "f32", mode) if np.isfinite(v) and v else v for v in d.tolist()], np.float32)
        ok = same(got, expected) | ((got == 0) & (expected == 0) & (mode in ("rz", "rm", "rp", "sat")))
        bad = np.flatnonzero(~ok)
        assert not len(bad), f"{asm}: {x[bad[0]]!r} gives {got[bad[0]]!r}, not {expected[bad[0]]!r}"


@np.errstate(all="ignore")
def test_all_halves() -> None:
    """Every half to float32, and every half, its neighbours' midpoints and what lies beside them back."""
    source = "".join(
        f"struct F{t} {{ const unsigned short* h; const float* f; const double* d; unsigned short *from_f, *from_d; float* to_f; unsigned* pairs; int n; }};\n"
        f'extern "C" __global__ void {t}(const __grid_constant__ F{t} p) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= p.n) return;\n'
        f'  asm("cvt.f32.{t} %0, %1;" : "=f"(p.to_f[i]) : "h"(p.h[i % 65536])); asm("cvt.rn.{t}.f32 %0, %1;" : "=h"(p.from_f[i]) : "f"(p.f[i]));\n'
        f'  asm("cvt.rn.{t}.f64 %0, %1;" : "=h"(p.from_d[i]) : "d"(p.d[i])); asm("cvt.rn.{t}x2.f32 %0, %1, %2;" : "=r"(p.pairs[i]) : "f"(p.f[i]), "f"(p.f[i / 2])); }}\n'
        for t in ("f16", "bf16")
    )
    for t in ("f16", "bf16"):
        v = decode16(EVERY, t)
        ordered = np.sort(v[np.isfinite(v)])
        mid = np.concatenate(
            [(ordered[1:] + ordered[:-1]) / 2, ordered, [np.inf, -np.inf, np.nan, 65519.99, 65520, 3.4e38, -3.3961776e38, 1e-45, 2.0**-150]]
        )
        f = np.concatenate(
            [
                mid,
                np.nextafter(mid.astype("f"), np.float32(np.inf)).astype(float),
                np.nextafter(mid.astype("f"), -np.float32(np.inf)).astype(float),
            ]
        ).astype(np.float32)
        d = np.concatenate(
            [mid, np.nextafter(mid, np.inf), np.nextafter(mid, -np.inf)]
        )  # which a detour over float32 would round to the tie
        n = len(f)
        outs = [np.zeros(n, np.uint16), np.zeros(n, np.uint16), np.zeros(n, np.float32), np.zeros(n, np.uint32)]
        run(source, t, -(-n // 256), 256, EVERY, f, d, *(Out(o) for o in outs), np.int32(n), arch="compute_90", checks=False)
        assert same(outs[2][:65536], v.astype(np.float32)).all()
        of_f, of_d = encode16(rounded_array(f.astype(np.float64), t), t), encode16(rounded_array(d, t), t)
        assert np.array_equal(outs[0], of_f) and np.array_equal(outs[1], of_d)
        assert np.array_equal(outs[3], of_f.astype(np.uint32) << 16 | of_f[np.arange(n) // 2])


@np.errstate(all="ignore")
def test_half_roundings() -> None:
    rng = np.random.default_rng(4)
    x = np.concatenate([reals("f32", rng, 300), rng.normal(size=200)]).astype(np.float32)
    cases = [(f"cvt.{mode}.f16.f32", "f16", mode, "") for mode in ("rz", "rm", "rp")] + [("cvt.rz.bf16.f32", "bf16", "rz", ""), ("cvt.rn.relu.f16.f32", "f16", "rn", "relu"),
             ("cvt.rn.relu.bf16.f32", "bf16", "rn", "relu"), ("cvt.rn.sat.f16.f32", "f16", "rn", "sat")]  # fmt: skip
    source = "struct P { const float* x; unsigned short* y; int n; };\n" + "".join(
        f'extern "C" __global__ void k{k}(const __grid_constant__ P p) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < p.n) asm("{asm} %0, %1;" : "=h"(p.y[i]) : "f"(p.x[i])); }}\n'
        for k, (asm, _, _, _) in enumerate(cases)
    )
    for k, (asm, t, mode, extra) in enumerate(cases):
        out = np.zeros(len(x), np.uint16)
        run(source, f"k{k}", -(-len(x) // 128), 128, x, Out(out), np.int32(len(x)), arch="compute_90")
        values = (
            np.where(x > 0, x, np.where(np.isnan(x), x, 0))
            if extra == "relu"
            else np.where(x > 0, np.minimum(x, 1), 0)
            if extra == "sat"
            else x
        )
        expected = encode16(np.array([rounded(Fraction(v), t, mode) if np.isfinite(v) else v for v in values.astype(float).tolist()]), t)
        ok = (out == expected) | ((out & 0x7FFF == 0) & (expected & 0x7FFF == 0))
        assert ok.all(), (asm, x[~ok][:3], out[~ok][:3], expected[~ok][:3])


def eight_bits(t: str) -> np.ndarray[Any, Any]:
    """The 256 values of e4m3 (bias 7, 0x7f is NaN, no infinity) or e5m2 (bias 15, as IEEE)."""
    codes = np.arange(256)
    if t == "e5m2":
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float64)
    e, m = codes >> 3 & 15, codes & 7
    v = np.where(e == 0, m * 2.0**-9, (8 + m) * 2.0 ** (e - 10.0))
    return np.where(codes & 127 == 127, np.nan, np.where(codes & 128, -v, v))


@np.errstate(all="ignore")
def test_eight_bit_floats() -> None:
    source = SIXTEEN + "".join(
        f'extern "C" __global__ void up_{t}(const __grid_constant__ W p) {{ int i = threadIdx.x; if (i < p.n) asm("cvt.rn.f16x2.{t}x2 %0, %1;" : "=r"(p.d[i]) : "h"((unsigned short)p.a[i])); }}\n'
        f'extern "C" __global__ void down_{t}(const __grid_constant__ W p) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= p.n) return; unsigned short h, f;\n'
        f'  asm("cvt.rn.satfinite.{t}x2.f16x2 %0, %1;" : "=h"(h) : "r"(p.a[i])); asm("cvt.rn.satfinite.{t}x2.f32 %0, %1, %2;" : "=h"(f) : "f"(__uint_as_float(p.b[i])), "f"(__uint_as_float(p.c[i])));\n'
        f"  p.d[i] = h | f << 16; }}\n"
        for t in ("e4m3", "e5m2")
    )
    rng = np.random.default_rng(5)
    for t in ("e4m3", "e5m2"):
        values = eight_bits(t)
        codes = np.arange(256, dtype=np.uint32)
        got = np.zeros(256, np.uint32)
        run(source, f"up_{t}", 1, 256, codes | (255 - codes) << 8, codes, codes, Out(got), np.int32(256), arch="compute_90")
        half = lambda x: x.astype(np.uint16).view(np.float16).astype(float)
        assert np.array_equal(half(got & 0xFFFF), values, equal_nan=True) and np.array_equal(half(got >> 16), values[::-1], equal_nan=True)

        positive = values[:128][np.isfinite(values[:128])]
        halves = EVERY.view(np.float16).astype(np.float64)
        wide = np.concatenate([reals("f32", rng, 2000), rng.normal(scale=30, size=2000)]).astype(np.float32)
        singles = np.resize(wide, 65536)

        def nearest(x: np.ndarray[Any, Any], positive: np.ndarray[Any, Any] = positive) -> np.ndarray[Any, Any]:
            a = np.minimum(np.abs(x), positive[-1])
            k = np.clip(np.searchsorted(positive, a), 1, len(positive) - 1)
            below, above = a - positive[k - 1], positive[k] - a
            k = np.where((below < above) | ((below == above) & ((k - 1) % 2 == 0)), k - 1, k)
            return np.where(np.isnan(x), 0x7F, k | np.where(np.signbit(x), 0x80, 0))

        out = np.zeros(65536, np.uint32)
        pairs = EVERY.astype(np.uint32) | EVERY[::-1].astype(np.uint32) << 16
        run(
            source,
            f"down_{t}",
            256,
            256,
            pairs,
            singles.view(np.uint32),
            singles[::-1].copy().view(np.uint32),
            Out(out),
            np.int32(65536),
            arch="compute_90",
            checks=False,
        )
        expected = (
            nearest(halves) | nearest(halves[::-1]) << 8 | nearest(singles[::-1].astype(float)) << 16 | nearest(singles.astype(float)) << 24
        )
        assert np.array_equal(out, expected.astype(np.uint32)), t


# CUDA C++ Programming Guide, "Mathematical Functions": the largest errors in ulp (float32, float64), plus one for our reference
FUNCTIONS: dict[str, tuple[Callable[[float], float], int, int, tuple[float, float]]] = {
    "exp": (math.exp, 2, 1, (-100, 90)), "exp2": (lambda x: 2.0**x, 2, 1, (-140, 120)), "exp10": (lambda x: 10.0**x, 2, 1, (-40, 38)), "expm1": (math.expm1, 2, 1, (-20, 80)),
    "log": (math.log, 1, 1, (1e-30, 1e6)), "log2": (math.log2, 1, 1, (1e-30, 1e6)), "log10": (math.log10, 2, 1, (1e-30, 1e6)), "log1p": (math.log1p, 1, 1, (-0.99, 100)),
    "sin": (math.sin, 2, 2, (-1e6, 1e6)), "cos": (math.cos, 2, 2, (-1e6, 1e6)), "tan": (math.tan, 4, 2, (-1e5, 1e5)), "asin": (math.asin, 2, 2, (-1, 1)),
    "acos": (math.acos, 2, 2, (-1, 1)), "atan": (math.atan, 2, 2, (-50, 50)), "sinh": (math.sinh, 3, 2, (-80, 80)), "cosh": (math.cosh, 2, 1, (-80, 80)),
    "tanh": (math.tanh, 2, 1, (-9, 9)), "asinh": (math.asinh, 3, 3, (-1e4, 1e4)), "acosh": (math.acosh, 4, 3, (1, 1e4)), "atanh": (math.atanh, 3, 2, (-0.999, 0.999)),
    "erf": (math.erf, 2, 2, (-5, 5)), "erfc": (math.erfc, 4, 5, (-5, 9)), "tgamma": (math.gamma, 11, 10, (0.1, 30)), "lgamma": (math.lgamma, 6, 4, (3, 1e4)),
    "sqrt": (math.sqrt, 0, 0, (0, 1e9)), "rsqrt": (lambda x: 1 / math.sqrt(x), 2, 1, (1e-9, 1e9)), "cbrt": (lambda x: math.copysign(math.exp(math.log(abs(x)) / 3), x), 2, 60, (0.1, 1e9)),
    "rint": (round, 0, 0, (-1e5, 1e5)), "floor": (math.floor, 0, 0, (-1e5, 1e5)), "trunc": (math.trunc, 0, 0, (-1e5, 1e5)), "fabs": (abs, 0, 0, (-5, 5)),
}  # fmt: skip


def test_math_functions() -> None:
    """Long chains of everything, with tables in constant memory and local arrays: the compiler's own library."""
    source = "struct F { const float* x; float* y; int n; };\nstruct D { const double* x; double* y; int n; };\n" + "".join(
        f'extern "C" __global__ void {p}_{name}(const __grid_constant__ {p} a) {{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < a.n) a.y[i] = {name}(a.x[i]); }}\n'
        for name in FUNCTIONS for p in "FD"
    )  # fmt: skip
    rng = np.random.default_rng(6)
    for name, (f, single, double, (lo, hi)) in FUNCTIONS.items():
        x = rng.uniform(lo, hi, 300)
        for p, dtype, limit in (("F", np.float32, single), ("D", np.float64, double)):
            v = x.astype(dtype)
            y = np.zeros(300, dtype)
            run(source, f"{p}_{name}", 3, 128, v, Out(y), np.int32(300))
            expected = np.array([float(f(t)) for t in v.astype(np.float64).tolist()])
            assert ulps(y, expected) <= limit + 1, (name, dtype, v[np.argmax(np.abs(y - expected))])


def test_large_arguments_and_powers() -> None:
    source = r"""
struct F { const float* x; const float* z; float* y; };
struct D { const double* x; const double* z; double* y; };
extern "C" __global__ void huge(const __grid_constant__ F a) { int i = threadIdx.x; a.y[i] = sinf(a.x[i]) + cosf(a.z[i]); }
extern "C" __global__ void huge_double(const __grid_constant__ D a) { int i = threadIdx.x; a.y[i] = sin(a.x[i]); }
extern "C" __global__ void power(const __grid_constant__ F a) { int i = threadIdx.x; a.y[i] = powf(a.x[i], a.z[i]); }
extern "C" __global__ void power_double(const __grid_constant__ D a) { int i = threadIdx.x; a.y[i] = pow(a.x[i], a.z[i]); }
extern "C" __global__ void modulo(const __grid_constant__ F a) { int i = threadIdx.x; a.y[i] = fmodf(a.x[i], a.z[i]); }
extern "C" __global__ void angle(const __grid_constant__ F a) { int i = threadIdx.x; a.y[i] = atan2f(a.x[i], a.z[i]); }
"""
    rng = np.random.default_rng(7)
    big = np.ldexp(rng.uniform(-1, 1, 64), rng.integers(20, 127, 64))
    x, z = big.astype(np.float32), big[::-1].astype(np.float32)
    y = np.zeros(64, np.float32)
    run(source, "huge", 1, 64, x, z, Out(y))
    assert np.abs(y - (np.sin(x.astype(float)) + np.cos(z.astype(float)))).max() < 3e-7
    d = np.zeros(64)
    run(source, "huge_double", 1, 64, big * 1e200, big, Out(d))
    assert np.abs(d - np.sin(big * 1e200)).max() < 1e-15
    x, z = rng.uniform(0.01, 9, 64).astype(np.float32), rng.uniform(-9, 9, 64).astype(np.float32)
    x[:8], z[:8] = [-2, -2, 0, 0, np.inf, 1, -1, np.nan], [3, 2, -1, 0, -1, np.nan, np.inf, 0]
    run(source, "power", 1, 64, x, z, Out(y))
    with np.errstate(all="ignore"):
        assert ulps(y, np.power(x.astype(float), z.astype(float))) <= 5
        run(source, "power_double", 1, 64, x.astype(float), z.astype(float), Out(d))
        assert ulps(d, np.power(x.astype(float), z.astype(float))) <= 3
    x, z = rng.uniform(-1e6, 1e6, 64).astype(np.float32), rng.uniform(0.1, 9, 64).astype(np.float32)
    run(source, "modulo", 1, 64, x, z, Out(y))
    assert np.array_equal(y, np.fmod(x, z))
    run(source, "angle", 1, 64, x, z, Out(y))
    assert ulps(y, np.arctan2(x.astype(float), z.astype(float))) <= 4
