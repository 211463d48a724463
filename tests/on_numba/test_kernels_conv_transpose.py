"""The cases of `conv_transpose`, on device "numba"."""

from tests.kernels.test_conv_transpose import *  # noqa: F403
