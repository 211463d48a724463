"""ONNX's backend suite on the C++ kernels."""

from .suite import cases

globals().update(cases("cpu"))
