"""Sessions on device "numba": what is imported, compiled and allocated, the cache on disk, the choice of a device, errors, threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pytensor_rt as rt
from pytensor_rt.kernels.numba import code
from tests.session.models import DIGITS, affine, feeds
from tests.session.test_costs import ROOT, SHIM

FIRST = """
import time
import numpy as np, pytensor_rt, sys
session = pytensor_rt.InferenceSession(sys.argv[1], device="numba", threads=1)
(scores,) = session.run(None, {"image": np.zeros((4, 1, 8, 8), np.float32)})
print(scores.shape, *[m for m in ("numba", "onnx") if m in sys.modules])
"""


def child(program: str, *args: str, **env: str) -> tuple[str, str]:
    """Run a program in a fresh interpreter that finds this checkout's package; what it prints, and what it says on stderr."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def gather() -> bytes:
    """y = data[indices], twice as large."""
    data = helper.make_tensor("data", TensorProto.FLOAT, [5, 3], np.arange(15, dtype=np.float32))
    nodes = [helper.make_node("Gather", ["data", "i"], ["g"], "rows"), helper.make_node("Mul", ["g", "two"], ["y"])]
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [data, two],
    )  # fmt: skip
    out: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return out


# --------------------------------------------------------------------------------------------------------------- compiling and the cache
def test_a_warm_process_imports_no_numba_and_is_quick(tmp_path: Path) -> None:
    """The first process compiles, and says so when it takes long; the second reads machine code and has its first result within a second."""
    out, said = child(FIRST, DIGITS, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == "(4, 10) numba"
    assert "compiling kernels for device 'numba'" in said and str(tmp_path) in said
    files = list(tmp_path.glob("*/*.o"))
    assert files
    program = "import time; start = time.time()" + FIRST + "print(time.time() - float(sys.argv[2]))"
    import time

    best = 9.0
    for _ in range(3):
        out, said = child(program, DIGITS, str(time.time()), NUMBA_CACHE_DIR=str(tmp_path))
        shape, seconds = out.split("\n")
        assert shape == "(4, 10)" and said == ""
        best = min(best, float(seconds))
    assert best <= 1.0, "seconds from the start of the process to the first result"
    assert sorted(tmp_path.glob("*/*.o")) == sorted(files)


def test_a_damaged_file_is_compiled_again(tmp_path: Path) -> None:
    child(FIRST, DIGITS, NUMBA_CACHE_DIR=str(tmp_path))
    files = sorted(tmp_path.glob("*/*.o"))
    files[0].write_bytes(files[0].read_bytes()[:-7])
    files[1].write_bytes(b"")
    files[2].write_bytes(b'{"sha256": 3}\nrubbish')
    out, _ = child(FIRST, DIGITS, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == "(4, 10) numba"
    out, _ = child(FIRST, DIGITS, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == "(4, 10)"


def test_it_works_where_no_folder_can_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, whoever asks
    out, said = child(FIRST, DIGITS, NUMBA_CACHE_DIR=str(blocked / "cache"))
    assert out == "(4, 10) numba" and "no cache folder can be written" in said


def test_the_users_folder_is_used_without_the_variable(tmp_path: Path) -> None:
    program = "import os; os.environ.pop('NUMBA_CACHE_DIR', None)\nfrom pytensor_rt.kernels.numba import code; print(code.folder())"
    out, _ = child(program, XDG_CACHE_HOME=str(tmp_path))
    assert Path(out).parent == tmp_path / "pytensor_rt" and Path(out).is_dir()


def test_compiled_code_refers_to_nothing_but_the_c_library() -> None:
    """So nothing of it can allocate, raise or touch the interpreter."""
    for name in ("box.run", "box.whole", "vm.op[f,exp]", "vm.op[d,pow]", "memory.load[:float16]", "replay.run"):
        code.function(name)
        held = code._read(code._file(name))
        assert held is not None
        assert set(held[0]["symbols"]) <= set(code._KNOWN), name


# --------------------------------------------------------------------------------------------------------------------------- the device
def test_the_device_is_chosen_in_order_and_said() -> None:
    without = "import sys; sys.modules['pytensor_rt._native'] = None\n"
    use = "import pytensor_rt, warnings; s = pytensor_rt.InferenceSession(sys.argv[1]{}); print(s.device, s.get_providers())"
    out, said = child("import sys\n" + use.format(""), DIGITS)
    assert out == "cpu ['CPUExecutionProvider']" and said == ""
    out, said = child(without + use.format(""), DIGITS)
    assert out == "numba ['CPUExecutionProvider']" and said.count("RuntimeWarning") == 1
    assert "without its compiled kernels" in said and "C++ compiler" in said
    out, said = child(without + use.format(", device='auto'"), DIGITS)
    assert out.startswith("numba") and "RuntimeWarning" not in said
    out, said = child(without + "sys.modules['cupy'] = None\n" + use.format(", device='auto'"), DIGITS)
    assert out.startswith("numba")


@pytest.mark.parametrize("device", ["cpu", "numba", "cuda"])
def test_a_device_that_is_asked_for_is_never_replaced(device: str) -> None:
    absent = {"cpu": "pytensor_rt._native", "numba": "numba", "cuda": "cupy"}[device]
    program = (
        f"import sys; sys.modules[{absent!r}] = None\nimport pytensor_rt\n"
        f"try:\n    pytensor_rt.InferenceSession(sys.argv[1], device={device!r})\nexcept pytensor_rt.DeviceError as e:\n    print(e)"
    )
    out, _ = child(program, DIGITS)
    assert {"cpu": "compiled extension", "numba": "pip install 'pytensor_rt[numba]'", "cuda": "CuPy"}[device] in out


# ------------------------------------------------------------------------------------------------------------------------------ running
@pytest.mark.parametrize("threads", ["1", "2"])
def test_replay_allocates_no_tensor_memory(threads: str, tmp_path: Path) -> None:
    """Calls of malloc and its like for 256 bytes or more, native and (PYTHONMALLOC=malloc) Python, in 300 replays: none. Smaller ones are Python's numbers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux") or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("needs a C compiler and glibc to count allocations")
    shim = SHIM.replace("static void count(void) { __atomic", "static void count(size_t s) { if (s >= 256) __atomic").replace(
        "count();", "count(s);"
    )
    shim = shim.replace("calloc(size_t k, size_t s) { count(s)", "calloc(size_t k, size_t s) { count(k * s)")
    (tmp_path / "count.c").write_text(shim)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", tmp_path / "count.so", tmp_path / "count.c"], check=True)
    program = """
import ctypes, itertools, sys
lib = ctypes.CDLL(None)
lib.allocations.restype = ctypes.c_long
import numpy, pytensor_rt
from pytensor_rt.runtime import numba
numba.WORTH = 1.0
runner = pytensor_rt.InferenceSession(sys.argv[1], device="numba", threads=int(sys.argv[2])).bind(image=(32, 1, 8, 8))
def count(n):
    replay = runner.replay
    before = lib.allocations()
    for _ in itertools.repeat(None, n):
        replay()
    return lib.allocations() - before
count(10), count(10)
none = count(0)
made = count(300) - none
before = lib.allocations()
kept = numpy.empty(1000)
print(made, lib.allocations() - before)
"""
    out, _ = child(program, DIGITS, threads, LD_PRELOAD=str(tmp_path / "count.so"), PYTHONMALLOC="malloc", PTRT_VERIFY="0")
    made, counted = map(int, out.split())
    assert counted == 1, "the shim does not count"
    assert made == 0


def test_run_bind_stream_and_reports_agree() -> None:
    rng = np.random.default_rng(0)
    sessions = {d: rt.InferenceSession(DIGITS, device=d) for d in ("cpu", "numba")}
    images = [{"image": rng.random((n, 1, 8, 8), np.float32)} for n in (1, 4, 4, 2)]
    wanted = [sessions["cpu"].run(None, f)[0] for f in images]
    for got, want in zip(sessions["numba"].stream(iter(images)), wanted):
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-4)
    runner = sessions["numba"].bind(image=images[1]["image"])
    runner.replay()
    np.testing.assert_array_equal(runner.outputs["scores"], sessions["numba"].run(["scores"], images[1])[0])
    runner.inputs["image"][...] = images[2]["image"]
    runner.replay()
    np.testing.assert_allclose(runner.outputs["scores"], wanted[2], rtol=1e-4, atol=1e-4)
    report = runner.report()
    assert "lower bound" in str(report) and len(runner.profile(2)) == len(runner._segment.bound.native)
    assert sessions["numba"].isa.startswith("numba")


def test_bad_data_is_reported_and_the_session_stays_usable() -> None:
    session = rt.InferenceSession(gather(), device="numba")
    want = session.run(None, {"i": np.array([1, -1])})[0]
    for _ in range(2):
        with pytest.raises(rt.ExecutionError, match=r"\[Gather\] 'rows'.*index 7 is out of range for axis 0 of size 5"):
            session.run(None, {"i": np.array([0, 7])})
        np.testing.assert_array_equal(session.run(None, {"i": np.array([1, -1])})[0], want)
    with pytest.raises(rt.InputError, match="expected int64"):
        session.run(None, {"i": np.array([1.0])})
    runner = session.bind(i=np.array([0, 7]))
    with pytest.raises(rt.ExecutionError, match="index 7"):
        runner.replay()
    runner.inputs["i"][...] = [1, -1]
    runner.replay()
    np.testing.assert_array_equal(runner.outputs["y"], want)


def test_many_threads_may_run_one_session() -> None:
    session = rt.InferenceSession(DIGITS, device="numba", threads=2)
    rng = np.random.default_rng(1)
    images = [rng.random((1 + k % 3, 1, 8, 8), np.float32) for k in range(8)]
    want = [session.run(None, {"image": a})[0] for a in images]
    wrong: list[bool] = []

    def work(k: int) -> None:
        wrong.extend(not np.array_equal(session.run(None, {"image": images[k]})[0], want[k]) for _ in range(50))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(wrong) == 400 and not any(wrong)


def test_a_child_process_runs_after_a_fork() -> None:
    program = """
import os, sys, numpy as np, pytensor_rt
from pytensor_rt.runtime import numba
numba.WORTH = 1.0
session = pytensor_rt.InferenceSession(sys.argv[1], device="numba", threads=2)
feed = {"image": np.random.default_rng(0).random((32, 1, 8, 8), np.float32)}
want = session.run(None, feed)[0]
pid = os.fork()
same = np.array_equal(session.run(None, feed)[0], want)
if pid == 0:
    os._exit(0 if same else 1)
print(same, os.waitpid(pid, 0)[1])
"""
    assert child(program, DIGITS)[0] == "True 0"


def test_every_shape_is_planned_anew() -> None:
    session = rt.InferenceSession(affine(), device="numba")
    reference = rt.InferenceSession(affine(), device="cpu")
    for n in range(1, 60):
        for got, want in zip(session.run(None, feeds(n)), reference.run(None, feeds(n))):
            np.testing.assert_allclose(got, want, rtol=1e-5)


def test_mixed_precision_agrees_with_the_cpu() -> None:
    """A model of float16 with an int8 tail."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.INT8, ["n", 8])
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("QuantizeLinear", ["f", "scale", "zero"], ["y"])]  # fmt: skip
    scale, zero = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.05]), helper.make_tensor("zero", TensorProto.INT8, [], [-100])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [scale, zero]), opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    a = np.random.default_rng(2).standard_normal((7, 8)).astype(np.float16)
    got, want = (rt.InferenceSession(model, device=d).run(None, {"x": a})[0] for d in ("numba", "cpu"))
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1  # a rounding tie may fall the other way
