"""What the kernels that sort share: tiles, runs to merge, keys, and scratch memory. See csrc/cuda/sort.cuh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....dtypes import BOOL, C128, U8, U16, U32, U64, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ..build import Builder, Call, Scratch
from ..manifest import Entry
from ..source import type_of

ITEMS, THREADS = 8, 256  # items per thread, threads of a full tile
TILE = ITEMS * THREADS

MERGE = Entry("sort_merge", "sort_merge.cuh", THREADS, registers=96)

_UNITS: dict[int, DType] = {1: U8, 2: U16, 4: U32, 8: U64, 16: C128}
_INFINITIES = {"f16": "0x7c00", "bf16": "0x7f80", "f32": "0x7f800000u", "f64": "0x7ff0000000000000ull"}


class Workspace:
    """The scratch memory of a launch under construction."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def take(self, nbytes: int) -> Scratch:
        """Memory for one purpose, aligned for everything."""
        at = self.used
        self.used += -(-nbytes // 256) * 256
        return Scratch(at)

    def given(self, calls: Sequence[Call]) -> list[Call]:
        """The calls, declaring all of it."""
        return [replace(c, scratch=self.used) for c in calls]


class Tiles:
    """`sequences` of `length` items, each cut into `chunks` of `width` items (a power of two), of which `keep` stay."""

    __slots__ = ("chunks", "grid", "keep", "length", "sequences", "threads", "width")

    def __init__(self, sequences: int, length: int, keep: int | None = None) -> None:
        self.sequences, self.length = sequences, length
        self.width = min(TILE, max(ITEMS, 1 << max(0, length - 1).bit_length()))
        self.chunks = max(1, -(-length // self.width))
        self.keep = self.width if keep is None else min(keep, self.width)
        total = sequences * self.chunks * self.width
        self.threads = min(THREADS, max(32, 1 << (-(-total // ITEMS) - 1).bit_length()))
        self.grid = max(1, -(-total // (self.threads * ITEMS)))

    @property
    def kept(self) -> int:
        """Items per sequence that stay, those that fill up the last chunk included."""
        return self.chunks * self.keep

    def fields(self, b: Builder) -> None:
        """What sort_tiles of sort.cuh reads from Args."""
        b.scalar("sequences", "idx", self.sequences)
        b.scalar("length", "idx", self.length)
        b.sizes("chunks", [self.chunks])
        b.scalar("log_width", "i32", self.width.bit_length() - 1)
        b.scalar("keep", "i32", self.keep)

    def call(self, b: Builder) -> Call:
        return b.call(self.grid, self.threads)


def item_type(key_bytes: int, length: int) -> str:
    """Keys of up to 32 bits and 32-bit positions share a word."""
    return "u64" if key_bytes <= 4 and length < (1 << 32) - 1 else "Pair"


def item_bytes(item: str) -> int:
    return 8 if item == "u64" else 16


def use_items(b: Builder, item: str) -> None:
    """The type Item, before anything that names it."""
    b.lines += ['#include "sort.cuh"', f"using Item = {item};"]


def merges(launch: Launch, item: str, wide: bool, tiles: Tiles, source: Scratch, other: Scratch) -> tuple[list[Call], Scratch]:
    """Join the sorted chunks of each sequence, all of whose items were kept. Returns where the result lies: in `source` or `other`."""
    calls = []
    run, n = tiles.width, tiles.kept
    while run < n:
        b = Builder(launch, MERGE, wide)
        use_items(b, item)
        b.pointer("from", "const Item", source)
        b.pointer("to", "Item", other)
        b.scalar("run", "idx", run)
        b.scalar("n", "idx", n)
        b.sizes("blocks", [n // TILE])
        calls.append(b.call(tiles.sequences * (n // TILE)))
        source, other = other, source
        run *= 2
    return calls, source


def key_function(b: Builder, kernel: str, dtype: DType) -> None:
    """A function `key(bits)`: order-preserving unsigned numbers of an element's own size. Raises UnsupportedError if values have no order."""
    name = type_of(dtype)
    unit = type_of(unit_of(dtype.itemsize))
    if name in _INFINITIES:
        text = f"float_key<{unit}>(u, static_cast<{unit}>({_INFINITIES[name]}))"
    elif dtype.kind in "iu" or dtype == BOOL:
        text = f"{'signed' if dtype.kind == 'i' else 'unsigned'}_key<{unit}>(u)"
    else:
        raise UnsupportedError(f"{kernel}: this dtype has no order")
    b.functions.append(f"__forceinline__ {unit} key(const {unit} u) {{ return {text}; }}")


def unit_of(nbytes: int) -> DType:
    """A dtype that moves this many bytes as they are."""
    return _UNITS[nbytes]


def as_units(t: Tensor, width: int = 1, strides: Sequence[int] | None = None) -> Tensor:
    """The tensor with `width` neighbours as one element that is moved as it is; `strides` are in the tensor's own elements."""
    held = t.strides if strides is None else tuple(strides)
    return Tensor(t.buffer, t.offset // width, t.shape, tuple([s // width for s in held]), unit_of(t.dtype.itemsize * width))


def need(ok: bool, kernel: str, what: str) -> None:
    """Raises UnsupportedError, with the text of the C++ kernels, unless `ok`."""
    if not ok:
        raise UnsupportedError(f"{kernel}: {what}")


def integer_kind(dtype: DType) -> bool:
    """May values of this dtype be indices?"""
    return dtype.kind == "i" and dtype.itemsize in (4, 8) and not is_float(dtype)
