"""Every plan made during the tests is checked by the independent verifier; ONNX's suite is counted by device."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("PTRT_VERIFY", "1")

COUNTS: dict[str, dict[str, int]] = {}  # device -> outcome of ONNX's suite -> number


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    outcome = yield
    report = outcome.get_result()
    device = getattr(getattr(item, "module", None), "SUITE_DEVICE", None)
    if device is not None and "OnnxBackend" in item.nodeid and (report.when == "call" or report.skipped):
        kind = "expected to fail" if hasattr(report, "wasxfail") else report.outcome
        counts = COUNTS.setdefault(device, {})
        counts[kind] = counts.get(kind, 0) + 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for device, counts in COUNTS.items():
        text = ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
        terminalreporter.write_line(
            f"ONNX backend suite on {device}: {counts.get('passed', 0)} of {sum(counts.values())} cases pass ({text})"
        )
