"""Small variants of well-known architectures from both of torch's exporters, on the CPU, against onnxruntime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pytensor_rt as rt
from benchmarks import architectures
from pytensor_rt.kernels.cpu import native

from .checks import assert_close, check_model, onnxruntime_session

pytest.importorskip("onnxruntime")
_MISSING = [m for m in ("torch", "transformers", "onnxscript") if importlib.util.find_spec(m) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"exporting needs {', '.join(_MISSING)}: pip install 'pytensor_rt[bench]'")


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Exports what is not cached, in one process, and says what torch could not export."""
    return architectures.prepare(architectures.SMALL.values())


def path_of(name: str, failures: dict[str, str]) -> Path:
    assert name not in failures, failures[name]
    return architectures.SMALL[name].path()


@pytest.mark.parametrize("name", architectures.SMALL)
def test_matches_onnxruntime(name: str, failures: dict[str, str]) -> None:
    model = architectures.SMALL[name]
    check_model(path_of(name, failures), model.inputs(np.random.default_rng(1)), model.tolerance)


@pytest.mark.parametrize("name", architectures.SMALL_QUANTIZED)
def test_quantized_like_the_reference(name: str) -> None:
    """The NumPy kernels run the same programs one operator after the other: hardly a rounding may fall differently, on any level."""
    model = architectures.SMALL_QUANTIZED[name]
    path, feeds = model.path(), model.inputs(np.random.default_rng(1))
    want = rt.InferenceSession(path, device="reference").run(None, feeds)
    for threads in (1, 2):
        for got, right in zip(rt.InferenceSession(path, threads=threads).run(None, feeds), want):
            assert (got == right).mean() > 0.99, np.abs(got - right).max()


@pytest.mark.parametrize("level", native().isa_levels()[1:])
def test_every_isa_level(level: str, failures: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTRT_ISA", level)
    for name, model in architectures.SMALL.items():
        path, feeds = path_of(name, failures), model.inputs(np.random.default_rng(2))
        assert_close(rt.InferenceSession(path, threads=2).run(None, feeds), onnxruntime_session(path).run(None, feeds), model.tolerance)


@pytest.mark.parametrize("exporter", architectures.EXPORTERS)
def test_decoder_generates_as_onnxruntime_does(exporter: str, failures: dict[str, str]) -> None:
    """A prompt, then twenty tokens one by one: each feeds the keys and values of the run before it, whose length grows."""
    name = f"gpt2_decode-{exporter}-small"
    path, model = path_of(name, failures), architectures.SMALL[name]
    ours, theirs = rt.InferenceSession(path, threads=2), onnxruntime_session(path)
    prompt = np.random.default_rng(3).integers(0, 100, (1, 6)).astype(np.int64)
    past = reference_past = np.zeros((2, 2, 1, 3, 0, 16), np.float32)
    ids = prompt
    for _ in range(21):
        logits, past = ours.run(None, {"ids": ids, "past": past})
        expected, reference_past = theirs.run(None, {"ids": ids, "past": reference_past})
        assert_close([logits, past], [expected, reference_past], model.tolerance)
        ids = expected[:, -1:].argmax(-1)
    assert past.shape[4] == 26


@pytest.mark.parametrize("exporter", architectures.EXPORTERS)
def test_encoder_at_other_lengths(exporter: str, failures: dict[str, str]) -> None:
    name = f"minilm_l6-{exporter}-small"
    path, model = path_of(name, failures), architectures.SMALL[name]
    ours, theirs = rt.InferenceSession(path, threads=2), onnxruntime_session(path)
    rng = np.random.default_rng(4)
    for batch, length in ((1, 1), (3, 7), (2, 33), (5, 2), (1, 64)):
        ids = rng.integers(0, 200, (batch, length)).astype(np.int64)
        mask = np.ones_like(ids)
        mask[:, (length + 1) // 2 :] = rng.random() < 0.5
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        assert_close(ours.run(None, feeds), theirs.run(None, feeds), model.tolerance)


# What must have happened in the plan: (views at least, in place at least, written into place at least, copies at most, kernels that may appear)
FIRED = {
    "mobilenet_v2": (0, 3, 0, 0, {"conv", "reduce", "gemm"}),
    "detector": (16, 0, 20, 2, {"conv", "pool", "softmax", "map", "copy"}),
    "bert_base": (20, 5, 0, 0, {"gather", "normalize", "map", "gemm", "attention"}),
}


@pytest.mark.parametrize("exporter", architectures.EXPORTERS)
@pytest.mark.parametrize("name", FIRED)
def test_optimisations_fired(name: str, exporter: str, failures: dict[str, str]) -> None:
    views, in_place, written, copies, kernels = FIRED[name]
    model = architectures.SMALL[f"{name}-{exporter}-small"]
    session = rt.InferenceSession(path_of(model.name, failures))
    session.run(None, model.inputs(np.random.default_rng(5)))
    report = session.plan_report()
    assert report.views >= views and report.in_place >= in_place and report.written_into_place >= written
    assert report.copies <= copies and set(report.kernels) <= kernels
    assert report.arena_bytes <= 1.10 * report.lower_bound
