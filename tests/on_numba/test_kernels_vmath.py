"""The error bounds of elementary functions, on device "numba"."""

from tests.kernels.test_vmath import *  # noqa: F403
