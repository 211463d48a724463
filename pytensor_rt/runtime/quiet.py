"""Planning without garbage collection."""

from __future__ import annotations

import gc


class Quiet:
    """A stretch of work that makes many objects and little garbage: the collections that it would cause find nothing, and each looks at every
    object of the process."""

    __slots__ = ("enabled",)

    def __enter__(self) -> None:
        self.enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            gc.enable()
