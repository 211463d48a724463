"""The cases of `arg_reduce`, on device "numba"."""

from tests.kernels.test_arg_reduce import *  # noqa: F403
