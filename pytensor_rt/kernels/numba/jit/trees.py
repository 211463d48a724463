"""`tree_ensemble`: rows walk the trees, WIDE of them in step so that their loads overlap and nothing is predicted. A unit is ROWS rows.

Few rows walk many trees at once instead; what a row's targets sum up is in float64 and in the order of the trees either way.

Nodes are as kernels/forest.py packs them. "fast": 16 bytes, {threshold, feature, left}: the row goes to `left` if x[feature] <= threshold and
else to `left` + 1; a leaf's test always fails and leads back to the leaf. "missing": bit 0 of the feature says that NaN goes left. "any": 32 bytes,
{threshold (float64), feature, outcomes, yes, no, begin, end}, where `outcomes` are the results of the comparison that count as true.

Words:
    0 x  1 its row stride (bytes)  2 its column stride (bytes)  3 y  4 row stride  5 column stride (bytes)  6 rows  7 features  8 targets  9 bytes of y's
    elements  10 trees  11 nodes  12 roots  13 heights  14 ranges (begin, end) of leaf entries  15 targets of entries  16 weights: of entries, or of nodes
    if every leaf has one entry and there is one target  17 is that so?  18 members of sets (float64)  19 aggregate  20 divisor (f64)
    21 slot scratch  22 bytes of a slot  23 must rows be copied?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float32 as F
from numba import float64 as D
from numba import int32 as I
from numba import int64

from .intrinsics import at, bits_f64, inline, stack

ROWS, WIDE = 128, 16  # as plans/trees.py has them
STEPS = 4  # between two looks at whether all walks have ended
MIN, MAX = 2, 3  # aggregates
LESS, EQUAL, MORE, NAN, NAN_THRESHOLD, LEAF, MEMBER = 1, 2, 4, 8, 16, 32, 64  # outcomes


def rows(X: Any, C: Any, nodes: str) -> Callable[..., int]:
    """Rows of type X, compared with thresholds of type C; `nodes`: fast, missing or any."""
    missing = nodes == "missing"
    element, fields_at = X.bitwidth // 8, C.bitwidth // 8

    @inline
    def fast_step(nodes, members, node, row):  # type: ignore[no-untyped-def]
        """Where a row (its address) goes from a node."""
        here = nodes + 16 * node
        threshold, fields = at(here, C)[0], at(here + fields_at, int64)[0]
        feature, left = fields & 0xFFFFFFFF, fields >> 32
        if missing:
            v = at(row, X)[feature >> 1]
            return left + int64(not ((C(v) <= threshold) | ((v != v) & ((feature & 1) != 0))))
        return left + int64(not (C(at(row, X)[feature]) <= threshold))

    @inline
    def any_step(nodes, members, node, row):  # type: ignore[no-untyped-def]
        """A leaf has no outcome that counts as true, and leads to itself."""
        here = nodes + 32 * node
        t, fields, children = at(here, D)[0], at(here + 8, int64)[0], at(here + 16, int64)[0]
        v, outcomes = D(at(row, X)[fields & 0xFFFFFFFF]), fields >> 32
        strange = NAN * int64(v != v) | NAN_THRESHOLD * (int64(t != t) & int64(v == v))
        found = LESS * int64(v < t) | EQUAL * int64(v == t) | MORE * int64(v > t) | strange
        if outcomes & MEMBER:
            found = strange & NAN
            entries = at(here, I)
            for k in range(int64(entries[6]), int64(entries[7])):
                found |= MEMBER * int64(v == at(members, D)[k])
        return children & 0xFFFFFFFF if outcomes & found else children >> 32

    @inline
    def fast_end(nodes, node):  # type: ignore[no-untyped-def]
        return at(nodes + 16 * node + fields_at, I)[1] == I(node - 1)

    @inline
    def any_end(nodes, node):  # type: ignore[no-untyped-def]
        return (at(nodes + 32 * node, I)[3] & I(LEAF)) != I(0)

    step, ended = (any_step, any_end) if nodes == "any" else (fast_step, fast_end)

    @inline
    def walk(w, at_node, at_row, height):  # type: ignore[no-untyped-def]
        """WIDE walks from these nodes with these rows; every few steps it is seen whether all have ended early."""
        node, row, packed, members = at(at_node, int64), at(at_row, int64), w[11], w[18]
        for first in range(0, height, STEPS):
            for _ in range(min(STEPS, height - first)):
                for i in range(WIDE):
                    node[i] = step(packed, members, node[i], row[i])
            moving = False
            if first + STEPS < height:
                for i in range(WIDE):
                    moving |= not ended(packed, node[i])
            if not moving:
                break

    @inline
    def arrive(w, sums, have, at_node, count, row, row_step):  # type: ignore[no-untyped-def]
        """`count` walks have come to leaves: the first is of `row`, the next of `row` + `row_step`, and so on."""
        leaf, s, h, weights = at(at_node, int64), at(sums, D), at(have, int64), at(w[16], D)
        entry_targets, ranges, targets, aggregate = at(w[15], I), at(w[14], I), w[8], w[19]
        one = w[17] != 0
        if one & (aggregate < MIN):
            for i in range(count):
                s[row + i * row_step] += weights[leaf[i]]
            return
        for i in range(count):
            begin, end = (leaf[i], leaf[i] + 1) if one else (int64(ranges[2 * leaf[i]]), int64(ranges[2 * leaf[i] + 1]))
            base = (row + i * row_step) * targets
            for k in range(begin, end):
                to = base if one else base + int64(entry_targets[k])
                old, weight = s[to], weights[k]
                if aggregate == MIN:
                    s[to] = old if (h[to] != 0) & (old <= weight) else weight
                    h[to] = 1
                elif aggregate == MAX:
                    s[to] = old if (h[to] != 0) & (old >= weight) else weight
                    h[to] = 1
                else:
                    s[to] = old + weight

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        nodes_at, rows_at = stack(128), stack(128)
        node, row = at(nodes_at, int64), at(rows_at, int64)
        roots, heights = at(w[12], I), at(w[13], I)
        trees, targets = w[10], w[8]
        sums = w[21] + slot * w[22]
        have = sums + 8 * ROWS * targets
        for unit in range(begin, end):
            first = unit * ROWS
            n = min(ROWS, w[6] - first)
            x, stride = w[0] + first * w[1], w[1]
            if w[23] != 0:
                packed = have + 8 * ROWS * targets
                for r in range(n):
                    for f in range(w[7]):
                        at(packed + (r * w[7] + f) * element, X)[0] = at(x + r * stride + f * w[2], X)[0]
                x, stride = packed, w[7] * element
            total, seen = at(sums, D), at(have, int64)
            for k in range(n * targets):
                total[k] = 0.0
                seen[k] = 0
            if n >= WIDE // 2:
                for tree in range(trees):
                    root, height = int64(roots[tree]), int64(heights[tree])
                    for r in range(0, n, WIDE):
                        for i in range(WIDE):
                            node[i], row[i] = root, x + min(r + i, n - 1) * stride
                        walk(w, nodes_at, rows_at, height)
                        arrive(w, sums, have, nodes_at, min(WIDE, n - r), r, 1)
            else:
                for r in range(n):
                    for tree in range(0, trees, WIDE):
                        height = int64(0)
                        for i in range(WIDE):
                            k = min(tree + i, trees - 1)
                            node[i], row[i] = int64(roots[k]), x + r * stride
                            height = max(height, int64(heights[k]))
                        walk(w, nodes_at, rows_at, height)
                        arrive(w, sums, have, nodes_at, min(WIDE, trees - tree), r, 0)
            divisor = bits_f64(w[20])
            for r in range(n):
                for c in range(targets):
                    v = total[r * targets + c] / divisor
                    to = w[3] + (first + r) * w[4] + c * w[5]
                    if w[9] == 8:
                        at(to, D)[0] = v
                    else:
                        at(to, F)[0] = F(v)
        return 0

    return kernel
