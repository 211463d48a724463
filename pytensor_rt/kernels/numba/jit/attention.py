"""Kernel `attention`: tiles of queries against panels of keys and values; and few queries against keys and values in place.

See attention_rows.py for words and rows. Keys are done in blocks that stay in the second-level cache, with an online softmax, so scores of one tile of
queries and one block of keys exist at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import int64

from .attention_rows import (
    BLOCK,
    EMPTY,
    KEYS,
    KEYS_ACROSS,
    MASK,
    MASK_AT,
    ONE_MASK,
    OUT,
    PART,
    PART_EXTRA,
    PARTS,
    PRODUCT,
    QUERIES,
    ROWS_AT,
    RUN,
    SCORES,
    SHARE,
    SLOT,
    STEP,
    SUM,
    TOP,
    VALUES,
    VALUES_IN_PLACE,
    D,
    E,
    G,
    H,
    K,
    Q,
    S,
    T,
    V,
    Y,
    bring,
    last_query,
    place,
    visible_keys,
    visible_to,
    weights_of,
)  # fmt: skip
from .intrinsics import at, bits_f64, inline, invoke
from .vector_math import dots, transpose
from .vectors import ROWS, fma, lanes, splat, tile, vload, vstore, vsum


def _finish(X: Any) -> Callable[..., Any]:
    """(w, b, first head, first row, m, address, pitch, sums): m rows of weighted sums are divided by their sums of weights and go to y."""

    @inline
    def finish(w, b, head, row, m, address, pitch, total):  # type: ignore[no-untyped-def]
        for i in range(m):
            o = at(address + i * pitch, X)
            inverse = X(bits_f64(w[EMPTY])) if total[i] == X(0.0) else X(1.0) / total[i]
            if w[Y + 4] == 0:
                r = row + i
                y = at(place(w, Y, b, head + r // w[S], r % w[S]), X)
                for j in range(w[E]):
                    y[j] = o[j] * inverse
            else:
                for j in range(w[E]):
                    o[j] = o[j] * inverse
        if w[Y + 4] != 0:
            r = (b * w[H] + head) * w[S] + row
            invoke(w[RUN], (w[Y + 4], r, r + m, 0, w[E], address, pitch, 0, 0))

    return finish  # type: ignore[no-any-return]


def _copy(X: Any) -> Callable[..., Any]:
    """(source, target, n): n elements."""

    @inline
    def copy(source, target, n):  # type: ignore[no-untyped-def]
        x, y = at(source, X), at(target, X)
        for j in range(n):
            y[j] = x[j]

    return copy  # type: ignore[no-any-return]


def _queries(X: Any) -> Callable[..., Any]:
    """(w, b, first head, row, m, target, pitch): m rows of q, dense."""
    copy = _copy(X)

    @inline
    def queries(w, b, head, row, m, target, pitch):  # type: ignore[no-untyped-def]
        if w[Q + 4] != 0:
            bring(w, Q, (b * w[H] + head) * w[S] + row, m, 0, w[D], target, pitch)
        else:
            for i in range(m):
                r = row + i
                copy(place(w, Q, b, head + r // w[S], r % w[S]), target + i * pitch, w[D])

    return queries  # type: ignore[no-any-return]


def heads(X: Any) -> Callable[..., int]:
    """A unit: a part of the rows of one group of heads."""
    L, size = lanes(X), X.bitwidth // 8
    wide = 2 * L
    finish, copy, queries, weights = _finish(X), _copy(X), _queries(X), weights_of(X)

    @inline
    def pack_keys(w, b, g, k0, n, to, temp):  # type: ignore[no-untyped-def]
        depth = w[D]
        whole, temp_pitch = depth // L * L, (depth + L - 1) // L * L * size
        for t in range(0, n, L):
            target = to + (t // wide * wide * depth + t % wide) * size
            rows = min(L, n - t)
            if w[KEYS_ACROSS] != 0 and rows == L:  # neighbours in memory are keys
                source = place(w, K, b, g, k0 + t)
                for d in range(depth):
                    vstore(target + d * wide * size, vload(source + d * w[KEYS_ACROSS], X))
                continue
            source, pitch = place(w, K, b, g, k0 + t), w[K + 3]
            if w[K + 4] != 0 or rows < L:
                source, pitch = temp, temp_pitch
                if w[K + 4] != 0:
                    bring(w, K, (b * w[G] + g) * w[T] + k0 + t, rows, 0, depth, temp, pitch)
                else:
                    for i in range(rows):
                        copy(place(w, K, b, g, k0 + t + i), temp + i * pitch, depth)
                for i in range(rows, L):
                    z = at(temp + i * pitch, X)
                    for d in range(depth):
                        z[d] = X(0.0)
            for d in range(0, whole, L):
                transpose(source + d * size, pitch, target + d * wide * size, wide * size, X)
            for d in range(whole, depth):
                y = at(target + d * wide * size, X)
                for i in range(L):
                    y[i] = at(source + i * pitch, X)[d]
        if (n + L - 1) // L % 2 == 1:  # the second half of the last panel
            target = to + (n // wide * wide * depth + L) * size
            for d in range(depth):
                vstore(target + d * wide * size, splat(X(0.0)))

    @inline
    def pack_values(w, b, g, k0, n, to, temp):  # type: ignore[no-untyped-def]
        width = w[E]
        panels, whole = (width + wide - 1) // wide, width // L
        for t0 in range(0, n, L):
            rows = min(L, n - t0)
            source, pitch = place(w, V, b, g, k0 + t0), w[V + 3]
            if w[V + 4] != 0:
                source, pitch = temp, panels * wide * size
                bring(w, V, (b * w[G] + g) * w[T] + k0 + t0, rows, 0, width, temp, pitch)
            for v in range(2 * panels):
                target = to + (v // 2 * wide * n + t0 * wide + v % 2 * L) * size
                if v < whole:
                    for i in range(rows):
                        vstore(target + i * wide * size, vload(source + i * pitch + v * L * size, X))
                else:
                    for i in range(rows):
                        x, y = at(source + i * pitch + v * L * size, X), at(target + i * wide * size, X)
                        for j in range(L):
                            y[j] = X(0.0)
                        for j in range(width - v * L):
                            y[j] = x[j]

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        home = w[SLOT] + slot * w[STEP]
        depth, width = w[D], w[E]
        panels = (width + wide - 1) // wide
        q_pitch, s_pitch, o_pitch = ((depth + L - 1) // L * L + L) * size, (w[BLOCK] + L) * size, panels * wide * size
        q, scores, kt, vp, temp = home + w[QUERIES], home + w[SCORES], home + w[KEYS], home + w[VALUES], home + w[ROWS_AT]
        masks, out, tops, sums = home + w[MASK_AT], home + w[OUT], home + w[TOP], home + w[SUM]
        top, total = at(tops, X), at(sums, X)
        masked = w[MASK] != 0 or w[MASK + 4] != 0
        for unit in range(begin, end):
            part = unit % w[PARTS]
            g = unit // w[PARTS] % w[G]
            b = unit // w[PARTS] // w[G]
            first = part * w[PART] + min(part, w[PART_EXTRA])
            count = w[PART] + (1 if part < w[PART_EXTRA] else 0)
            head = g * w[SHARE]
            keys = visible_keys(w, b)
            keys = visible_to(w, last_query(w, first, first + count - 1), 0, keys)
            n_tiles = (count + ROWS - 1) // ROWS
            small, extra = count // n_tiles, count % n_tiles
            for i in range(count):
                top[i] = X(-math.inf)
                total[i] = X(0.0)
            blocks = max(1, (keys + w[BLOCK] - 1) // w[BLOCK])
            for block in range(blocks):
                k0 = block * w[BLOCK]
                n = max(0, min(w[BLOCK], keys - k0))
                pack_keys(w, b, g, k0, n, kt, temp)
                if w[VALUES_IN_PLACE] == 0:
                    pack_values(w, b, g, k0, n, vp, temp)
                if w[MASK + 4] != 0 and w[ONE_MASK] != 0 and n > 0:
                    bring(w, MASK, b * w[H] * w[S], 1, k0, k0 + n, masks, 0)
                for t in range(n_tiles):
                    r0 = t * small + min(t, extra)
                    m = small + (1 if t < extra else 0)
                    row = first + r0
                    seen = visible_to(w, last_query(w, row, row + m - 1), k0, n)
                    queries(w, b, head, row, m, q, q_pitch)
                    seen_end = (seen + wide - 1) // wide * wide
                    n_panels = seen_end // wide
                    invoke(w[PRODUCT], (m, n_panels, depth, q, q_pitch, size, kt, depth * wide * size, wide * size, scores, s_pitch, 0))
                    m_pitch = w[BLOCK] * size
                    if w[MASK + 4] != 0 and w[ONE_MASK] == 0 and seen > 0:
                        bring(w, MASK, (b * w[H] + head) * w[S] + row, m, k0, k0 + seen, masks, m_pitch)
                    for i in range(m):
                        mask = int64(0)
                        if masked:
                            mask = masks + (0 if w[ONE_MASK] != 0 else i * m_pitch)
                            if w[MASK + 4] == 0:
                                mask = place(w, MASK, b, head + (row + i) // w[S], (row + i) % w[S]) + k0 * size
                        visible = visible_to(w, row + i, k0, seen)
                        factor = weights(w, scores + i * s_pitch, visible, seen_end, mask, top, total, r0 + i)
                        if block > 0 and factor != X(1.0):
                            y = at(out + (r0 + i) * o_pitch, X)
                            for j in range(panels * wide):
                                y[j] = y[j] * factor
                    source, panel, step = vp, n * wide * size, wide * size
                    if w[VALUES_IN_PLACE] != 0:
                        source, panel, step = place(w, V, b, g, k0), wide * size, w[V + 3]
                    o = out + r0 * o_pitch
                    invoke(w[PRODUCT], (m, panels, seen, scores, s_pitch, size, source, panel, step, o, o_pitch, block))
                    if block == blocks - 1:
                        finish(w, b, head, row, m, out + r0 * o_pitch, o_pitch, at(sums + r0 * size, X))
        return 0

    return kernel


def stream(X: Any, vectors: int, rows: int) -> Callable[..., int]:
    """Few queries: a unit is a group of heads, of `rows` queries. Keys and values are read once, where they lie. `vectors`: registers of a key, if whole
    (else 0)."""
    L, size = lanes(X), X.bitwidth // 8
    wide = 4 * L
    finish, queries, weights = _finish(X), _queries(X), weights_of(X)
    products, four, one = dots(vectors, X), tile(rows, 4, X), tile(rows, 1, X)

    @inline
    def scores_of(q, k, pitch, n, depth, to):  # type: ignore[no-untyped-def]
        whole = depth // L * L
        y = at(to, X)
        most = n // L * L
        for t in range(0, most, L):
            products(q, k + t * pitch, pitch, whole // L, to + t * size)
        for t in range(most, n):
            s = splat(X(0.0))
            for d in range(0, whole, L):
                s = fma(vload(q + d * size, X), vload(k + t * pitch + d * size, X), s)
            y[t] = vsum(s)
        if whole < depth:
            x = at(q, X)
            for t in range(n):
                row, s = at(k + t * pitch, X), y[t]
                for d in range(whole, depth):
                    s += x[d] * row[d]
                y[t] = s

    def kernel(w, begin, end, slot):  # type: ignore[no-untyped-def]
        home, m = w[SLOT] + slot * w[STEP], rows
        depth, width = w[D], w[E]
        o_pitch = (width + L - 1) // L * L * size
        q_pitch, s_pitch = (depth + L - 1) // L * L * size, w[BLOCK] * size
        q, scores, temp, out = home + w[QUERIES], home + w[SCORES], home + w[ROWS_AT], home + w[OUT]
        masks, top, total = home + w[MASK_AT], at(home + w[TOP], X), at(home + w[SUM], X)
        for unit in range(begin, end):
            g = unit % w[G]
            b = unit // w[G]
            head = g * w[SHARE]
            keys = visible_keys(w, b)
            queries(w, b, head, 0, m, q, q_pitch)
            for i in range(m):
                top[i] = X(-math.inf)
                total[i] = X(0.0)
                o = at(out + i * o_pitch, X)
                for j in range(width):
                    o[j] = X(0.0)
            for k0 in range(0, keys, w[BLOCK]):
                n = min(w[BLOCK], keys - k0)
                seen = visible_to(w, last_query(w, 0, m - 1), k0, n)
                if seen == 0:
                    break
                end_ = (seen + L - 1) // L * L
                source, pitch = place(w, K, b, g, k0), w[K + 3]
                if w[K + 4] != 0:
                    source, pitch = temp, depth * size
                    bring(w, K, (b * w[G] + g) * w[T] + k0, seen, 0, depth, temp, pitch)
                for i in range(m):
                    scores_of(q + i * q_pitch, source, pitch, seen, depth, scores + i * s_pitch)
                    mask = int64(0)
                    if w[MASK + 4] != 0:
                        mask = masks
                        bring(w, MASK, (b * w[H] + head) * w[S] + i, 1, k0, k0 + seen, masks, 0)
                    elif w[MASK] != 0:
                        mask = place(w, MASK, b, head + i // w[S], i % w[S]) + k0 * size
                    factor = weights(w, scores + i * s_pitch, visible_to(w, i, k0, seen), end_, mask, top, total, i)
                    if factor != X(1.0):
                        o = at(out + i * o_pitch, X)
                        for j in range(width):
                            o[j] = o[j] * factor
                source, pitch = place(w, V, b, g, k0), w[V + 3]
                if w[V + 4] != 0:
                    source, pitch = temp, width * size
                    bring(w, V, (b * w[G] + g) * w[T] + k0, seen, 0, width, temp, pitch)
                e = 0
                while e + wide <= width:
                    four(seen, scores, s_pitch, size, source + e * size, pitch, out + e * size, o_pitch, 1)
                    e += wide
                while e + L <= width:
                    one(seen, scores, s_pitch, size, source + e * size, pitch, out + e * size, o_pitch, 1)
                    e += L
                for j in range(e, width):
                    for i in range(m):
                        p, o = at(scores + i * s_pitch, X), at(out + i * o_pitch, X)
                        s = o[j]
                        for t in range(seen):
                            s += p[t] * at(source + t * pitch, X)[j]
                        o[j] = s
            finish(w, b, head, 0, m, out, o_pitch, total)
        return 0

    return kernel
