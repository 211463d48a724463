"""`attention`: scaled dot-product attention with any mask, of one block of keys at a time. See jit/attention.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....dtypes import BOOL, F64, I64, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from .. import code
from ..build import Builder, Fn, View, Word, byte_strides, f64, view
from .edges import Source, compute_type, is_plain, of_view, rows_in, rows_out, source

BLOCK_ELEMENTS = 64 * 1024  # of packed keys and values: half of a small second-level cache
MOST_KEYS = 1024  # of a block
STREAM_ROWS, STREAM_KEYS = 4, 256  # of queries that read keys and values in place, and of their blocks
LOG2_E = 1.44269504088896340736


def attention(b: Builder) -> None:
    """y = softmax(q k^T * scale, masked) v."""
    launch = b.launch
    q, k, v, mask, lengths = _checked(launch)
    y = launch.outs[0]
    assert y is not None
    X = compute_type(q.dtype)
    size = X.itemsize
    L = code.vector_bytes() // size
    batch, H, S, D = map(int, q.shape)
    G, T, E = int(k.shape[1]), int(k.shape[2]), int(v.shape[3])
    share = H // G
    rows = share * S
    stream = rows <= STREAM_ROWS
    parts = 1 if stream else -(-rows // (512 if batch * G >= 8 else 128))
    part, part_extra = divmod(rows, parts)
    most = part + (part_extra > 0)
    if stream:
        limit = STREAM_KEYS
    else:
        limit = min(MOST_KEYS, max(2 * L, BLOCK_ELEMENTS // max(1, D + E)))
    blocks = -(-T // limit)
    keys = _up(-(-T // blocks), 2 * L) if blocks else 2 * L
    # the operands
    keys_across = int(k.strides[3]) * size if not stream and k.dtype == X and int(k.strides[2]) == 1 and T > 1 else 0
    records: list[Word] = []
    for t in (q, k, v):
        records += _record(b, source(launch, launch.ins.index(t), X), T > 0 or t is q, program=t is k and bool(keys_across))
    one_mask = False
    if mask is None:
        records += [0] * 5
    else:
        records += _record(b, _mask(launch, mask, X), T > 0)
        one_mask = int(mask.strides[1]) == 0 and int(mask.strides[2]) == 0
    after = None
    if is_plain(launch, X) and (int(y.strides[3]) == 1 or E == 1):
        records += [view(y).address, *byte_strides(view(y))[:3], 0]
    else:
        program, after = rows_out(b, X, [batch, H, S, E], [0, 1, 2], [3])
        records += [0, 0, 0, 0, program]
    # scores
    p = launch.params
    scale, softcap = float(p["scale"]), max(0.0, float(p.get("softcap", 0.0)))
    plain = scale > 0 and softcap == 0 and mask is None
    base = 1.0 if X == F64 else LOG2_E
    rate = scale * base if plain else base
    empty = math.nan if p.get("masked_nan", 0) and T > 0 else 0.0
    # scratch of a thread
    depth, wide = _up(D, L), _up(E, 2 * L)
    place = _Places()
    tile_rows = _tile_rows()
    tall = rows if stream else tile_rows
    in_place = isinstance(records[14], int) and records[14] == 0 and E % (2 * L) == 0 and int(v.strides[2]) in (E, 0) and not stream
    offsets = [
        place(tall * (depth + L) * size),
        place(tall * (keys + L) * size),
        place(0 if stream else keys * D * size),
        place(0 if stream or in_place else keys * wide * size),
        place((keys if stream else L) * max(depth, wide) * size),
        place(0 if mask is None else (1 if stream or one_mask else tile_rows) * keys * size),
        place(most * wide * size),
        place(most * size),
        place(most * size),
    ]
    slot, step = b.slots(place.nbytes)
    length_words: list[Word] = [0, 0]
    if lengths is not None:
        length_words = [view(lengths).address, byte_strides(view(lengths))[0]]
    words: list[Word] = [
        Fn("box.run"), H, G, share, S, T, D, E, keys, parts, part, part_extra, *records, *length_words,
        int(bool(p.get("causal", 0))), int(p.get("causal_offset", 0)), f64(scale), f64(softcap), f64(rate), f64(empty),
        int(plain), int(mask is not None and mask.dtype == BOOL), int(one_mask), keys_across, int(in_place), slot, step, *offsets,
        0 if stream else Fn(f"gemm_tile.product[{X.name}]"),
    ]  # fmt: skip
    units = batch * G * parts
    cost = batch * H * S * (T * (D + E) / 60 + T * (0.2 if size == 4 else 8) + 20.0) + batch * G * T * (D + E) * 0.2
    if stream:
        vectors = D // L if D % L == 0 and D // L <= 8 else 0
        b.call(f"attention.stream[{X.name},{vectors},{rows}]", words, units, cost)
    else:
        b.call(f"attention.heads[{X.name}]", words, units, cost)
    if after is not None:
        after()


class _Places:
    """Pieces of a slot."""

    def __init__(self) -> None:
        self.nbytes = 0

    def __call__(self, nbytes: int) -> int:
        at = self.nbytes
        self.nbytes += _up(nbytes, 64)
        return at


def _tile_rows() -> int:
    """Rows of the largest tile (jit/vectors.py: ROWS)."""
    return {64: 12, 32: 6}.get(code.vector_bytes(), 4)


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def _record(b: Builder, s: Source, needed: bool, program: bool = False) -> list[Word]:
    """An operand's words: read in place if it is plain rows, else by a program. program: a program as well as the address."""
    v: View | None = s.operands[0] if len(s.program) == 1 else None
    plain = v is not None and (v.strides[3] == 1 or v.shape[3] == 1)
    words: list[Word] = [0, 0, 0, 0]
    if v is not None and (plain or program):
        words = [v.address, *byte_strides(v)[:3]]
    if not needed:
        return [0] * 5
    return [*words, 0 if plain else rows_in(b, s, [0, 1, 2], [3])]


def _mask(launch: Launch, mask: Tensor, X: object) -> Source:
    if mask.dtype != BOOL:
        return source(launch, 3, X)  # type: ignore[arg-type]
    s = of_view(view(mask))
    program = [*s.program, ("const", (0.0,), X), ("const", (-math.inf,), X), ("where", (0, 1, 2), X)]
    return Source(program, s.operands, X, s.shape)  # type: ignore[arg-type]


def _require(ok: bool, what: str) -> None:
    if not ok:
        raise UnsupportedError(f"attention: {what}")


def _checked(launch: Launch) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    ins: list[Tensor | None] = [*launch.ins, None, None]
    q, k, v, mask, lengths = ins[:5]
    y = launch.outs[0]
    assert q is not None and k is not None and v is not None and y is not None
    _require(all(t.ndim == 4 for t in (q, k, v, y)), "q, k, v and y must have rank 4")
    _require(is_float(q.dtype) and q.dtype.itemsize > 1 and k.dtype == q.dtype == v.dtype, "q, k and v must have one floating dtype")
    batch, H, S, D = _shape(q)
    G, T, E = int(k.shape[1]), int(k.shape[2]), int(v.shape[3])
    _require(H % G == 0 if G else H == 0, "the number of query heads must be a multiple of the number of key heads")
    _require(_shape(k) == (batch, G, T, D) and _shape(v) == (batch, G, T, E), "q, k and v do not fit together")
    _require(_shape(y) == (batch, H, S, E), "y must be [B, H, S, E]")
    if mask is not None:
        _require(_shape(mask) == (batch, H, S, T), "mask must be [B, H, S, T]")
        _require(mask.dtype == BOOL or is_float(mask.dtype), "mask must be bool or floating point")
    if lengths is not None:
        _require(_shape(lengths) == (batch,) and lengths.dtype == I64, "k_lengths must be int64 [B]")
    return q, k, v, mask, lengths


def _shape(t: Tensor) -> Sequence[int]:
    return tuple(map(int, t.shape))
