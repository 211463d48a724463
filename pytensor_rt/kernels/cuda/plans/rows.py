"""`reduce`, `arg_reduce` and `quantize_stats`: rows to one result each, by one kernel for all; few and long rows are cut into stretches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ....dtypes import F16, F32, I64, U8
from ....errors import UnsupportedError
from ....lowering.expr import cast, exp, program_of
from ....lowering.tensor import Launch
from ..build import Builder, Call, Scratch, operand
from ..manifest import Entry
from .row_layout import THREADS, Layout, refuse_complex
from .samples import launch, tensor

REDUCE = Entry("reduce", "reduce.cuh", THREADS, wide_loads=True)
FINISH = Entry("reduce_finish", "reduce_finish.cuh", THREADS)
ENTRIES = (REDUCE, FINISH)

# Numbers of `Reduction` and `Finish` in csrc/cuda/states.cuh
SUM, SQUARE, ABS, PROD, MAX, MIN, LOG_SUM_EXP, ARG = range(8)
RANGE = ARG + 4  # after max, min, last max, last min
PLAIN, MEAN, ROOT, LOG = range(4)
OPS = {
    "sum": (SUM, PLAIN), "mean": (SUM, MEAN), "log_sum": (SUM, LOG), "sum_square": (SQUARE, PLAIN), "l2": (SQUARE, ROOT), "l1": (ABS, PLAIN),
    "prod": (PROD, PLAIN), "max": (MAX, PLAIN), "min": (MIN, PLAIN), "log_sum_exp": (LOG_SUM_EXP, PLAIN),
}  # fmt: skip
MAX_STATE = 16  # bytes of the largest state


def reduce(launch: Launch) -> list[Call]:
    """A sum, product, extreme or the like over any axes."""
    op, finish = OPS[launch.params["op"]]
    return _reduction(launch, op, tuple(launch.params["axes"]), finish)


def arg_reduce(launch: Launch) -> list[Call]:
    """The position of the extreme along one axis. Raises UnsupportedError where there is no element to find."""
    x, axis = launch.ins[0], launch.params["axis"]
    assert x is not None
    if x.shape[axis] == 0:
        raise UnsupportedError("arg_reduce: no element along the axis")
    op = ARG + (launch.params["op"] == "min") + 2 * bool(launch.params.get("select_last", 0))
    return _reduction(launch, op, (axis,))


def quantize_stats(launch: Launch) -> list[Call]:
    """The scale and zero point of DynamicQuantizeLinear from the range of all of x."""
    x = launch.ins[0]
    assert x is not None
    return _reduction(launch, RANGE, range(x.ndim))


def _reduction(launch: Launch, op: int, axes: Sequence[int], finish: int = PLAIN) -> list[Call]:
    refuse_complex(launch)
    layout = Layout(launch, axes, y=op != RANGE)
    log2 = layout.lanes()
    splits, share = layout.splits(log2)
    b = sweep(layout, REDUCE, op, log2, splits, share)
    b.define("SPLIT", splits > 1)
    grid = (layout.blocks(log2), splits, 1)
    if splits == 1:
        _results(b, layout, op, finish)
        return [b.call(grid)]
    calls = [b.call(grid, scratch=partial_bytes(layout, splits))]
    f = Builder(launch, FINISH, layout.wide)
    x = launch.prologue[-1][2] if launch.prologue else layout.xs[0][1].dtype
    for name, value in (("RANK", layout.rank), ("KEPT", layout.kept), ("OP", op)):
        f.define(name, value)
    f.type("X", x)
    f.sizes("size", layout.sizes)
    f.scalar("units", "idx", layout.rows)
    f.scalar("splits", "i32", splits)
    f.pointer("partial", "void", Scratch(0))
    _results(f, layout, op, finish)
    return [*calls, f.call(-(-layout.rows * 32 // THREADS), scratch=partial_bytes(layout, splits))]


def sweep(layout: Layout, entry: Entry, op: int, log2: int, splits: int, share: int) -> Builder:
    """A kernel that walks rows as csrc/cuda/sweep.cuh does. A split one has `partial`, the states at the start of the launch's scratch."""
    b = Builder(layout.launch, entry, layout.wide)
    b.define("OP", op)
    layout.declare(b)
    b.scalar("log2", "i32", log2)
    b.scalar("share", "idx", share)
    layout.source(b)
    if splits > 1:
        b.pointer("partial", "void", Scratch(0))
    return b


def partial_bytes(layout: Layout, splits: int) -> int:
    """Scratch for the states of all stretches."""
    return layout.rows * splits * MAX_STATE


def _results(b: Builder, layout: Layout, op: int, finish: int) -> None:
    """What reduce_result.cuh needs."""
    scale = layout.launch.outs[0]
    assert scale is not None
    if op == RANGE:
        zero = layout.launch.outs[1]
        assert zero is not None
        if scale.dtype != F32 or zero.dtype != U8:
            raise UnsupportedError("quantize_stats: scale is float32, zero_point uint8")
        b.type("Acc", F32)
        b.pointer("scale", "f32", operand(scale))
        b.pointer("zero", "u8", operand(zero))
        return
    b.scalar("finish", "i32", finish)
    b.scalar("count", "i64", layout.count)
    layout.result(b)


def _kept(shape: tuple[int, ...], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""

    def made(op: str, shape: tuple[int, ...], axes: tuple[int, ...], dtype: str = "float32") -> Launch:
        return launch("reduce", [tensor(shape, dtype)], _kept(shape, axes), dtype, op=op, axes=axes)

    for dtype in ("float32", "float16", "float64", "int16"):
        yield REDUCE, f"sum of rows, {dtype}", made("sum", (4096, 1024), (1,), dtype)
        yield REDUCE, f"mean of columns, {dtype}", made("mean", (64, 4096), (0,), dtype)
    for op in ("max", "log_sum_exp", "l2"):
        yield REDUCE, f"{op} of rows", made(op, (4096, 1024), (1,))
    yield REDUCE, "sum of all, split", made("sum", (1 << 22,), (0,))
    yield FINISH, "sum of all", made("sum", (1 << 22,), (0,))
    x = tensor((512, 1000))
    yield REDUCE, "arg max", launch("arg_reduce", [x], (512, 1), "int64", op="max", axis=1, acc=I64)
    yield REDUCE, "quantize_stats", launch("quantize_stats", [tensor((64, 768))], [tensor(()), tensor((), "uint8")])
    fused = launch(
        "reduce",
        [x],
        (512, 1),
        "float16",
        epilogue=lambda v, s: cast(v * s, F16),
        epi_ins=[tensor((512, 1))],
        acc=F32,
        op="mean",
        axes=(1,),
    )
    fused.pro_ins, fused.prologue = [x, tensor((1000,), shape=(512, 1000))], program_of(lambda u, w: exp(u) * w, [F32, F32])
    yield REDUCE, "mean with programs", fused
