"""The cases of `deform_conv`, on device "numba"."""

from tests.kernels.test_windows import test_deform_conv, test_deform_conv_far_and_nan_offsets_read_nothing

__all__ = ["test_deform_conv", "test_deform_conv_far_and_nan_offsets_read_nothing"]
