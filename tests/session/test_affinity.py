"""Where the threads of the C++ kernels may run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

SCRIPT = """
import os
import numpy as np
import pytensor_rt as rt
from tests.models_text import model

CPUS = os.sched_getaffinity(0)
PROTO = model("g (float[256, 256] x) => (float[256, 256] y) { y = MatMul(x, x) }").SerializeToString()
X = np.ones((256, 256), np.float32)

def kept_off(threads):
    session = rt.InferenceSession(PROTO, device="cpu", threads=threads)
    for _ in range(20):
        assert session.run(None, {"x": X})[0][0, 0] == 256
    masks = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")]
    return {cpu for mask in masks for cpu in CPUS - mask}

print(len(kept_off(1)), len(kept_off(2)), len(kept_off(len(CPUS) + 1)), len(kept_off(2)))
"""


@pytest.mark.skipif(CPUS < 2, reason="one CPU has room for one thread")
def test_a_worker_is_not_woken_on_the_cpu_of_its_caller() -> None:
    """It may use all CPUs but one; with more threads than CPUs it goes where the system puts it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "1", "0", "1"], done.stderr
