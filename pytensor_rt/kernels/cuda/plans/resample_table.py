"""The taps of one resampled axis, as csrc/cpu/resample_table.cpp computes them: which inputs every output reads, and with which weights."""

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
    """Of one axis: `taps` per output, `index` [taps, out] in range, `weight` [taps, out] (float64), `outside` [out] where some output is."""

    __slots__ = ("index", "key", "outside", "taps", "weight")

    def __init__(self, launch: Launch, axis: int, n: int, n_out: int) -> None:
        op, mode, nearest = launch.params["op"], param(launch, "coordinates"), param(launch, "nearest")
        scale, rank = float(launch.params["scales"][axis]), len(launch.params["scales"])
        cubic_a, exclude, antialias = (
            float(param(launch, "cubic_a")),
            bool(param(launch, "exclude_outside")),
            bool(param(launch, "antialias")),
        )
        roi = launch.params["roi"] if mode == "tf_crop_and_resize" else ()
        start, end = (float(roi[axis]), float(roi[rank + axis])) if roi else (0.0, 1.0)
        self.key = ("resample", op, mode, nearest, cubic_a, exclude, antialias, n, n_out, scale, start, end)
        shrink = min(scale, 1.0) if antialias else 1.0
        reach = 2.0 if op == "cubic" else 1.0
        first = -1 if op == "cubic" else 0
        if antialias and op != "nearest":
            span = np.floor(-reach / shrink) + 1
            if not span > -1e6:
                raise UnsupportedError("resample: scale too small to antialias")
            first = int(span)
        self.taps = 1 if op == "nearest" else 2 - 2 * first
        if n_out * self.taps > MAX_ENTRIES:
            raise UnsupportedError("resample: too many taps")
        at = positions(mode, np.arange(n_out, dtype=np.float64), float(n), float(n_out), scale, start, end)
        at = np.where(np.abs(at) < 1e15, at, 0.0)  # NaN too
        self.outside: Array | None = None
        if mode == "tf_crop_and_resize":
            outside = (at < 0) | (at > n - 1)
            self.outside = outside if outside.any() else None
        below = np.ceil(at) - 1  # below < at <= below + 1
        ratio = at - below
        if op == "nearest":
            up = {"round_prefer_floor": ratio > 0.5, "round_prefer_ceil": ratio >= 0.5, "floor": ratio < 0, "ceil": ratio > 0}[nearest]
            self.index = np.clip(below + (up | (ratio >= 1)), 0, n - 1)[None].astype(np.int32)
            self.weight = np.ones((1, n_out))
            return
        offsets = np.arange(first, 2 - first, dtype=np.float64)[:, None]
        distance = np.abs(offsets - ratio) * shrink
        weight = np.maximum(0.0, 1 - distance) if op == "linear" else cubic(cubic_a, distance)
        index = below + offsets
        if exclude:
            weight = np.where((index < 0) | (index > n - 1), 0.0, weight)
        if exclude or antialias:
            total = weight.sum(0)
            weight = weight / np.where(total == 0, 1.0, total)
        self.index = np.clip(index, 0, n - 1).astype(np.int32)
        self.weight = weight
