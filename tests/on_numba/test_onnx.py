"""ONNX's backend suite on device "numba". The skip file is the CPU's: what passes there passes here."""

from __future__ import annotations

from tests.onnx.suite import cases

SUITE_DEVICE = "numba"
globals().update(cases(SUITE_DEVICE, __name__, like="cpu"))
