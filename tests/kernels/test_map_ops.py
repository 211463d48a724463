"""Every opcode of `map` on every dtype it accepts, and all conversions, against NumPy and ml_dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pytensor_rt.dtypes import BOOL, from_code, is_float, is_int
from pytensor_rt.kernels.spec import OPCODES
from pytensor_rt.lowering import expr

from .harness import ISAS, run

Array = np.ndarray[Any, Any]
FLOATS = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
INTS = [np.dtype(t) for t in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)]
SMALL_INTS = [np.dtype(getattr(ml_dtypes, t)) for t in ("int4", "uint4", "int2", "uint2")]
FLOAT8 = [np.dtype(getattr(ml_dtypes, t)) for t in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")]
NUMERIC = [BOOL, *FLOATS, *INTS, *SMALL_INTS, *FLOAT8, np.dtype(ml_dtypes.float4_e2m1fn)]
COPYABLE = [from_code(c) for c in range(1, 27) if c != 8]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def values(dtype: np.dtype[Any], n: int = 203, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == BOOL:
        return rng.integers(0, 2, n).astype(bool)
    if is_float(dtype):
        x = (rng.standard_normal(n) * rng.choice([0.1, 1, 10, 300], n)).astype(np.float32)
        x[:12] = [0.0, -0.0, 1, -1, 0.5, -0.5, 2.5, 3.5, -2.5, np.inf, -np.inf, np.nan]
        with np.errstate(all="ignore"):
            return x.astype(dtype)
    if dtype in SMALL_INTS:
        info = ml_dtypes.iinfo(dtype)
        return rng.integers(int(info.min), int(info.max) + 1, n).astype(np.int8).astype(dtype)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, n, dtype, endpoint=True)
    x[: n // 2] = rng.integers(max(info.min, -9), 10, n // 2).astype(dtype)
    x[-2:] = info.min, info.max
    return x


def call(op: str, args: list[Array], out: np.dtype[Any], isa: str) -> Array:
    def body(*v: expr.Var) -> expr.Var:
        return expr.emit(op, *v, dtype=out)

    (y,) = run("map", args, [(args[0].shape, out)], body=body, isa=isa)
    return y


FLOAT_UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "ceil": np.ceil, "floor": np.floor, "round": np.rint, "trunc": np.trunc,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "recip": lambda x: 1 / x, "relu": lambda x: np.where(x < 0, x.dtype.type(0), x),
}  # fmt: skip
FLOAT_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "mod": np.mod, "fmod": np.fmod,
    "max": np.maximum, "min": np.minimum,
}  # fmt: skip
PREDICATES = {"isnan": np.isnan, "isinf_pos": np.isposinf, "isinf_neg": np.isneginf}
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
LOGIC = {"land": np.logical_and, "lor": np.logical_or, "lxor": np.logical_xor}
IN_VMATH = {
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
    "sigmoid", "softplus", "silu", "gelu_erf", "gelu_tanh",
}  # fmt: skip
BITS = {"band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor}
ELSEWHERE = {"load", "const", "acc", "iota", "id", "cast", "cast_wrap", "cast_sat", "lnot", "where", "bnot", "shl", "shr"}


def test_every_opcode_is_tested() -> None:
    tested = [*FLOAT_UNARY, *FLOAT_BINARY, *PREDICATES, *COMPARISONS, *LOGIC, *BITS, *IN_VMATH, *ELSEWHERE]
    assert sorted(tested) == sorted(OPCODES)


def wide(x: Array) -> Array:
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def ordered(x: Array) -> Array:
    return wide(x) if is_float(x.dtype) else x


def assert_close(y: Array, want: Array, dtype: np.dtype[Any], exact: bool) -> None:
    assert y.dtype == dtype
    if exact:
        np.testing.assert_array_equal(wide(y), wide(want.astype(dtype)))
    else:
        eps = float(ml_dtypes.finfo(dtype).eps)
        np.testing.assert_allclose(wide(y), wide(want.astype(dtype)), rtol=2 * eps, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_float_arithmetic(dtype: np.dtype[Any], isa: str) -> None:
    a, b = values(dtype), values(dtype, seed=2)
    b[12:24] = a[:12]
    with np.errstate(all="ignore"):
        for op, fn in FLOAT_UNARY.items():
            assert_close(call(op, [a], dtype, isa), fn(wide(a)), dtype, exact=op != "rsqrt")
        for op, fn in FLOAT_BINARY.items():
            assert_close(call(op, [a, b], dtype, isa), fn(wide(a), wide(b)), dtype, exact=op != "pow")
        for op, fn in PREDICATES.items():
            np.testing.assert_array_equal(call(op, [a], BOOL, isa), fn(wide(a)))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, *SMALL_INTS, BOOL], ids=str)
def test_comparisons_where_and_logic(dtype: np.dtype[Any], isa: str) -> None:
    a, b, c = values(dtype), values(dtype, seed=2), values(BOOL, seed=3)
    b[12:24] = a[:12]
    for op, fn in COMPARISONS.items():
        np.testing.assert_array_equal(call(op, [a, b], BOOL, isa), fn(ordered(a), ordered(b)), err_msg=op)
    np.testing.assert_array_equal(ordered(call("where", [c, a, b], dtype, isa)), ordered(np.where(c, a, b)))
    if dtype == BOOL:
        for op, fn in LOGIC.items():
            np.testing.assert_array_equal(call(op, [a, b], BOOL, isa), fn(a, b))
        np.testing.assert_array_equal(call("lnot", [a], BOOL, isa), ~a)


def python_ints(op: str, x: int, y: int, bits: int) -> int:
    if op == "div":
        return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    if op == "mod":
        return 0 if y == 0 else x % y
    if op == "fmod":
        return 0 if y == 0 else abs(x) % abs(y) * (-1 if x < 0 else 1)
    if op == "pow":
        return pow(x, y, 1 << 64) if y >= 0 else {1: 1, -1: -1 if y % 2 else 1}.get(x, 0)
    if op in ("shl", "shr"):
        return 0 if y < 0 or y >= bits else x << y if op == "shl" else x >> y
    two = {"add": x + y, "sub": x - y, "mul": x * y, "max": max(x, y), "min": min(x, y), "band": x & y, "bor": x | y, "bxor": x ^ y}
    return two[op] if op in two else {"neg": -x, "abs": abs(x), "sign": (x > 0) - (x < 0), "relu": max(x, 0), "bnot": ~x}.get(op, x)


@pytest.mark.parametrize("dtype", [*INTS, *SMALL_INTS], ids=str)
def test_integer_arithmetic(dtype: np.dtype[Any], isa: str) -> None:
    a, b = values(dtype), values(dtype, seed=2)
    info: Any = ml_dtypes.iinfo(dtype)
    bits = int(info.bits)
    a[-1], b[-1] = info.min, max(int(info.min), -1)  # lowest / -1
    xs, ys = [int(v) for v in a], [int(v) for v in b]

    def wrap(v: int) -> int:
        v &= (1 << bits) - 1
        return v - (1 << bits) if info.min < 0 and v >> (bits - 1) else v

    for op in ("add", "sub", "mul", "div", "mod", "fmod", "pow", "max", "min", "band", "bor", "bxor", "shl", "shr"):
        if op in ("shl", "shr") and dtype in SMALL_INTS and info.min < 0:
            continue
        got = [int(v) for v in call(op, [a, b], dtype, isa)]
        assert got == [wrap(python_ints(op, x, y, bits)) for x, y in zip(xs, ys)], op
    for op in ("neg", "abs", "sign", "relu", "bnot", "ceil", "floor", "round", "trunc"):
        got = [int(v) for v in call(op, [a], dtype, isa)]
        assert got == [wrap(python_ints(op, x, 0, bits)) for x in xs], op


def test_boolean_arithmetic(isa: str) -> None:
    a, b = values(BOOL), values(BOOL, seed=2)
    for op, fn in {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum, **BITS}.items():
        np.testing.assert_array_equal(call(op, [a, b], BOOL, isa), fn(a, b))


def _saturated(x: Array, to: np.dtype[Any]) -> Array:
    """ONNX Cast to a float8 type."""
    f = wide(x).astype(np.float64)
    top = float(ml_dtypes.finfo(to).max)
    return np.clip(f, -top, top).astype(to)


@pytest.mark.parametrize("to", NUMERIC, ids=str)
@pytest.mark.parametrize("src", NUMERIC, ids=str)
def test_cast(src: np.dtype[Any], to: np.dtype[Any]) -> None:
    x = values(src)
    if is_float(src) and (is_int(to)):
        x = x[np.isfinite(wide(x))]
        if not ((to in INTS and np.iinfo(to).bits < 32) or to in SMALL_INTS):
            x = x[(wide(x) >= (0 if to in (np.uint32, np.uint64) else -(2.0**31)))]
    if to == ml_dtypes.float4_e2m1fn and is_float(src):
        x = x[~np.isnan(wide(x))]  # it has no NaN
    with np.errstate(all="ignore"):
        if to in FLOAT8 and src != to:
            want = _saturated(x, to)
        elif src in SMALL_INTS or (to in SMALL_INTS and not is_float(src)):
            want = x.astype(np.int64).astype(to)
        elif to in SMALL_INTS:
            want = wide(x).astype(np.int32).astype(to)
        elif to == BOOL:
            want = wide(x) != 0 if is_float(src) else x != 0
        elif is_float(src) and to in INTS:
            want = wide(x).astype(np.int64).astype(to)
        else:
            want = x.astype(to)
    for isa in ISAS:
        y = call("cast", [x], to, isa)
        if is_float(to):
            np.testing.assert_array_equal(wide(y), wide(want), err_msg=isa)
            finite = ~np.isnan(wide(y))
            np.testing.assert_array_equal(np.signbit(wide(y))[finite], np.signbit(wide(want))[finite], err_msg=isa)
        else:
            np.testing.assert_array_equal(y, want, err_msg=isa)


@pytest.mark.parametrize("to", [*FLOAT8, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_rounding_is_to_nearest_even(to: np.dtype[Any], isa: str) -> None:
    """Every finite value of the type, the midpoints between neighbours, and their two float64 neighbours."""
    codes = np.arange(256 if to.itemsize == 1 else 65536).astype(np.uint8 if to.itemsize == 1 else np.uint16).view(to)
    v = np.unique(codes.astype(np.float64)[np.isfinite(codes.astype(np.float32))])
    mid = (v[1:] + v[:-1]) / 2
    x64 = np.concatenate([v, mid, np.nextafter(mid, np.inf), np.nextafter(mid, -np.inf)])
    neighbours = np.searchsorted(v, x64)
    lo, hi = v[np.maximum(neighbours - 1, 0)], v[np.minimum(neighbours, len(v) - 1)]
    want = np.where(np.abs(x64 - lo) < np.abs(hi - x64), lo, hi)
    for x in (x64, x64[: len(v) + len(mid)].astype(np.float32)):
        y = call("cast", [x], to, isa).astype(np.float64)
        w = want[: len(x)]
        tie = np.abs(x.astype(np.float64) - lo[: len(x)]) == np.abs(hi[: len(x)] - x.astype(np.float64))
        np.testing.assert_array_equal(y[~tie], w[~tie])
        even = call("cast", [x], to, isa).view(np.uint8 if to.itemsize == 1 else np.uint16) % 2 == 0
        between = tie & (x.astype(np.float64) != w)
        assert even[between].all()


@pytest.mark.parametrize("to", FLOAT8, ids=str)
def test_cast_wrap(to: np.dtype[Any], isa: str) -> None:
    x = np.concatenate(
        [values(np.dtype(np.float32)), np.float32([449, 464, 465, 480, 1e9, -1e9, 57344, 61439, 61440, 65536, 240, 248, 249])]
    )
    with np.errstate(all="ignore"):
        want = x.astype(to)
    np.testing.assert_array_equal(call("cast_wrap", [x], to, isa).astype(np.float32), want.astype(np.float32))


def test_float8_e8m0(isa: str) -> None:
    t = np.dtype(ml_dtypes.float8_e8m0fnu)
    x = np.float32([1, 1.5, 2, 3, 4.01, 2.0**-127, 2.0**-126, 1.1 * 2.0**-126, 3e38, 0.75, -3])
    want = np.float32([1, 2, 2, 4, 8, 2.0**-126, 2.0**-126, 2.0**-125, 2.0**127, 1, 4])
    np.testing.assert_array_equal(call("cast", [x], t, isa).astype(np.float32), want)
    codes = np.arange(256).astype(np.uint8).view(t)
    np.testing.assert_array_equal(call("cast", [codes], np.dtype(np.float32), isa), codes.astype(np.float32))


@pytest.mark.parametrize("src", [np.float32, np.float64, np.int32, np.int64, np.uint64, np.int8], ids=lambda t: t.__name__)
@pytest.mark.parametrize("to", [*INTS, *SMALL_INTS], ids=str)
def test_cast_sat(src: Any, to: np.dtype[Any], isa: str) -> None:
    x = values(np.dtype(src))
    info: Any = ml_dtypes.iinfo(to)
    if np.dtype(src).kind == "f":
        x = np.concatenate([x, np.array([1e10, -1e10, 2.0**31, 2.0**32, 2.0**63, 2.0**64, -(2.0**63), 126.5, 127.5, -128.5], src)])
        x = x[~np.isnan(x)]
    want = [int(min(max(round(float(v)) if np.isfinite(v) else v, int(info.min)), int(info.max))) if np.dtype(src).kind == "f"
            else min(max(int(v), int(info.min)), int(info.max)) for v in x]  # fmt: skip
    assert [int(v) for v in call("cast_sat", [x], to, isa)] == want


def test_out_of_range_floats_are_defined(isa: str) -> None:
    for src in (np.float32, np.float64):
        x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -3e9], src)
        lowest = np.full(5, -(2**31))
        np.testing.assert_array_equal(call("cast", [x], np.dtype(np.int32), isa), [*lowest, -(2**31), -(2**31)])
        np.testing.assert_array_equal(call("cast", [x], np.dtype(np.int64), isa)[:5], np.full(5, -(2**63)))
        np.testing.assert_array_equal(call("cast", [x], np.dtype(np.int8), isa), np.zeros(7))
        np.testing.assert_array_equal(call("cast", [x], np.dtype(np.uint64), isa)[:5], np.full(5, 2**63, np.uint64))


@pytest.mark.parametrize("dtype", COPYABLE, ids=str)
def test_copy_of_any_dtype(dtype: np.dtype[Any], isa: str) -> None:
    raw = np.random.default_rng(0).integers(0, 256, 6 * 35 * 34 * dtype.itemsize).astype(np.uint8)
    if dtype == BOOL:
        raw &= 1
    x = raw.view(dtype).reshape(6, 35, 34)
    for view in (x, x.transpose(2, 0, 1), x[:, ::-1, ::2], np.broadcast_to(x[:, :1], x.shape)):
        (y,) = run("map", [view], [(view.shape, dtype)], body=lambda v: v, isa=isa)
        assert y.tobytes() == np.ascontiguousarray(view).tobytes()


def test_meaningless_operations_are_refused() -> None:
    x = np.zeros(3, np.int32)
    for op in ("exp", "isnan", "sqrt", "sigmoid"):
        with pytest.raises(RuntimeError, match=op):
            call(op, [x], np.dtype(np.int32), ISAS[0])
    with pytest.raises(RuntimeError, match="shl"):
        call("shl", [np.zeros(3, np.float32)] * 2, np.dtype(np.float32), ISAS[0])
