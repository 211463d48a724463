"""The executor's instructions against NumPy and Python's exact arithmetic: every family in kernels of its own."""

from __future__ import annotations

import itertools
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
    edges,
    encode16,
    half_kernel,
    kernels,
    pairs,
    reals,
    rounded,
    rounded_array,
    same,
    ulps,
    wrap,
)  # fmt: skip
from .executor.testing import Out, run


def integer_rows() -> list[Row]:
    rows: list[Row] = []

    def add(asm: str, to: str, args: str, f: Callable[..., Any]) -> None:
        rows.append((asm, to, args.split(), f))

    for t in ("u16", "s16", "u32", "s32", "u64", "s64"):
        b, two = BITS[t], f"{t} {t}"
        add(f"add.{t} %0, %1, %2;", t, two, lambda x, y: x + y)
        add(f"sub.{t} %0, %1, %2;", t, two, lambda x, y: x - y)
        add(f"mul.lo.{t} %0, %1, %2;", t, two, lambda x, y: x * y)
        add(f"mul.hi.{t} %0, %1, %2;", t, two, lambda x, y, b=b: (x * y) >> b)
        add(f"mad.lo.{t} %0, %1, %2, %3;", t, f"{two} {t}", lambda x, y, z: x * y + z)
        add(f"mad.hi.{t} %0, %1, %2, %3;", t, f"{two} {t}", lambda x, y, z, b=b: ((x * y) >> b) + z)
        add(f"div.{t} %0, %1, %2;", t, two, lambda x, y: -1 if y == 0 else int(Fraction(x, y)))
        add(f"rem.{t} %0, %1, %2;", t, two, lambda x, y: x if y == 0 else x - int(Fraction(x, y)) * y)
        add(f"min.{t} %0, %1, %2;", t, two, min)
        add(f"max.{t} %0, %1, %2;", t, two, max)
        add(f"sad.{t} %0, %1, %2, %3;", t, f"{two} {t}", lambda x, y, z: z + abs(x - y))
        s = f"{t} u32"
        add(f"shl.b{b} %0, %1, %2;", t, s, lambda x, n, b=b: 0 if n >= b else x << n)
        add(f"shr.{t} %0, %1, %2;", t, s, lambda x, n, b=b: x >> min(n, b))
        if t[0] == "s":
            add(f"abs.{t} %0, %1;", t, t, abs)
            add(f"neg.{t} %0, %1;", t, t, lambda x: -x)
        else:
            add(f"and.b{b} %0, %1, %2;", t, two, lambda x, y: x & y)
            add(f"or.b{b} %0, %1, %2;", t, two, lambda x, y: x | y)
            add(f"xor.b{b} %0, %1, %2;", t, two, lambda x, y: x ^ y)
            add(f"not.b{b} %0, %1;", t, t, lambda x: ~x)
            add(f"cnot.b{b} %0, %1;", t, t, lambda x: int(x == 0))
        if b < 64:
            w = t[0] + str(2 * b)
            add(f"mul.wide.{t} %0, %1, %2;", w, two, lambda x, y: x * y)
            add(f"mad.wide.{t} %0, %1, %2, %3;", w, f"{two} {w}", lambda x, y, z: x * y + z)
        if b > 16:

            def bfe(x: int, pos: int, n: int, t: str = t, b: int = b) -> int:
                pos, n = pos & 255, n & 255
                sign = (x >> min(pos + n - 1, b - 1)) & 1 if t[0] == "s" and n else 0
                return sum((((x >> (pos + k)) & 1) if k < n and pos + k < b else sign) << k for k in range(b))

            add(f"bfe.{t} %0, %1, %2, %3;", t, f"{t} u32 u32", bfe)
            add(f"bfind.{t} %0, %1;", "u32", t, lambda x: max(x, ~x).bit_length() - 1)
            add(f"bfind.shiftamt.{t} %0, %1;", "u32", t, lambda x, b=b: b - max(x, ~x).bit_length() if x not in (0, -1) else -1)
        if t in ("u32", "u64"):
            add(f"popc.b{b} %0, %1;", "u32", t, lambda x: bin(x).count("1"))
            add(f"clz.b{b} %0, %1;", "u32", t, lambda x, b=b: b - x.bit_length())
            add(f"brev.b{b} %0, %1;", t, t, lambda x, b=b: int(f"{x:0{b}b}"[::-1], 2))

            def bfi(x: int, y: int, pos: int, n: int, b: int = b) -> int:
                pos, n = pos & 255, n & 255
                for k in range(n):
                    if pos + k < b:
                        y = y & ~(1 << (pos + k)) | ((x >> k) & 1) << (pos + k)
                return y

            add(f"bfi.b{b} %0, %1, %2, %3, %4;", t, f"{t} {t} u32 u32", bfi)
    for t in ("u32", "s32"):

        def low(x: int, t: str = t) -> int:
            x &= 0xFFFFFF
            return x - (1 << 24) if t[0] == "s" and x >> 23 else x

        add(f"mul24.lo.{t} %0, %1, %2;", t, f"{t} {t}", lambda x, y, low=low: low(x) * low(y))
        add(f"mul24.hi.{t} %0, %1, %2;", t, f"{t} {t}", lambda x, y, low=low: (low(x) * low(y)) >> 16)
        add(f"mad24.lo.{t} %0, %1, %2, %3;", t, f"{t} {t} {t}", lambda x, y, z, low=low: low(x) * low(y) + z)
        for u in ("u32", "s32"):

            def dp(x: int, y: int, z: int, n: int, m: int, t: str = t, u: str = u) -> int:
                total = z
                for k in range(32 // n):
                    p, q = (x >> (n * k)) & ((1 << n) - 1), (y >> (m * k)) & 255
                    p -= (1 << n) if t[0] == "s" and p >> (n - 1) else 0
                    total += p * (q - 256 if u[0] == "s" and q >> 7 else q)
                return total

            add(f"dp4a.{t}.{u} %0, %1, %2, %3;", "s32", f"{t} {u} s32", lambda x, y, z, dp=dp: dp(x, y, z, 8, 8))
            add(f"dp2a.lo.{t}.{u} %0, %1, %2, %3;", "s32", f"{t} {u} s32", lambda x, y, z, dp=dp: dp(x, y, z, 16, 8))
            add(f"dp2a.hi.{t}.{u} %0, %1, %2, %3;", "s32", f"{t} {u} s32", lambda x, y, z, dp=dp: dp(x, y >> 16, z, 16, 8))
    clamp = lambda x: max(-(2**31), min(2**31 - 1, x))
    add("add.sat.s32 %0, %1, %2;", "s32", "s32 s32", lambda x, y: clamp(x + y))
    add("sub.sat.s32 %0, %1, %2;", "s32", "s32 s32", lambda x, y: clamp(x - y))
    add("mad.hi.sat.s32 %0, %1, %2, %3;", "s32", "s32 s32 s32", lambda x, y, z: clamp(((x * y) >> 32) + z))
    for mode in ("clamp", "wrap"):
        amount = (lambda n: min(n, 32)) if mode == "clamp" else (lambda n: n & 31)
        add(f"shf.l.{mode}.b32 %0, %1, %2, %3;", "u32", "u32 u32 u32", lambda x, y, n, f=amount: ((y << 32 | x) << f(n)) >> 32)
        add(f"shf.r.{mode}.b32 %0, %1, %2, %3;", "u32", "u32 u32 u32", lambda x, y, n, f=amount: (y << 32 | x) >> f(n))
    for lut in (0x00, 0xFF, 0xE8, 0x96, 0xCA, 0x1D):
        add(f"lop3.b32 %0, %1, %2, %3, {lut};", "u32", "u32 u32 u32",
            lambda x, y, z, lut=lut: sum(((lut >> ((x >> k & 1) * 4 + (y >> k & 1) * 2 + (z >> k & 1))) & 1) << k for k in range(32)))  # fmt: skip

    def prmt(x: int, y: int, c: int) -> int:
        source = [(x | y << 32) >> (8 * k) & 255 for k in range(8)]
        out = 0
        for k in range(4):
            s = c >> (4 * k) & 15
            v = source[s & 7]
            out |= ((255 if v >> 7 else 0) if s & 8 else v) << (8 * k)
        return out

    add("prmt.b32 %0, %1, %2, %3;", "u32", "u32 u32 u32", prmt)
    orders = {"f4e": lambda s, k: s + k, "b4e": lambda s, k: (s - k) & 7, "rc8": lambda s, k: s, "ecl": lambda s, k: max(s, k), "ecr": lambda s, k: min(s, k),
              "rc16": lambda s, k: (s & 1) * 2 + (k & 1)}  # fmt: skip
    for mode, f in orders.items():
        add(
            f"prmt.b32.{mode} %0, %1, %2, %3;",
            "u32",
            "u32 u32 u32",
            lambda x, y, c, f=f: prmt(x, y, sum(f(c & 3, k) << (4 * k) for k in range(4))),
        )
    # 128-bit sums and products by carry chains, of which the upper words are looked at
    add("{ .reg .u32 t; add.cc.u32 t, %1, %2; addc.cc.u32 t, %1, %2; addc.u32 %0, %1, 0; }", "u32", "u32 u32",
        lambda x, y: x + (((x << 32 | x) + (y << 32 | y)) >> 64))  # fmt: skip
    add("{ .reg .u64 t; sub.cc.u64 t, %1, %2; subc.u64 %0, %2, %1; }", "u64", "u64 u64", lambda x, y: y - x - (x < y))
    add("{ .reg .u32 t; mad.lo.cc.u32 t, %1, %2, %3; madc.hi.u32 %0, %1, %2, %3; }", "u32", "u32 u32 u32",
        lambda x, y, z: ((x * y) >> 32) + z + ((((x * y) & 0xFFFFFFFF) + z) >> 32))  # fmt: skip
    add("{ .reg .u64 t; mad.lo.cc.u64 t, %1, %2, %3; madc.hi.cc.u64 t, %1, %2, %3; addc.u64 %0, 0, 0; }", "u64", "u64 u64 u64",
        lambda x, y, z: (x * y + z * ((1 << 64) + 1)) >> 128)  # fmt: skip
    add(
        "{ .reg .pred p, q; setp.lt.and.s32 p|q, %1, %2, 1; selp.s32 %0, 1, 2, p; @q add.s32 %0, %0, 10; }",
        "s32",
        "s32 s32",
        lambda x, y: 1 if x < y else 12,
    )
    add("slct.s32.s32 %0, %1, %2, %3;", "s32", "s32 s32 s32", lambda x, y, z: x if z >= 0 else y)
    for c, f in {"eq": lambda x, y: x == y, "ne": lambda x, y: x != y, "lt": lambda x, y: x < y, "le": lambda x, y: x <= y, "gt": lambda x, y: x > y,
                 "ge": lambda x, y: x >= y}.items():  # fmt: skip
        for t in ("s16", "u16", "s32", "u32", "s64", "u64"):
            add(
                f"{{ .reg .pred p; setp.{c}.{t} p, %1, %2; selp.u32 %0, 7, 9, p; }}",
                "u32",
                f"{t} {t}",
                lambda x, y, f=f: 7 if f(x, y) else 9,
            )
        add(f"set.{c}.u32.s32 %0, %1, %2;", "u32", "s32 s32", lambda x, y, f=f: -1 if f(x, y) else 0)
        add(f"set.{c}.xor.u32.u32 %0, %1, %2, 1;".replace(", 1;", ", p;").replace("set", "{ .reg .pred p; setp.gt.u32 p, %1, 5; set") + " }", "u32", "u32 u32",
            lambda x, y, f=f: -1 if f(x, y) != (x > 5) else 0)  # fmt: skip
    for mode in ("clamp", "wrap"):
        amount = (lambda n: min(n, 32)) if mode == "clamp" else (lambda n: n & 31)
        add(f"bmsk.{mode}.b32 %0, %1, %2;", "u32", "u32 u32", lambda x, n, f=amount: ((1 << f(n)) - 1) << f(x) if f(x) < 32 else 0)
        add(f"szext.{mode}.u32 %0, %1, %2;", "u32", "u32 u32", lambda x, n, f=amount: x & ((1 << f(n)) - 1))
        add(
            f"szext.{mode}.s32 %0, %1, %2;", "s32", "s32 u32",
            lambda x, n, f=amount: x & ((1 << f(n)) - 1) | (-1 << f(n) if f(n) and x >> (f(n) - 1) & 1 else 0),
        )  # fmt: skip
    for a, b in itertools.product(("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"), repeat=2):
        if a == b:
            continue
        to, source = (t if BITS[t] > 8 else t[0] + "16" for t in (a, b))
        add(f"cvt.{a}.{b} %0, %1;", to, source, lambda x, a=a, b=b: wrap(wrap(x, b), a))
        lo, hi = (-(1 << (BITS[a] - 1)), (1 << (BITS[a] - 1)) - 1) if a[0] == "s" else (0, (1 << BITS[a]) - 1)
        add(f"cvt.sat.{a}.{b} %0, %1;", to, source, lambda x, b=b, lo=lo, hi=hi: max(lo, min(hi, wrap(x, b))))
    return rows


def test_integer_instructions() -> None:
    rows, rng = integer_rows(), np.random.default_rng(1)
    source = kernels(rows)
    for k, row in enumerate(rows):
        asm, to, types, f = row
        values = [edges(t, rng) for t in types]
        if len(types) == 1:
            tuples = [(v,) for v in values[0]]
        elif len(types) == 2:
            tuples = list(itertools.product(*values))
        else:
            tuples = [tuple(v[rng.integers(len(v))] for v in values) for _ in range(600)]
        if asm.startswith(("bfe.", "bfi.")):  # positions and lengths that matter
            tuples = [(*t[:-2], int(rng.integers(0, 70)), int(rng.integers(0, 70))) for t in tuples]
        got = apply(source, k, row, [np.array([wrap(t[j], types[j]) for t in tuples], NUMPY[types[j]]) for j in range(len(types))])
        expected = np.array([wrap(int(f(*t)), to) for t in tuples], NUMPY[to])
        bad = np.flatnonzero(got != expected)
        assert not len(bad), f"{asm}: {[hex(v) for v in tuples[bad[0]]]} gives {int(got[bad[0]]):#x}, not {int(expected[bad[0]]):#x}"


@np.errstate(all="ignore")
def test_real_arithmetic_to_nearest() -> None:
    rng = np.random.default_rng(2)
    rows: list[Row] = []
    for t in ("f32", "f64"):
        for op, f in {"add": np.add, "sub": np.subtract, "mul": np.multiply}.items():
            rows += [(f"{op}.{t} %0, %1, %2;", t, [t, t], f), (f"{op}.rn.{t} %0, %1, %2;", t, [t, t], f)]
        rows.append((f"div.rn.{t} %0, %1, %2;", t, [t, t], np.divide))
        rows.append((f"sqrt.rn.{t} %0, %1;", t, [t], np.sqrt))
        rows.append((f"rcp.rn.{t} %0, %1;", t, [t], lambda x: x.dtype.type(1) / x))
        rows.append((f"abs.{t} %0, %1;", t, [t], np.abs))
        rows.append((f"neg.{t} %0, %1;", t, [t], np.negative))
        rows.append((f"copysign.{t} %0, %1, %2;", t, [t, t], lambda x, y: np.copysign(y, x)))

        def minimum(x: Any, y: Any, sign: int = 1) -> Any:
            r = np.fmin(x, y) if sign == 1 else np.fmax(x, y)
            zero = (x == 0) & (y == 0)
            negative = (np.signbit(x) | np.signbit(y)) if sign == 1 else (np.signbit(x) & np.signbit(y))
            return np.where(zero, np.where(negative, -0.0, 0.0).astype(x.dtype), r)

        rows.append((f"min.{t} %0, %1, %2;", t, [t, t], minimum))
        rows.append((f"max.{t} %0, %1, %2;", t, [t, t], lambda x, y, f=minimum: f(x, y, -1)))
    rows.append(
        (
            "min.NaN.f32 %0, %1, %2;",
            "f32",
            ["f32", "f32"],
            lambda x, y, f=minimum: np.where(np.isnan(x) | np.isnan(y), np.nan, f(x, y)).astype("f"),
        )
    )
    rows.append(("max.xorsign.abs.f32 %0, %1, %2;", "f32", ["f32", "f32"],
                 lambda x, y: np.copysign(np.fmax(abs(x), abs(y)), np.where(np.signbit(x) != np.signbit(y), -1, 1)).astype("f")))  # fmt: skip
    clean = lambda x: np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x).astype("f")
    rows.append(("add.ftz.f32 %0, %1, %2;", "f32", ["f32", "f32"], lambda x, y: clean(clean(x) + clean(y))))
    rows.append(("mul.ftz.f32 %0, %1, %2;", "f32", ["f32", "f32"], lambda x, y: clean(clean(x) * clean(y))))
    sat = lambda x: np.where(x > 0, np.minimum(x, np.float32(1)), np.float32(0)).astype("f")
    rows.append(("add.sat.f32 %0, %1, %2;", "f32", ["f32", "f32"], lambda x, y: sat(x + y)))
    rows.append(("mul.ftz.sat.f32 %0, %1, %2;", "f32", ["f32", "f32"], lambda x, y: sat(clean(clean(x) * clean(y)))))

    def test(asm: str, t: str, f: Callable[..., Any]) -> None:
        rows.append((f"{{ .reg .pred p; {asm}; selp.u32 %0, 1, 0, p; }}", "u32", [t] * (1 + ("%2" in asm)), lambda *v: f(*v).astype("u4")))

    ordered = lambda x, y: ~np.isnan(x) & ~np.isnan(y)
    comparisons = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
    classes = {"finite": np.isfinite, "infinite": np.isinf, "number": lambda x: ~np.isnan(x), "notanumber": np.isnan,
               "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
               "normal": lambda x: np.isfinite(x) & ((x == 0) | (np.abs(x) >= np.finfo(x.dtype).tiny))}  # fmt: skip
    for t in ("f32", "f64"):
        for c, f in comparisons.items():
            test(f"setp.{c}.{t} p, %1, %2", t, lambda x, y, f=f: f(x, y) & ordered(x, y))
            test(f"setp.{c}u.{t} p, %1, %2", t, lambda x, y, f=f: f(x, y) | ~ordered(x, y))
            rows.append((f"set.{c}.f32.{t} %0, %1, %2;", "f32", [t, t], lambda x, y, f=f: (f(x, y) & ordered(x, y)).astype("f")))
        test(f"setp.num.{t} p, %1, %2", t, ordered)
        test(f"setp.nan.{t} p, %1, %2", t, lambda x, y: ~ordered(x, y))
        for name, f in classes.items():
            test(f"testp.{name}.{t} p, %1", t, f)
    test("setp.lt.ftz.f32 p, %1, %2", "f32", lambda x, y: clean(x) < clean(y))
    source = kernels(rows)
    for k, row in enumerate(rows):
        values = [reals(t, rng) for t in row[2]]
        inputs = values if len(values) == 1 else pairs(*values)
        got, expected = apply(source, k, row, inputs), row[3](*inputs)
        ok = same(got, expected) if row[1][0] == "f" else got == expected
        bad = np.flatnonzero(~ok)
        assert not len(bad), f"{row[0]}: {[v[bad[0]] for v in inputs]} gives {got[bad[0]]!r}, not {expected[bad[0]]!r}"
        if row[1] == "f32" and "neg" not in row[0] and "abs.f32 %0, %1;" not in row[0] and "copysign" not in row[0]:
            assert set(got[np.isnan(got)].view("u4")) <= {0x7FFFFFFF}, row[0]


@np.errstate(over="ignore")
def test_real_arithmetic_in_all_roundings() -> None:
    rng = np.random.default_rng(3)
    exact: dict[str, Callable[..., Fraction]] = {"add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
                                                 "div": lambda x, y: x / y, "fma": lambda x, y, z: x * y + z}  # fmt: skip
    rows: list[Row] = [
        (f"{op}.{mode}.{t} %0, %1, %2{', %3' if op == 'fma' else ''};", t, [t] * (3 if op == "fma" else 2), f)
        for op, f in exact.items() for mode in ("rn", "rz", "rm", "rp") for t in ("f32", "f64")
    ]  # fmt: skip
    source = kernels(rows)
    for k, row in enumerate(rows):
        op, mode, t = row[0].split()[0].split(".")
        values = [v[np.isfinite(v) & (v != 0)] for v in (reals(t, rng, 20) for _ in row[2])]
        n = 400
        inputs = [v[rng.integers(len(v), size=n)] for v in values]
        if op == "fma":  # sums that nearly cancel, and addends far below the product
            inputs[2][: n // 2] = (-inputs[0] * inputs[1])[: n // 2] * np.where(rng.random(n // 2) < 0.5, 1, NUMPY[t](1 + 2.0**-20))
            inputs[2][~np.isfinite(inputs[2])] = 1
        got = apply(source, k, row, inputs)
        for j in range(n):
            q = row[3](*(Fraction(float(v[j])) for v in inputs))
            if q == 0:
                assert got[j] == 0
                continue
            expected = rounded(q, t, mode)
            assert got[j] == expected, f"{row[0]}: {[v[j] for v in inputs]} gives {got[j]!r}, not {expected!r}"


@np.errstate(all="ignore")
def test_approximations() -> None:
    rng = np.random.default_rng(4)
    wide = reals("f32", rng, 300)
    d = lambda f: lambda x: f(x.astype(np.float64))
    table: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
        "ex2.approx.f32": (d(np.exp2), np.concatenate([rng.uniform(-160, 140, 2000), rng.uniform(-1, 1, 500), wide])),
        "lg2.approx.f32": (d(np.log2), np.concatenate([rng.uniform(0, 4, 2000), 1 + rng.uniform(-1e-3, 1e-3, 500), wide])),
        "rcp.approx.f32": (d(np.reciprocal), wide), "sqrt.approx.f32": (d(np.sqrt), wide), "rsqrt.approx.f32": (d(lambda x: 1 / np.sqrt(x)), wide),
        "sin.approx.f32": (d(np.sin), rng.uniform(-10, 10, 500)), "cos.approx.f32": (d(np.cos), rng.uniform(-10, 10, 500)),
        "tanh.approx.f32": (d(np.tanh), wide),
    }  # fmt: skip
    rows: list[Row] = [(f"{op} %0, %1;", "f32", ["f32"], f) for op, (f, _) in table.items()]
    source = kernels(rows)
    for k, (row, (f, x)) in enumerate(zip(rows, table.values(), strict=True)):
        x = x.astype(np.float32)
        assert ulps(apply(source, k, row, [x]), f(x)) <= 0.51, row[0]


@np.errstate(all="ignore")
def test_half_arithmetic() -> None:
    rng = np.random.default_rng(5)
    exact: dict[str, Callable[..., Any]] = {
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "fma.rn": lambda x, y, z: x * y + z,
    }
    ops = [(op, t, f) for t in ("f16", "bf16") for op, f in exact.items()]
    source = SIXTEEN
    for k, (op, t, _) in enumerate(ops):
        n = 3 if op == "fma.rn" else 2
        regs = ", ".join(f"%{j}" for j in range(n + 1))
        source += half_kernel(f"s{k}", f"{op}.{t} {regs};", "abc"[:n], False) + half_kernel(f"p{k}", f"{op}.{t}x2 {regs};", "abc"[:n], True)
    finite = lambda b, t: b[np.isfinite(decode16(b, t))]
    for k, (op, t, f) in enumerate(ops):
        n = 3 if op == "fma.rn" else 2
        inputs = [finite(rng.integers(0, 65536, 4000).astype(np.uint16), t)[:2000] for _ in range(n)]
        if t == "bf16":  # of similar magnitude, mostly
            inputs = [np.where(rng.random(2000) < 0.8, (v & 0x81FF) | 0x3E00, v).astype(np.uint16) for v in inputs]
        values = [decode16(v, t) for v in inputs]
        if op == "fma.rn":  # addends that decide ties
            inputs[2][:500] = rng.integers(1, 4, 500) | np.where(rng.random(500) < 0.5, 0x8000, 0).astype(np.uint16)
            values[2] = decode16(inputs[2], t)
        expected = encode16(np.array([rounded(f(*(Fraction(float(a)) for a in args)), t) for args in zip(*values, strict=True)]), t)
        for pair in (False, True):
            out = np.zeros(2000, np.uint16)
            arrays = inputs + [inputs[0]] * (3 - n)
            run(source, f"{'p' if pair else 's'}{k}", 20, 100, *(a.view(np.uint32) if pair else a for a in arrays), Out(out.view(np.uint32) if pair else out),
                np.int32(1000 if pair else 2000), arch="compute_90")  # fmt: skip
            for j, e in enumerate(expected):
                assert out[j] == e or (e == 0 and out[j] == 0x8000), f"{op}.{t}: {[v[j] for v in values]} gives {out[j]:#x}, not {e:#x}"


def test_pairs_of_singles() -> None:
    code = "struct P { const unsigned long long *x, *y; unsigned long long* z; };\n" + "".join(
        f'extern "C" __global__ void {op}2(const __grid_constant__ P p) {{ int i = threadIdx.x; unsigned long long r; '
        f'asm("{op}.rn.f32x2 %0, %1, %2{", %2" if op == "fma" else ""};" : "=l"(r) : "l"(p.x[i]), "l"(p.y[i])); p.z[i] = r; }}\n'
        for op in ("add", "mul", "fma")
    )
    x, y = np.random.default_rng(8).normal(size=(2, 128)).astype(np.float32)
    z = np.zeros(128, np.float32)
    for op, f in {"add": x + y, "mul": x * y, "fma": (x.astype(float) * y + y).astype(np.float32)}.items():
        run(code, op + "2", 1, 64, x.view(np.uint64), y.view(np.uint64), Out(z.view(np.uint64)), arch="compute_100")
        assert np.array_equal(z, f), op


@np.errstate(all="ignore")
def test_half_functions() -> None:
    cases: list[tuple[str, str, Callable[..., Any]]] = []
    for t in ("f16", "bf16"):
        nan = lambda f: lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, f(x, y))
        cases += [(f"min.{t} %0, %1, %2;", t, np.fmin), (f"max.{t} %0, %1, %2;", t, np.fmax), (f"min.NaN.{t} %0, %1, %2;", t, nan(np.fmin)),
                  (f"max.NaN.{t} %0, %1, %2;", t, nan(np.fmax)), (f"neg.{t} %0, %1;", t, lambda x, y: -x), (f"abs.{t} %0, %1;", t, lambda x, y: abs(x)),
                  (f"tanh.approx.{t} %0, %1;", t, lambda x, y: np.tanh(x)), (f"fma.rn.relu.{t} %0, %1, %2, %2;", t, None),
                  (f"set.lt.{t}.{t} %0, %1, %2;", t, lambda x, y: (x < y).astype(float)),
                  (f"{{ .reg .pred p; setp.geu.{t} p, %1, %2; selp.b16 %0, %1, %2, p; }}", t, lambda x, y: np.where(~(x < y), x, y))]  # fmt: skip
    cases += [("ex2.approx.f16 %0, %1;", "f16", lambda x, y: np.exp2(x)), ("ex2.approx.ftz.bf16 %0, %1;", "bf16", lambda x, y: np.exp2(x)),
              ("add.sat.f16 %0, %1, %2;", "f16", None), ("mul.ftz.f16 %0, %1, %2;", "f16", None)]  # fmt: skip
    source = SIXTEEN + "".join(half_kernel(f"k{k}", asm, "ab", False) for k, (asm, _, _) in enumerate(cases))
    every = np.arange(65536, dtype=np.uint16)
    for k, (asm, t, f) in enumerate(cases):
        other = np.roll(every, 12345)
        out = np.zeros(65536, np.uint16)
        run(source, f"k{k}", 256, 256, every, other, every, Out(out), np.int32(65536), arch="compute_90")
        x, y, got = decode16(every, t), decode16(other, t), decode16(out, t)
        if f is None:
            continue
        want = f(x, y)
        expected = encode16(rounded_array(want, t), t)
        if asm.startswith("ex2.approx.ftz"):
            expected = np.where(expected & 0x7F80, expected, expected & 0x8000).astype(np.uint16)
        ok = (out == expected) | (np.isnan(got) & np.isnan(want)) | ((got == 0) & (want == 0))
        bad = np.flatnonzero(~ok)
        assert not len(bad), f"{asm}: {x[bad[0]]}, {y[bad[0]]} gives {out[bad[0]]:#x}, not {expected[bad[0]]:#x}"
