"""The cases of `col2im` and `deform_conv`, on the CUDA kernels."""

from __future__ import annotations

from typing import Any

import pytest
from pytensor_rt._native import LaunchError

from pytensor_rt.errors import UnsupportedError
from tests.kernels import harness
from tests.kernels.test_windows import *  # noqa: F403


@pytest.fixture(autouse=True)
def _refused_when_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the C++ kernels refuse when they are bound, the planner refuses with the same words."""
    device = harness.device
    assert device is not None

    def run(launch: Any, bases: Any, threads: int) -> None:
        try:
            device(launch, bases, threads)
        except UnsupportedError as e:
            raise LaunchError(str(e)) from None

    monkeypatch.setattr(harness, "device", run)
