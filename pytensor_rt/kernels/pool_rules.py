"""What a `pool` launch must fulfil, for the backends that plan it in Python."""

from __future__ import annotations

from ..dtypes import BOOL, I64, is_float, is_int
from ..errors import UnsupportedError
from ..lowering.tensor import Launch, Tensor


def check_pool(
    launch: Launch,
    x: Tensor,
    y: Tensor,
    positions: Tensor | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
) -> None:
    """Raises UnsupportedError, with the texts of the C++ kernel, for what is no pooling."""
    n = x.ndim - 2
    if not 1 <= n <= 3 or len(kernel) != n or len(strides) != n or len(dilations) != n or len(pads) != 2 * n:
        raise UnsupportedError("pool: 1 to 3 spatial axes, with parameters for each")
    for t in (y, positions):
        if t is not None and (t.shape[:2] != x.shape[:2] or t.shape != y.shape or t.ndim != x.ndim):
            raise UnsupportedError("pool: outputs must be [N, C, o...], like x")
    most = 1 << 31
    if (
        not all(1 <= k <= 1 << 20 for k in kernel)
        or not all(1 <= v <= most for v in (*strides, *dilations))
        or not all(0 <= v <= most for v in pads)
    ):
        raise UnsupportedError("pool: bad window")
    if positions is not None and (launch.params["op"] != "max" or positions.dtype != I64):
        raise UnsupportedError("pool: indices are int64, and of max only")
    if launch.params["op"] != "max" and not is_float(x.dtype):
        raise UnsupportedError("pool: average and lp take floating dtypes")
    if not (is_float(x.dtype) or is_int(x.dtype) or x.dtype == BOOL):
        raise UnsupportedError(f"pool: there is no order of {x.dtype}")
