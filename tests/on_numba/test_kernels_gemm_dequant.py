"""The cases of tests/kernels/test_gemm_dequant.py, on device "numba"."""

from tests.kernels.test_gemm_dequant import *  # noqa: F403
