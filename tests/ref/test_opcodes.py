"""Programs on the NumPy backend: opcodes against plain NumPy or exact integer arithmetic, and programs over symbolic integers."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from pytensor_rt.dtypes import BOOL, F16, F32, F64, I8, I32, I64, U8, U64, from_code
from pytensor_rt.kernels.ref import KERNELS, evaluate, kernel
from pytensor_rt.kernels.spec import OPCODES, SPECS

INTS = [np.dtype(f"{s}int{n}") for s in ("", "u") for n in (8, 16, 32, 64)]
NARROW_INTS = [from_code(c) for c in (21, 22, 25, 26)]
FLOATS = [F64, F32, F16, from_code(16)]


def one(op, args, dtype, shape=None):
    """One instruction over arrays."""
    program = [("load", (k,), a.dtype) for k, a in enumerate(args)] + [(op, tuple(range(len(args))), np.dtype(dtype))]
    shape = np.broadcast_shapes(*[a.shape for a in args]) if shape is None else shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = evaluate(tuple(program), args, None, shape, np.dtype(dtype))
    assert y.dtype == dtype and y.shape == shape and y.flags.c_contiguous and not any(np.shares_memory(y, a) for a in args)
    return y


def bounds(dtype):
    if dtype.kind == "V":
        import ml_dtypes

        return int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def wrap(v, dtype):
    lo, hi = bounds(dtype)
    return (v - lo) % (hi - lo + 1) + lo


def truncdiv(a, b):
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INT_OPS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": truncdiv, "mod": lambda a, b: a % b if b else 0,
    "fmod": lambda a, b: a - truncdiv(a, b) * b if b else 0, "max": max, "min": min,
    "band": lambda a, b: a & b, "bor": lambda a, b: a | b, "bxor": lambda a, b: a ^ b,
}  # fmt: skip
INT_UNARY = {
    "neg": lambda a: -a, "abs": abs, "sign": lambda a: (a > 0) - (a < 0), "bnot": lambda a: ~a, "relu": lambda a: max(a, 0), "round": int,
}  # fmt: skip


@pytest.mark.parametrize("dtype", INTS + NARROW_INTS, ids=str)
def test_integers_wrap_and_never_trap(dtype):
    lo, hi = bounds(dtype)
    rng = np.random.default_rng(0)
    values = [lo, hi, 0, 1, lo + 1, hi - 1, lo // 2, hi // 2] + [int(v) for v in rng.integers(lo, hi, 12, dtype=U64 if lo == 0 else I64)]
    a = [x for x in values for _ in values]
    b = values * len(values)
    x, y = (np.array(v, U64 if lo == 0 else I64).astype(dtype) for v in (a, b))
    for op, f in INT_OPS.items():
        assert one(op, [x, y], dtype).astype(object).tolist() == [wrap(f(p, q), dtype) for p, q in zip(a, b)], op
    for op, f in INT_UNARY.items():
        assert one(op, [x], dtype).astype(object).tolist() == [wrap(f(p), dtype) for p in a], op
    for op, f in {"lt": lambda p, q: p < q, "ge": lambda p, q: p >= q, "eq": lambda p, q: p == q}.items():
        assert one(op, [x, y], BOOL).tolist() == [f(p, q) for p, q in zip(a, b)], op


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_shifts_and_powers(dtype):
    width = 8 * dtype.itemsize
    amounts = np.array([0, 1, width - 1, width, width + 1, 100], dtype)
    x = np.array([[1], [5], [100]], dtype)
    left = [[wrap(int(v) << int(s), dtype) if s < width else 0 for s in amounts] for v in x[:, 0]]
    assert one("shl", [x, amounts], dtype).tolist() == left
    assert one("shr", [x, amounts], dtype).tolist() == [[int(v) >> int(s) if s < width else 0 for s in amounts] for v in x[:, 0]]
    powers = np.array([0, 1, 2, 3, 7, 64], dtype)
    assert one("pow", [x, powers], dtype).tolist() == [[wrap(int(v) ** int(p), dtype) for p in powers] for v in x[:, 0]]
    if dtype.kind == "i":
        assert one("pow", [np.array([1, -1, -1, 2, -2], dtype), np.array([-3, -3, -2, -1, -1], dtype)], dtype).tolist() == [1, -1, 1, 0, 0]


EXACT = {
    "exp": math.exp, "expm1": math.expm1, "sin": math.sin, "cos": math.cos, "tan": math.tan, "atan": math.atan, "sinh": math.sinh,
    "cosh": math.cosh, "tanh": math.tanh, "asinh": math.asinh, "erf": math.erf, "ceil": math.ceil, "floor": math.floor, "round": round,
    "trunc": math.trunc, "neg": lambda v: -v, "abs": abs, "sign": lambda v: (v > 0) - (v < 0), "recip": lambda v: 1 / v,
    "relu": lambda v: max(v, 0.0), "sigmoid": lambda v: 1 / (1 + math.exp(-v)), "softplus": lambda v: math.log1p(math.exp(v)),
    "silu": lambda v: v / (1 + math.exp(-v)), "gelu_erf": lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2)),
    "gelu_tanh": lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
}  # fmt: skip
POSITIVE = {
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "rsqrt": lambda v: 1 / math.sqrt(v),
    "acosh": lambda v: math.acosh(1 + v),
}
UNIT = {"asin": math.asin, "acos": math.acos, "atanh": math.atanh}
FLOAT_BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b, "mod": lambda a, b: a % b,
    "fmod": math.fmod, "max": max, "min": min, "pow": lambda a, b: abs(a) ** b,
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_against_the_math_module(dtype):
    rng = np.random.default_rng(1)
    tolerance = {"float64": 5e-14, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}[str(dtype)]
    floor = 2.0**-25 if dtype == F16 else 1e-15  # half a subnormal step
    for table, values in ((EXACT, rng.uniform(-5, 5, 60)), (POSITIVE, rng.uniform(0.01, 9, 60)), (UNIT, rng.uniform(-0.99, 0.99, 60))):
        x = values.astype(dtype)
        for op, f in table.items():
            arg = (x.astype(F64) + 1).astype(dtype) if op == "acosh" else x
            g = math.acosh if op == "acosh" else f
            want = np.array([g(v) for v in arg.astype(F64).tolist()])
            np.testing.assert_allclose(one(op, [arg], dtype).astype(F64), want, rtol=tolerance, atol=floor, err_msg=op)
    a, b = rng.uniform(-5, 5, 60).astype(dtype), rng.uniform(-3, 3, 60).astype(dtype)
    for op, f in FLOAT_BINARY.items():
        p = np.abs(a) if op == "pow" else a
        want = np.array([f(v, w) for v, w in zip(p.astype(F64).tolist(), b.astype(F64).tolist())])
        np.testing.assert_allclose(one(op, [p, b], dtype).astype(F64), want, rtol=tolerance, atol=floor, err_msg=op)


def test_every_opcode_is_implemented():
    for op, (_, arity) in OPCODES.items():
        if op in ("load", "const", "acc", "iota"):
            continue
        if op in ("land", "lor", "lxor", "lnot", "eq", "lt", "isnan", "where"):
            continue  # covered below and above
        dtype = I32 if op in ("band", "bor", "bxor", "bnot", "shl", "shr") else F32
        out = BOOL if op in ("ne", "le", "gt", "ge", "isinf_pos", "isinf_neg") else dtype
        assert one(op, [np.full(3, 0.5).astype(dtype)] * arity, out).shape == (3,)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_values(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0]).astype(dtype)
    zero = np.zeros(5).astype(dtype)
    assert np.isnan(one("max", [x, zero], dtype)[0]) and np.isnan(one("min", [zero, x], dtype)[0]) and np.isnan(one("relu", [x], dtype)[0])
    assert one("isnan", [x], BOOL).tolist() == [True, False, False, False, False]
    assert one("isinf_pos", [x], BOOL).tolist() == [False, True, False, False, False]
    assert one("isinf_neg", [x], BOOL).tolist() == [False, False, True, False, False]
    assert one("cast", [x], BOOL).tolist() == [True, True, True, False, False]
    assert one("sigmoid", [x[1:]], dtype).tolist() == [1, 0, 0.5, 0.5] and np.isnan(one("sigmoid", [x], dtype)[0])
    for op in ("gelu_erf", "gelu_tanh"):
        assert one(op, [x], dtype)[1:].tolist() == [np.inf, 0, 0, 0] and np.isnan(one(op, [x], dtype)[0])
    half = np.array([0.5, 1.5, 2.5, -0.5, -1.5]).astype(dtype)
    assert one("round", [half], dtype).tolist() == [0, 2, 2, 0, -2] and np.signbit(one("round", [half], dtype)[3])


def test_logic_and_selection():
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert one("land", [a, b], BOOL).tolist() == [True, False, False, False]
    assert one("lor", [a, b], BOOL).tolist() == [True, True, True, False]
    assert one("lxor", [a, b], BOOL).tolist() == [False, True, True, False]
    assert one("lnot", [a], BOOL).tolist() == [False, False, True, True]
    x = np.arange(4, dtype=F16)
    assert one("where", [a, x, -x], F16).tolist() == [0, 1, -2, -3]
    assert one("where", [np.array([[True], [False]]), x, -x], F16).shape == (2, 4)


def test_casts_agree_with_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    x = np.array([0, 1, -1, 2.5, 3.5, -2.5, 100.4, 1e-3, 447, 448, 465, 1e9, -1e9, np.inf, -np.inf, np.nan, 5e4, 7e4, 1e-8], F32)
    codes = [c for c in range(10, 25) if c not in (12, 13, 14, 15, 21, 22)]  # floats of all kinds
    for saturate in (0, 1):
        for code in codes:
            attrs = {"saturate": saturate} if code >= 17 else {}
            node = helper.make_node("Cast", ["x"], ["y"], to=code, **attrs)
            graph = helper.make_graph(
                [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)], [helper.make_tensor_value_info("y", code, None)]
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
            with np.errstate(all="ignore"):
                want = ReferenceEvaluator(model).run(None, {"x": x})[0]
            got = one("cast" if saturate else "cast_wrap", [x], from_code(code))
            np.testing.assert_array_equal(got.astype(F32), want.astype(F32), err_msg=f"{onnx.TensorProto.DataType.Name(code)} {saturate}")


def test_integer_casts():
    x = np.array([0, 1, 2, 127, 128, 255, 256, -1, -128, -129, 70000], I64)
    for dtype in INTS + NARROW_INTS:
        assert one("cast", [x], dtype).astype(object).tolist() == [wrap(int(v), dtype) for v in x]
        lo, hi = bounds(dtype)
        assert one("cast_sat", [x], dtype).astype(object).tolist() == [min(max(int(v), lo), hi) for v in x]
    f = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 1e20, np.inf, -np.inf, np.nan, 126.5, 127.5], F32)
    assert one("cast_sat", [f], I8).tolist() == [0, 2, 2, 0, -2, 127, -128, 127, 127, -128, -128, 126, 127]
    assert one("cast_sat", [f], U8).tolist() == [0, 2, 2, 0, 0, 255, 0, 255, 255, 0, 0, 126, 128]
    assert one("cast_sat", [f], U64).tolist() == [0, 2, 2, 0, 0, 3 * 10**9, 0, 2**64 - 1, 2**64 - 1, 0, 0, 126, 128]
    wild = np.array([300.7, -300.7, 3e9, -3e9, 1e20, np.nan])
    assert one("cast", [wild], I8).tolist() == [44, -44, 0, 0, 0, 0]
    assert one("cast", [wild], I32).tolist() == [300, -300, *[-(2**31)] * 4]
    assert one("cast", [wild], np.dtype(np.uint32)).tolist() == [300, 2**32 - 300, 3 * 10**9, 2**32 - 3 * 10**9 % 2**32, 0, 0]
    assert one("cast", [wild], U64).tolist() == [300, 2**64 - 300, 3 * 10**9, 2**64 - 3 * 10**9, 2**63, 2**63]
    assert one("cast", [np.array([2.9, -2.9])], I8).tolist() == [2, -2]
    assert one("cast", [np.array([2.0**63 + 4096])], U64).tolist() == [2**63 + 4096]


def test_bfloat16_is_rounded_once():
    """1 + 2**-8 + 2**-40 lies just above a tie; going through float32 would round it to even."""
    bf16 = from_code(16)
    assert float(one("cast", [np.array([1 + 2.0**-8 + 2.0**-40])], bf16)[0]) == 1 + 2.0**-7
    assert float(one("cast", [np.array([1 + 2.0**-8])], bf16)[0]) == 1.0


def test_sources_and_scalars():
    program = (("iota", (1,), I64), ("const", (10,), I64), ("mul", (0, 1), I64), ("iota", (0,), I64), ("add", (2, 3), I64))
    assert evaluate(program, [], None, (2, 3), I64).tolist() == [[0, 10, 20], [1, 11, 21]]
    assert evaluate((("const", (300,), U8),), [], None, (), U8).tolist() == 44
    assert evaluate((("const", (-1,), U64),), [], None, (2,), U64).tolist() == [2**64 - 1] * 2
    acc = np.array([1.0, -2.0], F32)
    assert evaluate((("acc", (), F32), ("relu", (0,), F32)), [], acc, (2,), F32).tolist() == [1, 0]
    with pytest.raises(ValueError, match="declared"):
        evaluate((("const", (1,), F32),), [], None, (1,), F64)


class Sym(int):
    """A symbolic integer: arithmetic keeps the expression."""

    def __new__(cls, value, text):
        self = super().__new__(cls, value)
        self.text = text
        return self

    def _make(self, other, op, value):
        return Sym(value, f"({self.text}{op}{getattr(other, 'text', int(other))})")

    def __add__(self, o):
        return self._make(o, "+", int(self) + int(o))

    def __radd__(self, o):
        return self._make(o, "+", int(self) + int(o))

    def __mul__(self, o):
        return self._make(o, "*", int(self) * int(o))

    __rmul__ = __mul__

    def __floordiv__(self, o):
        return self._make(o, "//", int(self) // int(o))


def objects(*values, shape=None):
    a = np.empty(len(values), object)
    a[:] = values
    return a.reshape(shape if shape is not None else a.shape)


def test_symbols_survive():
    n = Sym(6, "n")
    program = (
        ("load", (0,), I64), ("const", (2,), I64), ("mul", (0, 1), I64), ("load", (1,), I64), ("add", (2, 3), I64), ("cast", (4,), I64),
        ("const", (3,), I64), ("div", (5, 6), I64),
    )  # fmt: skip
    y = evaluate(program, [objects(n, 4), np.array([1], I64)], None, (2,), I64)
    assert y.dtype == object and y[0].text == "(((n*2)+1)//3)" and y[0] == 4 and y[1] == 3
    scalar = evaluate(program, [objects(n, shape=()), np.array(1, I64)], None, (), I64)
    assert scalar.shape == () and scalar.reshape(-1)[0].text == "(((n*2)+1)//3)"
    immediate = evaluate((("const", (n,), I64), ("load", (0,), I64), ("add", (0, 1), I64)), [np.array([1, 2], I64)], None, (2,), I64)
    assert immediate[1].text == "(n+2)"
    compare = evaluate((("load", (0,), I64), ("const", (5,), I64), ("gt", (0, 1), BOOL)), [objects(n, 4)], None, (2,), BOOL)
    assert compare.dtype == BOOL and compare.tolist() == [True, False]
    choose = (("load", (0,), I64), ("const", (5,), I64), ("eq", (0, 1), BOOL), ("where", (2, 1, 0), I64))
    assert evaluate(choose, [objects(n, 5)], None, (2,), I64)[0] is n
    for a, b in ((7, -2), (-7, 2), (-7, -2), (7, 0)):
        quotient = (("const", (a,), I64), ("load", (0,), I64), ("div", (0, 1), I64))
        assert evaluate(quotient, [objects(b)], None, (1,), I64).tolist() == [truncdiv(a, b)]
    with pytest.raises(NotImplementedError):
        evaluate((("load", (0,), I64), ("cast", (0,), F32)), [objects(n)], None, (1,), F32)


def test_every_kernel_is_implemented():
    assert KERNELS.keys() == SPECS.keys()
    assert all(callable(kernel(name)) for name in KERNELS)


def test_import_is_light():
    code = "import sys, pytensor_rt.kernels.ref; assert not {'onnx', 'ml_dtypes', 'scipy'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
