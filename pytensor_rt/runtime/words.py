"""What the calls of a plan become for device "numba": words in one array, and which tensors may share bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels.numba.build import Block, Call, Fn, Operand, Prepared, Scratch, Status, Table, Word
from ..lowering.tensor import ARENA, Tensor
from ..plan.plan import Plan


class Words:
    """The words of many calls in one array, and which of them are addresses of what."""

    def __init__(self, calls: Sequence[tuple[Call, int]]) -> None:
        self._out: list[int] = []
        self.inside: list[tuple[int, int]] = []  # words that are addresses of words: (position, position)
        self.functions: list[tuple[int, str]] = []
        self.addresses: list[tuple[int, Operand | Scratch | Table | Prepared]] = []
        self.statuses: list[tuple[int, int]] = []  # (position, launch)
        self.rows: list[int] = []  # where every call's words begin
        for call, launch in calls:
            self.rows.append(self._add(call.words, launch))
        self.data = np.array(self._out or [0], np.int64)
        self.start = int(self.data.__array_interface__["data"][0])
        for at, target in self.inside:
            self.data[at] = self.start + 8 * target

    def _add(self, words: Sequence[Word], launch: int) -> int:
        start = len(self._out)
        self._out += [0] * len(words)
        nested: list[tuple[int, Block]] = []
        for k, word in enumerate(words, start):
            if isinstance(word, int):
                self._out[k] = word if word < 1 << 63 else word - (1 << 64)
            elif isinstance(word, Block):
                nested.append((k, word))
            elif isinstance(word, Fn):
                self.functions.append((k, word.name))
            elif isinstance(word, Status):
                self.statuses.append((k, launch))
            elif isinstance(word, (Operand, Scratch, Table, Prepared)):
                self.addresses.append((k, word))
            else:
                self._out[k] = int(word)
        for k, b in nested:
            self.inside.append((k, self._add(b.words, launch)))
        return start


class Overlaps:
    """Which tensors of a plan may share bytes: those of one buffer, and arena buffers at overlapping offsets."""

    def __init__(self, plan: Plan) -> None:
        self._offsets = plan.offsets

    def __call__(self, a: Tensor, b: Tensor) -> bool:
        x, y = a.buffer, b.buffer
        if x is y:
            return True
        if x.kind != ARENA or y.kind != ARENA:
            return False
        p, q = int(self._offsets[x]), int(self._offsets[y])
        return p < q + int(y.nbytes) and q < p + int(x.nbytes)
