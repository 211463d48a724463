"""ONNX's backend suite on the CUDA kernels, executed on the CPU. The skip file is the CPU's: what passes there passes here."""

from __future__ import annotations

import pytest

from tests.onnx.suite import cases

SUITE_DEVICE = "cuda"
globals().update(cases(SUITE_DEVICE, __name__, like="cpu"))


@pytest.fixture(autouse=True)
def _driver(driver: object) -> None:
    """Every case runs under the pretended driver."""
