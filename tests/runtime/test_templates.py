"""Plan templates: the second shape of a kind drafts one, the third has it checked, later shapes only fill it; results are those of a plan made from scratch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pytensor_rt as rt
from pytensor_rt.lowering.symbolic import Recorder, is_symbolic, plain

from ..models_text import model

rng = np.random.default_rng(11)

ATTENTION = """g (float[B,S,16] x, int64[B,S] ids) => (float[B,S,16] y, float[B,16] pooled, int64[T] n)
  <float[16,16] w, float[16,16] u, float[7,16] table, int64 one = {1}, int64[1] first = {0}, int64[1] second = {1}, int64[2] tail = {4,4},
   int64[1] whole = {16}, float scale = {0.5}, float[16] bias, int64[1] axis = {1}>
  { e = Gather(table, ids) h = Add(x, e) s = Shape(h) b = Slice(s, first, second) l = Gather(s, one) l1 = Unsqueeze(l, first)
    shape = Concat<axis=0>(b, l1, tail) back = Concat<axis=0>(b, l1, whole)
    q0 = MatMul(h, w) q1 = Reshape(q0, shape) q = Transpose<perm=[0,2,1,3]>(q1)
    k0 = MatMul(h, u) k1 = Reshape(k0, shape) k = Transpose<perm=[0,2,3,1]>(k1)
    a = MatMul(q, k) m = Mul(a, scale) p = Softmax<axis=-1>(m) v = Transpose<perm=[0,2,1,3]>(q1)
    c = MatMul(p, v) c1 = Transpose<perm=[0,2,1,3]>(c) c2 = Reshape(c1, back) y0 = Add(c2, bias) y = Add(y0, h)
    pooled = ReduceMean<keepdims=0>(y, axis) n = Mul(s, s) }"""


def attention_model() -> Any:
    proto = model(ATTENTION)
    fill = {"w": (16, 16), "u": (16, 16), "table": (7, 16), "bias": (16,)}
    from onnx import numpy_helper

    kept = [i for i in proto.graph.initializer if i.name not in fill]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for name, shape in fill.items():
        proto.graph.initializer.append(numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name))
    return proto


def feeds(b: int, s: int) -> dict[str, Any]:
    return {"x": rng.standard_normal((b, s, 16)).astype(np.float32), "ids": rng.integers(0, 7, (b, s))}


def test_template_gives_the_results_of_fresh_plans() -> None:
    proto = attention_model()
    session = rt.InferenceSession(proto)
    shapes = [(2, 5), (3, 8), *((int(rng.integers(2, 6)), int(rng.integers(2, 40))) for _ in range(30)), (1, 9), (1, 12), (1, 31), (4, 1)]
    for b, s in shapes:
        f = feeds(b, s)
        want = rt.InferenceSession(proto).run(None, f)
        for got, expected in zip(session.run(None, f), want):
            np.testing.assert_array_equal(got, expected)
    engine = session._engine
    assert sum(t is not None for t in engine.templates.made.values()) >= 2, "one template with a batch, one for batch 1"
    # each kind: one concrete trace, then two symbolic ones; everything else comes from templates
    assert engine.traces <= 3 * len(engine.templates.seen)


def test_a_template_is_checked_with_other_sizes_of_every_dimension() -> None:
    """A rule that fixes a size in silence (range() on a symbol) gives no template, even while the batch stays the same."""
    proto = attention_model()
    session = rt.InferenceSession(proto)
    for s in (5, 8, 9, 12):
        session.run(None, feeds(3, s))
    engine = session._engine
    assert engine.traces == 3 and not engine.templates.drafts and all(engine.templates.made.values())
    for b, s in ((4, 12), (7, 33)):
        f = feeds(b, s)
        for got, want in zip(session.run(None, f), rt.InferenceSession(proto).run(None, f)):
            np.testing.assert_array_equal(got, want)
    assert engine.traces == 3


def test_a_silently_fixed_size_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytensor_rt.ops import find
    from pytensor_rt.ops.registry import RULES

    rule = find("", "Exp", 18)
    assert rule is not None

    def fixed(t: Any, x: Any) -> Any:
        return rule(t, x.slice(0, 0, len(range(x.shape[0])) - 1))

    monkeypatch.setitem(RULES, ("", "Exp"), [(1, fixed)])
    session = rt.InferenceSession(model("g (float[N] x) => (float[M] y) { y = Exp(x) }"))
    for n in (5, 7, 9, 11, 4):
        assert session.run(None, {"x": np.zeros(n, np.float32)})[0].shape == (n - 1,)
    assert list(session._engine.templates.made.values()) == [None]


def test_a_repeated_signature_is_not_planned_again() -> None:
    session = rt.InferenceSession(attention_model())
    for b, s in [(2, 5), (3, 8), (2, 9)]:
        session.run(None, feeds(b, s))
    engine = session._engine
    before = engine.traces, engine.plans, len(engine.cache)
    for b, s in [(2, 5), (3, 8), (2, 9)] * 3:
        session.run(None, feeds(b, s))
    assert (engine.traces, engine.plans, len(engine.cache)) == before


DECODER = """g (float[1,S,8] x, float[1,P,8] past) => (float[1,S,8] y, float[1,T,8] present)
  <float[64,8] table, float[8,8] w, float[8,8] u, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}>
  { ps = Shape(past) p = Slice(ps, one, two) xs = Shape(x) n = Slice(xs, one, two) t = Add(p, n)
    e = Slice(table, p, t, zero) h = Add(x, e) k = MatMul(h, w) present = Concat<axis=1>(past, k)
    kt = Transpose<perm=[0,2,1]>(present) s = MatMul(h, kt) a = Softmax<axis=-1>(s) c = MatMul(a, present) z = MatMul(c, u) y = Add(z, h) }"""


@pytest.mark.parametrize("threads", [1, 2])
def test_instances_share_the_launches_that_do_not_change(threads: int) -> None:
    """A decoder with a growing cache and a table read at its end; earlier lengths again after later ones, for what is shared has their addresses."""
    proto = model(DECODER)
    from onnx import numpy_helper

    kept = [i for i in proto.graph.initializer if i.name not in ("table", "w", "u")]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for name, shape in {"table": (64, 8), "w": (8, 8), "u": (8, 8)}.items():
        proto.graph.initializer.append(numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name))
    session = rt.InferenceSession(proto, threads=threads)
    past = rng.standard_normal((1, 2, 8)).astype(np.float32)
    fed = []
    for _ in range(30):
        f = {"x": rng.standard_normal((1, 1, 8)).astype(np.float32), "past": past}
        y, past = session.run(None, f)
        fed.append((f, y, past))
    programs = [e.first.bound.program for e in session._engine.cache.values()]
    assert session._engine.traces == 3
    assert [p.shared_launches for p in programs[:2]] == [0, 0], "traced, and the first of the template"
    assert all(0 < p.shared_launches < p.num_launches for p in programs[2:])
    for k in [0, 29, 3, 4, 28, 5, 5, 29, *rng.integers(0, 30, 40)]:
        f, y, present = fed[k]
        got = session.run(None, f)
        want = rt.InferenceSession(proto, threads=threads).run(None, f)
        for a, b, c in zip(got, want, (y, present)):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_shapes_that_break_a_guard_are_traced() -> None:
    """Slice clamps at the input's size: shapes on the other side of the clamp need another plan, and get the right result."""
    body = "g (float[N] x) => (float[M] y) <int64[1] b = {0}, int64[1] e = {6}> { t = Exp(x) y = Slice(t, b, e) }"
    session = rt.InferenceSession(model(body))
    for n in (8, 9, 10, 3, 6, 2, 12, 5):
        x = rng.standard_normal(n).astype(np.float32)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.exp(x)[:6], 1e-5)


def test_symbolic_integers_record_guards() -> None:
    rec = Recorder()
    n = rec.dimension(0, 6)
    m = (n * 4 + 2) // 2
    assert is_symbolic(m) and plain(m) == 13
    assert (n * 4) % 4 == 0 and not is_symbolic((n * 4) % 4)
    assert plain(n * 4 // 2) == 12
    assert not rec.guards
    assert n > 3 and n != 7
    assert len(rec.guards) == 2
    assert int(n) == 6  # makes it concrete, and says so
    assert rec.guards[("eq", ("s", n._expr), ("c", 6))] is True


@pytest.mark.parametrize("value", [0, 1, 5])
def test_neutral_elements_stay_exact(value: int) -> None:
    n = Recorder().dimension(0, 7)
    assert (
        plain(n + value) == 7 + value and plain(n * value) == 7 * value and plain(n - value) == 7 - value and plain(value - n) == value - 7
    )
    assert n + 0 is n and n * 1 is n and n * 0 == 0
