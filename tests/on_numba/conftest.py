"""Tests of device "numba".

Modules `test_kernels_*.py` replay the cases of tests/kernels; one may have a dict NOT_REPLAYED of test name -> reason, whose tests are skipped with
that reason. Cases that differ in the C++ kernels' ISA level only are replayed once.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.kernels import harness

_MISSING = [m for m in ("numba", "llvmlite") if importlib.util.find_spec(m) is None]
collect_ignore_glob = ["test_*.py"] if _MISSING else []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _MISSING:
        terminalreporter.write_line(f"tests/on_numba was skipped as a whole: {', '.join(_MISSING)} not installed (see the extra `test`)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    for item in items:
        if not item.path.is_relative_to(config.rootpath / "tests" / "on_numba") or not item.path.name.startswith("test_kernels_"):
            continue
        reasons = getattr(getattr(item, "module", None), "NOT_REPLAYED", {})
        name = getattr(item, "originalname", None) or item.name
        if name in reasons:
            item.add_marker(pytest.mark.skip(reason=f"not replayed on numba: {reasons[name]}"))
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("isa", harness.ISAS[0]) != harness.ISAS[0]:
            item.add_marker(pytest.mark.skip(reason="not replayed on numba: differs from another case in the C++ kernels' ISA level only"))


@pytest.fixture(autouse=True)
def _replayed_on_numba(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.path.name.startswith("test_kernels_"):
        from . import launcher

        monkeypatch.setattr(harness, "device", launcher.run)
