"""`tree_ensemble`: rows and trees in parallel, sums in the order of the trees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....lowering.tensor import Launch, Tensor
from ...forest import forest_of, identity
from ...parameters import param
from ..build import Builder, Call, Table, is_wide, operand
from ..manifest import Entry
from ..source import type_of
from .samples import launch, tensor

AGGREGATES = ("sum", "average", "min", "max")
BUSY_BLOCKS = 256  # rows are spread over so many blocks before blocks get more of them

WALK = Entry("trees_walk", "trees.cuh", 256)
ENTRIES = (WALK,)


def tree_ensemble(launch: Launch) -> list[Call]:
    """The raw aggregate of every row's leaves."""
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    targets, aggregate = int(param(launch, "n_targets")), AGGREGATES.index(param(launch, "aggregate"))
    forest = forest_of(launch, targets)
    packed, missing = forest.pack()
    n = int(x.shape[0])
    b = Builder(launch, WALK, is_wide(x, y))
    for name, t in (("X", x), ("Y", y)):
        b.type(name, t.dtype)
        b.pointer(f"{name.lower()}_data", type_of(t.dtype) if t is y else f"const {type_of(t.dtype)}", operand(t))
        b.array(f"{name.lower()}_stride", "idx", t.strides)
    b.type("Compare", forest.compare)
    b.define("FAST", forest.fast)
    b.define("MISSING", missing)
    b.define("SINGLE", forest.single)
    b.define("AGGREGATE", aggregate)
    kinds = {"nodes": "u8", "roots": "i32", "ranges": "i32", "entry_targets": "i32", "weights": "f64", "members": "Compare"}
    for name, data in packed.items():
        b.pointer(name, f"const {kinds[name]}", Table(data, identity(name, data)))
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
