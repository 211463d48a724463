"""The cases of `map`, on device "numba"."""

from tests.kernels.test_map import *  # noqa: F403
from tests.kernels.test_map_ops import *  # noqa: F403

NOT_REPLAYED = {
    "test_bad_programs_are_refused": "it checks the decoder of the native engine, which launches of numba do not pass",
    "test_meaningless_operations_are_refused": "it checks which operations the C++ interpreter has no code for",
}
