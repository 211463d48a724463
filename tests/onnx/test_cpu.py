"""ONNX's backend suite on the C++ kernels."""

from .suite import cases

SUITE_DEVICE = "cpu"
globals().update(cases(SUITE_DEVICE, __name__))
