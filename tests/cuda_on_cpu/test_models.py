"""Published models and small architectures through the whole path (plan, launches, graphs, executor), against onnxruntime."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import pytensor_rt as rt
from benchmarks import architectures, zoo
from tests.models.checks import assert_close, assert_same_bits, onnxruntime_session

from . import fake_cupy

pytest.importorskip("onnxruntime")
# Models whose execution takes more than two minutes on a CPU: name -> estimate. They run with `-m gpu`.
TOO_LARGE: dict[str, str] = {}
_MISSING = [m for m in ("torch", "transformers", "onnxscript") if importlib.util.find_spec(m) is None]


def check(path: object, feeds: zoo.Inputs, tolerance: zoo.Tolerance, driver: fake_cupy.Driver | None) -> None:
    """onnxruntime's results within the tolerance, three times the same bits: launched one by one, while captured, and replayed."""
    session = rt.InferenceSession(path, device="cuda")  # type: ignore[arg-type]
    first = session.run(None, feeds)
    assert_close(first, onnxruntime_session(path).run(None, feeds), tolerance)  # type: ignore[arg-type]
    for _ in range(2):
        assert_same_bits(session.run(None, feeds), first)
    assert driver is None or driver.graphs > 0, "no CUDA graph was replayed"


@pytest.mark.network
@pytest.mark.parametrize("name", zoo.MODELS)
def test_published(name: str, driver: fake_cupy.Driver | None) -> None:
    if name in TOO_LARGE and driver is not None:
        pytest.skip(f"too large to execute on a CPU: {TOO_LARGE[name]}")
    model = zoo.MODELS[name]
    try:
        path = model.path()
    except zoo.RegistryError as error:
        pytest.skip(str(error))
    check(path, model.inputs(np.random.default_rng(1)), model.tolerance, driver)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    return architectures.prepare(architectures.SMALL.values())


@pytest.mark.skipif(bool(_MISSING), reason=f"exporting needs {', '.join(_MISSING)}: pip install 'pytensor_rt[bench]'")
@pytest.mark.parametrize("name", architectures.SMALL)
def test_architecture(name: str, failures: dict[str, str], driver: fake_cupy.Driver | None) -> None:
    assert name not in failures, failures[name]
    model = architectures.SMALL[name]
    check(model.path(), model.inputs(np.random.default_rng(1)), model.tolerance, driver)
