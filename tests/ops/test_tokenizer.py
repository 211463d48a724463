"""com.microsoft Tokenizer, and n-grams of its tokens, against onnxruntime and plain Python."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from onnx import helper

import pytensor_rt as rt
from pytensor_rt.ops import strings

from .nodes import run, text

TEXTS = text("Hello World", "I love  computer science !", "", "été über", "aXbxc 1_b", "abc abd a..b", "a\nb axxb")


def peer(proto: Any, feeds: dict[str, Any]) -> Any:
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def graph(nodes: list[Any], x: Any, result: int) -> Any:
    info = helper.make_tensor_value_info
    g = helper.make_graph(nodes, "g", [info("x", 8, [None] * x.ndim)], [info("y", result, None)])
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9)


@pytest.mark.parametrize(
    "how",
    [
        {"separators": [" "]}, {"separators": [" ", "o"]}, {"separators": [" |lo"]}, {"separators": ["b", "c a"]}, {"separators": ["\\."]},
        {"tokenexp": "[a-z]+"}, {"tokenexp": "[a-zA-Z0-9_]+"}, {"tokenexp": "\\w+"}, {"tokenexp": "[^a-z]"}, {"tokenexp": "x*"}, {"tokenexp": "a|ab|abc"},
        {"tokenexp": "(a|ab)(c|bd)?"}, {"tokenexp": "l?lo|[A-Z][a-z]+?"}, {"tokenexp": "q+"},
    ],
    ids=lambda v: str(*v.values()),
)  # fmt: skip
@pytest.mark.parametrize("mark", [0, 1])
def test_tokens(how: dict[str, Any], mark: int) -> None:
    for least in (1, 2):
        for x in (TEXTS, TEXTS[:4].reshape(2, 2), TEXTS[2:3]):
            attrs = {"mark": mark, "mincharnum": least, "pad_value": "#", **how}
            want = peer(graph([helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", **attrs)], x, 8), {"x": x})
            (got,) = run("Tokenizer", {"x": x}, domain="com.microsoft", opset=1, **attrs)
            assert got.shape == want.shape and got.tolist() == want.tolist()


@pytest.mark.parametrize("how", [{"separators": [""]}, {"tokenexp": "."}])
def test_characters(how: dict[str, Any]) -> None:
    attrs = {"mark": 0, "mincharnum": 1, "pad_value": "", **how}
    (got,) = run("Tokenizer", {"x": TEXTS}, domain="com.microsoft", opset=1, **attrs)
    assert got.tolist() == [[*s, *[""] * (got.shape[1] - len(s))] for s in TEXTS]


def test_empty_and_wrong() -> None:
    for shape in ((0,), (2, 0), (0, 2)):
        (got,) = run(
            "Tokenizer", {"x": np.empty(shape, object)}, domain="com.microsoft", opset=1, mark=1, mincharnum=1, pad_value="#", tokenexp="a"
        )
        assert got.shape == shape
    for attrs in ({}, {"tokenexp": "a", "separators": ["b"]}, {"tokenexp": "("}, {"tokenexp": "a", "mincharnum": 0}):
        with pytest.raises(rt.PlanError):
            run("Tokenizer", {"x": TEXTS}, domain="com.microsoft", opset=1, **{"mark": 0, "mincharnum": 1, "pad_value": "#", **attrs})
    with pytest.raises(rt.UnsupportedError, match="longest match"):
        run("Tokenizer", {"x": TEXTS}, domain="com.microsoft", opset=1, mark=0, mincharnum=1, pad_value="#", tokenexp="a|\\bab")


GRAMS: dict[str, Any] = {
    "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 1, "mode": "TFIDF", "pool_strings": ["a", "b", "c", "a", "b", "b", "b", "c", "#", "a", "b", "a"],
    "ngram_counts": [0, 3, 9], "ngram_indexes": [0, 1, 2, 3, 4, 5, 6], "weights": [1.0, 2.0, 0.5, 1.5, 3.0, 4.0, 7.0],
}  # fmt: skip


@pytest.mark.parametrize("pool", ["plain", "pad"])
@pytest.mark.parametrize("shape", [(40,), (40, 1), (20, 2), (3, 1), (1, 3)])
def test_counting_tokens_is_one_host_call(pool: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    x = text(*[" ".join(rng.choice(list("abcd"), rng.integers(0, 9))) for _ in range(int(np.prod(shape)))]).reshape(shape)
    pad = "#" if pool == "pad" else "~"
    nodes = [
        helper.make_node("Tokenizer", ["x"], ["t"], domain="com.microsoft", mark=0, mincharnum=1, pad_value=pad, separators=[" "]),
        helper.make_node("Flatten", ["t"], ["f"], axis=1),
        helper.make_node("TfIdfVectorizer", ["f"], ["y"], **GRAMS),
    ]
    proto = graph(nodes, x, 1)
    s = rt.InferenceSession(proto)
    for _ in range(2):
        (got,) = s.run(None, {"x": x})
        np.testing.assert_allclose(got, peer(proto, {"x": x}), 1e-6)
    assert s.plan_report().segments == 1 and len(s.plan_report().launches) <= 2


WORDS = ["a", "b", "ab", "ca", "é", "日", "日本", "😀", "\x7f", "b1", "_"]


@pytest.mark.parametrize(
    "how", [{"tokenexp": "[a-c]+"}, {"tokenexp": "\\w+"}, {"tokenexp": "[a-zA-Z0-9_]+"}, {"tokenexp": "."}, {"separators": [""]}], ids=str
)
@pytest.mark.parametrize("compiled", [True, False])
def test_counting_classes_of_characters(how: dict[str, Any], compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(strings, "grams", None)
    rng = np.random.default_rng(5)
    pool = [*WORDS, *(str(w) for w in rng.choice(WORDS, 80))]
    grams = {
        **GRAMS,
        "max_gram_length": 2,
        "pool_strings": pool,
        "ngram_counts": [0, 11],
        "ngram_indexes": list(range(51)),
        "weights": None,
    }
    seps = np.array(["", " ", ".", "é", "😀"], object)
    for n, length in ((60, 12), (2, 5), (3, 0)):
        x = text(
            *["".join(str(w) + str(s) for w, s in zip(rng.choice(WORDS, length), rng.choice(seps, length), strict=True)) for _ in range(n)]
        )
        for least in (1,) if "." in how.values() or "separators" in how else (1, 2):
            cut = helper.make_node("Tokenizer", ["x"], ["t"], domain="com.microsoft", mark=0, mincharnum=least, pad_value="#", **how)
            count = helper.make_node("TfIdfVectorizer", ["f"], ["y"], **{k: v for k, v in grams.items() if v is not None})
            (got,) = rt.InferenceSession(graph([cut, helper.make_node("Flatten", ["t"], ["f"]), count], x, 1)).run(None, {"x": x})
            rows = rt.InferenceSession(graph([cut, helper.make_node("Identity", ["t"], ["y"])], x, 8)).run(None, {"x": x})[0].tolist()
            want = np.zeros((n, 51), np.float32)
            table = {(w,): k for k, w in enumerate(WORDS)} | {(pool[11 + 2 * k], pool[12 + 2 * k]): 11 + k for k in range(40)}
            for counts, row in zip(want, rows, strict=True):
                for gram in [*zip(row), *pairwise(row), *zip(row, row[2:])]:
                    if gram in table:
                        counts[table[gram]] += 1
            np.testing.assert_array_equal(got, want)
            assert want.any() == (length > 0)


@pytest.mark.parametrize("elements", [list("abcde"), [3, 1, 2**40, -7, 0]])
@pytest.mark.parametrize("skips", [0, 1, 3])
@pytest.mark.parametrize("compiled", [True, False])
def test_ngrams(elements: list[Any], skips: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the extension; by dictionaries, a row at a time; by NumPy's searches, all rows."""
    if not compiled:
        monkeypatch.setattr(strings, "grams", None)
    rng = np.random.default_rng(skips)
    pick = lambda n: tuple(elements[k] for k in rng.integers(0, 4, n))  # the fifth element is in no n-gram
    tables = {n: {pick(n): int(rng.integers(0, 30)) for _ in range(12)} for n in (1, 2, 3, 4)}
    rows = [[elements[k] for k in rng.integers(0, 5, rng.integers(0, 25))] for _ in range(60)]
    want = np.zeros((60, 30), np.float32)
    for counts, row in zip(want, rows, strict=True):
        for n, table in tables.items():
            for skip in range(1, (skips if n > 1 else 0) + 2):
                for start in range(len(row) - skip * (n - 1)):
                    column = table.get(tuple(row[start : start + skip * (n - 1) + 1 : skip]))
                    if column is not None:
                        counts[column] += 1
    assert want.sum() > 100
    grams = strings.NGrams(tables, 30, skips)
    assert compiled or grams.compiled is None
    np.testing.assert_array_equal(grams(rows), want)
    np.testing.assert_array_equal(np.concatenate([grams([row]) for row in rows]), want)
    assert sum(map(len, rows)) > strings.NGrams.FEW > max(map(len, rows))
    assert grams([]).shape == (0, 30) and not grams([[]] * 3).any()
