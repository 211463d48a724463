"""Strings: host functions on object arrays of `str`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import BOOL, F32, I64, STRING
from ..hosted import grams, positions
from ..lowering.recorder import broadcast_shapes
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .registry import INTERNAL, MICROSOFT, op


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

    if not stops:  # nothing is left out: the shape is known

        def changed(v: Any) -> tuple[Any, ...]:
            out = np.empty(v.size or 1, object)
            out[:] = list(map(change, v.reshape(-1).tolist())) or [""]
            return (out if v.ndim == 1 else out[None],)

        return t.host(changed, [x], [(x.shape if x.size else (*x.shape[:-1], 1), STRING)])[0]

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


# -------------------------------------------------------------------------------------------------------------------- tokens
def _longest(t: Tracer, pattern: str) -> Callable[[str], list[tuple[int, int]]]:
    """A function to the spans of the matches of a pattern (RE2 syntax), each the longest one at the first place that has any; none is empty."""
    try:
        compiled = re.compile(re2_pattern(pattern), re.ASCII | re.DOTALL)
    except re.error as error:
        t.fail(f"the pattern {pattern!r} is invalid: {error}")
    if re.fullmatch(r"(\[\^?[\w \-]+\]|\\[wdsWDS]|[\w .])[+*]?", pattern, re.ASCII):  # one class: greedy is longest
        return lambda s: [m.span() for m in compiled.finditer(s) if m.end() > m.start()]
    if re.search(r"[$^]|\\[bBAzZ]", pattern.replace("[^", "[")):
        t.unsupported(f"the pattern {pattern!r}, whose longest match depends on what is around it,")

    def spans(s: str) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        at = 0
        while (m := compiled.search(s, at)) is not None:
            begin = m.start()
            end = next((e for e in range(len(s), begin, -1) if compiled.fullmatch(s, begin, e)), begin)
            if end > begin:
                out.append((begin, end))
            at = max(end, begin + 1)
        return out

    return spans


def _class(pattern: str, separators: Any) -> bytes | None:
    """If tokens are the longest runs of some ASCII characters, which of the 128; empty if every character is a token; else None."""
    if pattern == "." or list(separators or ()) == [""]:
        return b""
    if not re.fullmatch(r"\[(\w-\w|\w)+\]\+|\\w\+", pattern, re.ASCII):
        return None
    try:
        one = re.compile(pattern[:-1], re.ASCII)
    except re.error:
        return None
    return bytes(one.fullmatch(chr(k)) is not None for k in range(128))


def _tokens(t: Tracer, mark: int, least: int, separators: Any, pattern: str) -> Callable[[list[str]], list[list[str]]]:
    """A function from strings to their tokens, of at least so many characters each, between marks unless nobody has any."""
    if least < 1 or bool(separators) == bool(pattern):
        t.fail("expected a positive mincharnum, and either separators or tokenexp")
    split: Callable[[str], list[str]]
    of = _class(pattern, separators)
    if of is not None and not of:
        split = list
    elif of is not None:
        split = re.compile(pattern, re.ASCII).findall
    elif pattern:
        spans = _longest(t, pattern)
        split = lambda s: [s[a:b] for a, b in spans(s)]
    else:
        cutters = [_longest(t, str(p)) for p in separators]

        def split(s: str) -> list[str]:
            parts = [s]
            for cut in cutters:
                parts = [p for part in parts for p in _between(part, cut(part))]
            return parts

    def tokens(strings: list[str]) -> list[list[str]]:
        out = [split(s) for s in strings]
        if least > 1:
            out = [[token for token in row if len(token) >= least] for row in out]
        return [["\x02", *row, "\x03"] for row in out] if mark and any(out) else out

    return tokens


def _between(s: str, spans: list[tuple[int, int]]) -> list[str]:
    edges = [0, *(k for span in spans for k in span), len(s)]
    return [s[a:b] for a, b in zip(edges[::2], edges[1::2]) if b > a]


@op("Tokenizer", domain=MICROSOFT)
def tokenizer(
    t: Tracer, x: Tensor, *, mark: int = 0, mincharnum: int = 1, pad_value: str = "", separators: Any = None, tokenexp: str = ""
) -> Tensor:
    """The tokens of every string of x [C] or [N, C] along a new last axis, padded: what matches tokenexp, or what lies between separators."""
    _strings(t, x)
    if x.ndim not in (1, 2):
        t.fail(f"expected shape [C] or [N, C], got rank {x.ndim}")
    shape = tuple(map(int, x.shape))
    if 0 in shape:
        return t.const(np.empty(shape, object))
    tokens = _tokens(t, mark, mincharnum, separators, tokenexp)

    def cut(v: Any) -> tuple[Any, ...]:
        rows = tokens(v.reshape(-1).tolist())
        return objects(rows, shape), np.array([max(map(len, rows))], np.int64)

    if x.known:
        lists, longest = _known(t, cut(x.value))
    else:
        lists, longest = t.host(cut, [x], [(shape, STRING), ((1,), I64)])
    n = _sized(t, lists, longest)
    pad: Callable[[Any], Any] = lambda v: (objects([s for p in v.reshape(-1) for s in (*p, *(pad_value,) * (n - len(p)))], (*shape, n)),)
    return t.host(pad, [lists], [((*shape, n), STRING)])[0] if n else t.const(np.empty((*shape, 0), object))


# ------------------------------------------------------------------------------------------------------------------- n-grams
@op("TfIdfVectorizer", since=9)
def tfidf_vectorizer(
    t: Tracer, x: Tensor, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: Any, ngram_indexes: Any,
    pool_int64s: Any = None, pool_strings: Any = None, weights: Any = None,
) -> Tensor:  # fmt: skip
    """Counts of the pool's n-grams in x [C] or [N, C], with up to max_skip_count elements skipped between neighbours (weights by column)."""
    if x.ndim > 2:
        t.fail(f"expected shape [C] or [N, C], got rank {x.ndim}")
    pool = [str(s) for s in pool_strings] if pool_strings else list(pool_int64s or ())
    counter = _counter(t, pool, max_gram_length, max_skip_count, min_gram_length, mode, ngram_counts, ngram_indexes, weights)

    def vectorize(v: Any) -> tuple[Any, ...]:
        out = counter((v.reshape(1, -1) if v.ndim < 2 else v).tolist())
        return (out if v.ndim == 2 else out[0],)

    shape = (x.shape[0], counter.width) if x.ndim == 2 else (counter.width,)
    return t.host(vectorize, [x], [(shape, F32)])[0]


@op("TfIdfTokens", domain=INTERNAL)
def tfidf_tokens(
    t: Tracer, x: Tensor, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: Any, ngram_indexes: Any,
    pool_strings: Any, weights: Any = None, mark: int = 0, mincharnum: int = 1, pad_value: str = "", separators: Any = None, tokenexp: str = "",
) -> Tensor:  # fmt: skip
    """TfIdfVectorizer(Flatten(Tokenizer(x))), x [N] or [N, C]: the longest row of tokens is no dimension of anything."""
    _strings(t, x)
    if x.ndim not in (1, 2):
        t.fail(f"expected shape [N] or [N, C], got rank {x.ndim}")
    pool = [str(s) for s in pool_strings]
    counter = _counter(t, pool, max_gram_length, max_skip_count, min_gram_length, mode, ngram_counts, ngram_indexes, weights)
    tokens = _tokens(t, mark, mincharnum, separators, tokenexp)
    n, c = int(x.shape[0]), int(x.shape[1]) if x.ndim == 2 else 1
    padded = c > 1 or pad_value in pool
    of = _class(tokenexp, separators)
    if counter.compiled is not None and of is not None and not (padded or mark or (mincharnum > 1 and not of)):
        return t.host(lambda v: (counter.text(v.reshape(-1).tolist(), of, mincharnum),), [x], [((x.shape[0], counter.width), F32)])[0]

    def vectorize(v: Any) -> tuple[Any, ...]:
        rows = tokens(v.reshape(-1).tolist())
        if padded:
            longest = max(map(len, rows), default=0)
            rows = [row + [pad_value] * (longest - len(row)) for row in rows]
        return (counter(rows if c == 1 else [[s for row in rows[k : k + c] for s in row] for k in range(0, n * c, c or 1)] or [[]] * n),)

    return t.host(vectorize, [x], [((x.shape[0], counter.width), F32)])[0]


def _counter(
    t: Tracer, pool: list[Any], high: int, skips: int, low: int, mode: str, ngram_counts: Any, ngram_indexes: Any, weights: Any
) -> NGrams:
    if mode not in ("TF", "IDF", "TFIDF"):
        t.fail(f"unknown mode {mode!r}")
    columns = [int(c) for c in ngram_indexes]
    if min(columns, default=-1) < 0:
        t.fail("ngram_indexes must be non-negative and not empty")
    width = max(columns) + 1
    w = np.array(weights, np.float32) if weights is not None and len(weights) else None
    if w is not None and len(w) < width:
        t.fail(f"{len(w)} weights, expected {width}")
    tables = _ngrams(t, pool, [int(c) for c in ngram_counts], columns, low, high)
    return NGrams(tables, width, skips, mode == "IDF", w[:width] if w is not None and mode != "TF" else None)


class NGrams:
    """Counts n-grams: `tables` has n -> {n-gram: column}, of n-grams with up to `skips` elements left out between neighbours."""

    FEW = 150  # elements, below which Python's dictionaries are faster than NumPy's searches

    def __init__(
        self, tables: dict[int, dict[tuple[Any, ...], int]], width: int, skips: int, once: bool = False, weights: Any = None
    ) -> None:
        self.tables, self.width, self.skips, self.once, self.weights = tables, width, skips, once, weights
        self.places: dict[Any, int] = {}
        for table in tables.values():
            for gram in table:
                for element in gram:
                    self.places.setdefault(element, len(self.places))
        self.compiled: Any = None
        if grams is not None and all(isinstance(element, str) for element in self.places):
            flat = [(gram, column) for table in tables.values() for gram, column in table.items()]
            self.compiled = grams([gram for gram, _ in flat], [column for _, column in flat], width, skips)
        self.steps = {n: self._steps(n, table) for n, table in tables.items()} if self.compiled is None else {}

    def _steps(self, n: int, table: dict[tuple[Any, ...], int]) -> list[tuple[Any, Any]]:
        """For each element after the first: the sorted (prefix number, element) keys that go on, and what they lead to; the last leads to columns."""
        numbers: dict[tuple[int, ...], int] = {(k,): k for k in range(len(self.places))}
        steps = []
        for length in range(2 if n > 1 else 1, n + 1):
            found: dict[tuple[int, ...], int] = {}
            keys: dict[int, int] = {}
            for gram, column in table.items():
                codes = tuple([self.places[element] for element in gram[:length]])
                number = column if length == n else found.setdefault(codes, len(found))
                keys[numbers[codes[:-1]] * len(self.places) + codes[-1] if n > 1 else codes[0]] = number
            numbers = found
            ordered = sorted(keys.items())
            steps.append((np.array([k for k, _ in ordered], np.int64), np.array([v for _, v in ordered], np.int64)))
        return steps

    def __call__(self, rows: list[list[Any]]) -> Any:
        """float32 [rows, width]."""
        if self.compiled is not None:
            return self._finished(self.compiled.rows(rows))
        out = np.zeros((len(rows), self.width), np.float32)
        if sum(map(len, rows)) < self.FEW:
            for counts, row in zip(out, rows):
                self._count(counts, row)
        else:
            self._count_all(out, rows)
        return self._finished(out)

    def text(self, strings: list[str], of: bytes, least: int) -> Any:
        """The same of the runs of at least `least` characters that `of` has a byte for, or of all characters if it is empty, where `compiled`."""
        return self._finished(self.compiled.text(strings, of, least))

    def _finished(self, out: Any) -> Any:
        if self.once:
            out = (out > 0).astype(np.float32)
        if self.weights is not None:
            out *= self.weights
        return out

    def _count(self, counts: Any, row: list[Any]) -> None:
        for n, table in self.tables.items():
            for skip in range(1, (self.skips if n > 1 else 0) + 2):  # single elements are counted once
                grams = zip(row) if n == 1 else zip(*[row[k * skip :] for k in range(n)])
                for column in map(table.get, grams):
                    if column is not None:
                        counts[column] += 1

    def _count_all(self, out: Any, rows: list[list[Any]]) -> None:
        elements = np.empty(sum(map(len, rows)), object)
        elements[:] = [element for row in rows for element in row]
        codes = positions(elements, self.places, -1)
        at = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        for n, steps in self.steps.items():
            for skip in range(1, (self.skips if n > 1 else 0) + 2):
                start = np.flatnonzero(codes[: max(0, len(codes) - skip * (n - 1))] >= 0)
                if n > 1:
                    start = start[at[start] == at[start + skip * (n - 1)]]
                number = codes[start] if n > 1 else np.zeros_like(start)
                for k, (keys, following) in enumerate(steps, 1 if n > 1 else 0):
                    element = codes[start + skip * k]
                    key = number * len(self.places) + element
                    place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                    kept = np.flatnonzero((keys[place] == key) & (element >= 0))
                    start, number = start[kept], following[place[kept]]
                np.add.at(out.reshape(-1), at[start] * self.width + number, np.float32(1))


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
