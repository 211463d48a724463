"""Kernels `softmax` and `normalize`."""

from __future__ import annotations

from ....dtypes import is_float
from ....errors import UnsupportedError
from ..build import Builder, Word, f64, view
from ..programs import program_cost
from . import edges
from .layout import arrange, settled_factor, sink_words, source_words, statistics_words

CHUNK = 4096  # elements of a tile of rows
UNIT = 16384  # elements of a unit, at least
KEPT = 65536  # sets of up to this size are computed once, larger ones once per pass


def softmax(b: Builder) -> None:
    """Along one axis."""
    launch = b.launch
    axis = int(launch.params["axis"])
    source = edges.source(launch)
    if not is_float(source.dtype):
        raise UnsupportedError(f"softmax of {source.dtype}")
    dtype = edges.compute_type(source.dtype)
    lay = arrange(launch, source, [axis], lambda k, n, inner: inner and k >= 8)
    O, P, C = lay.O, lay.P, lay.C
    if O * P * C == 0:
        return
    size = dtype.itemsize
    width = 64 // size
    if lay.lanes:
        per = min(C, max(width, min(256, 32768 // P)) // width * width)
        tall, units, elements = 1, O * -(-C // per), P * per
    else:
        tall = max(1, min(64, O, CHUNK // C))
        per = tall * max(1, UNIT // (tall * C))
        units, elements = -(-O // per), tall * C
    from_source, direct = source_words(b, source, lay, dtype)
    to_sink, straight, done = sink_words(b, dtype, lay, lay.sets, lay.rows, lay.cols)
    tile = 0 if direct and straight else -(-elements * size // 64) * 64
    slots, step = b.slots(tile + 16 * tall + 64)
    words: list[Word] = [from_source, to_sink, O, P, C, per, tall, slots, step, tile]
    cost = program_cost(source.program, O * P * C) + 1.2 * O * P * C
    b.call(f"softmax.{'lanes' if lay.lanes else 'rows'}[{dtype.name},:{launch.params['op']}]", words, units, cost)
    done()


def normalize(b: Builder) -> None:
    """Over any axes: LayerNormalization, RMSNormalization, InstanceNormalization, GroupNormalization."""
    launch = b.launch
    axes = [int(a) for a in launch.params["axes"]]
    source = edges.source(launch)
    if not is_float(source.dtype):
        raise UnsupportedError(f"normalize of {source.dtype}")
    dtype = edges.compute_type(source.dtype)
    size = dtype.itemsize
    ins = [launch.ins[k] if len(launch.ins) > k else None for k in (1, 2)]
    lay = arrange(launch, source, axes, lambda k, n, inner: inner and k >= 8, [view(t).strides for t in ins if t is not None])
    O, P, C = lay.O, lay.P, lay.C
    from_source, direct = source_words(b, source, lay, dtype)
    to_sink, straight, done = sink_words(b, dtype, lay, lay.sets, lay.rows, lay.cols)
    factors = [settled_factor(b, view(t) if t is not None and t.size else None, lay, dtype) for t in ins]
    outs = [launch.outs[k] if len(launch.outs) > k else None for k in (1, 2)]
    means, invs = (statistics_words(view(t) if t is not None else None, dtype, lay.sets, lay.cols if lay.lanes else []) for t in outs)
    kept = 0
    if lay.lanes:
        kind, wide, tall = "lanes", min(C, 64), max(1, min(P, 64))
        per, units = wide, O * -(-C // max(1, wide))
        tile, room = tall * wide * size, (24 + 16) * wide
    elif P == 1 and (C <= KEPT or (direct and straight)):
        kind, wide, tall = "rows", C, max(1, min(64, O, CHUNK // max(1, C)))
        per = tall * max(1, UNIT // (tall * max(1, C)))
        units = -(-O // per)
        tile, room = tall * C * size, 16 * tall
    else:
        kind, wide = "pieces", max(1, min(C, CHUNK))
        tall = max(1, min(P, CHUNK // wide))
        per = max(1, UNIT // max(1, P * C))
        units = -(-O // per)
        kept = int(not direct and P * C <= KEPT)
        tile, room = tall * wide * size, 16 + kept * P * C * size
    tile = 0 if direct and straight else -(-tile // 64) * 64
    slots, step = b.slots(tile + room + 64)
    words: list[Word] = [
        from_source, *factors, to_sink, means, invs, O, P, C, per, tall, wide, slots, step, f64(float(launch.params["epsilon"])),
        int(launch.params["op"] == "rms"), tile, kept,
    ]  # fmt: skip
    cost = program_cost(source.program, O * P * C) + 0.5 * O * P * C
    b.call(f"normalize.{kind}[{dtype.name}]", words, units, cost)
    done()
