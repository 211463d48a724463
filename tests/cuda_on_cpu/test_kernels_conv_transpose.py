"""The cases of `conv_transpose`, on the CUDA kernels."""

from tests.kernels.test_conv_transpose import *  # noqa: F403
