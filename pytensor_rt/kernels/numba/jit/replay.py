"""Replays a table of calls."""

from __future__ import annotations

from collections.abc import Callable

from numba import int64

from .intrinsics import at, invoke


def run() -> Callable[..., int]:
    """Rows [begin, end) of a table of (function, words, units, launch): 0, or 1 + the first row that failed."""

    def replay(w, begin, end):
        for row in range(begin, end):
            if invoke(w[4 * row], (w[4 * row + 1], 0, w[4 * row + 2], 0)) != 0:
                return row + 1
        return 0

    return replay


def patch() -> Callable[..., int]:
    """Write the addresses of inputs and outputs: [begin, end) of the triples (position in `words`, number of the input or output, offset in bytes) at w,
    with the addresses in order at `ios`.
    """

    def place(w, begin, end, words, ios):  # type: ignore[no-untyped-def]
        to, addresses = at(words, int64), at(ios, int64)
        for k in range(begin, end):
            to[w[3 * k]] = addresses[w[3 * k + 1]] + w[3 * k + 2]
        return 0

    return place
