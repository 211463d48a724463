"""Sessions on device "cuda" under the pretended driver: what crosses the bus, graphs, device arrays, errors, segments, streams."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest

import pytensor_rt as rt
from pytensor_rt import cli
from pytensor_rt.runtime.cuda import DeviceArray
from tests import models_text

from . import fake_cupy

Array = np.ndarray[Any, Any]
AFFINE = 'g (float["n", 8] x) => (float["n", 8] y) { two = Constant<value = float {2.0}>() t = Mul(x, two) y = Add(t, x) }'


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> fake_cupy.Driver:
    return fake_cupy.install(monkeypatch, checks=True)


def on_device(a: Array) -> Any:
    """A CuPy array of these values and strides on the pretended device."""
    low = sum(min(0, (n - 1) * s) for n, s in zip(a.shape, a.strides))
    high = sum(max(0, (n - 1) * s) for n, s in zip(a.shape, a.strides)) + a.itemsize
    block = fake_cupy.alloc(high - low)
    y = cupy.ndarray(a.shape, a.dtype, memptr=block + -low, strides=a.strides)
    host = np.ndarray(
        a.shape, a.dtype, np.frombuffer((fake_cupy.ctypes.c_char * (high - low)).from_address(block.ptr), np.uint8).data, -low, a.strides
    )
    host[...] = a
    fake_cupy.DRIVER.memory.mark_initialised(block.ptr, high - low)
    return y


def test_graphs_are_captured_at_the_second_run(pretended: fake_cupy.Driver) -> None:
    session = rt.InferenceSession(models_text.model(AFFINE), device="cuda")
    assert session.get_providers() == ["CUDAExecutionProvider"] and session.device == "cuda"
    rng = np.random.default_rng(0)
    for run in range(5):
        x = rng.standard_normal((3, 8)).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, 3 * x, rtol=1e-6)
        assert pretended.graphs == max(0, run)
    allocations = pretended.allocations
    session.run(None, {"x": x})
    assert pretended.allocations == allocations, "a warm run allocated device memory"
    session.run(None, {"x": np.ones((900, 8), np.float32)})  # another signature, with a graph of its own
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, 3 * x, rtol=1e-6)


def test_device_arrays_are_read_where_they_lie(pretended: fake_cupy.Driver) -> None:
    session = rt.InferenceSession(models_text.model(AFFINE), device="cuda")
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    big = np.random.default_rng(2).standard_normal((10, 16)).astype(np.float32)
    layouts = [x, np.asfortranarray(x), x[::-1], big[::2, 1::2], np.broadcast_to(x[:1], (5, 8)), big[:5, 3:11]]
    for a in layouts:
        given = on_device(a)
        blocks = len(pretended.launches)
        for _ in range(3):
            (y,) = session.run(None, {"x": given})
            np.testing.assert_allclose(y, 3 * a, rtol=1e-6)
        assert len(pretended.launches) == blocks + 3, "a strided input was copied first"
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, 3 * x, rtol=1e-6)
    with pytest.raises(rt.InputError, match="float32"):
        session.run(None, {"x": on_device(x.astype(np.float64))})
    with pytest.raises(rt.InputError, match="size 8"):
        session.run(None, {"x": on_device(x[:, :4])})


def test_runner_works_on_device_memory(pretended: fake_cupy.Driver) -> None:
    runner = rt.InferenceSession(models_text.model(AFFINE), device="cuda").bind(x=(4, 8))
    x, y = runner.inputs["x"], runner.outputs["y"]
    assert isinstance(x, cupy.ndarray) and isinstance(y, cupy.ndarray) and y.shape == (4, 8)
    assert all(isinstance(a, DeviceArray) for a in (*runner._in, *runner._out))
    for value in (1.0, 2.0, 5.0):
        np.frombuffer((fake_cupy.ctypes.c_char * 128).from_address(x.data.ptr), np.float32)[:] = value
        runner.replay()
        got = np.frombuffer((fake_cupy.ctypes.c_char * 128).from_address(y.data.ptr), np.float32)
        np.testing.assert_array_equal(got, np.float32(3 * value))
    assert pretended.graphs == 2
    assert "map_vectors" in runner.report().table()


def test_bad_data_names_the_node_and_leaves_the_session_usable() -> None:
    text = 'g (float[4, 3] x, int64["k"] i) => (float["k", 3] y) { y = Gather<axis = 0>(x, i) }'
    session = rt.InferenceSession(models_text.model(text), device="cuda")
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for bad in (4, -5, 2**40):
        with pytest.raises(rt.ExecutionError, match=rf"\[Gather\].*index {bad} is out of range for axis 0 of size 4"):
            session.run(None, {"x": x, "i": np.array([0, bad, 1])})
        (y,) = session.run(None, {"x": x, "i": np.array([3, -1, 0])})
        np.testing.assert_array_equal(y, x[[3, -1, 0]])


def test_segments_and_host_calls() -> None:
    text = 'g (float["n"] x) => (int64["r", "m"] where, float["m"] kept) { where = NonZero(x) b = Cast<to = 9>(x) kept = Compress<axis = 0>(x, b) }'
    session = rt.InferenceSession(models_text.model(text), device="cuda")
    for x in (np.array([0, 1, 0, 2, 3], np.float32), np.zeros(4, np.float32), np.ones(70, np.float32)):
        for _ in range(2):
            where, kept = session.run(None, {"x": x})
            np.testing.assert_array_equal(where, np.array(np.nonzero(x)))
            np.testing.assert_array_equal(kept, x[x != 0])
    text = 'g (string["n"] s, float["n"] x) => (string["n"] u, float["n"] y) { u = StringConcat(s, s) y = Neg(x) }'
    session = rt.InferenceSession(models_text.model(text, opset=20), device="cuda")
    u, y = session.run(None, {"s": np.array(["a", "b"], object), "x": np.array([1, 2], np.float32)})
    assert u.tolist() == ["aa", "bb"] and y.tolist() == [-1, -2]
    assert "host: strings" in session.plan_report().table()


def test_stream_keeps_runs_apart() -> None:
    session = rt.InferenceSession(models_text.model(AFFINE), device="cuda")
    feeds = [{"x": np.full((1 + i % 2, 8), i, np.float32)} for i in range(8)]
    for i, (y,) in enumerate(session.stream(feeds, prefetch=2)):
        assert y.shape == (1 + i % 2, 8) and np.all(y == 3 * i)


def test_compile_ahead_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    monkeypatch.setenv("PTRT_CUDA_CACHE", "unused")
    onnx.save(models_text.model(AFFINE), tmp_path / "m.onnx")
    folder = tmp_path / "kernels"
    assert cli.main(["compile", str(tmp_path / "m.onnx"), "--arch", "80", "--arch", "90", "--shape", "n=3", "--output", str(folder)]) == 0
    assert len(list(folder.rglob("*.cubin"))) == 2
    assert "sm_80, sm_90: 2 files" in capsys.readouterr().out
    assert cli.main(["compile", str(tmp_path / "m.onnx"), "--arch", "60"]) == 1


WITHOUT = """
import sys
sys.modules["cupy"] = None
import pytensor_rt as rt
from tests import models_text
model = models_text.model('g (float[2] x) => (float[2] y) { y = Neg(x) }')
assert rt.InferenceSession(model).run(None, {"x": __import__("numpy").ones(2, "float32")})[0].tolist() == [-1, -1]
assert rt.InferenceSession(model, device="auto").device == "cpu"
try:
    rt.InferenceSession(model, device="cuda")
except rt.DeviceError as e:
    print(e)
"""


def test_without_cupy_and_without_a_driver() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "CuPy: cannot be imported" in done.stdout and "pip install 'pytensor_rt[cuda]'" in done.stdout
    code = "import pytensor_rt as rt; rt.InferenceSession('missing.onnx', device='cuda')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode and ("DeviceError: device 'cuda' is not available here. driver:" in done.stderr or "missing.onnx" in done.stderr)
