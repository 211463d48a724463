"""The messages for what kernels find wrong with their data: see csrc/cuda/status.cuh for the words they leave."""

from __future__ import annotations

from collections.abc import Sequence

from ...lowering.tensor import Launch

WORDS = 5  # of a launch's status, 8 bytes each
CLEAR = (1 << 64) - 1  # in the first one: nothing was reported


def message(words: Sequence[int], launch: Launch) -> str | None:
    """What the status words of a launch say, or None. The texts are those of the C++ kernels."""
    word = words[0]
    if word == CLEAR:
        return None
    code, axis, value = word >> 56, (word >> 48) & 255, (word & ((1 << 48) - 1)) - (1 << 47)
    x = launch.ins[0]
    if code == 1:
        axis = word & 255
        value = sum((w & 0xFFFF) << 16 * k for k, w in enumerate(words[1:WORDS]))
        value -= (value >> 63) << 64
        size = f" of size {int(x.shape[axis])}" if x is not None and axis < x.ndim else ""
        return f"index {value} is out of range for axis {axis}{size}"
    if code == 2:
        return f"{launch.kernel}: index {value} is out of range"
    if code == 3:
        return f"{launch.kernel}: batch index {value} is out of range"
    if code == 4:
        return f"{launch.kernel}: a region is too large"
    if code == 5:
        return _wrong_count(launch, value)
    if code == 7:
        return "recurrent: a sequence length is negative or more than the time steps"
    return f"{launch.kernel}: an index points outside the output"


def _wrong_count(launch: Launch, found: int) -> str:
    y = launch.outs[0]
    assert y is not None
    if launch.kernel == "nms":
        return "nms: more boxes were selected than the output has room for"
    what, axis = ("true", launch.params["axis"]) if launch.kernel == "compress" else ("non-zero", 1)
    return f"{launch.kernel}: expected {int(y.shape[axis])} {what} elements, found {found}"
