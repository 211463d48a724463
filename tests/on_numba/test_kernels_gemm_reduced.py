"""The cases of tests/kernels/test_gemm_reduced.py, on device "numba"."""

from tests.kernels.test_gemm_reduced import *  # noqa: F403
