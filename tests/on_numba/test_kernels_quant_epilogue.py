"""Epilogues of 8-bit convolutions and products, on device "numba": bit for bit what the model's operators give one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import conv_reference as ref
from tests.kernels.harness import ISAS, run
from tests.kernels.test_conv import channels_last
from tests.kernels.test_quant_epilogue import *  # noqa: F403
from tests.kernels.test_quant_epilogue import FORMS, I8, I32, PATHS, TABLES, U8, f

NOT_REPLAYED = {
    "test_every_form_on_every_path": "asks the C++ kernel which form it found, on every ISA; the two tests here run every form and every path"
}


def operands(rng: np.random.Generator, kinds: str, shape: tuple[int, ...], parameters: tuple[int, ...], n: int) -> list[Any]:
    make = {
        "b": lambda: np.broadcast_to(rng.integers(-20000, 20000, parameters).astype(I32), shape),
        "s": lambda: np.broadcast_to(rng.uniform(0.001, 0.01, parameters).astype(f) * f(50 / n), shape),
        "r": lambda: rng.standard_normal(shape).astype(f),
        "u": lambda: rng.integers(0, 256, shape).astype(U8),
        "i": lambda: rng.integers(-128, 128, shape).astype(I8),
    }
    return [make[k]() for k in kinds]


@pytest.mark.parametrize("form", [*FORMS, *TABLES])
def test_every_form_on_gemm(form: str) -> None:
    rng = np.random.default_rng(3)
    fn, np_fn, kinds, _ = {**FORMS, **TABLES}[form]
    for m, n, k in ((2, 40, 72), (30, 33, 48), (17, 24, 1100)):
        for a_type, b_type in ((U8, I8), (I8, U8)):
            a = rng.integers(np.iinfo(a_type).min, np.iinfo(a_type).max + 1, (m, k)).astype(a_type)
            b = rng.integers(np.iinfo(b_type).min, np.iinfo(b_type).max + 1, (k, n)).astype(b_type)
            zeros = np.broadcast_to(np.array(7, a_type), (m, 1)), np.broadcast_to(np.array(120 if b_type == U8 else 0, b_type), (1, n))
            acc = ((a.astype(np.int64) - zeros[0]) @ (b.astype(np.int64) - zeros[1])).astype(I32)
            views = operands(rng, kinds, (m, n), (1, n), k)
            want = np_fn(*([ISAS[0]] if form in TABLES else []), *(acc.reshape(1, 1, m, n),), *[v[None, None] for v in views])[0, 0]
            (y,) = run("gemm", [a, b, *zeros], [((m, n), want.dtype)], epilogue=fn, epi_ins=views, acc_dtype=I32, consts=(1,), threads=2)
            np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
    ("path", "form"), [(p, form) for i, p in enumerate(PATHS) for j, form in enumerate((*FORMS, *TABLES)) if (i + j) % 4 == 0]
)
def test_every_form_on_conv(path: Any, form: str) -> None:
    rng = np.random.default_rng(3)
    xs, ws, strides, dilations, pads, group = path
    fn, np_fn, kinds, _ = {**FORMS, **TABLES}[form]
    params = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    x, w = rng.integers(0, 256, xs).astype(U8), rng.integers(-128, 128, ws).astype(I8)
    acc = ref.conv(x, w.astype(np.int64), None, strides, dilations, pads, group, 3).astype(np.int32)
    views = operands(rng, kinds, acc.shape, (1, ws[0], *(1,) * (len(xs) - 2)), int(np.prod(ws[1:])))
    views = [v if 0 in v.strides else channels_last(v.copy()) for v in views]
    want = np_fn(*([ISAS[0]] if form in TABLES else []), acc, *views)
    y = channels_last(np.zeros(acc.shape, want.dtype))
    ins = [channels_last(x), w, None, np.array(3, U8), np.array(0, I8)]
    run("conv", ins, [y], params, epilogue=fn, epi_ins=views, acc_dtype=I32, consts=(1, 3, 4), threads=2)
    np.testing.assert_array_equal(y, want)
