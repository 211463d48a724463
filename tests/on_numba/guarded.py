"""Memory with an unreadable page right behind it, or right before: a kernel that reads or writes one byte too far ends the process.

That is the point: such an access is found in whatever test makes it, with the Python stack that pytest's faulthandler prints.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
AVAILABLE = sys.platform.startswith("linux")


class Guarded:
    """`nbytes` of memory. `behind`: the unreadable page follows the last byte, else it precedes the first; with `align`, the first byte lies at such a
    multiple, which leaves up to align - 1 bytes between the last one and the page."""

    def __init__(self, nbytes: int, behind: bool, align: int = 1) -> None:
        room = -(-nbytes // align) * align
        pages = -(-max(1, room) // PAGE)
        self._map = mmap.mmap(-1, (pages + 1) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        wall = start + pages * PAGE if behind else start
        if libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(PAGE), 0) != 0:  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
        self._wall, self._libc = wall, libc
        self.address = wall - room if behind else start + PAGE
        self.nbytes = nbytes
        raw = (ctypes.c_char * max(1, nbytes)).from_address(self.address)
        self.bytes: np.ndarray[Any, Any] = np.frombuffer(raw, np.uint8)[:nbytes]

    def close(self) -> None:
        """Make the page readable again. (The mapping goes with the last array that refers to it.)"""
        self._libc.mprotect(ctypes.c_void_p(self._wall), ctypes.c_size_t(PAGE), 3)
