"""Epilogues of 8-bit convolutions and products, on device "numba": bit for bit what the model's operators give one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels import conv_reference as ref
from tests.kernels.harness import ISAS, run
from tests.kernels.test_conv import channels_last
from tests.kernels.test_quant_epilogue import *  # noqa: F403
from tests.kernels.test_quant_epilogue import FORMS, I8, I32, PATHS, TABLES, U8, operands

NOT_REPLAYED = {
    "test_every_form_on_every_path": "asks the C++ kernel which form it found, on every ISA; the test here and test_every_form_on_gemm run every form and every path",
    "test_channels_need_not_lie_side_by_side": "asks for the C++ kernels' forms and for images larger than a block of theirs, on every ISA",
}


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
