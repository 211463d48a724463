"""Long lists of numbers in attributes: what the trees of a forest are written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

LONG = 1024  # numbers from which a list stays an array

Array = np.ndarray[Any, Any]


class Numbers(Sequence[Any]):
    """ints or floats of an attribute, read like a tuple of Python's numbers, but kept as an array (int64 or float32), which NumPy takes over as it is.

    Without a dtype floats become float64, as a tuple of Python floats would.
    """

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return int(self.array.size)

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, at: int | slice) -> Any:
        found = self.array[at]
        return tuple(found.tolist()) if isinstance(at, slice) else found.item()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Numbers, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Numbers({self.array!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if dtype is None and self.array.dtype == np.float32:
            dtype = np.float64
        return self.array.astype(dtype or self.array.dtype, copy=bool(copy))
