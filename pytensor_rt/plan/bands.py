"""Bands: chains of launches whose tensors exceed a core's cache are run a few images, then a few rows of an image, at a time.

A launch of a chain is cut along the batch or along the rows of its output into launches of the same kernel on views, and the pieces of the
chain take turns, so that what one makes is read while it is in cache. What only the chain sees has memory for the images or rows at hand:
a *window* of the whole buffer. With several workers a chain is divided into *strands*, sequences of pieces that run side by side, each on
one worker with windows of its own; they share no memory that one of them writes.

Every element is computed as in the whole launch, so results do not depend on how a chain is cut. Rows are computed once, but for those that
two strands need (the halo between their parts of an image).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from ..dtypes import U8
from ..lowering.symbolic import is_symbolic
from ..lowering.tensor import ARENA, Buffer, Launch, Shape, Tensor
from .alias import in_place, lifetimes, share
from .arena import lower_bound, place
from .cost import flops
from .fuse import Stats, count

_IMAGES, _ROWS = 0, 2  # axes of [N, C, rows, ...]
# Bytes. Smaller tensors are still in cache when they are read, more of them with more than two workers; rows have to gain their copies.
LARGE = {_IMAGES: 1 << 20, _ROWS: 1 << 21}
BAND = 3 << 18  # bytes that a piece reads and writes of a chain's tensors, about
MOST_PARTS = 64  # of a chain
STRAND_ROWS = 8  # of a chain's output that a strand must have, for the sake of the rows that two of them compute
INTENSITY = {_IMAGES: 64, _ROWS: 24}  # operations per byte kept in cache, from which on a chain waits for its arithmetic, not for memory
FEW_OUTPUTS, FEW_CHANNELS = 4, 15  # of a group, and in all: then images are computed in other ways
BALANCE = 0.8  # share of the workers' time that images of a batch must keep busy

Regions = dict[Buffer, tuple[int, int]]  # buffers made in a chain: where row (image) 0 begins, and the step from one to the next


class Strands(NamedTuple):
    """Launches [begin, ends[0]), [ends[0], ends[1]), ... of a plan may run at the same time."""

    begin: int
    ends: tuple[int, ...]


class Cut(NamedTuple):
    """What cut_chains() made of a plan's launches."""

    launches: list[Launch]
    strands: list[Strands]
    own_memory: set[Buffer]  # must not take over an operand's memory
    bounds: dict[Buffer, int]  # buffers of windows, with the largest sum of bytes that are needed of them at one time


class _Roles(NamedTuple):
    """How a launch may be cut along an axis of its output."""

    sources: list[Tensor]  # what its windows move over
    elementwise: list[Tensor]  # cut like the output
    whole: list[Tensor]  # what every piece reads all of

    @property
    def cut(self) -> list[Tensor]:
        return self.sources + self.elementwise


class _Window:
    """Memory for rows (images) [first, end) of a buffer, in a buffer of their own."""

    def __init__(self, whole: Buffer, step: int, first: int, end: int, name: int) -> None:
        self.step, self.first = step, first
        self.buffer = Buffer(name, ARENA, step * (end - first), whole.dtype)

    def move(self, t: Tensor) -> None:
        """Have a view of the whole buffer be one of the window."""
        t.buffer, t.offset = self.buffer, t.offset - self.step * self.first


def may_cut(launches: list[Launch], sizes: Iterable[int]) -> bool:
    """Could launches of these kernels on buffers of these sizes (bytes) have chains? For plans whose shapes are not known yet."""
    return any(launch.kernel == "conv" for launch in launches) and any(n >= min(LARGE.values()) for n in sizes)


def cut_chains(launches: list[Launch], results: set[Buffer], workers: int, stats: Stats) -> Cut:
    """Cut what is worth it, for fixed shapes only. `results`: buffers that are read after the plan."""
    return _Cutter(launches, results, workers, stats).run()


class _Cutter:
    def __init__(self, launches: list[Launch], results: set[Buffer], workers: int, stats: Stats) -> None:
        self.launches, self.results, self.workers, self.stats = launches, results, workers, stats
        self.known = {t.buffer for launch in launches for t in launch.tensors()}
        self.names = itertools.count(max((b.id for b in self.known), default=0) + 1)
        self.out: list[Launch] = []
        self.strands: list[Strands] = []
        self.own_memory: set[Buffer] = set()
        self.bounds: dict[Buffer, int] = {}
        self.large = {axis: n * max(1, workers // 2) for axis, n in LARGE.items()}

    def run(self) -> Cut:
        uses = _uses(self.launches)
        at = 0
        while at < len(self.launches):
            n = _rows(self.launches[at], _IMAGES)
            chain, regions, private = self.chain(self.launches, at, _IMAGES, uses, self.results)
            if chain and n >= BALANCE * self.workers * -(-n // self.workers):
                self.emit(self.images(chain, regions, private))
            else:
                chain, strands = self.rows(self.launches, at, uses, self.results, self.workers)
                self.emit(strands)
            at += len(chain)
        return Cut(self.out, self.strands, self.own_memory, self.bounds)

    def images(self, chain: list[Launch], regions: Regions, private: set[Buffer]) -> list[list[Launch]]:
        """The strands of a chain of launches on several images."""
        count(self.stats, "chains of images")
        self.own_memory |= _overtaken(chain)
        n, strands = _rows(chain[0], _IMAGES), self.workers
        most = max((regions[b][1] * b.dtype.itemsize for b in private), default=0)  # bytes of an image
        together = max(1, BAND // most, -(-n // MOST_PARTS)) if most else n
        lists = []
        for strand in range(strands):
            pieces: list[Launch] = []
            lists.append(pieces)
            start, stop = n * strand // strands, n * (strand + 1) // strands
            for first in range(start, stop, together):
                end = min(first + together, stop)
                windows = {b: _Window(b, regions[b][1], first, end, next(self.names)) for b in private}
                some = [_piece(launch, _IMAGES, first, end) for launch in chain]
                for t in (t for piece in some for t in piece.tensors()):
                    if t.buffer in windows:
                        windows[t.buffer].move(t)
                uses = _uses(some)
                shared = uses.keys() - {w.buffer for w in windows.values()}
                at = 0
                while at < len(some):
                    rows, (cut,) = self.rows(some, at, uses, shared, 1)
                    pieces += cut
                    at += len(rows)
        return lists

    def rows(
        self, launches: list[Launch], at: int, uses: dict[Buffer, int], shared: AbstractSet[Buffer], workers: int
    ) -> tuple[list[Launch], list[list[Launch]]]:
        """The chain of launches on one image that begins at `at`, or the one launch there, and its strands. `shared`: buffers that others see."""
        chain, regions, private = self.chain(launches, at, _ROWS, uses, shared)
        inner = {k for reads in _feeds(chain) for _, k in reads}
        strands = workers if all(_result(chain[k]).buffer in private for k in inner) else 1
        if min((_rows(launch, _ROWS) for k, launch in enumerate(chain) if k not in inner), default=0) < max(1, STRAND_ROWS * strands):
            return launches[at : at + 1], [launches[at : at + 1]]
        count(self.stats, "chains of rows")
        self.own_memory |= _overtaken(chain)
        return chain, [_bands(chain, regions, private, self.names, strand, strands) for strand in range(strands)]

    def chain(
        self, launches: list[Launch], start: int, axis: int, uses: dict[Buffer, int], shared: AbstractSet[Buffer]
    ) -> tuple[list[Launch], Regions, set[Buffer]]:
        """What is worth cutting together along `axis`, from `start` on: a chain of which large tensors are read back, with a convolution (other
        launches alone are left to plans for any shape), and its private buffers. Empty if there is nothing to gain.

        A chain of rows ends before the first launch that reads nothing large of it: its tensors all need memory at the same time.
        """
        rows = _rows(launches[start], axis)
        chain: list[Launch] = []
        regions: Regions = {}
        for launch in launches[start:] if rows > 1 else ():
            if not _cuttable(launch, axis) or (axis == _IMAGES and _rows(launch, axis) != rows):
                break
            roles = _roles(launch, axis)
            if any(t.buffer in regions for t in roles.whole) or not all(_fits(t, axis, regions) for t in roles.cut):
                break
            if chain and axis == _ROWS and not any(t.buffer in regions and _bytes(t) >= self.large[axis] for t in roles.cut):
                break
            y = _result(launch)
            begun = {y.buffer: (y.offset, y.strides[axis]), **regions}
            if not _fits(y, axis, begun):
                break
            regions = begun
            chain.append(launch)
        chain = self.waiting_for_memory(chain, _private(chain, regions, uses, shared, axis), axis)
        if not any(launch.kernel == "conv" for launch in chain):
            return [], {}, set()
        return chain, regions, _private(chain, regions, uses, shared, axis)

    def waiting_for_memory(self, chain: list[Launch], private: set[Buffer], axis: int) -> list[Launch]:
        """The part of a chain, from its beginning, that gains most: the fewest operations beyond what the large tensors that it reads back are
        worth. Private ones are not written to memory either. Empty if there is nothing to gain."""
        made: set[Buffer] = set()
        read: set[Buffer] = set()
        best = gain = end = 0
        for k, launch in enumerate(chain, 1):
            gain -= flops(launch)
            for t in launch.reads():
                if t.buffer in made and t.buffer not in read and _bytes(t) >= self.large[axis]:
                    read.add(t.buffer)
                    gain += INTENSITY[axis] * _bytes(t) * (2 if t.buffer in private else 1)
            made.add(_result(launch).buffer)
            if gain > best:
                best, end = gain, k
        return chain[:end]

    def emit(self, lists: list[list[Launch]]) -> None:
        begin = len(self.out)
        ends = []
        for pieces in lists:
            self.place_windows(pieces)
            self.out += pieces
            ends.append(len(self.out))
        if len(lists) > 1:
            self.strands.append(Strands(begin, tuple(ends)))

    def place_windows(self, pieces: list[Launch]) -> None:
        """Give the windows of a strand one buffer, in which they share memory as the buffers of a plan do."""
        life = {b: span for b, span in lifetimes(pieces).items() if b not in self.known}
        if not life:
            return
        items, holders = share(life, in_place(pieces, {}, only=set(life)))
        offsets, total = place(items)
        at = {b: offsets[k] for b, k in holders}
        whole = Buffer(next(self.names), ARENA, total, U8)
        self.bounds[whole] = lower_bound(items, len(pieces))
        for t in {id(t): t for launch in pieces for t in launch.tensors() if t.buffer in life}.values():
            t.offset += at[t.buffer] // t.dtype.itemsize
            t.buffer = whole


def _feeds(chain: list[Launch]) -> list[list[tuple[bool, int]]]:
    """For every launch which earlier ones make (parts of) its operands, and whether its windows move over what they make."""
    feeds: list[list[tuple[bool, int]]] = []
    for i, launch in enumerate(chain):
        roles = _roles(launch, _ROWS)
        operands = [(t, True) for t in roles.sources] + [(t, False) for t in roles.elementwise]
        feeds.append([(windows, k) for t, windows in operands for k in range(i) if _result(chain[k]).buffer is t.buffer])
    return feeds


def _bands(chain: list[Launch], regions: Regions, own: set[Buffer], names: Iterator[int], strand: int, strands: int) -> list[Launch]:
    """The pieces of a strand of a chain, in the order in which they run: each as far as the pieces that read it need.

    Rows of a window that later pieces read again are copied to the next window.
    """
    rows = [_rows(launch, _ROWS) for launch in chain]
    feeds = _feeds(chain)
    readers = [[(windows, j) for j in range(len(chain)) for windows, k in feeds[j] if k == i] for i in range(len(chain))]

    def reads(windows: bool, j: int, first: int, end: int) -> Shape:
        """The rows of an operand of launch j that rows [first, end) of its output read."""
        return _window(chain[j], first, end) if windows and end > first else (first, end)

    sinks = {k for k in range(len(chain)) if not readers[k]}
    begin = [n * strand // strands if k in sinks else n if _result(chain[k]).buffer in own else 0 for k, n in enumerate(rows)]
    stop = [n * (strand + 1) // strands if k in sinks else 0 if _result(chain[k]).buffer in own else n for k, n in enumerate(rows)]
    for i in range(len(chain) - 1, -1, -1):
        for windows, j in readers[i]:
            begin[i] = min(begin[i], reads(windows, j, begin[j], begin[j] + 1)[0])
    sizes = [_bytes(_result(launch)) for launch in chain]
    most = max(n + sum(sizes[k] for k in {k for _, k in feeds[i]}) for i, n in enumerate(sizes)) // strands
    parts = max(1, min(-(-most // BAND), MOST_PARTS, min(stop[k] - begin[k] for k in sinks)))
    out: list[Launch] = []
    done = list(begin)
    held: dict[Buffer, _Window] = {}
    made_for: dict[Buffer, list[Buffer]] = {b: [] for b in own}
    for part in range(1, parts + 1):
        need = [b + (e - b) * part // parts if k in sinks else e if part == parts else 0 for k, (b, e) in enumerate(zip(begin, stop))]
        for i in range(len(chain) - 1, -1, -1):
            for windows, j in readers[i]:
                need[i] = max(need[i], reads(windows, j, 0, need[j])[1])
        for i, launch in enumerate(chain):
            if need[i] <= done[i]:
                continue
            y = _result(launch)
            if y.buffer in own:
                keep = min([done[i], *(reads(windows, j, done[j], done[j] + 1)[0] for windows, j in readers[i])])
                before = held.get(y.buffer)
                now = held[y.buffer] = _Window(y.buffer, regions[y.buffer][1], keep, need[i], next(names))
                made_for[y.buffer].append(now.buffer)
                if before is not None and keep < done[i]:
                    halo, kept = y.slice(_ROWS, keep, done[i] - keep), y.slice(_ROWS, keep, done[i] - keep)
                    before.move(halo)
                    now.move(kept)
                    out.append(Launch("map", [halo], [kept], None, (("load", (0,), y.dtype),), launch.nodes))
            piece = _piece(launch, _ROWS, done[i], need[i])
            for t in piece.tensors():
                if t.buffer in held:
                    held[t.buffer].move(t)
            out.append(piece)
            done[i] = need[i]
    for group in made_for.values():  # of one size, so that they find room in turns
        for b in group:
            b.size = max(b.size for b in group)
    return out


def _private(chain: list[Launch], regions: Regions, uses: dict[Buffer, int], shared: AbstractSet[Buffer], axis: int) -> set[Buffer]:
    """Buffers that nothing outside the chain sees, and that its rows (images) fill: one launch's, if rows are made at different times."""
    used = _uses(chain)
    writers: dict[Buffer, list[Tensor]] = {}
    for launch in chain:
        for t in launch.writes():
            writers.setdefault(t.buffer, []).append(t)
    return {
        b
        for b, (base, step) in regions.items()
        if b in writers
        and b.kind == ARENA
        and b not in shared
        and used[b] == uses[b]
        and base == 0
        and b.size == step * writers[b][0].shape[axis]
        and (axis == _IMAGES or len(writers[b]) == 1)
    }


def _overtaken(chain: list[Launch]) -> set[Buffer]:
    """Results that may not take over an elementwise operand's memory, because pieces of other launches may still read it then."""
    return {
        launch.outs[0].buffer
        for launch in chain
        for t in launch.elementwise_reads()
        if launch.outs[0] is not None and any(u.buffer is t.buffer for other in chain if other is not launch for u in other.reads())
    }


def _fits(t: Tensor, axis: int, regions: Regions) -> bool:
    """Does row r of this view lie in row r of the buffer as the chain makes it?"""
    found = regions.get(t.buffer)
    if found is None:
        return True
    base, step = found
    inside = sum((n - 1) * s for k, (n, s) in enumerate(zip(t.shape, t.strides)) if k != axis)
    return t.shape[axis] > 1 and t.strides[axis] == step and min(t.strides) >= 0 and base <= t.offset and t.offset - base + inside < step


def _cuttable(launch: Launch, axis: int) -> bool:
    """Can this launch be cut along the axis, and should it be?"""
    y = launch.outs[0] if launch.outs else None
    if y is None or len(launch.writes()) != 1 or y.size == 0 or (y.ndim != 4 if axis == _ROWS else y.ndim < 3):
        return False
    if any(op == "iota" for program in (launch.body, launch.prologue, launch.epilogue) for op, _, _ in program):
        return False
    if launch.kernel == "map":
        return True
    if launch.kernel == "conv":
        return _streams(launch, axis)
    if launch.kernel == "pool" and axis == _ROWS:  # (an average's last windows may reach beyond the pads that it counts)
        return bool(launch.params["op"] == "max") and _sees_rows(launch)
    x = launch.ins[0] if launch.ins else None
    if axis != _IMAGES or x is None:
        return False
    # (Channels as lanes: other sums are added up in an order that depends on how many there are.)
    lanes = launch.kernel == "reduce" and not launch.prologue and x.strides[1] == 1 and x.shape[1] > FEW_CHANNELS
    return launch.kernel == "pool" or (lanes and min(launch.params["axes"], default=0) > 1)


def _roles(launch: Launch, axis: int) -> _Roles:
    """The operands of a launch that can be cut along the axis."""
    y = _result(launch)
    if launch.kernel == "map":
        return _Roles([], *_by_axis([t for t in launch.ins if t is not None], axis, y))
    elementwise, whole = _by_axis(launch.epi_ins, axis, y)
    sources = launch.pro_ins if launch.prologue else [t for t in launch.ins[:1] if t is not None]
    return _Roles(sources, elementwise, whole + [t for t in launch.ins[1:] if t is not None])


def _streams(launch: Launch, axis: int) -> bool:
    """Is a convolution bound by its activations, and are its sums added up in one order whatever its rows are?

    Dense windows at stride 1 or with gaps and windows of few channels are computed in several ways (Winograd, tap by tap, by planes), chosen
    by the image's size. Pieces of a convolution with large weights would read those again and again.
    """
    x, w, y, p = launch.ins[0], launch.ins[1], launch.outs[0], launch.params
    assert x is not None and w is not None and y is not None
    if not _sees_rows(launch):
        return False
    group = p.get("group", 1)
    depthwise = w.shape[1] == 1 and w.shape[0] == group
    windowed = [k for k, n in enumerate(w.shape[2:]) if n > 1]
    if windowed and (group <= FEW_CHANNELS if depthwise else w.shape[0] // group <= FEW_OUTPUTS):
        return False
    if not depthwise and any(p["strides"][k] == 1 or p["dilations"][k] > 1 for k in windowed):
        return False
    pixels = (_bytes(x) + _bytes(y)) // x.shape[0]
    weights, squeezed = _bytes(w), axis == _IMAGES and y.size == y.shape[0] * y.shape[1]
    return weights * 2 <= pixels or (squeezed and weights <= BAND)


def _by_axis(operands: list[Tensor], axis: int, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Operands of y's shape: those that have the axis, and those that are broadcast along it."""
    cut = [t for t in operands if t.strides[axis] != 0 or y.shape[axis] == 1]
    return cut, [t for t in operands if not any(t is c for c in cut)]


def _reaches(launch: Launch) -> list[int]:
    """From the first to the last pixel under the window of a convolution or pool, along each spatial axis."""
    w = launch.ins[1] if launch.kernel == "conv" else None
    return [(n - 1) * d + 1 for n, d in zip(launch.params["kernel"] if w is None else w.shape[2:], launch.params["dilations"])]


def _sees_rows(launch: Launch) -> bool:
    """Does every window see some pixel of the input?"""
    return all(pad < reach for pad, reach in zip(launch.params["pads"], _reaches(launch) * 2))


def _window(launch: Launch, first: int, end: int) -> Shape:
    """The rows of the input of a convolution or pool under the windows of rows [first, end) of its output."""
    x, p = launch.ins[0], launch.params
    assert x is not None
    step, pad = p["strides"][0], p["pads"][0]
    return max(0, first * step - pad), min(x.shape[_ROWS], (end - 1) * step - pad + _reaches(launch)[0])


def _piece(launch: Launch, axis: int, first: int, end: int) -> Launch:
    """The launch for rows [first, end) of its output along the axis."""
    roles, y, x = _roles(launch, axis), _result(launch), launch.ins[0] if launch.ins else None
    params = launch.params
    source: Shape = (first, end)
    if axis == _ROWS and launch.kernel in ("conv", "pool"):
        pads, step = list(launch.params["pads"]), launch.params["strides"][0]
        source = _window(launch, first, end)
        top = first * step - pads[0]  # of the window, and below its bottom
        bottom = (end - 1) * step - pads[0] + _reaches(launch)[0]
        pads[0], pads[len(pads) // 2] = source[0] - top, bottom - source[1]
        params = {**params, "pads": tuple(pads)}

    def cut(t: Tensor, rows: Shape) -> Tensor:
        if any(t is c for c in roles.cut) or t is y or (t is x and launch.kernel != "map"):
            return t.slice(axis, rows[0], rows[1] - rows[0])
        return t.slice(axis, 0, end - first) if t.shape == y.shape else t.clone()  # broadcast along the axis; whole

    elementwise = launch.kernel == "map"
    ins = [t and (cut(t, (first, end)) if elementwise else cut(t, source) if k == 0 else t.clone()) for k, t in enumerate(launch.ins)]
    new = Launch(launch.kernel, ins, [t and cut(t, (first, end)) for t in launch.outs], params, launch.body, launch.nodes)
    new.prologue, new.epilogue, new.acc_dtype = launch.prologue, launch.epilogue, launch.acc_dtype
    new.pro_ins = [cut(t, source) for t in launch.pro_ins]
    new.epi_ins = [cut(t, (first, end)) for t in launch.epi_ins]
    return new


def _result(launch: Launch) -> Tensor:
    y = launch.outs[0]
    assert y is not None
    return y


def _bytes(t: Tensor) -> int:
    return t.size * t.dtype.itemsize


def _rows(launch: Launch, axis: int) -> int:
    y = launch.outs[0]
    return 0 if y is None or y.ndim <= axis or is_symbolic(y.shape[axis]) else y.shape[axis]


def _uses(launches: list[Launch]) -> dict[Buffer, int]:
    """How many operands and results lie in each buffer."""
    found: dict[Buffer, int] = {}
    for launch in launches:
        for t in launch.tensors():
            found[t.buffer] = found.get(t.buffer, 0) + 1
    return found
