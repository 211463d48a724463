"""What a `recurrent` launch has, by name."""

from __future__ import annotations

from typing import NamedTuple

from ..lowering.tensor import Tensor

GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # of a cell
FUNCTIONS = {"lstm": 3, "gru": 2, "rnn": 1}  # activations of a cell


class Operands(NamedTuple):
    """What spec.py lists; absent ones are None."""

    x: Tensor
    w: Tensor
    r: Tensor
    b: Tensor | None
    lengths: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    p: Tensor | None
    w_scale: Tensor | None
    w_zero: Tensor | None
    r_scale: Tensor | None
    r_zero: Tensor | None
