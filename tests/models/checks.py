"""What is demanded of every model: onnxruntime's results, the same bits again and at any thread count, and a tight verified arena."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

import pytensor_rt as rt
from benchmarks.compare import flatten
from benchmarks.zoo import Inputs, Tolerance


def onnxruntime_session(path: Path) -> Any:
    """The oracle, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_close(got: Any, want: Any, tolerance: Tolerance) -> None:
    """Same structure, shapes and dtypes; floats within the tolerance, everything else equal."""
    a_all, b_all = flatten(got), flatten(want)
    assert [(a.shape, a.dtype) for a in a_all] == [(b.shape, b.dtype) for b in b_all]
    for a, b in zip(a_all, b_all):
        if b.dtype.kind == "f":
            np.testing.assert_array_less(np.abs(a - b), tolerance.absolute + tolerance.relative * np.abs(b) + np.finfo(b.dtype).tiny)
        else:
            np.testing.assert_array_equal(a, b)


def assert_same_bits(got: Any, want: Any) -> None:
    """Equal to the bit."""
    a_all, b_all = flatten(got), flatten(want)
    assert len(a_all) == len(b_all)
    for a, b in zip(a_all, b_all):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes() if a.dtype != object else (a == b).all()


def check_model(path: Path, feeds: Inputs, tolerance: Tolerance) -> rt.InferenceSession:
    """Everything that is demanded of a model on the CPU. Returns the session with one thread."""
    want = onnxruntime_session(path).run(None, feeds)
    one, two = rt.InferenceSession(path, threads=1), rt.InferenceSession(path, threads=2)
    first = one.run(None, feeds)
    assert_close(first, want, tolerance)
    assert_same_bits(one.run(None, feeds), first)
    assert_same_bits(two.run(None, feeds), first)
    assert_same_bits(two.run(None, feeds), first)
    report = one.plan_report()
    assert report.arena_bytes <= 1.10 * report.lower_bound or report.arena_bytes - report.lower_bound <= 4096, str(report)
    return one


def resident_bytes() -> int:
    """Resident memory of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
