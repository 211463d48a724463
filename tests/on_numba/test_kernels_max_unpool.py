"""The cases of `max_unpool`, on device "numba"."""

from tests.kernels.test_max_unpool import *  # noqa: F403
