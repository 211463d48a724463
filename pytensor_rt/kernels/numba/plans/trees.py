"""`tree_ensemble`: forests are checked, renumbered and packed when planned (kernels/forest.py)."""

from __future__ import annotations

import numpy as np

from ...forest import forest_of, identity
from ...parameters import param
from ..build import Builder, Table, Word, byte_strides, f64, view

AGGREGATES = ("sum", "average", "min", "max")
ROWS = 128  # of a unit


def tree_ensemble(b: Builder) -> None:
    """The raw aggregate of every row's leaves."""
    launch = b.launch
    targets, aggregate = int(param(launch, "n_targets")), str(param(launch, "aggregate"))
    forest = forest_of(launch, targets)
    x, y = launch.ins[0], launch.outs[0]
    assert x is not None and y is not None
    features, n = int(x.shape[1]), int(x.shape[0])
    packed, missing = forest.pack()
    packed["heights"], packed["members"] = forest.heights(), packed["members"].astype(np.float64)
    tables = {name: Table(data, identity(name, data)) for name, data in packed.items()}
    kind = "any" if not forest.fast else "missing" if missing else "fast"
    xs, ys = byte_strides(view(x)), byte_strides(view(y))
    copied = features > 1 and xs[1] != x.dtype.itemsize
    slot, step = b.slots(16 * ROWS * targets + (ROWS * features * x.dtype.itemsize if copied else 0))
    words: list[Word] = [
        view(x).address, *xs, view(y).address, *ys, n, features, targets, y.dtype.itemsize, forest.trees,
        *[tables[name] for name in ("nodes", "roots", "heights", "ranges", "entry_targets", "weights")], int(forest.single),
        tables["members"], AGGREGATES.index(aggregate), f64(float(max(1, forest.trees)) if aggregate == "average" else 1.0),
        slot, step, int(copied),
    ]  # fmt: skip
    steps = float(packed["heights"].sum())
    b.call(f"trees.rows[{x.dtype.name},{forest.compare.name},:{kind}]", words, -(-n // ROWS), n * (10.0 + 2.0 * forest.trees + 1.5 * steps))
