"""Small graphs on which planners go wrong: shared concat sources, outputs that are views of each other, steering, segments."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from ..models_text import agree, model

rng = np.random.default_rng(7)
DEVICES = ("reference", "cpu")


def f(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


ELEMENTWISE = {
    "same tensor in two concats": (
        "g (float[2,3] a, float[2,3] b) => (float[2,6] y, float[2,6] z) { t = Exp(a) u = Exp(b) y = Concat<axis=1>(t,u) z = Concat<axis=1>(u,t) }",
        dict(a=f(2, 3), b=f(2, 3)),
    ),
    "same tensor twice in one concat": ("g (float[2,3] a) => (float[2,6] y) { t = Exp(a) y = Concat<axis=1>(t,t) }", dict(a=f(2, 3))),
    "concat of input, constant and value": (
        "g (float[2,3] a) => (float[2,7] y) <float[2,1] c = {1,2}> { t = Exp(a) y = Concat<axis=1>(a,c,t) }", dict(a=f(2, 3)),
    ),
    "nested concat": (
        "g (float[2,3] a) => (float[2,9] y) { t = Exp(a) u = Neg(a) v = Concat<axis=1>(t,u) w = Tanh(t) y = Concat<axis=1>(v,w) }", dict(a=f(2, 3)),
    ),
    "concat of views with other readers": (
        "g (float[2,4] a) => (float[2,8] y, float[8] z) <int64[1] s = {8}> { t = Exp(a) tt = Transpose<perm=[1,0]>(t) "
        "u = Transpose<perm=[1,0]>(tt) y = Concat<axis=1>(u,a) q = Reshape(t, s) z = Neg(q) }", dict(a=f(2, 4)),
    ),
    "output is input": ("g (float[2,3] a) => (float[2,3] y, float[2,3] z) { y = Identity(a) z = Identity(a) }", dict(a=f(2, 3))),
    "output is constant": (
        "g (float[2,3] a) => (float[2] y, float[2,3] z) <float[2] c = {1,2}> { y = Identity(c) z = Neg(a) }", dict(a=f(2, 3)),
    ),
    "outputs are views of one another": (
        "g (float[2,3] a) => (float[2,3] y, float[3,2] z, float[6] w) <int64[1] s = {-1}> { y = Exp(a) z = Transpose(y) w = Reshape(z, s) }",
        dict(a=f(2, 3)),
    ),
    "duplicate outputs, also read": (
        "g (float[2,3] a) => (float[2,3] y, float[2,3] z, float[2,3] w) { y = Exp(a) z = Identity(y) w = Neg(y) }", dict(a=f(2, 3)),
    ),
    "output read by others and in concat": (
        "g (float[2,3] a) => (float[2,3] y, float[2,6] z) { y = Exp(a) z = Concat<axis=1>(y, a) }", dict(a=f(2, 3)),
    ),
    "zero-size": (
        "g (float[N,3] a) => (float[M,3] y, float[1,3] r) <int64[1] x = {0}> { t = Exp(a) y = Concat<axis=0>(t, a) r = ReduceSum<keepdims=1>(t, x) }",
        dict(a=f(0, 3)),
    ),
    "zero-size slice": (
        "g (float[4,3] a) => (float[N,3] y, float[4,3] z) <int64[1] b = {2}, int64[1] e = {2}> { t = Slice(a, b, e) y = Neg(t) z = Exp(a) }",
        dict(a=f(4, 3)),
    ),
    "negative step": (
        "g (float[4,3] a) => (float[4,3] y) <int64[1] b = {-1}, int64[1] e = {-100}, int64[1] x = {0}, int64[1] st = {-1}> "
        "{ q = Exp(a) t = Slice(q, b, e, x, st) y = Neg(t) }", dict(a=f(4, 3)),
    ),
    "split then concat": (
        "g (float[1,4,3] a) => (float[1,6,3] y) { t = Exp(a) p, q = Split<axis=1, num_outputs=2>(t) r = Tanh(q) y = Concat<axis=1>(p,q,r) }",
        dict(a=f(1, 4, 3)),
    ),
    "broadcast producer": ("g (float[3,1] a, float[3,4] b) => (float[3,4] y) { t = Exp(a) y = Add(t, b) }", dict(a=f(3, 1), b=f(3, 4))),
    "pad with two readers": (
        "g (float[1,2,4] a) => (float[1,2,6] y, float[1,2,4] z) <int64[6] p = {0,0,1,0,0,1}> { t = Exp(a) y = Pad(t, p) z = Neg(t) }",
        dict(a=f(1, 2, 4)),
    ),
    "reflect pad": (
        "g (float[1,2,4] a) => (float[1,2,9] y) <int64[6] p = {0,0,3,0,0,2}> { t = Exp(a) y = Pad<mode=\"reflect\">(t, p) }", dict(a=f(1, 2, 4)),
    ),
    "value feeds shape and data": (
        "g (float[N,6] a) => (float[N,6] y) <int64 z = {0}> { s = Shape(a) n = Gather(s, z) k = Cast<to=1>(n) t = Exp(a) y = Mul(t, k) }",
        [dict(a=f(2, 6)), dict(a=f(5, 6)), dict(a=f(7, 6)), dict(a=f(9, 6))],
    ),
    "rank 0": ("g (float a, float b) => (float y) { t = Add(a, b) y = Mul(t, t) }", dict(a=np.float32(2), b=np.array(3, np.float32))),
}  # fmt: skip
HEAVY = {
    "softmax diamond": ("g (float[3,4] a) => (float[3,4] y) { t = Exp(a) s = Softmax(t) y = Add(s, t) }", dict(a=f(3, 4))),
    "transposed residual blocks in place": (
        "g (float[3,3] a, float[3,3] b) => (float[3,3] y) { t = MatMul(a,b) u = Transpose(t) v = Add(t, u) y = MatMul(v, b) }",
        dict(a=f(3, 3), b=f(3, 3)),
    ),
    "residual that is also an operand": (
        "g (float[4,4] a) => (float[4,4] y) { t = Exp(a) u = MatMul(t, t) v = Add(u, t) y = Relu(v) }", dict(a=f(4, 4)),
    ),
    "head split and merge": (
        "g (float[2,5,12] a) => (float[2,5,12] y) <int64[4] s = {0,0,3,4}, int64[3] m = {0,0,12}> { t = Exp(a) h = Reshape(t, s) "
        "p = Transpose<perm=[0,2,1,3]>(h) q = Softmax<axis=-1>(p) r = Transpose<perm=[0,2,1,3]>(q) y0 = Reshape(r, m) y = Add(y0, a) }",
        dict(a=f(2, 5, 12)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*ELEMENTWISE, *HEAVY])
def test_edge_case(name: str, device: str) -> None:
    body, feeds = (ELEMENTWISE | HEAVY)[name]
    agree(model(body), feeds, device)


@pytest.mark.parametrize("device", DEVICES)
def test_overridable_initializer(device: str) -> None:
    body = "g (float[2] a, float[2] w) => (float[2] y) <float[2] w = {1,2}> { y = Add(a,w) }"
    agree(model(body), [dict(a=f(2)), dict(a=f(2), w=f(2)), dict(a=f(2))], device)


@pytest.mark.parametrize("device", DEVICES)
def test_if_on_shape(device: str) -> None:
    body = """g (float[N,3] a) => (float[M,3] y) <int64 two = {2}, int64 zero = {0}> { s = Shape(a) n = Gather(s, zero) c = Greater(n, two)
       y = If(c) <then_branch = tb () => (float[N,3] p) { p = Neg(a) }, else_branch = eb () => (float[K,3] q) { q = Concat<axis=0>(a,a) }> }"""
    agree(model(body), [dict(a=f(1, 3)), dict(a=f(5, 3)), dict(a=f(1, 3))], device)


@pytest.mark.parametrize("device", DEVICES)
def test_steering_input(device: str) -> None:
    body = "g (float[2,6] a, int64[2] s) => (float[N,M] y) { t = Exp(a) y = Reshape(t, s) }"
    shapes = [[3, 4], [4, 3], [3, 4], [6, 2]]
    session = agree(model(body), [dict(a=f(2, 6), s=np.array(s, np.int64)) for s in shapes], device)
    assert list(session._engine.steering) == ["s"]
    assert len(session._engine.cache) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_steering_stops_after_many_values(device: str) -> None:
    body = "g (float[8] a, bool[8] m) => (float[N] y) { i = NonZero(m) t = Transpose(i) y = GatherND(a, t) }"
    masks = [dict(a=f(8), m=np.arange(8) < k) for k in range(1, 9)] + [dict(a=f(8), m=rng.integers(0, 2, 8).astype(bool)) for _ in range(8)]
    session = agree(model(body), masks, device)
    assert not session._engine.steering and "m" in session._engine.not_steering


@pytest.mark.parametrize("device", DEVICES)
def test_segments_follow_values(device: str) -> None:
    body = """g (float[4,6] a) => (int64[2,N] i, float[N] v) <float z = {0.2}>
      { t = Tanh(a) c = Greater(t, z) i = NonZero(c) ti = Transpose<perm=[1,0]>(i) v0 = GatherND(t, ti) v = Neg(v0) }"""
    x = f(4, 6)
    session = agree(model(body), [dict(a=x), dict(a=f(4, 6)), dict(a=x), dict(a=-x), dict(a=np.full((4, 6), -1, np.float32))], device)
    assert len(session._engine.cache) == 1
    before = session._engine.traces
    session.run(None, dict(a=x))
    assert session._engine.traces == before, "a known path must not be traced again"
    held = session._engine.words
    session.run(None, dict(a=np.where(np.arange(24).reshape(4, 6) < 5, 1, -1).astype(np.float32)))
    assert session._engine.words > held, "a new segment counts towards the cache's bound"
    assert session._engine.words == sum(e.words for e in session._engine.cache.values())


@pytest.mark.parametrize("device", DEVICES)
def test_loop_with_data_dependent_condition(device: str) -> None:
    body = """g (float x) => (float y, float[K] steps) <int64 limit = {20}, bool go = {1}, float big = {100}>
      { y, steps = Loop(limit, go, x) <body = b (int64 i, bool c, float s) => (bool cont, float t, float out)
        { t = Add(s, s) cont = Less(t, big) out = Identity(t) }> }"""
    proto = model(body)  # onnx.reference stacks scalar scan outputs as [K, 1], against the specification
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    agree(proto, [dict(x=np.array(v, np.float32)) for v in (1, 3, 60, 1, 7)], device, peer=peer)


@pytest.mark.parametrize("device", DEVICES)
def test_nested_segments_inside_if(device: str) -> None:
    body = """g (float[6] a) => (float[N] y) <float zero = {0}, int64[1] x = {0}> { s = ReduceSum<keepdims=0>(a, x) c = Greater(s, zero) e = Exp(a)
       y = If(c) <then_branch = tb () => (float[P] p) { k = Greater(a, zero) p = Compress<axis=0>(e, k) }, else_branch = eb () => (float[Q] q) { q = Neg(e) }> }"""
    agree(model(body), [dict(a=f(6)) for _ in range(6)], device)
