"""What kernels find wrong with their data, in words: the texts of the C++ kernels, for the backends that report codes."""

from __future__ import annotations

from ..lowering.tensor import Launch

INDEX, POSITION, BATCH_INDEX, REGION, COUNT, OUTSIDE, SEQUENCE_LENGTH = 1, 2, 3, 4, 5, 6, 7  # as csrc/cuda/status.cuh numbers them


def describe(launch: Launch, code: int, axis: int, value: int) -> str:
    """The message for a launch that reported `code`, with the axis and value it found."""
    x = launch.ins[0]
    if code == INDEX:
        size = f" of size {int(x.shape[axis])}" if x is not None and axis < x.ndim else ""
        return f"index {value} is out of range for axis {axis}{size}"
    if code == POSITION:
        return f"{launch.kernel}: index {value} is out of range"
    if code == BATCH_INDEX:
        return f"{launch.kernel}: batch index {value} is out of range"
    if code == REGION:
        return f"{launch.kernel}: a region is too large"
    if code == COUNT:
        return _wrong_count(launch, value)
    if code == SEQUENCE_LENGTH:
        return "recurrent: a sequence length is negative or more than the time steps"
    return f"{launch.kernel}: an index points outside the output"


def _wrong_count(launch: Launch, found: int) -> str:
    y = launch.outs[0]
    assert y is not None
    if launch.kernel == "nms":
        return "nms: more boxes were selected than the output has room for"
    what, axis = ("true", launch.params["axis"]) if launch.kernel == "compress" else ("non-zero", 1)
    return f"{launch.kernel}: expected {int(y.shape[axis])} {what} elements, found {found}"
