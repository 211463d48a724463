"""`linear_attention`: see csrc/cuda/linear_attention.cuh."""

from __future__ import annotations

from collections.abc import Iterator

from ....dtypes import F32, F64
from ....lowering.tensor import Launch, Tensor
from ...linear_attention_operands import checked
from ...parameters import param
from ..build import Builder, Call, Scratch, is_wide
from ..manifest import Entry
from ..source import type_of
from .samples import launch, tensor

COLUMNS = 32  # of a state that a block works on
SHARED_BYTES = 40 << 10  # of a block's part of a state in shared memory; sums across warps have the rest of 48 KB
MOST_GROUPS = 8  # warps of a block

STEPS = Entry("linear_attention", "linear_attention.cuh", 32 * MOST_GROUPS, registers=112)
ENTRIES = (STEPS,)


def linear_attention(launch: Launch) -> list[Call]:
    """y and present."""
    o = checked(launch)
    wide = o.q.dtype == F64
    groups = 1
    while groups < MOST_GROUPS and 16 * groups <= o.D:
        groups *= 2
    tiles = -(-o.E // COLUMNS)
    blocks, nbytes = o.B * o.N * tiles, (8 if wide else 4) * COLUMNS * o.D
    shared = nbytes <= SHARED_BYTES
    tensors = [t for t in (o.q, o.k, o.v, o.state, o.decay, o.beta, o.y, o.present) if t is not None]
    b = Builder(launch, STEPS, is_wide(*tensors, sizes=[0 if shared else blocks * COLUMNS * o.D, blocks * COLUMNS]))
    b.define("GROUPS", groups)
    b.define("IN_SHARED", shared)
    b.define("DELTA", bool(param(launch, "delta")))
    b.define("HAS_DECAY", o.decay is not None)
    b.define("DECAY_ROWS", o.decay is not None and int(o.decay.strides[3]) != 0)
    b.type("A", F64 if wide else F32)
    b.type("Y", o.y.dtype)
    for name, t in (("q", o.q), ("k", o.k), ("v", o.v), ("state", o.state), ("decay", o.decay), ("beta", o.beta)):
        _loader(b, name, t, 3 if name == "beta" else 4, 1 if name == "beta" else 0)
    b.view("y", o.y, o.y.strides)
    if o.present is None:
        b.functions.append("__forceinline__ void keep(const Args& a, const Idx (&c)[5], A x) {}")
    else:
        b.view("present", o.present, o.present.strides)
        p = type_of(o.present.dtype)
        b.functions.append(
            "__forceinline__ void keep(const Args& a, const Idx (&c)[5], A x) "
            f"{{ a.present_data[at_present(a, c)] = stored<{p}>(op::cast<{p}, A>(x)); }}"
        )
    b.pointer("work", "A", Scratch(0))
    sizes = (
        ("heads", o.N), ("tiles", tiles), ("width", o.E), ("steps", o.T), ("window", o.W), ("per_key", o.N // o.G), ("per_state", o.M // o.N),
        ("per_query", o.M // o.H),
    )  # fmt: skip
    for size, n in sizes:
        b.scalar(size, "idx", n)
    b.scalar("depth", "i32", o.D)
    b.scalar("scale", "f64", float(param(launch, "scale")))
    return [b.call(blocks, 32 * groups, nbytes if shared else 0, 0 if shared else blocks * nbytes)]


def _loader(b: Builder, name: str, t: Tensor | None, rank: int, absent: int) -> None:
    if t is not None:
        b.loader(name, t, t.strides)
    else:
        b.functions.append(f"__forceinline__ A load_{name}(const Args& a, const Idx (&c)[{rank}]) {{ return {absent}; }}")


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for each variant."""

    steps, e = 64, 128

    def packed(heads: int, size: int, dtype: str) -> Tensor:
        return tensor((1, steps, heads, size), dtype, (0, 2, 1, 3))

    def case(d: int, dtype: str, rows: bool, delta: int, heads: tuple[int, int, int] = (16, 16, 16), gates: bool = True) -> Launch:
        h, g, n = heads
        decay = packed(n, d, dtype) if rows else tensor((1, steps, n, 1), dtype, (0, 2, 1, 3), (1, n, steps, d))
        ins: list[Tensor | None] = [packed(h, d, dtype), packed(g, d, dtype), packed(n, e, dtype), tensor((1, n, d, e))]
        ins += [decay, tensor((1, steps, n), dtype, (0, 2, 1))] if gates else [None, None]
        return launch("linear_attention", ins, [packed(max(h, n), e, dtype), tensor((1, 1, n, d, e))], dtype, scale=d**-0.5, delta=delta)

    yield STEPS, "gated delta rule", case(128, "float32", False, 1)
    yield STEPS, "a decay for every row, float16", case(128, "float16", True, 1, (16, 8, 32))
    yield STEPS, "neither decay nor delta rule", case(64, "float32", False, 0, (16, 4, 4), gates=False)
    yield STEPS, "in scratch, float64", case(256, "float64", True, 1)
