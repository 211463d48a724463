"""How a kernel reports bad data: four words of its launch hold a code of ../../messages.py, an axis, a value and a position."""

from __future__ import annotations

from typing import Any

from numba import int64

from .intrinsics import at, inline


@inline
def fail(status: Any, code: Any, axis: Any, value: Any, position: Any) -> Any:
    """Report a fault at `position` (the first in some order that does not depend on threads is kept); the code, to return."""
    words = at(status, int64)
    if words[0] == 0 or position < words[3]:
        words[0], words[1], words[2], words[3] = code, axis, value, position
    return code
