"""`attention`: tiles of queries against tiles of keys with an online softmax; few queries split the keys over blocks and merge."""

from __future__ import annotations

from collections.abc import Iterator
from math import e as euler
from math import log2, nan
from typing import Any, NamedTuple

from ....dtypes import BOOL, F16, F32, F64, I64, DType, from_code
from ....errors import UnsupportedError
from ....lowering.tensor import Launch, Tensor
from ..build import Builder, Call, Scratch, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .samples import launch, tensor

KEYS = 64  # of a tile
ENOUGH = 256  # blocks that keep a large device busy
LEAST_SPLIT = 128  # keys: with fewer, writing and merging partial results costs more than spreading them gains

TILES = Entry("attention_tiles", "attention.cuh", 128, registers=224)
MMA = Entry("attention_mma", "attention_mma.cuh", 128, registers=255, opcodes=("HMMA",))
MERGE = Entry("attention_merge", "attention_merge.cuh", 128)
ENTRIES = (TILES, MMA, MERGE)


class Shape(NamedTuple):
    """B batches of H heads that share G heads of T keys; S queries; depths D of queries and keys, E of values."""

    b: int
    h: int
    g: int
    s: int
    t: int
    d: int
    e: int

    @property
    def rows(self) -> int:
        """Queries that share keys."""
        return self.h // self.g * self.s


def attention(launch: Launch) -> list[Call]:
    """y = softmax(scale * q k^T) v."""
    q, k, v, mask, lengths = [*launch.ins, None, None][:5]
    y = launch.outs[0]
    assert q is not None and k is not None and v is not None and y is not None
    _check(q, k, v, mask, lengths, y, launch.acc_dtype if launch.epilogue else y.dtype)
    shape = Shape(int(q.shape[0]), int(q.shape[1]), int(k.shape[1]), int(q.shape[2]), int(k.shape[2]), int(q.shape[3]), int(v.shape[3]))
    acc = F64 if q.dtype == F64 else F32
    tensors = q.dtype.itemsize == 2 and shape.rows > 8 and shape.d <= 256  # few rows are a matter of reading keys, not of products
    if tensors:
        width = 16 * _ceil(_ceil(shape.e, _ceil(shape.e, 128)), 16)
        constants: dict[str, Any] = {"DP": max(16, 16 * _ceil(shape.d, 16)), "EP": width, "BN": 64 if shape.d <= 128 else 32}
        tiles = _ceil(shape.rows, 64)
    else:
        per_thread = _rows_per_thread(shape, acc)
        columns = next((n for n in (1, 2, 4) if 16 * n >= shape.e), 8)  # of results per thread
        constants = {"TM": per_thread, "TE": columns}
        tiles = _ceil(shape.rows, 8 * per_thread)
        width = 16 * columns
    chunks = _ceil(shape.e, width)
    splits = _splits(shape, shape.b * shape.g * tiles * chunks)
    per_split = _ceil(_ceil(shape.t, splits), KEYS) * KEYS
    wide = is_wide(q, k, v, mask, y, *launch.epi_ins, sizes=[splits * shape.b * shape.h * shape.s * shape.e])
    b = Builder(launch, MMA if tensors else TILES, wide)
    for name, value in (
        *constants.items(),
        ("WIDTH", _width(q, v) if _across(k) else _width(q, k, v)),
        ("KEYS_ACROSS", _across(k)),
        ("SPLIT", splits > 1),
    ):
        b.define(name, value)
    _rule(b, launch, mask, acc)
    b.define("LENGTHS", lengths is not None)
    for name, t in (("q", q), ("k", k), ("v", v), ("mask", mask)):
        if name != "q":
            b.type("M" if name == "mask" else name.upper(), BOOL if t is None else t.dtype)
        b.pointer(f"{name}_data", type_of(BOOL if t is None else t.dtype), operand(t or q))
        b.array(f"{name}_stride", "idx", t.strides if t is not None else (0,) * 4)
    b.pointer("lengths", "i64", operand(lengths or q))
    b.scalar("lengths_stride", "idx", lengths.strides[0] if lengths is not None else 0)
    p = launch.params
    visible = max(-shape.s, min(shape.t, int(p.get("causal_offset", 0)) + 1)) if p.get("causal", 0) else shape.t
    b.scalar("visible", "i64", visible)  # keys that query 0 sees
    for name, n in (("keys", shape.t), ("depth", shape.d), ("split_keys", per_split)):
        b.scalar(name, "i32", n)
    for name, n in (("width", shape.e), ("rows", shape.rows), ("share", shape.h // shape.g), ("all_rows", shape.b * shape.h * shape.s)):
        b.scalar(name, "idx", n)
    b.sizes("queries", (shape.s,))
    b.sizes("blocks", (shape.b, shape.g, splits, chunks, tiles))
    blocks = shape.b * shape.g * splits * chunks * tiles
    plain = splits > 1 or not launch.epilogue
    rows_fit = y.strides[3] == 1 and all(n % 4 == 0 for n in (int(y.offset), *y.strides[:3]))
    b.define("PACKED", plain and shape.e % 4 == 0 and (splits > 1 or rows_fit))
    b.define("MASK_PER_KEY", mask is not None and mask.strides[1] == mask.strides[2] == 0)
    _output(b, launch, y, plain)
    scratch = _partial(b, shape, acc, splits) if splits > 1 else _partial(b, shape, acc, 0)
    calls = [b.call(blocks, scratch=scratch)]
    if splits == 1:
        return calls
    m = Builder(launch, MERGE, wide)
    _rule(m, launch, mask, acc)
    _output(m, launch, y, not launch.epilogue)
    _partial(m, shape, acc, splits)
    total = shape.b * shape.h * shape.s * shape.e
    m.sizes("size", (shape.b, shape.h, shape.s, shape.e))
    m.scalar("splits", "i32", splits)
    m.scalar("all_rows", "idx", shape.b * shape.h * shape.s)
    m.scalar("total", "idx", total)
    return [*calls, m.call(_ceil(total, MERGE.threads), scratch=scratch)]


def _ceil(n: int, by: int) -> int:
    return -(-n // by)


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, lengths: Tensor | None, y: Tensor, acc: DType | None) -> None:
    floats = (F32, F64, F16, from_code(16))
    if q.dtype not in floats or k.dtype != q.dtype or v.dtype != q.dtype:
        raise UnsupportedError("attention: q, k and v must have one floating dtype")
    if acc not in floats:
        raise UnsupportedError("attention: the result must be floating point")
    if mask is not None and mask.dtype not in (BOOL, *floats):
        raise UnsupportedError("attention: mask must be bool or floating point")
    if lengths is not None and lengths.dtype != I64:
        raise UnsupportedError("attention: k_lengths must be int64 [B]")


def _rows_per_thread(shape: Shape, acc: DType) -> int:
    """A thread's share of 8 * n rows. More make better use of what is staged, and fewer blocks: large tiles only if enough blocks remain."""
    if shape.rows <= 8:
        return 1
    if shape.rows <= 16:
        return 2
    blocks = shape.b * shape.g * _ceil(shape.rows, 64) * _ceil(shape.e, 128)
    return 8 if acc == F32 and shape.rows > 32 and blocks >= ENOUGH else 4


def _splits(shape: Shape, blocks: int) -> int:
    """Stretches of keys: as many as give enough blocks, none too short. They depend on shapes alone, and so do the bits of the result.

    Few rows are a matter of reading keys from many places at once; many rows leave partial results as large as what they read.
    """
    few = shape.rows <= 16
    wanted = min(_ceil(2 * ENOUGH, blocks), shape.t // LEAST_SPLIT) if few else min(ENOUGH // 2 // blocks, shape.t // (4 * LEAST_SPLIT))
    return _ceil(shape.t, _ceil(_ceil(shape.t, wanted), KEYS) * KEYS) if wanted > 1 else 1


def _width(*tensors: Tensor) -> int:
    """How many neighbours along the last axis are loaded at once, 16 bytes of them or fewer."""
    width = 16 // tensors[0].dtype.itemsize
    while width > 1:
        if all(
            t.strides[3] == 1 and int(t.shape[3]) % width == 0 and all(n % width == 0 for n in (int(t.offset), *t.strides[:3]))
            for t in tensors
        ):
            return width
        width //= 2
    return 1


def _across(k: Tensor) -> bool:
    """Are keys stored transposed?"""
    return bool(k.strides[2] == 1 and k.strides[3] != 1 and int(k.shape[3]) > 1)


def _rule(b: Builder, launch: Launch, mask: Tensor | None, acc: DType) -> None:
    """How products become exponents: see attention_rule.cuh. Also the type A of the arithmetic and what a row that sees no key gives."""
    p = launch.params
    capped = float(p.get("softcap", 0.0)) > 0
    plain = not capped and mask is None
    k = launch.ins[1]
    assert k is not None
    b.type("A", acc)
    b.define("PLAIN", plain)
    b.define("CAPPED", capped)
    b.define("MASK", mask is not None)
    ctype = "f64" if acc == F64 else "f32"
    b.scalar("rate", ctype, float(p["scale"]) * (log2(euler) if plain else 1.0))
    b.scalar("softcap", ctype, float(p.get("softcap", 0.0)))
    b.scalar("masked", "f32", nan if p.get("masked_nan", 0) and int(k.shape[2]) > 0 else 0.0)


def _output(b: Builder, launch: Launch, y: Tensor, plain: bool) -> None:
    """`store_y`. Without an epilogue the strides do not become part of the source."""
    if not plain:
        b.output(4, y.strides, [t.strides for t in launch.epi_ins])
        return
    name = type_of(y.dtype)
    b.type("Y", y.dtype)
    b.type("Acc", y.dtype)
    b.pointer("y_data", name, operand(y))
    b.array("y_stride", "idx", y.strides)
    at = " + ".join(f"c[{i}] * a.y_stride[{i}]" for i in range(4))
    b.functions.append(f"__forceinline__ Idx at_y(const Args& a, const Idx (&c)[4]) {{ return {at}; }}")
    b.functions.append(
        "__forceinline__ void store_y(const Args& a, const Idx (&c)[4], Value<Y> v) { a.y_data[at_y(a, c)] = stored<Y>(v); }"
    )


def _partial(b: Builder, shape: Shape, acc: DType, splits: int) -> int:
    """Partial results in scratch: for every split and row a maximum, a sum and E results. Returns the bytes."""
    rows = splits * shape.b * shape.h * shape.s
    at = 0
    for name, n in (("tops", rows), ("sums", rows), ("parts", rows * shape.e)):
        b.pointer(name, type_of(acc), Scratch(at))
        at += _ceil(n * acc.itemsize, 256) * 256
    return at


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""

    def case(b: int, h: int, g: int, s: int, t: int, d: int, dtype: Any = "float32", mask: str = "", **params: Any) -> Launch:
        ins = [tensor((b, h, s, d), dtype), tensor((b, g, t, d), dtype), tensor((b, g, t, d), dtype)]
        if mask:
            ins.append(tensor((b, 1, s, t), mask, shape=(b, h, s, t)))
        return launch("attention", ins, (b, h, s, d), dtype, **{"scale": d**-0.5, **params})

    yield TILES, "128 queries, depth 64", case(1, 12, 12, 128, 128, 64)
    yield TILES, "many queries, depth 128", case(8, 16, 16, 512, 512, 128, causal=1)
    yield TILES, "few rows, float16", case(1, 32, 8, 2, 200, 60, "float16", "bool")
    yield MMA, "float16", case(8, 12, 12, 128, 128, 64, "float16")
    yield MMA, "bfloat16, masked, depth 128", case(2, 16, 16, 512, 512, 128, from_code(16), "bool")
    yield MMA, "float16, depth 256", case(1, 8, 4, 200, 200, 256, "float16", causal=1)
    yield MMA, "float16, odd depth", case(2, 4, 4, 64, 64, 60, "float16", softcap=20.0)
    yield TILES, "float64", case(1, 4, 2, 64, 64, 64, "float64", "float64", softcap=20.0)
    yield TILES, "decoding, split over the keys", case(1, 32, 8, 1, 4096, 128)
    yield MERGE, "decoding", case(1, 32, 8, 1, 4096, 128)
