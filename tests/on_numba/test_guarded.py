"""What the launcher's memory catches: an access one element outside ends the process, one inside does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.session.test_costs import ROOT

from . import guarded

pytestmark = pytest.mark.skipif(not guarded.AVAILABLE, reason="needs Linux's mprotect")
PROGRAM = """
import sys
from pytensor_rt.kernels.numba import code
from tests.on_numba.guarded import Guarded
behind, first, count = sys.argv[1] == "behind", int(sys.argv[2]), int(sys.argv[3])
source, register = Guarded(4 * 100, behind), Guarded(4 * 200, True)
code.function("memory.load[:float32]").callable()(register.address, source.address + 4 * first, 0, 4, 1, count, 0)
print("alive")
"""


def status(behind: str, first: int, count: int) -> int:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-c", PROGRAM, behind, str(first), str(count)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=120).returncode


@pytest.mark.parametrize("behind", ["behind", "before"])
def test_an_access_outside_ends_the_process(behind: str) -> None:
    assert status(behind, 0, 100) == 0
    assert status(behind, 0, 101) == (-signal.SIGSEGV if behind == "behind" else 0)
    assert status(behind, -1, 100) == (0 if behind == "behind" else -signal.SIGSEGV)
