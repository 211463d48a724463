"""Where kernels over rows find their operand's elements, and where their results go: memory itself where that will do, else the register machine.

The operand is seen as [O, P, C]: O sets of P rows of C columns; row o * P + p of the machine's box is row p of set o. The words of a source or sink
(plans/layout.py writes them), whose address a kernel finds in one of its own:
    0 may the memory itself be used?  1 box.run  2 the machine's words  3 address  4 bytes from set to set  5 from row to row of a set
    6 from row to row, as the tiles of this kernel have them  7 P
Columns are dense wherever memory itself is used.
"""

from __future__ import annotations

from typing import Any

from .intrinsics import inline, invoke


@inline
def tile(s: Any, o: Any, p: Any, rows: Any, c: Any, cols: Any, buffer: Any, size: Any) -> Any:
    """The address of rows [p, p + rows) of set o (with P = 1: of sets [o, o + rows)), columns [c, c + cols), which may be `buffer`."""
    if s[0] != 0:
        return s[3] + o * s[4] + p * s[5] + c * size
    r = o * s[7] + p
    invoke(s[1], (s[2], r, r + rows, c, c + cols, 0, 0, buffer, cols * size))
    return buffer


@inline
def pitch(s: Any, cols: Any, size: Any) -> Any:
    """Bytes from row to row of a tile, or of a place for results."""
    return s[6] if s[0] != 0 else cols * size


@inline
def place(s: Any, o: Any, p: Any, c: Any, buffer: Any, size: Any) -> Any:
    """The address where results go: the output's own, or `buffer`."""
    return s[3] + o * s[4] + p * s[5] + c * size if s[0] != 0 else buffer


@inline
def put(s: Any, o: Any, p: Any, rows: Any, c: Any, cols: Any, buffer: Any, size: Any) -> Any:
    """Take results that are in `buffer`, dense, to the output. Those that went to their place are there already."""
    if s[0] == 0:
        r = o * s[7] + p
        invoke(s[1], (s[2], r, r + rows, c, c + cols, buffer, cols * size, 0, 0))
    return 0
