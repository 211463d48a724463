"""String operators: Unicode, empty tensors, constants, views of string tensors, n-grams against onnx.reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

from ..models_text import model
from .nodes import node_model, run, session, text

rng = np.random.default_rng(3)


def test_concat_broadcasts() -> None:
    a, b = text("x", "é")[:, None], text("1", "", "日本")
    assert run("StringConcat", {"a": a, "b": b})[0].tolist() == [["x1", "x", "x日本"], ["é1", "é", "é日本"]]
    assert run("StringConcat", {"a": a[:0], "b": b})[0].shape == (0, 3)
    with pytest.raises(rt.PlanError, match="broadcast"):
        run("StringConcat", {"a": text("x", "y"), "b": b})


def test_split_pads_and_counts() -> None:
    s = session("StringSplit", {"x": text("")}, outputs=2, delimiter=",")
    for rows, pieces, counts in (
        (["a,b", "c"], [["a", "b"], ["c", ""]], [2, 1]),
        (["a,,b,c", ""], [["a", "", "b", "c"], ["", "", "", ""]], [4, 1]),
        (["x"], [["x"]], [1]),
    ):
        y, n = s.run(None, {"x": text(*rows)})
        assert y.tolist() == pieces and n.tolist() == counts and n.dtype == np.int64
    y, n = run("StringSplit", {"x": text("  a  b\tc ", "", " ").reshape(3, 1)}, outputs=2, maxsplit=1)
    assert y.tolist() == [[["a", "b\tc "]], [["", ""]], [["", ""]]] and n.tolist() == [[2], [0], [0]]
    y, n = run("StringSplit", {"x": np.empty((2, 0), object)}, outputs=2)
    assert y.shape == (2, 0, 0) and n.shape == (2, 0)


def test_split_feeds_the_rest_of_the_graph() -> None:
    s = rt.InferenceSession(
        model(
            'g (string[n] x, float[n] w) => (string[n,m] c, float[n] y) { p, k = StringSplit<delimiter="-">(x)\n c = StringConcat(p, p)\n f = Cast<to=1>(k)\n y = Mul(f, w) }',
            20,
        )
    )
    w = np.array([0.5, 2], np.float32)
    for _ in range(2):
        c, y = s.run(None, {"x": text("a-b-c", "d"), "w": w})
        assert c.tolist() == [["aa", "bb", "cc"], ["dd", "", ""]] and y.tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("attrs", "want"),
    [
        ({"stopwords": ["Monday"]}, ["tuesday", "SUNDAY"]),
        ({"stopwords": ["monday"], "is_case_sensitive": 1}, ["Monday", "tuesday", "SUNDAY"]),
        ({"stopwords": ["sunday"], "case_change_action": "UPPER"}, ["MONDAY", "TUESDAY"]),
        ({"case_change_action": "LOWER"}, ["monday", "tuesday", "sunday"]),
        ({"stopwords": ["monday", "tuesday", "sunday"]}, [""]),
    ],
)
def test_normalizer(attrs: dict[str, Any], want: list[str]) -> None:
    x = text("Monday", "tuesday", "SUNDAY")
    for v in (x, x[None]):
        got = run("StringNormalizer", {"x": v}, **attrs)[0]
        assert got.reshape(-1).tolist() == want and got.ndim == v.ndim
    s = session("StringNormalizer", {"x": x}, stopwords=["b"])
    assert [len(s.run(None, {"x": text(*v)})[0]) for v in ("abc", "bbc", "acd", "abc")] == [2, 1, 3, 2]


def test_operators_on_constants() -> None:
    s = rt.InferenceSession(
        model(
            'g (float[1] x) => (string[n] y, string[k,m] p) { c = Constant<value_strings=["a b", "B"]>()\n y = StringNormalizer<stopwords=["b"]>(c)\n p, n = StringSplit(c) }',
            20,
        )
    )
    y, p = s.run(None, {"x": np.zeros(1, np.float32)})
    assert y.tolist() == ["a b"] and p.tolist() == [["a", "b"], ["B", ""]]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"www\.[\w.-]+\.\bcom\b", "www.google.com", "www.google.org"),
        (r"[[:alpha:]]+\z", "abc", "ab1"),
        (r"\Qa.b\E+", "a.bb", "axb"),
        (r"\d+", "123", "١٢٣"),
        (r"(?P<x>a|b)*", "", "c"),
        (r"a.c", "abc", "a\nc"),
    ],
)
def test_regex(pattern: str, yes: str, no: str) -> None:
    got = run("RegexFullMatch", {"x": text(yes, no).reshape(2, 1)}, pattern=pattern)[0]
    assert got.dtype == np.bool_ and got.tolist() == [[True], [False]]


def test_an_invalid_pattern_is_an_error() -> None:
    with pytest.raises(rt.PlanError, match="pattern"):
        run("RegexFullMatch", {"x": text("a")}, pattern="(")


@pytest.mark.parametrize("kind", ["int64", "int32", "string"])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("low", "high", "skip"), [(1, 1, 0), (1, 2, 0), (2, 2, 3), (1, 3, 2), (2, 3, 1)])
def test_tfidf_agrees_with_the_reference(kind: str, mode: str, low: int, high: int, skip: int) -> None:
    pool = [1, 2, 3, *(1, 2, 2, 2, 3, 1), *(1, 1, 2, 3, 2, 1)]
    attrs = {"min_gram_length": low, "max_gram_length": high, "max_skip_count": skip, "mode": mode, "ngram_counts": [0, 3, 9],
             "ngram_indexes": [7, 0, 1, 2, 3, 4, 6, 5], "weights": [0.5, 2.0, 1.0, 3.0, 0.25, 1.5, 4.0, 8.0]}  # fmt: skip
    attrs |= {"pool_strings": [str(v) for v in pool]} if kind == "string" else {"pool_int64s": pool}
    for shape in ((9,), (4, 7), (1, 1), (2, 0)):
        x = rng.integers(1, 5, shape)
        v = np.array(x.astype(str), object) if kind == "string" else x.astype(kind)
        got = run("TfIdfVectorizer", {"x": v}, **attrs)[0]
        (want,) = ReferenceEvaluator(node_model("TfIdfVectorizer", {"x": v}, **attrs)).run(None, {"x": v})
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)",
        "s = Constant<value_ints=[3, 2]>()\n y = Reshape(x, s)",
        "y = Transpose(x)",
        "y = Flatten<axis=0>(x)",
        "a = Constant<value_ints=[0]>()\n y = Unsqueeze(x, a)",
        "b = Constant<value_ints=[-1]>()\n e = Constant<value_ints=[-100]>()\n a = Constant<value_ints=[1]>()\n y = Slice(x, b, e, a, b)",
        "y = Concat<axis=0>(x, x)",
        "t = Transpose(x)\n y = Concat<axis=1>(t, t)",
        "s = Constant<value_ints=[2, 2, 3]>()\n y = Expand(x, s)",
        "r = Constant<value_ints=[1, 2]>()\n y = Tile(x, r)",
        "t = Transpose(x)\n y = StringConcat(t, t)",
        "i = Constant<value_ints=[1, 0]>()\n t = Transpose(x)\n y = Gather<axis=1>(t, i)",
        "p, q = Split<axis=0, num_outputs=2>(x)\n y = StringConcat(p, q)",
    ],
)
def test_views_of_strings(body: str) -> None:
    proto = model(f"g (string[2,3] x) => (string[] y) {{ {body} }}", 20)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    x = text("a", "b", "c", "d", "e", "f").reshape(2, 3)
    (want,) = ReferenceEvaluator(proto).run(None, {"x": x})
    got = rt.InferenceSession(proto).run(None, {"x": x})[0]
    assert got.shape == want.shape and got.tolist() == want.tolist()


def test_where_chooses_strings() -> None:
    feeds = {"c": np.array([[True], [False]]), "a": text("a", "b"), "b": text("z")}
    assert run("Where", feeds)[0].tolist() == [["a", "b"], ["z", "z"]]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (0,), (1, 0), (1,)])
def test_normalizing_without_stop_words_reads_no_count(shape: tuple[int, ...]) -> None:
    x = text("Aé", "b", "")[: int(np.prod(shape))].reshape(shape)
    s = session("StringNormalizer", {"x": x}, case_change_action="UPPER")
    for _ in range(2):
        (got,) = s.run(None, {"x": x})
        want = [v.upper() for v in x.reshape(-1)] or [""]
        assert got.reshape(-1).tolist() == want and got.ndim == x.ndim
    assert s.plan_report().segments == 1
