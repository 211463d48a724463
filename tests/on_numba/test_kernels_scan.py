"""The cases of `scan`, on device "numba"."""

from tests.kernels.test_scan import *  # noqa: F403
