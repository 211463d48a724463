"""Strings: host functions on object arrays of `str`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import BOOL, F32, I64, STRING
from ..lowering.recorder import broadcast_shapes
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import op


def objects(values: list[Any], shape: tuple[int, ...]) -> Any:
    """An object array of any Python objects, lists among them."""
    out = np.empty(len(values), object)
    for i, v in enumerate(values):
        out[i] = v
    return out.reshape(shape)


def _strings(t: Tracer, *xs: Tensor) -> None:
    for x in xs:
        if x.dtype != STRING:
            t.fail(f"expected a tensor of strings, got {x.dtype}")


def _sized(t: Tracer, value: Tensor, size: Tensor) -> int:
    """The number in `size`, while `value`, computed with it, stays alive across the cut this may need."""
    t.kept.append(value)
    n = int(t.item(size))
    t.kept.pop()
    return n


@op("StringConcat", since=20)
def string_concat(t: Tracer, a: Tensor, b: Tensor) -> Tensor:
    _strings(t, a, b)
    shape = tuple(map(int, broadcast_shapes([a.shape, b.shape])))
    return t.host(lambda p, q: (np.asarray(np.add(p, q), object).reshape(shape),), [a, b], [(shape, STRING)])[0]


@op("StringSplit", since=20)
def string_split(t: Tracer, x: Tensor, *, delimiter: str = "", maxsplit: int | None = None) -> tuple[Tensor, Tensor]:
    """The pieces, padded with "" along a new last axis, and their numbers. An empty delimiter splits at runs of white space."""
    _strings(t, x)
    limit = -1 if maxsplit is None else maxsplit
    shape = tuple(map(int, x.shape))

    def split(v: Any) -> tuple[Any, ...]:
        lists = [s.split(delimiter or None, limit) for s in v.reshape(-1)]
        counts = np.array([len(p) for p in lists], np.int64)
        return objects(lists, shape), counts.reshape(shape), np.array([counts.max(initial=0)], np.int64)

    lists, counts, longest = t.host(split, [x], [(shape, STRING), (shape, I64), ((1,), I64)])
    t.kept.append(counts)
    n = _sized(t, lists, longest)
    t.kept.pop()

    def pad(v: Any) -> tuple[Any, ...]:
        return (objects([s for p in v.reshape(-1) for s in (*p, *("",) * (n - len(p)))], (*shape, n)),)

    return t.host(pad, [lists], [((*shape, n), STRING)])[0], counts


@op("StringNormalizer", since=10)
def string_normalizer(
    t: Tracer, x: Tensor, *, case_change_action: str = "NONE", is_case_sensitive: int = 0, locale: str = "", stopwords: Any = None
) -> Tensor:
    """x [C] or [1, C] without its stop words, then in another case; [""] if nothing is left. Case follows Unicode in every locale."""
    _strings(t, x)
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        t.fail(f"expected shape [C] or [1, C], got {list(map(int, x.shape))}")
    cases: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
    if case_change_action not in cases:
        t.fail(f"unknown case_change_action {case_change_action!r}")
    change = cases[case_change_action]
    same: Callable[[str], str] = str if is_case_sensitive else str.lower
    stops = {same(str(s)) for s in stopwords or ()}

    def normalize(v: Any) -> tuple[Any, ...]:
        kept = [change(s) for s in v.reshape(-1) if same(s) not in stops] or [""]
        return objects(kept, (len(kept),) if v.ndim == 1 else (1, len(kept))), np.array([len(kept)], np.int64)

    most = max(1, int(x.shape[-1]))
    kept, count = t.host(normalize, [x], [t.empty((most,), STRING), ((1,), I64)]) if not x.known else _known(t, normalize(x.value))
    n = _sized(t, kept, count)
    shape = (n,) if x.ndim == 1 else (1, n)
    return t.host(lambda v: (v.reshape(shape),), [kept], [(shape, STRING)])[0]


def _known(t: Tracer, values: tuple[Any, ...]) -> list[Tensor]:
    return [t.const(v) for v in values]


_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7F", "blank": r"\t ", "cntrl": r"\x00-\x1F\x7F", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip


def re2_pattern(pattern: str) -> str:
    r"""An RE2 pattern in Python's syntax: `\z`, `\Q...\E` and POSIX classes are rewritten; the rest is common to both."""
    pattern = re.sub(r"\\Q(.*?)(?:\\E|\Z)", lambda m: re.escape(m.group(1)), pattern, flags=re.S)
    pattern = re.sub(r"((?:^|[^\\])(?:\\\\)*)\\z", r"\1\\Z", pattern)
    return re.sub(r"\[:(\w+):\]", lambda m: _POSIX.get(m.group(1), m.group(0)), pattern)


@op("RegexFullMatch", since=20)
def regex_full_match(t: Tracer, x: Tensor, *, pattern: str) -> Tensor:
    """Does the pattern (RE2 syntax; Perl classes are ASCII) match the whole string?"""
    _strings(t, x)
    try:
        match = re.compile(re2_pattern(pattern), re.ASCII).fullmatch
    except re.error as error:
        t.fail(f"the pattern {pattern!r} is invalid: {error}")
    shape = tuple(map(int, x.shape))
    return t.host(lambda v: (np.array([match(s) is not None for s in v.reshape(-1)], np.bool_).reshape(shape),), [x], [(shape, BOOL)])[0]


# ------------------------------------------------------------------------------------------------------------------- n-grams
@op("TfIdfVectorizer", since=9)
def tfidf_vectorizer(
    t: Tracer, x: Tensor, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: Any, ngram_indexes: Any,
    pool_int64s: Any = None, pool_strings: Any = None, weights: Any = None,
) -> Tensor:  # fmt: skip
    """Counts of the pool's n-grams in x [C] or [N, C], with up to max_skip_count elements skipped between neighbours (weights by column)."""
    if mode not in ("TF", "IDF", "TFIDF"):
        t.fail(f"unknown mode {mode!r}")
    if x.ndim > 2:
        t.fail(f"expected shape [C] or [N, C], got rank {x.ndim}")
    pool = [str(s) for s in pool_strings] if pool_strings else list(pool_int64s or ())
    columns = [int(c) for c in ngram_indexes]
    if min(columns, default=-1) < 0:
        t.fail("ngram_indexes must be non-negative and not empty")
    width = max(columns) + 1
    tables = _ngrams(t, pool, [int(c) for c in ngram_counts], columns, min_gram_length, max_gram_length)
    w = np.array(weights, np.float32) if weights is not None and len(weights) else None
    if w is not None and len(w) < width:
        t.fail(f"{len(w)} weights, expected {width}")

    def vectorize(v: Any) -> tuple[Any, ...]:
        rows = v.reshape(1, -1) if v.ndim < 2 else v
        out = np.zeros((len(rows), width), np.float32)
        for counts, row in zip(out, rows.tolist()):
            for n, table in tables.items():
                for skip in range(1, (max_skip_count if n > 1 else 0) + 2):  # single elements are counted once
                    for start in range(len(row) - skip * (n - 1)):
                        column = table.get(tuple(row[start : start + skip * (n - 1) + 1 : skip]))
                        if column is not None:
                            counts[column] += 1
        if mode == "IDF":
            out = (out > 0).astype(np.float32)
        if mode != "TF" and w is not None:
            out *= w[:width]
        return (out if v.ndim == 2 else out[0],)

    shape = (x.shape[0], width) if x.ndim == 2 else (width,)
    return t.host(vectorize, [x], [(shape, F32)])[0]


def _ngrams(
    t: Tracer, pool: list[Any], starts: list[int], columns: list[int], low: int, high: int
) -> dict[int, dict[tuple[Any, ...], int]]:
    """n -> {n-gram: column} for low <= n <= high. Of equal n-grams the last counts."""
    tables: dict[int, dict[tuple[Any, ...], int]] = {}
    k = 0
    for n, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)]), 1):
        if not 0 <= start <= end <= len(pool):
            t.fail(f"ngram_counts {starts} do not fit a pool of {len(pool)} elements")
        for at in range(start, end - n + 1, n):
            if k >= len(columns):
                t.fail(f"the pool has more n-grams than ngram_indexes ({len(columns)})")
            if low <= n <= high:
                tables.setdefault(n, {})[tuple(pool[at : at + n])] = columns[k]
            k += 1
    return tables


__all__ = ["objects", "re2_pattern"]
