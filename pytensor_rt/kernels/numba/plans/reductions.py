"""Kernels `reduce`, `arg_reduce`, `scan` and `quantize_stats`."""

from __future__ import annotations

import math

from ....dtypes import BOOL, F32, F64, I64, U8, U64, DType, is_float
from ....errors import UnsupportedError
from ..build import Builder, Word, f64, view
from ..programs import program_cost, width
from . import edges
from .layout import Layout, arrange, sink_words, source_words

CHUNK = 4096  # the longest stretch of a row in the elements' own precision
LANE_ROWS = 32  # the same of a column
LANE_COLS = 256
UNIT = 16384  # elements of a unit, at least
SEGMENT = 1 << 16  # elements of a segment, at least
_KINDS = {
    "sum": "sum", "mean": "sum", "max": "max", "min": "min", "prod": "prod", "l1": "abs", "l2": "square", "log_sum": "sum", "log_sum_exp": "exp",
    "sum_square": "square",
}  # fmt: skip
_FINISH = {"mean": 1, "l2": 3, "log_sum": 5, "log_sum_exp": 7}  # numbers of jit/reductions.py's FINISH


def _lanes(k: int, n: int, inner: bool) -> bool:
    """Do columns that are results beat columns that are reduced?"""
    return not (k < 8 and n >= 32) if inner else n < 8 and k >= 16


def _cost(s: edges.Source, elements: int, each: float) -> float:
    return program_cost(s.program, elements) + each * elements


def reduce(b: Builder) -> None:
    """Any axes, in any order of memory."""
    launch = b.launch
    x = launch.ins[0]
    assert x is not None
    op, axes = launch.params["op"], [int(a) for a in launch.params["axes"]]
    source = edges.source(launch)
    if op == "log_sum_exp" and not is_float(source.dtype):
        source = edges.cast(source, F64)
    unsigned = source.dtype == U64
    dtype = edges.compute_type(source.dtype)
    kind = _KINDS[op]
    if unsigned:
        kind = {"max": "max_u", "min": "min_u", "abs": "sum"}.get(kind, kind)
    finish = _FINISH.get(op, 0)
    finish += int(unsigned and finish in (1, 3, 5))
    lay = arrange(launch, source, axes, _lanes)
    O, P, C = lay.O, lay.P, lay.C
    size = dtype.itemsize
    if lay.lanes:
        wide = max(1, min(C, LANE_COLS))
        tall = LANE_ROWS * max(1, 2048 // (LANE_ROWS * wide))
        per, blocks = wide, O * -(-C // wide)
        steps = -(-P // tall)
        work = P * per
    else:
        chunk = 4 * CHUNK // size
        wide = max(1, min(C, chunk))
        tall = max(1, chunk // wide)
        per = max(1, min(O, 1024, UNIT // max(1, P * C)))
        blocks = -(-O // per)
        steps = -(-P // tall) * -(-C // wide)
        work = P * C * per
    from_source, direct = source_words(b, source, lay, dtype)
    to_sink, _, done = sink_words(b, dtype, lay, lay.sets, [], lay.cols if lay.lanes else [])
    count = P if lay.lanes else P * C
    segments = 1
    if blocks < 8 and work >= 2 * SEGMENT and kind != "exp" and steps > 1:
        segments = max(1, min(work // SEGMENT, steps, 64))
    tile = 0 if direct else -(-tall * wide * size // 64) * 64
    slots, step = b.slots(tile + 24 * per + 64)
    partials: Word = b.scratch(8 * blocks * segments * per) if segments > 1 else 0
    words: list[Word] = [
        from_source, to_sink, O, P, C, per, tall, wide, slots, step, segments, partials, _initial(kind, source.dtype), count, finish, tile,
    ]  # fmt: skip
    name = dtype.name
    b.call(
        f"reductions.{'lanes' if lay.lanes else 'rows'}[{name},:{kind}]",
        words,
        blocks * segments,
        _cost(source, O * P * C, 1.5 if kind == "exp" else 0.15),
    )
    if segments > 1:
        b.call(f"reductions.combine[{name},:{kind},{int(lay.lanes)}]", words, blocks)
    done()


def _initial(kind: str, dtype: DType) -> int:
    """The bits of the result of no elements."""
    if is_float(dtype):
        return f64({"max": -math.inf, "min": math.inf, "prod": 1.0}.get(kind, 0.0))
    if kind == "max_u" or kind == "min_u":
        return 0 if kind == "max_u" else -1
    if kind in ("max", "min"):
        if dtype == BOOL:
            return int(kind == "min")
        bits, signed = width(dtype)
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        return low if kind == "max" else high
    return int(kind == "prod")


def arg_reduce(b: Builder) -> None:
    """Along one axis; the result is int64."""
    launch = b.launch
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    axis = int(launch.params["axis"])
    if y.dtype != I64:
        raise UnsupportedError("arg_reduce: the output is int64")
    if x.shape[axis] == 0:
        raise UnsupportedError("arg_reduce: no element along the axis")
    source = edges.source(launch)
    dtype = edges.compute_type(source.dtype)
    kind = launch.params["op"] + ("_u" if source.dtype == U64 else "")
    lay = arrange(launch, source, [axis], lambda k, n, inner: inner and k >= 8)
    O, P, C = lay.O, lay.P, lay.C
    if lay.lanes:
        tall, wide = min(P, 64), min(C, 256)
        per, units = wide, O * -(-C // wide)
    else:
        wide = min(C, CHUNK)
        tall = max(1, CHUNK // wide)
        per = max(1, min(O, 1024, UNIT // C))
        units = -(-O // per)
    from_source, direct = source_words(b, source, lay, dtype)
    to_sink, _, done = sink_words(b, I64, lay, lay.sets, [], lay.cols if lay.lanes else [])
    tile = 0 if direct else -(-tall * wide * dtype.itemsize // 64) * 64
    slots, step = b.slots(tile + 24 * per)
    words: list[Word] = [
        from_source, to_sink, O, P, C, per, tall, wide, slots, step, int(launch.params.get("select_last", 0) != 0), tile,
    ]  # fmt: skip
    b.call(f"arg_reduce.{'lanes' if lay.lanes else 'rows'}[{dtype.name},:{kind}]", words, units, _cost(source, O * P * C, 0.4))
    done()


def scan(b: Builder) -> None:
    """Along one axis."""
    launch = b.launch
    x = launch.ins[0]
    assert x is not None
    axis = int(launch.params["axis"])
    source = edges.source(launch)
    dtype = edges.compute_type(source.dtype)
    lay = arrange(launch, source, [axis], lambda k, n, inner: inner and k > 1)
    O, P, C = lay.O, lay.P, lay.C
    tall, wide = (min(P, 64), min(C, 64)) if lay.lanes else (1, min(C, CHUNK))
    from_source, _ = source_words(b, source, lay, dtype)
    to_sink, _, done = sink_words(b, dtype, lay, lay.sets, lay.rows, lay.cols)
    tile = -(-tall * wide * dtype.itemsize // 64) * 64
    slots, step = b.slots(2 * tile + 8 * wide)
    words: list[Word] = [
        from_source, to_sink, O, P, C, wide, tall, wide, slots, step, int(launch.params.get("exclusive", 0) != 0),
        int(launch.params.get("reverse", 0) != 0), tile, tile,
    ]  # fmt: skip
    units = O * -(-C // wide) if lay.lanes else O
    kind = launch.params["op"]
    b.call(f"scan.{'lanes' if lay.lanes else 'rows'}[{dtype.name},:{kind}]", words, units, _cost(source, O * P * C, 1.0))
    done()


def quantize_stats(b: Builder) -> None:
    """Of all elements at once."""
    launch = b.launch
    x = launch.ins[0]
    scale, zero = launch.outs
    assert x is not None and scale is not None and zero is not None
    if scale.dtype != F32 or zero.dtype != U8:
        raise UnsupportedError("quantize_stats: scale is float32, zero_point uint8")
    source = edges.source(launch, dtype=F32)
    lay = _all_axes(source)
    P, C = lay.P, lay.C
    wide = max(1, min(C, CHUNK))
    tall = max(1, CHUNK // wide)
    steps = -(-P // tall) * -(-C // wide)
    segments = max(1, min(64, P * C // 32768, steps))
    from_source, direct = source_words(b, source, lay, F32)
    slots, step = b.slots(64 if direct else 4 * tall * wide)
    pairs = b.scratch(8 * segments)
    words: list[Word] = [from_source, P, C, tall, wide, slots, step, segments, pairs]
    b.call("quantize_stats.ranges[]", words, segments, _cost(source, P * C, 0.15))
    b.call("quantize_stats.finish[]", [pairs, segments, view(scale).address, view(zero).address])


def _all_axes(s: edges.Source) -> Layout:
    """One set of rows of columns, the columns innermost in memory."""

    class NoOutput:
        outs = (None,)

    return arrange(NoOutput(), s, range(len(s.shape)), lambda k, n, inner: False)
