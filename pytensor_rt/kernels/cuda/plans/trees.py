"""`tree_ensemble`: rows and trees in parallel, sums in the order of the trees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....dtypes import BOOL, F32, F64, I32, U8
from ....lowering.tensor import CONST, Launch, Tensor
from ..build import Builder, Call, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .forest import Forest
from .samples import launch, tensor
from .sorting import need
from .walk import param

AGGREGATES = ("sum", "average", "min", "max")
BUSY_BLOCKS = 256  # rows are spread over so many blocks before blocks get more of them

WALK = Entry("trees_walk", "trees.cuh", 256)
ENTRIES = (WALK,)


def tree_ensemble(launch: Launch) -> list[Call]:
    """The raw aggregate of every row's leaves."""
    ins = list(launch.ins) + [None] * (12 - len(launch.ins))
    x, y = ins[0], launch.outs[0]
    assert x is not None and y is not None
    targets, aggregate = int(param(launch, "n_targets")), AGGREGATES.index(param(launch, "aggregate"))
    _check(launch, ins, x, y, targets)
    assert ins[2] is not None
    compare = F64 if F64 in (x.dtype, ins[2].dtype) else F32
    features = int(x.shape[1])
    forest = Forest([None if t is None else t.value for t in ins[1:]], features, targets, compare)
    tables, missing = forest.pack()
    n = int(x.shape[0])
    b = Builder(launch, WALK, is_wide(x, y))
    for name, t in (("X", x), ("Y", y)):
        b.type(name, t.dtype)
        b.pointer(f"{name.lower()}_data", type_of(t.dtype) if t is y else f"const {type_of(t.dtype)}", operand(t))
        b.array(f"{name.lower()}_stride", "idx", t.strides)
    b.type("Compare", compare)
    b.define("FAST", forest.fast)
    b.define("MISSING", missing)
    b.define("SINGLE", forest.single)
    b.define("AGGREGATE", aggregate)
    kinds = {"nodes": "u8", "roots": "i32", "ranges": "i32", "entry_targets": "i32", "weights": "f64", "members": "Compare"}
    for name, table in tables.items():
        b.pointer(name, f"const {kinds[name]}", table)
    b.scalar("trees", "i32", forest.trees)
    b.scalar("divisor", "f64", float(max(1, forest.trees)))
    b.scalar("n", "idx", n)
    b.scalar("targets", "idx", targets)
    at_once = min(targets, WALK.threads)
    most = (WALK.threads // at_once).bit_length() - 1  # logarithm of the rows whose targets a block can hold
    log_rows = min(most, max(0, -(-n // BUSY_BLOCKS) - 1).bit_length())
    held = WALK.threads >> log_rows
    groups = -(-targets // held)
    b.scalar("log_rows", "i32", log_rows)
    b.sizes("groups", [groups])
    return [b.call(-(-n // (1 << log_rows)) * groups)]


def _check(launch: Launch, ins: list[Tensor | None], x: Tensor, y: Tensor, targets: int) -> None:
    def need_that(ok: bool, what: str) -> None:
        need(ok, "tree_ensemble", what)

    for t in ins[1:]:
        need_that(t is None or (t.buffer.kind == CONST and t.ndim == 1), "the trees must be constant vectors")
    held = [t for t in ins[:11] if t is not None]
    need_that(len(held) == 11, "expected eleven or twelve inputs")
    real = (F32, F64)
    need_that(all(held[k].dtype == I32 for k in (1, 4, 5, 6, 7, 9)), "node indices must be int32")
    need_that(all(t.dtype in real for t in (x, held[2], held[8], y)), "x, thresholds, weights and y must be float or double")
    need_that(held[3].dtype == U8 and held[10].dtype == BOOL, "modes must be uint8 and missing_true bool")
    need_that(ins[11] is None or ins[11].dtype in real, "member_sets must be float or double")
    nodes = held[1].shape[0]
    need_that(all(held[k].shape[0] == nodes for k in (2, 3, 4, 5, 10)), "node arrays differ in length")
    need_that(held[9].shape[0] == nodes + 1 and held[7].shape == held[8].shape, "leaf arrays differ in length")
    need_that(1 <= targets < 1 << 24, "bad parameters")
    need_that(x.ndim == 2 and y.ndim == 2 and y.shape == (x.shape[0], targets), "y must be [n, n_targets]")


def samples() -> Iterator[tuple[Entry, str, Launch]]:
    """Launches that stand for the kernel."""

    def vector(values: object, dtype: object) -> Tensor:
        data = np.asarray(values, dtype)  # type: ignore[call-overload]
        return tensor(data.shape, data.dtype, data=data)

    for name, mode, kind, targets in (("x <= t", 1, np.float32, 1), ("x == t", 5, np.float32, 1), ("double, 3 targets", 3, np.float64, 3)):
        trees = [
            vector([0, 0, 0], np.int32), vector([0.5, 0, 0], kind), vector([mode, 0, 0], np.uint8), vector([1, 0, 0], np.int32),
            vector([2, 0, 0], np.int32), vector([0], np.int32), vector([0, 0], np.int32), vector([1.0, -1.0], kind),
            vector([0, 0, 1, 2], np.int32), vector([False] * 3, np.bool_), None,
        ]  # fmt: skip
        rows = tensor((1000, 20), kind)
        yield WALK, name, launch("tree_ensemble", [rows, *trees], (1000, targets), kind, aggregate="sum", n_targets=targets)
