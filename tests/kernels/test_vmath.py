"""Error bounds of the f32 elementary functions (csrc/cpu/vmath.h), in units in the last place, against float64 over the whole range."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pytensor_rt.lowering import expr

from .harness import ISAS, run

F64 = np.ndarray[tuple[int], np.dtype[np.float64]]
_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


def _gelu_tanh(x: F64) -> F64:
    return np.where(x < -30, -0.0, 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


FUNCTIONS: dict[str, tuple[Callable[[F64], F64], float]] = {
    "exp": (np.exp, 1.7),
    "expm1": (np.expm1, 1.5),
    "log": (np.log, 1.0),
    "log1p": (np.log1p, 1.0),
    "tanh": (np.tanh, 2.5),
    "sigmoid": (_sigmoid, 2.5),
    "erf": (_erf, 1.5),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), 2.0),
    "sin": (np.sin, 1.0),
    "cos": (np.cos, 1.0),
    "tan": (np.tan, 1.0),
    "asin": (np.arcsin, 1.0),
    "acos": (np.arccos, 1.0),
    "atan": (np.arctan, 1.0),
    "sinh": (np.sinh, 1.0),
    "cosh": (np.cosh, 1.0),
    "asinh": (np.arcsinh, 1.0),
    "acosh": (np.arccosh, 1.0),
    "atanh": (np.arctanh, 1.0),
}  # fmt: skip


ACTIVATIONS: dict[str, Callable[[F64], F64]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu_erf": lambda x: 0.5 * x * _erfc(-x * math.sqrt(0.5)),
    "gelu_tanh": _gelu_tanh,
}


def every_scale(n: int = 120_000) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """f32 values evenly spread over all bit patterns, densely over the interesting range, and the special ones."""
    rng = np.random.default_rng(7)
    patterns = np.linspace(0, 2**32 - 1, n // 2).astype(np.uint32).view(np.float32)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 1, -1, 0.9, 88.72284, 88.7], np.float32
    )
    return np.concatenate(
        [patterns, rng.uniform(-12, 12, n // 3).astype(np.float32), rng.uniform(-105, 90, n // 6).astype(np.float32), special]
    )


def ulps(y: np.ndarray[tuple[int], np.dtype[np.float32]], exact: F64, size: F64) -> float:
    """The worst error in units in the last place of float32 values of magnitude `size`; where `exact` is not finite in f32, y must equal it."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
    odd = ~np.isfinite(rounded)
    near_max = odd & np.isfinite(exact) & (np.abs(exact) < 3.4029e38)  # an error of one ulp may or may not overflow
    np.testing.assert_array_equal(y[odd & ~near_max], rounded[odd & ~near_max])
    good = ~odd
    assert np.isfinite(y[good]).all()
    _, e = np.frexp(np.maximum(np.abs(size[good]), 2.0**-126))
    return float((np.abs(y[good].astype(np.float64) - exact[good]) / np.ldexp(1.0, e - 24)).max())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bound(name: str, isa: str) -> None:
    fn, bound = FUNCTIONS[name]
    x = every_scale()
    (y,) = run("map", [x], [(x.shape, np.float32)], body=expr._unary(name), isa=isa)
    with np.errstate(all="ignore"):
        exact = fn(x.astype(np.float64))
    assert ulps(y, exact, exact) <= bound


@pytest.mark.parametrize("isa", ISAS)
def test_activations(isa: str) -> None:
    x = every_scale()
    d = x.astype(np.float64)
    with np.errstate(all="ignore"):
        silu, gelu_erf, gelu_tanh = d * _sigmoid(d), 0.5 * d * _erfc(-d * math.sqrt(0.5)), _gelu_tanh(d)
    low = x == -np.inf
    gelu_erf[low] = gelu_tanh[low] = -0.0
    (y,) = run("map", [x], [(x.shape, np.float32)], body=expr.silu, isa=isa)
    assert ulps(y, silu, np.maximum(np.abs(silu), 1e-36)) <= 3.5
    (y,) = run("map", [x], [(x.shape, np.float32)], body=expr.gelu_erf, isa=isa)
    assert ulps(y, gelu_erf, np.maximum(np.abs(gelu_erf), np.abs(d) / 16)) <= 7
    (y,) = run("map", [x], [(x.shape, np.float32)], body=expr.gelu_tanh, isa=isa)
    assert ulps(y, gelu_tanh, np.maximum(np.abs(gelu_tanh), np.abs(d) / 16)) <= 7


@pytest.mark.parametrize("isa", ISAS)
def test_pow(isa: str) -> None:
    rng = np.random.default_rng(3)
    special = np.array([0.0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, np.inf, -np.inf, np.nan, 1e-40, -3.4e38, 1e30, -7], np.float32)
    a, b = (v.ravel() for v in np.meshgrid(special, special))
    x = np.concatenate([a, np.exp(rng.uniform(-88, 88, 20_000)).astype(np.float32)])
    y = np.concatenate([b, rng.uniform(-3, 3, 20_000).astype(np.float32)])
    (z,) = run("map", [x, y], [(x.shape, np.float32)], body=expr.pow_, isa=isa)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    assert ulps(z, exact, exact) <= 1
    for e in (2.0, 3.0, 0.5, -1.0, 1.0, 0.0):
        (z,) = run("map", [x], [(x.shape, np.float32)], body=lambda v, e=e: v**e, isa=isa)
        with np.errstate(all="ignore"):
            exact = np.power(x.astype(np.float64), np.full(x.shape, e))
        assert ulps(z, exact, exact) <= 1.5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [*FUNCTIONS, *ACTIVATIONS])
def test_f64(name: str, isa: str) -> None:
    fn = FUNCTIONS[name][0] if name in FUNCTIONS else ACTIVATIONS[name]
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(-3, 3, 2000), rng.uniform(-700, 700, 500), [0.0, np.inf, -np.inf, np.nan, 1e-300, -1e-300]])
    (y,) = run("map", [x], [(x.shape, np.float64)], body=expr._unary(name), isa=isa)
    with np.errstate(all="ignore"):
        want = fn(x)
    if name.startswith("gelu"):
        want[x == -np.inf] = -0.0
    atol = 1e-13 if name == "gelu_tanh" else 1e-300  # the reference's 1 + tanh cancels
    np.testing.assert_allclose(y, want, rtol=2e-14, atol=atol)
