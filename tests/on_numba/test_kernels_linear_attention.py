"""The cases of `linear_attention`, on device "numba"."""

from tests.kernels.test_linear_attention import *  # noqa: F403
