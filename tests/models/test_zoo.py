"""Published models on the CPU, against onnxruntime."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import pytensor_rt as rt
from benchmarks import zoo
from pytensor_rt.kernels.cpu import native

from .checks import assert_close, assert_same_bits, check_model, onnxruntime_session, resident_bytes

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.network


def path_of(name: str) -> Path:
    try:
        return zoo.MODELS[name].path()
    except zoo.RegistryError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", zoo.MODELS)
def test_matches_onnxruntime(name: str) -> None:
    model = zoo.MODELS[name]
    check_model(path_of(name), model.inputs(np.random.default_rng(1)), model.tolerance)


@pytest.mark.parametrize("level", native().isa_levels()[1:])
@pytest.mark.parametrize("name", [n for n in zoo.MODELS if n != "rapidocr_det"])
def test_every_isa_level(name: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = zoo.MODELS[name], path_of(name)
    feeds = model.inputs(np.random.default_rng(2))
    monkeypatch.setenv("PTRT_ISA", level)
    session = rt.InferenceSession(path, threads=2)
    assert session.isa == level
    assert_close(session.run(None, feeds), onnxruntime_session(path).run(None, feeds), model.tolerance)


def test_silero_vad_streams_both_rates_from_one_session() -> None:
    """1,000 chunks of sound at 16 kHz and 1,000 at 8 kHz, interleaved, each stream carrying its own state and context."""
    path = path_of("silero_vad")
    ours, theirs = rt.InferenceSession(path, threads=1), onnxruntime_session(path)
    rng = np.random.default_rng(3)
    streams = {}
    for rate, chunk, context in ((16000, 512, 64), (8000, 256, 32)):
        audio = np.concatenate([np.zeros(context, np.float32), zoo.sound(rng, 1000 * chunk, rate)])
        zero = np.zeros((2, 1, 128), np.float32)
        streams[rate] = [audio, chunk, context, zero, zero]
    spoken = 0
    for i in range(1000):
        for rate, stream in streams.items():
            audio, chunk, context, state, reference_state = stream
            feeds = {"input": audio[None, i * chunk : (i + 1) * chunk + context], "sr": np.array(rate, np.int64)}
            got = ours.run(None, {**feeds, "state": state})
            want = theirs.run(None, {**feeds, "state": reference_state})
            assert_close(got, want, zoo.DEFAULT)
            stream[3], stream[4] = got[1], want[1]
            spoken += int(got[0][0, 0] > 0.5)
    assert 0 < spoken < 2000, "the sound should be speech to the model in some chunks and silence in others"


@pytest.mark.slow
def test_minilm_on_200_signatures() -> None:
    """Random batch sizes and lengths are right, memory is flat once the plan cache is warm, and a repeated signature gives the same bits."""
    path, model = path_of("minilm_int8"), zoo.MODELS["minilm_int8"]
    ours, theirs = rt.InferenceSession(path, threads=2), onnxruntime_session(path)
    rng = np.random.default_rng(4)
    every = [(b, n) for b in range(1, 5) for n in range(2, 62)]
    signatures = [every[i] for i in rng.permutation(len(every))[:200]]
    feeds = [zoo.minilm_feeds(rng, b, n) for b, n in signatures]
    for f in feeds:
        assert_close(ours.run(None, f), theirs.run(None, f), model.tolerance)
    del theirs
    again = [ours.run(None, f) for f in feeds[:3]]
    gc.collect()
    before = resident_bytes()
    for f in feeds:
        ours.run(None, f)
    gc.collect()
    assert resident_bytes() - before < 4 << 20
    for f, first in zip(feeds[:3], again):
        assert_same_bits(ours.run(None, f), first)
