"""ONNX's own backend suite as pytest tests, with one skip file per device.

A skip file (`skips_DEVICE.txt`) has one `test_name: reason` per line for cases that do not pass yet; each is a strict xfail, so a case that starts
to pass must be removed from it. A reason that starts with `(without MODULE)` holds only where that Python module is not installed. Cases that
need a download are not part of the suite.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import unittest
from pathlib import Path
from typing import Any

import pytest
from onnx.backend.test.runner import Runner

from pytensor_rt.backend import PytensorRtBackend


def skips(device: str) -> dict[str, str]:
    """The skip file of a device."""
    path = Path(__file__).parent / f"skips_{device}.txt"
    out: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(":")
            assert reason.strip(), f"{path.name}: {name} has no reason"
            assert name not in out, f"{path.name}: {name} is listed twice"
            module = re.match(r"\s*\(without (\w+)\)", reason)
            if module is not None and importlib.util.find_spec(module.group(1)) is not None:
                continue
            out[name.strip()] = reason.strip()
    return out


def _mark(function: Any, reason: str) -> Any:
    return pytest.mark.xfail(strict=True, reason=reason)(function)


def cases(device: str, module: str, like: str | None = None) -> dict[str, type[unittest.TestCase]]:
    """The suite's TestCase classes for one device, for `module`. `like`: the device whose skip file holds, if not its own."""
    backend = type(f"Backend_{device}", (PytensorRtBackend,), {"session_device": device})
    listed = skips(like or device)
    found = set()
    classes = Runner(backend, module).test_cases
    for cls in classes.values():
        for name in [n for n in vars(cls) if n.startswith("test_")]:
            if name.endswith("_cuda"):  # ONNX's CUDA twin of every case
                delattr(cls, name)
                continue
            short = name.removesuffix("_cpu")
            if short in listed:
                found.add(short)
                setattr(cls, name, _mark(getattr(cls, name), listed[short]))
    unknown = set(listed) - found
    assert not unknown, f"skips_{like or device}.txt names cases that do not exist: {sorted(unknown)[:5]}"
    return classes


def failing(device: str) -> dict[str, str]:
    """Run the whole suite without its skip file: name -> first line of what went wrong."""
    backend = type(f"Backend_{device}", (PytensorRtBackend,), {"session_device": device})
    out: dict[str, str] = {}
    for cls in Runner(backend, __name__).test_cases.values():
        for name in sorted(n for n in vars(cls) if n.startswith("test_") and n.endswith("_cpu")):
            try:
                getattr(cls(name), name)()
            except unittest.SkipTest:
                continue
            except Exception as e:
                lines = [line.strip() for line in str(e).splitlines() if line.strip()]
                text = " ".join(lines[1:2] if "not implemented:" in lines[0] else lines[:2]) if lines else type(e).__name__
                out[name.removesuffix("_cpu")] = re.sub(r"\s+", " ", text.split(" (operands")[0].split(" (inputs")[0])[:140]
    return out


if __name__ == "__main__":  # python -m tests.onnx.suite cpu: writes the skip file anew, to be read before it is committed
    for name, reason in sorted(failing(sys.argv[1]).items()):
        print(f"{name}: {reason}")
