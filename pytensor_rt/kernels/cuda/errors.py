"""The messages for what kernels find wrong with their data: see csrc/cuda/status.cuh for the words they leave."""

from __future__ import annotations

from collections.abc import Sequence

from ...lowering.tensor import Launch
from ..messages import describe

WORDS = 5  # of a launch's status, 8 bytes each
CLEAR = (1 << 64) - 1  # in the first one: nothing was reported


def message(words: Sequence[int], launch: Launch) -> str | None:
    """What the status words of a launch say, or None. The texts are those of the C++ kernels."""
    word = words[0]
    if word == CLEAR:
        return None
    code, axis, value = word >> 56, (word >> 48) & 255, (word & ((1 << 48) - 1)) - (1 << 47)
    if code == 1:
        axis = word & 255
        value = sum((w & 0xFFFF) << 16 * k for k, w in enumerate(words[1:WORDS]))
        value -= (value >> 63) << 64
    return describe(launch, code, axis, value)
