"""The cases of `quantize_stats`, on device "numba"."""

from tests.kernels.test_quantize_stats import *  # noqa: F403
