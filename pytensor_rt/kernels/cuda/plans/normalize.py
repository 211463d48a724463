"""`softmax` and `normalize`: rows in registers where they fit, otherwise several sweeps over memory; few and long rows are cut into stretches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....dtypes import F16, F32, F64
from ....lowering.expr import cast, program_of
from ....lowering.tensor import Launch, Tensor
from ...axes import Strides
from ..build import Builder, Call, Scratch
from ..manifest import Entry
from .row_layout import ENOUGH, THREADS, Layout, ceil_pow2, floor_pow2, refuse_complex
from .rows import ARG, LOG_SUM_EXP, REDUCE, partial_bytes, sweep
from .samples import launch, tensor

SOFTMAX_ROWS = Entry("softmax_rows", "softmax_rows.cuh", THREADS, registers=80, wide_loads=True)
SOFTMAX_SWEEP = Entry("softmax_sweep", "softmax_sweep.cuh", THREADS, registers=80, wide_loads=True)
NORMALIZE_ROWS = Entry("normalize_rows", "normalize_rows.cuh", THREADS, registers=80, wide_loads=True)
NORMALIZE_SWEEP = Entry("normalize_sweep", "normalize_sweep.cuh", THREADS, wide_loads=True)
ENTRIES = (SOFTMAX_ROWS, SOFTMAX_SWEEP, NORMALIZE_ROWS, NORMALIZE_SWEEP)

HELD = 128  # bytes of a row that a thread holds in registers
ITEMS = 16  # loads of them, at most
WHOLE, FIRST, SQUARES, APPLY = range(4)  # NormalizeStage of csrc/cuda/normalize_sweep.cuh


def softmax(launch: Launch) -> list[Call]:
    """Along one axis: softmax, log_softmax or hardmax."""
    refuse_complex(launch)
    mode = ("softmax", "log_softmax", "hardmax").index(launch.params["op"])
    layout = Layout(launch, (launch.params["axis"],))
    op = ARG if mode == 2 else LOG_SUM_EXP
    held = _held(layout)
    if held is not None:
        log2, items = held
        b = sweep(layout, SOFTMAX_ROWS, op, log2, 1, layout.steps)
        b.define("MODE", mode)
        b.define("ITEMS", items)
        layout.sink(b)
        return [b.call(layout.blocks(log2))]
    log2 = layout.lanes()
    splits, share = layout.splits(log2)
    calls = []
    if splits > 1:
        b = sweep(layout, REDUCE, op, log2, splits, share)
        b.define("SPLIT", True)
        layout.result(b)
        b.scalar("finish", "i32", 0)
        b.scalar("count", "i64", layout.count)
        calls.append(b.call((layout.blocks(log2), splits, 1), scratch=partial_bytes(layout, splits)))
    b = sweep(layout, SOFTMAX_SWEEP, op, log2, splits, share)
    b.define("MODE", mode)
    b.define("PARTIALS", splits > 1)
    layout.sink(b)
    calls.append(b.call((layout.blocks(log2), splits, 1), scratch=partial_bytes(layout, splits) if splits > 1 else 0))
    return calls


def normalize(launch: Launch) -> list[Call]:
    """Layer or rms normalisation over any axes, with scale, bias and the statistics as outputs where they are present."""
    refuse_complex(launch)
    ins = [*launch.ins, None, None][1:3]
    outs = [*launch.outs, None, None][1:3]
    more = [t for t in (*ins, *outs) if t is not None]
    layout = Layout(launch, tuple(launch.params["axes"]), more)
    strides = iter(layout.more)
    operands = [None if t is None else (t, next(strides)) for t in (*ins, *outs)]
    held = _held(layout)
    if held is not None:
        log2, items = held
        b = _normalizer(layout, NORMALIZE_ROWS, log2, 1, layout.steps, operands)
        b.define("ITEMS", items)
        return [b.call(layout.blocks(log2))]
    log2 = layout.lanes()
    splits, share = layout.splits(log2)
    layer = launch.params["op"] == "layer"
    stages = [WHOLE] if splits == 1 else [FIRST, *([SQUARES] if layer else []), APPLY]
    half = partial_bytes(layout, splits) // 2
    calls = []
    for stage in stages:
        b = _normalizer(layout, NORMALIZE_SWEEP, log2, splits, share, operands)
        b.define("STAGE", stage)
        if splits > 1:
            b.pointer("squares", "void", Scratch(half))
        calls.append(b.call((layout.blocks(log2), splits, 1), scratch=2 * half if splits > 1 else 0))
    return calls


def _normalizer(layout: Layout, entry: Entry, log2: int, splits: int, share: int, operands: list[tuple[Tensor, Strides] | None]) -> Builder:
    """What every kernel of normalize has: `operands` are scale, bias, mean, inv_std."""
    params = layout.launch.params
    b = sweep(layout, entry, 0, log2, splits, share)
    b.define("LAYER", params["op"] == "layer")
    b.scalar("count", "i64", layout.count)
    x = layout.launch.prologue[-1][2] if layout.launch.prologue else layout.xs[0][1].dtype
    real = "f64" if x == F64 else "f32"
    b.scalar("epsilon", real, float(params["epsilon"]))
    layout.sink(b)
    for name, absent, operand in zip(("scale", "bias"), ("1", "0"), operands):
        text = f"{real}({absent})" if operand is None else f"static_cast<{real}>({{{name}}})"
        layout.loads(b, f"load_{name}s" if name == "scale" else "load_biases", real, [] if operand is None else [(name, *operand)], text)
    for name, operand in zip(("mean", "inverse"), operands[2:]):
        body = ""
        if operand is not None:
            t, strides = operand
            b.view(name, t, strides)
            b.type(f"T_{name}", t.dtype)
            body = f"a.{name}_data[at_{name}(a, c)] = stored<T_{name}>(op::cast<T_{name}, {real}>(v));"
        b.functions.append(f"__forceinline__ void store_{name}(const Args& a, const Idx (&c)[RANK], {real} v) {{ {body} }}")
    return b


def _held(layout: Layout) -> tuple[int, int] | None:
    """(log2 of the threads of a row, loads of each) if rows fit in registers, else None. Rows across the memory order never do."""
    if layout.columns or layout.steps == 0:
        return None
    size = 8 if any(t.dtype == F64 for _, t, _ in layout.xs) else 4
    most = min(ITEMS, max(1, HELD // (size * layout.width)))
    if layout.steps > THREADS * most:
        return None
    lanes = max(ceil_pow2(-(-layout.steps // most)), min(32, floor_pow2(layout.steps)))
    while lanes < THREADS and lanes < layout.steps and layout.units * lanes < ENOUGH:
        lanes *= 2
    return lanes.bit_length() - 1, ceil_pow2(-(-layout.steps // lanes))


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""

    def rows(kernel: str, shape: tuple[int, ...], dtype: str = "float32", **params: Any) -> Launch:
        x = tensor(shape, dtype)
        factors = [tensor(shape[-1:], dtype, shape=shape) for _ in range(2)] if kernel == "normalize" else []
        return launch(kernel, [x, *factors], shape, dtype, **params)

    for dtype in ("float32", "float16", "float64"):
        yield SOFTMAX_ROWS, f"softmax, {dtype}", rows("softmax", (4096, 1024), dtype, op="softmax", axis=1)
        yield SOFTMAX_SWEEP, f"softmax across, {dtype}", rows("softmax", (64, 4096), dtype, op="softmax", axis=0)
        yield NORMALIZE_ROWS, f"layer, {dtype}", rows("normalize", (4096, 1024), dtype, op="layer", axes=(1,), epsilon=1e-5)
        yield NORMALIZE_SWEEP, f"layer across, {dtype}", rows("normalize", (64, 4096), dtype, op="layer", axes=(0,), epsilon=1e-5)
    for op in ("log_softmax", "hardmax"):
        yield SOFTMAX_ROWS, op, rows("softmax", (4096, 1024), op=op, axis=1)
    yield SOFTMAX_SWEEP, "long rows", rows("softmax", (1024, 50_000), op="softmax", axis=1)
    yield SOFTMAX_SWEEP, "one long row, split", rows("softmax", (1, 1 << 20), op="softmax", axis=1)
    masked = launch(
        "softmax", [tensor((64, 512))], (64, 512), "float16", epilogue=lambda v: cast(v, F16), acc=F32, op="softmax", axis=1
    )  # fmt: skip
    masked.pro_ins = [tensor((64, 512)), tensor((512,), shape=(64, 512))]
    masked.prologue = program_of(lambda x, m: x * 0.125 + m, [F32, F32])
    yield SOFTMAX_ROWS, "scaled and masked, to float16", masked
    yield NORMALIZE_ROWS, "rms", rows("normalize", (4096, 4096), op="rms", axes=(1,), epsilon=1e-6)
    yield NORMALIZE_SWEEP, "long rows", rows("normalize", (1024, 50_000), op="layer", axes=(1,), epsilon=1e-5)
    yield NORMALIZE_SWEEP, "one long row, split", rows("normalize", (1, 1 << 20), op="layer", axes=(1,), epsilon=1e-5)
