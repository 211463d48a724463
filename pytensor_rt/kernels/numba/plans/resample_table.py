"""The taps of one resampled axis: which inputs every output reads, and with which weights (ONNX Resize-19)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import UnsupportedError
from ....lowering.tensor import Launch
from ...parameters import param
from ...resample_rules import cubic, positions

Array = np.ndarray[Any, Any]
MAX_ENTRIES = 1 << 32


class AxisTable:
    """Of one axis: `index` [out, taps] (int64, in range), `weight` [out, taps] (float64), `outside`: the outputs that are the extrapolation value."""

    __slots__ = ("index", "outside", "taps", "weight")

    def __init__(self, launch: Launch, axis: int, n: int, n_out: int) -> None:
        op, mode = launch.params["op"], param(launch, "coordinates")
        scale, rank = float(launch.params["scales"][axis]), len(launch.params["scales"])
        antialias = bool(param(launch, "antialias"))
        roi = launch.params["roi"] if mode == "tf_crop_and_resize" else ()
        start, end = (float(roi[axis]), float(roi[rank + axis])) if roi else (0.0, 1.0)
        shrink = min(scale, 1.0) if antialias else 1.0
        first = -1 if op == "cubic" else 0
        if antialias and op != "nearest":
            span = np.floor((-2.0 if op == "cubic" else -1.0) / shrink) + 1
            if not span > -1e6:
                raise UnsupportedError("resample: scale too small to antialias")
            first = int(span)
        self.taps = 1 if op == "nearest" else 2 - 2 * first
        if n_out * self.taps > MAX_ENTRIES:
            raise UnsupportedError("resample: too many taps")
        at = positions(mode, np.arange(n_out, dtype=np.float64), float(n), float(n_out), scale, start, end)
        at = np.where(np.abs(at) < 1e15, at, 0.0)  # NaN too
        outside = (at < 0) | (at > n - 1) if mode == "tf_crop_and_resize" else np.zeros(n_out, np.bool_)
        self.outside: Array = np.flatnonzero(outside)
        below = np.ceil(at) - 1  # below < at <= below + 1
        ratio = at - below
        if op == "nearest":
            nearest = param(launch, "nearest")
            up = {"round_prefer_floor": ratio > 0.5, "round_prefer_ceil": ratio >= 0.5, "floor": ratio < 0, "ceil": ratio > 0}[nearest]
            self.index = np.clip(below + (up | (ratio >= 1)), 0, n - 1).astype(np.int64)[:, None]
            self.weight = np.ones((n_out, 1))
            return
        offsets = np.arange(first, 2 - first, dtype=np.float64)
        distance = np.abs(offsets - ratio[:, None]) * shrink
        weight = np.maximum(0.0, 1 - distance) if op == "linear" else cubic(float(param(launch, "cubic_a")), distance)
        index = below[:, None] + offsets
        exclude = bool(param(launch, "exclude_outside"))
        if exclude:
            weight = np.where((index < 0) | (index > n - 1), 0.0, weight)
        if exclude or antialias:
            total = weight.sum(1, keepdims=True)
            weight = weight / np.where(total == 0, 1.0, total)
        self.index = np.clip(index, 0, n - 1).astype(np.int64)
        self.weight = weight
