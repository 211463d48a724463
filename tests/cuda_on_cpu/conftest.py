"""Tests of the CUDA backend: on the executor by default, on a real GPU with `pytest -m gpu`.

Modules `test_kernels_*.py` replay the cases of tests/kernels; one may have a dict NOT_REPLAYED of test name -> reason, whose tests are skipped with
that reason. With `-m gpu`, those modules, ONNX's suite and the models run on the device itself.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

import pytest

from pytensor_rt.kernels.cuda import device
from tests.kernels import harness

if TYPE_CHECKING:
    from . import fake_cupy

_MISSING = [m for m in ("cupy", "nvidia") if importlib.util.find_spec(m) is None]
collect_ignore_glob = ["test_*.py"] if _MISSING else []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _MISSING:
        terminalreporter.write_line(f"tests/cuda_on_cpu was skipped as a whole: {', '.join(_MISSING)} not installed (see the extra `test`)")


_ON_BOTH = re.compile(r"test_(kernels_.*|onnx|models)\.py")


def _wants_gpu(config: Any) -> bool:
    expression = config.getoption("markexpr") or ""
    return "gpu" in expression and "not gpu" not in expression


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    problems = [f"{what}: {problem}" for what, problem in device.why_not().items() if problem] if _wants_gpu(config) else []
    for item in items:
        if not item.path.is_relative_to(config.rootpath / "tests" / "cuda_on_cpu"):
            continue
        if _wants_gpu(config) and _ON_BOTH.fullmatch(item.path.name):
            item.add_marker(pytest.mark.gpu)
            if problems:
                item.add_marker(pytest.mark.skip(reason="no GPU: " + "; ".join(problems)))
        reasons = getattr(getattr(item, "module", None), "NOT_REPLAYED", {})
        name = getattr(item, "originalname", None) or item.name
        if name in reasons and not _wants_gpu(config):
            item.add_marker(pytest.mark.skip(reason=f"not replayed on the executor: {reasons[name]}"))


@pytest.fixture(autouse=True)
def _replayed_on_cuda(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.path.name.startswith("test_kernels_"):
        from . import launcher

        monkeypatch.setattr(harness, "device", launcher.run_on_gpu if _wants_gpu(request.config) else launcher.run)


@pytest.fixture
def driver(request: Any, monkeypatch: pytest.MonkeyPatch) -> fake_cupy.Driver | None:
    """The pretended driver under device "cuda"; None where the real one is used."""
    from . import fake_cupy

    return None if _wants_gpu(request.config) else fake_cupy.install(monkeypatch)
