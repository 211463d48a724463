"""The verifier must catch plans that are wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import pytensor_rt as rt
from pytensor_rt.plan.plan import Plan
from pytensor_rt.plan.verify import VerificationError, verify

from ..models_text import model

BODY = """g (float[64,64] a) => (float[64,64] y, float[128,64] q) { t = MatMul(a,a) u = Softmax(t) v = MatMul(u, t) w = Transpose(v)
  x = MatMul(w, u) z = Concat<axis=0>(x, v) y = MatMul(w, x) q = MatMul(z, a) }"""


def plan() -> Plan:
    session = rt.InferenceSession(model(BODY), device="reference")
    session.run(None, {"a": np.zeros((64, 64), np.float32)})
    entry = next(iter(session._engine.cache.values()))
    assert entry.first is not None
    return entry.first.bound.plan


def test_good_plan_passes() -> None:
    verify(plan())


def test_overlapping_buffers_are_caught() -> None:
    """Put every pair of buffers that are alive together at one offset: each must be caught."""
    p = plan()
    tried = 0
    buffers = list(p.offsets)
    life = {b: p.items[k][:2] for b, k in p.roots}
    for i, a in enumerate(buffers):
        for b in buffers[i + 1 :]:
            if p.offsets[a] == p.offsets[b] or life[a][0] > life[b][1] or life[b][0] > life[a][1] or a.nbytes > b.nbytes:
                continue
            if b.id in p.into and life[a][1] == life[b][0]:
                continue  # b is written piece by piece: its first piece may lie beside a
            bad = copy.copy(p)
            bad.offsets = {**p.offsets, a: p.offsets[b]}
            tried += 1
            with pytest.raises(VerificationError):
                verify(bad)
    assert tried >= 2


def test_swapped_launches_are_caught() -> None:
    p = plan()
    for i in range(len(p.launches) - 1):
        first, second = p.launches[i], p.launches[i + 1]
        if any(t.buffer is o.buffer for t in second.reads() for o in first.writes()):
            bad = copy.copy(p)
            bad.launches = [*p.launches[:i], second, first, *p.launches[i + 2 :]]
            with pytest.raises(VerificationError):
                verify(bad)
            return
    raise AssertionError("the plan has no dependent neighbours")


def test_view_outside_its_buffer_is_caught() -> None:
    p = plan()
    bad = copy.copy(p)
    bad.launches = [launch.clone() for launch in p.launches]
    t = next(t for launch in bad.launches for t in launch.reads() if t.buffer.kind == "arena")
    t.offset = t.buffer.size
    with pytest.raises(VerificationError, match="outside"):
        verify(bad)


def test_missing_launch_is_caught() -> None:
    p = plan()
    for i in range(len(p.launches)):
        bad = copy.copy(p)
        bad.launches = [*p.launches[:i], *p.launches[i + 1 :]]
        with pytest.raises(VerificationError):
            verify(bad)


def test_arena_too_small_and_misaligned_are_caught() -> None:
    p = plan()
    bad = copy.copy(p)
    bad.arena_bytes = p.arena_bytes - 64
    with pytest.raises(VerificationError):
        verify(bad)
    bad = copy.copy(p)
    bad.offsets = {b: o + (32 if i == 0 else 0) for i, (b, o) in enumerate(p.offsets.items())}
    with pytest.raises(VerificationError):
        verify(bad)
