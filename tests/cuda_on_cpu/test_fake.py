"""The fake against the real CuPy: every replaced name exists, and takes the arguments that device.py gives it."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import cupy
import pytest

from tests.kernels import harness

from . import fake_cupy, launcher, mutations


def real(path: str) -> Any:
    """The object of this dotted name in the installed CuPy."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        return getattr(real(module), name)


def parameters(f: Any) -> list[str]:
    """Names of a function's parameters, from its signature or from the first line of a compiled function's docstring."""
    target = f.__init__ if inspect.isclass(f) else f
    try:
        names = list(inspect.signature(f).parameters)
    except (ValueError, TypeError):
        text = (f.__doc__ or target.__doc__ or "").strip().splitlines()[0]
        inside = text[text.index("(") + 1 : text.rindex(")")]
        names = [p.split("=")[0].split(":")[0].strip().split(" ")[-1] for p in inside.split(",")]
    return [n for n in names if n not in ("self", "*", "/", "")]


@pytest.mark.parametrize("path", fake_cupy.REPLACED)
def test_signatures(path: str) -> None:
    assert parameters(fake_cupy.REPLACED[path]) == parameters(real(path)), path


@pytest.mark.parametrize("name", ["copy_from_host_async", "copy_to_host_async", "copy_from_device_async", "memset_async"])
def test_methods_of_memory(name: str) -> None:
    assert issubclass(fake_cupy.MemoryPointer, cupy.cuda.MemoryPointer)
    assert parameters(getattr(fake_cupy.MemoryPointer, name)) == parameters(getattr(cupy.cuda.MemoryPointer, name))


@pytest.mark.parametrize("name", ["synchronize", "begin_capture", "end_capture", "wait_event", "__enter__", "__exit__"])
def test_methods_of_streams(name: str) -> None:
    ours, theirs = getattr(fake_cupy.Stream, name), getattr(cupy.cuda.Stream, name)
    if not name.startswith("__"):
        assert parameters(ours) == parameters(theirs)


def test_methods_of_graphs_and_kernels() -> None:
    assert parameters(fake_cupy.Graph.launch) == parameters(cupy.cuda.Graph.launch)
    assert hasattr(cupy.RawKernel, "max_dynamic_shared_size_bytes") and hasattr(cupy.RawModule, "get_function")
    assert parameters(fake_cupy.RawModule.get_function) == parameters(cupy.RawModule.get_function)


def test_cases_run_on_a_device_as_on_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `-m gpu` does with a kernel case, under the pretended driver."""
    fake_cupy.install(monkeypatch, checks=True)
    monkeypatch.setattr(launcher, "_gpu", None)
    monkeypatch.setattr(harness, "device", launcher.run_on_gpu)
    for case in (mutations.transposed, mutations.sliced_product, mutations.gathered, mutations.random_numbers):
        case(1)
    monkeypatch.setattr(launcher, "_gpu", None)
