"""Published models and small architectures on device "numba", against onnxruntime, with the tolerances of device "cpu"."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import pytensor_rt as rt
from benchmarks import architectures, zoo
from tests.models.checks import assert_close, assert_same_bits, onnxruntime_session

pytest.importorskip("onnxruntime")
_MISSING = [m for m in ("torch", "transformers", "onnxscript") if importlib.util.find_spec(m) is None]


def check(path: object, feeds: zoo.Inputs, tolerance: zoo.Tolerance) -> None:
    """onnxruntime's results within the tolerance, the same bits for 1 and 2 threads and run after run."""
    wanted = onnxruntime_session(path).run(None, feeds)  # type: ignore[arg-type]
    first = None
    for threads in (1, 2):
        session = rt.InferenceSession(path, device="numba", threads=threads)  # type: ignore[arg-type]
        for _ in range(2):
            got = session.run(None, feeds)
            if first is None:
                first = got
                assert_close(first, wanted, tolerance)
            assert_same_bits(got, first)


@pytest.mark.network
@pytest.mark.parametrize("name", zoo.MODELS)
def test_published(name: str) -> None:
    model = zoo.MODELS[name]
    try:
        path = model.path()
    except zoo.RegistryError as error:
        pytest.skip(str(error))
    check(path, model.inputs(np.random.default_rng(1)), model.tolerance)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    return architectures.prepare(architectures.SMALL.values())


@pytest.mark.skipif(bool(_MISSING), reason=f"exporting needs {', '.join(_MISSING)}: pip install 'pytensor_rt[bench]'")
@pytest.mark.parametrize("name", architectures.SMALL)
def test_architecture(name: str, failures: dict[str, str]) -> None:
    assert name not in failures, failures[name]
    model = architectures.SMALL[name]
    check(model.path(), model.inputs(np.random.default_rng(1)), model.tolerance)
