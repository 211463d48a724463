"""Counts the suite's outcomes and prints them at the end of the run."""

from __future__ import annotations

from typing import Any

import pytest

from .suite import COUNTS


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    outcome = yield
    report = outcome.get_result()
    module = item.nodeid.split("::")[0]
    if "tests/onnx/test_" in module and "OnnxBackend" in item.nodeid and (report.when == "call" or report.skipped):
        device = module.rsplit("test_", 1)[1].removesuffix(".py")
        kind = "expected to fail" if hasattr(report, "wasxfail") else report.outcome
        counts = COUNTS.setdefault(device, {})
        counts[kind] = counts.get(kind, 0) + 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for device, counts in COUNTS.items():
        text = ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
        terminalreporter.write_line(
            f"ONNX backend suite on {device}: {counts.get('passed', 0)} of {sum(counts.values())} cases pass ({text})"
        )
