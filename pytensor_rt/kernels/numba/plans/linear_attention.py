"""`linear_attention`: see jit/linear_attention.py, whose words are made here."""

from __future__ import annotations

from ....dtypes import F64
from ...linear_attention_operands import checked
from ...parameters import param
from ..build import Builder, Word, byte_strides, f64, view

DTYPES = ("float32", "float16", "bfloat16", "float64")  # as jit/linear_attention.py numbers them
COLUMNS = 64  # of a state that a unit works on


def linear_attention(b: Builder) -> None:
    """y and present."""
    o = checked(b.launch)
    operands = (o.q, o.k, o.v, o.state, o.decay, o.beta, o.y, o.present)
    wide = o.q.dtype == F64
    columns = min(COLUMNS, o.E)
    blocks = -(-o.E // columns) if columns else 0
    slot, step = b.slots((8 if wide else 4) * ((columns + 3) * o.D + 3 * max(1, columns)))
    words: list[Word] = [0 if t is None else view(t).address for t in operands]
    words += [-1 if t is None else DTYPES.index(t.dtype.name) for t in operands]
    for t in operands:
        strides = [] if t is None else byte_strides(view(t))
        words += [*strides, *[0] * (5 - len(strides))]
    words += [
        o.N,
        o.T,
        o.D,
        o.E,
        o.W,
        o.N // o.G,
        o.M // o.N,
        o.M // o.H,
        int(bool(param(b.launch, "delta"))),
        f64(float(param(b.launch, "scale"))),
    ]
    words += [slot, step, blocks, columns]
    units = o.B * o.N * blocks
    cost = 0.3 * o.B * o.N * (o.T + 1.0) * o.D * o.E
    b.call(f"linear_attention.columns[{'float64' if wide else 'float32'}]", words, units, cost)
