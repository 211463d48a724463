"""`scan`: along rows by tiles, across them by one thread per row; few and long rows are cut into stretches, with a launch for their totals."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from ....lowering.tensor import Launch, Tensor
from ..build import Call, Scratch
from ..manifest import Entry
from .row_layout import ENOUGH, THREADS, Layout, ceil_pow2, floor_pow2, refuse_complex
from .rows import sweep
from .samples import launch, tensor

ROWS = Entry("scan_rows", "scan_rows.cuh", THREADS, wide_loads=True)
COLUMNS = Entry("scan_columns", "scan_columns.cuh", THREADS)
ENTRIES = (ROWS, COLUMNS)

WHOLE, TOTALS, APPLY = range(3)  # ScanPhase of csrc/cuda/scan_sums.cuh
RUN = 4  # elements of a thread per tile, at least


def scan(launch: Launch) -> list[Call]:
    """Cumulative sum or product along one axis."""
    refuse_complex(launch)
    axis = launch.params["axis"]
    if launch.params.get("reverse", 0):
        launch = _flipped(launch, axis)
    layout = Layout(launch, (axis,))
    if layout.columns:
        layout.set_width([])  # more threads are worth more than wider loads
        log2, stretches, share = _column_stretches(layout)
    else:
        log2 = _lanes(layout)
        stretches, share = layout.splits(log2)
    calls = []
    for phase in (WHOLE,) if stretches == 1 else (TOTALS, APPLY):
        b = sweep(layout, COLUMNS if layout.columns else ROWS, 0, log2, 1, share)
        b.define("PHASE", phase)
        b.define("PRODUCT", launch.params["op"] == "prod")
        b.scalar("exclusive", "bool", bool(launch.params.get("exclusive", 0)))
        layout.sink(b)
        if phase != WHOLE:
            b.pointer("partial", "void", Scratch(0))
        down = -(-stretches >> log2) if layout.columns else stretches
        calls.append(b.call((layout.blocks(log2), down, 1), scratch=0 if phase == WHOLE else layout.units * stretches * 8))
    return calls


def _flipped(launch: Launch, axis: int) -> Launch:
    """The same scan in the other direction, on operands that run backwards."""

    def flip(t: Tensor | None) -> Tensor:
        assert t is not None
        n = int(t.shape[axis])
        return t.slice(axis, n - 1, n, -1)

    made = Launch("scan", [flip(launch.ins[0])], [flip(launch.outs[0])], launch.params)
    made.acc_dtype = launch.acc_dtype
    return made


def _lanes(layout: Layout) -> int:
    """log2 of the threads that share a row: part of a warp, or a block."""
    runs = max(1, -(-layout.steps * layout.width // max(RUN, layout.width)))
    lanes = min(32, ceil_pow2(runs))
    if runs >= THREADS or (runs > 64 and layout.units * lanes < ENOUGH):
        lanes = THREADS
    return lanes.bit_length() - 1


def _column_stretches(layout: Layout) -> tuple[int, int, int]:
    """(log2 of the stretches of a row in one block, stretches, steps of each). A stretch reads the totals of all before it, so they stay few."""
    steps = max(1, layout.steps)
    stretches = floor_pow2(max(1, min(ENOUGH // layout.units, steps // 32, 2 * isqrt(steps))))
    if stretches < 4:
        return 0, 1, steps
    lanes = min(stretches, THREADS // min(32, ceil_pow2(layout.units)))
    share = -(-steps // stretches)
    return lanes.bit_length() - 1, stretches, share


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""

    def made(shape: tuple[int, ...], axis: int, dtype: str = "float32", op: str = "sum") -> Launch:
        return launch("scan", [tensor(shape, dtype)], shape, dtype, op=op, axis=axis, exclusive=0, reverse=0)

    for dtype in ("float32", "float16", "int64"):
        yield ROWS, f"sum, {dtype}", made((1024, 1024), 1, dtype)
        yield COLUMNS, f"sum, {dtype}", made((256, 65536), 0, dtype)
    yield ROWS, "product, one long row, split", made((1, 1 << 20), 1, op="prod")
    yield COLUMNS, "few columns, split", made((1 << 16, 3), 0)
