"""`map`: generated code over merged axes; 16 bytes at a time where the layout allows it, through shared memory where it transposes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ....dtypes import F32, U8, U16, U32, U64, DType
from ....lowering.expr import cast, gelu_erf
from ....lowering.tensor import Launch, Tensor
from ...axes import Axes, Strides, merge
from ..build import Builder, Call, is_wide, used_operands
from ..manifest import Entry
from .samples import launch, tensor

TILE = 32  # elements of a transposed tile along either axis

ELEMENTS = Entry("map_elements", "map.cuh", 256)
VECTORS = Entry("map_vectors", "map_vectors.cuh", 256, wide_loads=True)
TRANSPOSE = Entry("map_transpose", "map_transpose.cuh", 256)
ENTRIES = (ELEMENTS, VECTORS, TRANSPOSE)


def map_(launch: Launch) -> list[Call]:
    """y = body(x...)."""
    y = launch.outs[0]
    assert y is not None
    if launch.is_copy:
        launch = _raw(launch)
        y = launch.outs[0]
        assert y is not None
    ins = [t for t in launch.ins if t is not None]
    iotas = sorted({args[0] for op, args, _ in launch.body if op == "iota"})
    units = [tuple(int(i == k) for i in range(y.ndim)) for k in iotas]
    order = sorted(range(y.ndim), key=lambda i: (-abs(int(y.strides[i])), i))  # walk the output in the order of its memory
    axes = merge(y.shape, [y.strides, *[t.strides for t in ins], *units], [order])
    in_strides = axes.strides[1 : 1 + len(ins)]
    width = _vector_width(y, ins, axes)
    rank = len(axes.sizes)
    coefficients = dict(zip(iotas, axes.strides[1 + len(ins) :]))
    iota = [coefficients.get(k, (0,) * rank) for k in range(y.ndim)]
    across = None if width > 1 else _across(ins, axes)
    b = Builder(launch, VECTORS if width > 1 else TRANSPOSE if across is not None else ELEMENTS, is_wide(y, *ins))
    b.define("RANK", max(1, rank))
    b.type("Y", y.dtype)
    b.view("y", y, axes.strides[0])
    if across is not None:
        return [_transpose(b, launch, ins, axes, across)]
    if width > 1:
        b.define("WIDTH", width)
        _vectors(b, launch, ins, in_strides)
    b.program("body", launch.body, ins, in_strides, rank, iota=iota, passed=width > 1)
    b.sizes("size", (*axes.sizes[:-1], axes.sizes[-1] // width) if rank else ())
    total = prod(axes.sizes) // width
    b.scalar("total", "idx", total)
    return [b.call(-(-total // VECTORS.threads))]


def _raw(launch: Launch) -> Launch:
    """A copy as one of unsigned numbers of the same size: it keeps every bit, and is the same kernel for all types of that size."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    same_size: dict[int, DType] = {1: U8, 2: U16, 4: U32, 8: U64}
    raw = same_size.get(y.dtype.itemsize, y.dtype)
    views: list[Tensor | None] = [Tensor(t.buffer, t.offset, t.shape, t.strides, raw) for t in (x, y)]
    return Launch("map", views[:1], views[1:], None, (("load", (0,), raw),), launch.nodes)


def _vector_width(y: Tensor, ins: list[Tensor], axes: Axes) -> int:
    """How many neighbours along the last axis one thread computes: as many as make 16 bytes of the widest operand, or 1."""
    moved = [(t, s) for t, s in zip((y, *ins), axes.strides) if s and s[-1] != 0]
    if not axes.sizes or any(s[-1] != 1 for _, s in moved) or axes.strides[0][-1] != 1:
        return 1
    width = 16 // max(t.dtype.itemsize for t, _ in moved)
    while width > 1:
        if axes.sizes[-1] % width == 0 and all(int(t.offset) % width == 0 and all(m % width == 0 for m in s[:-1]) for t, s in moved):
            return width
        width //= 2
    return 1


def _vectors(b: Builder, launch: Launch, ins: list[Tensor], in_strides: list[Strides]) -> None:
    """`body_vector(a, c)`: WIDTH results from the coordinates of the first. Operands along the last axis are loaded as one Pack."""
    lines, arguments = [], ""
    for k in used_operands(launch.body):
        b.type(f"X{k}", ins[k].dtype)
        if in_strides[k][-1]:
            b.view(f"x{k}", ins[k], in_strides[k])
            lines.append(f"const Pack<X{k}, WIDTH> p{k} = load_pack<X{k}, WIDTH>(a.x{k}_data + at_x{k}(a, c));")
            arguments += f", value_of(p{k}.at[i])"
        else:
            b.loader(f"x{k}", ins[k], in_strides[k])
            lines.append(f"const Value<X{k}> s{k} = load_x{k}(a, c);")
            arguments += f", s{k}"
    lines += [
        "Pack<Y, WIDTH> out;", "const Idx first = c[RANK - 1];", "#pragma unroll", "for (int i = 0; i < WIDTH; i++) {",
        "  c[RANK - 1] = first + i;", f"  out.at[i] = stored<Y>(body(a, c{arguments}));", "}", "return out;",
    ]  # fmt: skip
    b.finish("__forceinline__ Pack<Y, WIDTH> body_vector(const Args& a, Idx (&c)[RANK]) {\n  " + "\n  ".join(lines) + "\n}")


def _across(ins: list[Tensor], axes: Axes) -> int | None:
    """The axis along which the operands are dense, if it is not the output's: a copy that would be walked across its lines."""
    y = axes.strides[0]
    if len(axes.sizes) < 2 or len(ins) != 1 or len(axes.strides) != 2 or y[-1] != 1 or axes.sizes[-1] < TILE // 2:
        return None
    x = axes.strides[1]
    fast = [i for i, s in enumerate(x) if s == 1]
    return fast[0] if x[-1] not in (0, 1) and fast and axes.sizes[fast[0]] >= TILE // 2 else None


def _transpose(b: Builder, launch: Launch, ins: list[Tensor], axes: Axes, across: int) -> Call:
    """Tiles of TILE x TILE through shared memory: read along `across`, written along the last axis."""
    rank = len(axes.sizes)
    rows = -(-axes.sizes[across] // TILE)
    columns = -(-axes.sizes[-1] // TILE)
    b.define("ACROSS", across)
    b.type("X", ins[0].dtype)
    b.view("x0", ins[0], axes.strides[1])
    b.program("body", launch.body, ins, [axes.strides[1]], rank, passed=True)
    b.array("extent", "idx", axes.sizes)
    tiles = [rows if i == across else columns if i == rank - 1 else n for i, n in enumerate(axes.sizes)]
    b.sizes("size", tiles)
    return b.call(prod(tiles))


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each kernel."""
    for dtype in ("float32", "float16", "int8", "float64"):
        yield VECTORS, f"x * 2 + y, {dtype}", launch("map", [tensor((64, 512), dtype)] * 2, (64, 512), dtype, body=lambda x, y: x * 2 + y)
    yield (
        VECTORS,
        "gelu, bias",
        launch("map", [tensor((64, 512)), tensor((512,), shape=(64, 512))], (64, 512), body=lambda x, b: gelu_erf(x + b)),
    )
    yield ELEMENTS, "strided add", launch("map", [tensor((64, 511)), tensor((64, 1), shape=(64, 511))], (64, 511), body=lambda x, y: x + y)
    yield TRANSPOSE, "float32", launch("map", [tensor((512, 256), perm=(1, 0))], (256, 512), body=lambda x: x)
    yield (
        TRANSPOSE,
        "float16 to float32",
        launch("map", [tensor((8, 64, 96), "float16", perm=(0, 2, 1))], (8, 96, 64), body=lambda x: cast(x, F32)),
    )
