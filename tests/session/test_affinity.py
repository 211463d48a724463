"""Where the threads of the C++ kernels may run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import pytensor_rt as rt
from tests.models_text import model

CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def kept_off() -> set[int]:
    """The CPUs that some thread of this process may not use although the process may."""
    masks = [os.sched_getaffinity(int(t.name)) for t in Path("/proc/self/task").iterdir()]
    return {cpu for mask in masks for cpu in CPUS - mask}


def run(threads: int) -> None:
    proto = model("g (float[256, 256] x) => (float[256, 256] y) { y = MatMul(x, x) }")
    session = rt.InferenceSession(proto.SerializeToString(), device="cpu", threads=threads)
    x = np.ones((256, 256), np.float32)
    for _ in range(20):
        assert session.run(None, {"x": x})[0][0, 0] == 256


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU has room for one thread")
def test_a_worker_is_not_woken_on_the_cpu_of_its_caller() -> None:
    run(2)
    assert len(kept_off()) == 1
    run(len(CPUS) + 1)
    assert not kept_off(), "with more threads than CPUs, workers go where the system puts them"
    run(2)
    assert len(kept_off()) == 1
