"""Random programs of nested branches, loops, switches, calls and mixed arithmetic, compared with what g++ makes of the same text."""

from __future__ import annotations

import ctypes
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cupy")

from .executor.testing import Out, run

COMMON = r"""
#define INT(x, op, y) ((int)((unsigned)(x) op (unsigned)(y)))
#define LONG(x, op, y) ((long long)((unsigned long long)(x) op (unsigned long long)(y)))
FN int divide(int x, int y) { return y == 0 || y == -1 ? 0 : x / y; }
FN int modulo(int x, int y) { return y == 0 || y == -1 ? 0 : x % y; }
FN long long divide_long(long long x, long long y) { return y == 0 || y == -1 ? 0 : x / y; }
FN int to_int(double v) { return v != v ? 0 : v >= 2147483647. ? 2147483647 : v <= -2147483648. ? -2147483647 - 1 : (int)v; }
"""
DEVICE = """#define FADD __fadd_rn
#define FMUL __fmul_rn
#define FDIV __fdiv_rn
#define DADD __dadd_rn
#define DMUL __dmul_rn
struct P { const int* x; int* y; int n; };
"""
HOST = """#include <math.h>
#define FN static
FN float FADD(float a, float b) { return a + b; }
FN float FMUL(float a, float b) { return a * b; }
FN float FDIV(float a, float b) { return a / b; }
FN double DADD(double a, double b) { return a + b; }
FN double DMUL(double a, double b) { return a * b; }
"""


class Writer:
    """Writes expressions and statements over int a..d and i, long long l and m, float f and g, double u and v, and an array t."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loops = 0

    def integer(self, depth: int) -> str:
        if depth == 0:
            return self.rng.choice(["a", "b", "c", "d", "i", "(int)l", str(self.rng.randint(-20, 40))])
        x, y = self.integer(depth - 1), self.integer(depth - 1)
        forms = [
            f"INT({x}, +, {y})", f"INT({x}, -, {y})", f"INT({x}, *, {y})", f"({x} & {y})", f"({x} | {y})", f"({x} ^ {y})", f"(~{x})",
            f"(int)((unsigned){x} >> ({y} & 31))", f"({x} >> ({y} & 31))", f"(int)((unsigned){x} << ({y} & 31))", f"divide({x}, {y})",
            f"modulo({x}, {y})", f"(int)(short){x}", f"(int)(unsigned char){x}", f"({x} < {y} ? {x} : {y})", f"({x} < {y} ? {self.integer(0)} : {y})",
            f"(int)({self.long(depth - 1)} >> {self.rng.randint(0, 40)})", f"to_int({self.single(depth - 1)})",
        ]  # fmt: skip
        return self.rng.choice(forms)

    def long(self, depth: int) -> str:
        if depth == 0:
            return self.rng.choice(["l", "m", "(long long)a", "(long long)(unsigned)b"])
        x, y = self.long(depth - 1), self.long(depth - 1)
        forms = [
            f"LONG({x}, +, {y})", f"LONG({x}, *, {y})", f"({x} ^ {y})", f"({x} >> ({self.integer(depth - 1)} & 63))",
            f"(long long){self.integer(depth - 1)} * {self.rng.randint(-9, 9)}", f"({x} < {y} ? {x} : {y})", f"divide_long({x}, {y})",
        ]  # fmt: skip
        return self.rng.choice(forms)

    def single(self, depth: int) -> str:
        if depth == 0:
            return self.rng.choice(["f", "g", "1.5f", "-0.25f", "(float)a", "(float)l"])
        x, y = self.single(depth - 1), self.single(depth - 1)
        double = self.double(depth - 1)
        return self.rng.choice(
            [
                f"FADD({x}, {y})",
                f"FMUL({x}, {y})",
                f"FDIV({x}, {y})",
                f"({x} < {y} ? {x} : {y})",
                f"fabsf({x})",
                f"(float){double}",
                f"(- {x})",
            ]
        )

    def double(self, depth: int) -> str:
        if depth == 0:
            return self.rng.choice(["u", "v", "2.5", "(double)f", "(double)b"])
        x, y = self.double(depth - 1), self.double(depth - 1)
        return self.rng.choice([f"DADD({x}, {y})", f"DMUL({x}, {y})", f"(double){self.single(depth - 1)}", f"({x} > {y} ? {x} : {y})"])

    def assignment(self) -> str:
        forms = [f"{self.rng.choice('abcd')} = {self.integer(2)};"] * 3 + [
            f"{self.rng.choice('lm')} = {self.long(2)};", f"{self.rng.choice('fg')} = {self.single(2)};", f"{self.rng.choice('uv')} = {self.double(2)};",
            f"t[a & 7] = INT(t[a & 7], +, {self.integer(1)}); b = INT(b, ^, t[c & 7]);",
        ]  # fmt: skip
        return self.rng.choice(forms)

    def block(self, depth: int, loop: bool) -> str:
        return "{ " + " ".join(self.statement(depth, loop) for _ in range(self.rng.randint(1, 3))) + " }"

    def statement(self, depth: int, loop: bool) -> str:
        kind = self.rng.choice(["assign", "assign", "if", "if", "for", "while", "switch", "leave"]) if depth else "assign"
        if kind == "if":
            return f"if ({self.integer(1)} < {self.integer(1)}) {self.block(depth - 1, loop)} else {self.block(depth - 1, loop)}"
        if kind in ("for", "while"):
            self.loops += 1
            k = f"k{self.loops}"
            if kind == "for":
                return f"for (int {k} = 0; {k} < ({self.integer(1)} & 7); ++{k}) {self.block(depth - 1, True)}"
            return f"for (int {k} = 0; {k} < 9; ++{k}) {{ {self.block(depth - 1, True)} if ({self.integer(1)} & 1) break; }}"
        if kind == "switch":
            cases = [f"case {k}: {self.block(depth - 1, False)} {self.rng.choice(['break;', ''])}" for k in (0, 1, 2, 5)]
            return f"switch ({self.integer(1)} & 7) {{ {' '.join(cases)} default: {self.assignment()} }}"
        if kind == "leave":
            return self.rng.choice(["if (a & 1) continue;", "if (b & 2) break;"]) if loop else "if ((a ^ b) == 7) return a;"
        return self.assignment()

    def function(self, name: str) -> str:
        return (
            f"FN int {name}(int i, int a, int b, int c, int d) {{ long long l = a, m = b; float f = a, g = b; double u = c, v = d; int t[8] = {{1, 2, 3, 4, 5, 6, 7, 8}};\n"
            f"  {self.block(4, False)}\n  return INT(INT(a, ^, b), +, INT(c, *, INT(d, ^, INT((int)(l ^ (l >> 32)), ^, INT((int)m, ^, INT(to_int(f), +, to_int(u))))))); }}\n"
        )


@pytest.mark.parametrize("seed", range(3))
def test_random_programs(seed: int, tmp_path: Path) -> None:
    count, n = 12, 150
    writer = Writer(seed)
    functions = [writer.function(f"f{k}") for k in range(count)]
    inputs = ", ".join(f"x[4 * i + {j}]" for j in range(4))
    host = HOST + COMMON + "".join(functions)
    device = f"#define FN __device__ {'__noinline__' if seed == 1 else '__forceinline__'}\n" + DEVICE + COMMON + "".join(functions)
    for k in range(count):
        host += f'extern "C" void h{k}(const int* x, int* y) {{ for (int i = 0; i < {n}; ++i) y[i] = f{k}(i, {inputs}); }}\n'
        device += (
            f'extern "C" __global__ void k{k}(const __grid_constant__ P p) {{ const int i = blockIdx.x * blockDim.x + threadIdx.x; const int* x = p.x; '
            f"if (i < p.n) p.y[i] = f{k}(i, {inputs}); }}\n"
        )
    source, library = tmp_path / "host.cpp", tmp_path / "host.so"
    source.write_text(host)
    subprocess.run(["g++", "-O1", "-w", "-ffp-contract=off", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.integers(-9, 60, 4 * n - 40), rng.integers(-(2**31), 2**31, 40)]).astype(np.int32)
    arch = ["compute_75", "compute_80", "compute_120"][seed]
    for k in range(count):
        expected = np.zeros(n, np.int32)
        getattr(loaded, f"h{k}")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(expected.ctypes.data))
        for options in ({}, {"order": "reverse"}, {"order": "random", "seed": seed}, {"checks": False}):
            y = np.zeros(n, np.int32)
            run(device, f"k{k}", 2, 96, x, Out(y), np.int32(n), arch=arch, **options)
            assert np.array_equal(y, expected), f"{options}: {functions[k]}"
