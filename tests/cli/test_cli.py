"""The command line, called as a function: what it prints, what it saves, its exit codes and its error lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pytensor_rt
from pytensor_rt.cli import COMMANDS, main
from pytensor_rt.cli.compare import differs

DIGITS = str(Path(pytensor_rt.__file__).parent / "demo" / "digits.onnx")


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: list[str],
    opset: int = 18,
    **weights: np.ndarray,
) -> str:
    """A model file; outputs are declared as float tensors of unknown shape."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return str(path)


def test_demo_classifies_the_shipped_digits_and_shows_the_plan(capsys):
    assert main(["demo", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    found = re.search(r"accuracy +(\d+) of 32", out)
    assert found is not None and int(found[1]) >= 31
    assert "@@" in out and "lower bound" in out and "replay()" in out and "largest difference" in out
    arena, bound = re.search(r"arena +(.*?), lower bound (.*?),", out).groups()  # type: ignore[union-attr]
    assert arena == bound


def test_info_tells_what_the_file_says(capsys):
    assert main(["info", DIGITS]) == 0
    out = capsys.readouterr().out
    assert "ai.onnx 17" in out and "image: tensor(float)[batch, 1, 8, 8]" in out and "scores: tensor(float)" in out
    assert re.search(r"Conv +4\b", out) and "unsupported none" in out and "held-out" in out


def test_info_lists_what_is_not_implemented(tmp_path, capsys):
    path = save(tmp_path / "m.onnx", [helper.make_node("Zorb", ["x"], ["y"], domain="no.such")], {"x": (1, [2])}, ["y"])
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("no.such", 1))
    onnx.save(model, path)
    assert main(["info", path]) == 0
    assert "unsupported Zorb (1)" in capsys.readouterr().out
    assert main(["run", path]) == 1
    assert "Zorb" in capsys.readouterr().err


def test_run_saves_what_the_session_computes(tmp_path, capsys):
    image = np.random.default_rng(3).random((5, 1, 8, 8), np.float32)
    (expected,) = pytensor_rt.InferenceSession(DIGITS).run(None, {"image": image})
    np.save(tmp_path / "image.npy", image)
    np.savez(tmp_path / "feeds.npz", image=image)
    (tmp_path / "image.pb").write_bytes(numpy_helper.from_array(image).SerializeToString())
    for given in (f"image={tmp_path}/image.npy", f"{tmp_path}/image.npy", f"{tmp_path}/feeds.npz", f"image={tmp_path}/image.pb"):
        assert main(["run", DIGITS, "--input", given, "--output", f"{tmp_path}/out.npz"]) == 0
        with np.load(tmp_path / "out.npz") as out:
            np.testing.assert_array_equal(out["scores"], expected)
    assert "scores: float32[5, 10]" in capsys.readouterr().out


def test_run_makes_inputs_of_the_right_kind(tmp_path, capsys):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Where", ["flag", "rows", "x"], ["picked"]),
        helper.make_node("Mul", ["picked", "scale"], ["y"]),
    ]
    inputs = {"ids": (7, ["batch", "n"]), "flag": (9, ["batch", "n", 1]), "x": (1, [4]), "scale": (1, [])}
    path = save(tmp_path / "m.onnx", nodes, inputs, ["y"], table=np.ones((2, 4), np.float32))
    assert main(["run", path, "--shape", "batch=3", "--shape", "n=5", "--input", "scale=0.5", "--output", f"{tmp_path}/o.npz"]) == 0
    with np.load(tmp_path / "o.npz") as out:
        assert out["y"].shape == (3, 5, 4)
    text = capsys.readouterr().out
    assert "ids: int64[3, 5]" in text and "flag: bool[3, 5, 1]" in text and "scale: float32[]  min 0.5" in text
    assert main(["run", path, "--shape", "ids=2,2", "--shape", "flag=2,2,1", "--seed", "1"]) == 0
    assert "y: float32[2, 2, 4]" in capsys.readouterr().out


def test_random_inputs_follow_the_seed(capsys):
    outs = []
    for seed in ("1", "1", "2"):
        assert main(["run", DIGITS, "--seed", seed]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]


def test_plan_prints_totals_and_every_launch(capsys):
    assert main(["plan", DIGITS, "--shape", "image=7,1,8,8"]) == 0
    out = capsys.readouterr().out
    assert "image: float32[7, 1, 8, 8]" in out and "lower bound" in out
    assert len(re.findall(r"^\d+ +conv ", out, re.M)) == 4 and len(re.findall(r"^\d+ +gemm ", out, re.M)) == 1


def test_profile_accounts_for_all_the_time(capsys):
    assert main(["profile", DIGITS, "--threads", "1", "--repeat", "3"]) == 0
    out = capsys.readouterr().out
    kernels, nodes = out.split("ONNX nodes")
    for part in (kernels.split("GB/s", 1)[1], nodes):
        shares = [float(v) for v in re.findall(r" ([\d.]+)% ", part)]
        assert len(shares) >= 3 and abs(sum(shares) - 100) < 1
    assert "[Gemm]" in nodes and "conv" in kernels


def test_compare_agrees_on_the_demo(capsys):
    pytest.importorskip("onnxruntime")
    assert main(["compare", DIGITS]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime     agrees: 1 outputs" in out and "onnx.reference  agrees: 1 outputs" in out


def test_compare_names_the_first_node_that_differs(tmp_path, capsys, monkeypatch):
    from pytensor_rt.cli import compare

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Exp", ["a"], ["b"], "second"),
        helper.make_node("Neg", ["b"], ["y"], "third"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": (1, [4])}, ["y"])

    class Wrong:
        """Another runtime whose Exp is off."""

        def __init__(self, data: str | bytes) -> None:
            self.session = pytensor_rt.InferenceSession(data)

        def run(self, names, feeds):
            names = names or [o.name for o in self.session.get_outputs()]
            values = dict(zip(names, self.session.run(names, feeds)))
            return [v if n == "a" else v * 1.5 for n, v in values.items()]

    monkeypatch.setattr(compare, "peer", lambda args, model: Wrong(model))
    monkeypatch.setattr(compare, "reference", lambda model: None)
    assert main(["compare", path]) == 1
    out = capsys.readouterr().out
    assert "first diverging node: [Exp] 'second', output 'b'" in out and "onnxruntime     differs: output 'y'" in out


def test_differences_are_described():
    a = np.array([1.0, 2.0], np.float32)
    assert differs(a, a.copy(), 0, 0) == "" and differs(np.float32([np.nan]), np.float32([np.nan]), 0, 0) == ""
    assert "1 of 2 elements differ, most at [1]" in differs(a, np.array([1.0, 3.0], np.float32), 1e-3, 1e-4)
    assert "shape [2]" in differs(a, a[None], 0, 0) and "dtype float32" in differs(a, a.astype(np.float64), 0, 0)
    assert "element 1" in differs([a, a], [a, a + 1], 0, 0) and "2 elements" in differs([a, a], [a], 0, 0)
    assert "key 'k'" in differs({"k": 1.0}, {"k": 2.0}, 0, 0) and differs(np.array(["a"], object), np.array(["a"]), 0, 0) == ""


def test_bench_shows_both_runtimes(capsys):
    pytest.importorskip("onnxruntime")
    assert main(["bench", DIGITS, "--threads", "1", "--repeat", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^run +\d", out, re.M) and re.search(r"^replay +\d", out, re.M) and out.count("x the speed of onnxruntime") == 2


def test_doctor_knows_the_kernels(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(f"device {name}" in out for name in ("cpu", "numba", "cuda")) and "numpy" in out and "operators" in out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["info", "nowhere.onnx"], "nowhere.onnx"),
        (["run", DIGITS, "--input", "picture=3"], "the model's inputs are 'image'"),
        (["run", DIGITS, "--input", "image=none.npy"], "none.npy"),
        (["run", DIGITS, "--shape", "image=1,3,8,8"], "'image': expected size 1 along axis 1, got 3"),
        (["run", DIGITS, "--shape", "image=a,b"], "expected whole numbers"),
        (["run", DIGITS, "--shape", "nothing=1"], "no such input or dimension"),
        (["run", DIGITS, "--shape", "3"], "expected NAME=VALUE"),
        (["run", DIGITS, "--device", "tpu"], "'tpu' is not available"),
        (["run", DIGITS, "--threads", "0"], "threads must be at least 1"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(argv, text, capsys):
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith("pytensor-rt: error: ") and err.count("\n") == 1 and text in err


def test_damaged_files_are_errors_too(tmp_path, capsys):
    (tmp_path / "cut.onnx").write_bytes(Path(DIGITS).read_bytes()[:5000])
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    (tmp_path / "bad.npz").write_bytes(b"not an archive")
    for argv in (["info", f"{tmp_path}/cut.onnx"], *(["run", DIGITS, "--input", f"image={tmp_path}/bad{e}"] for e in (".npy", ".npz"))):
        assert main(argv) == 1
        assert capsys.readouterr().err.startswith("pytensor-rt: error: ")


def test_wrong_command_lines_exit_with_2(capsys):
    for argv in ([], ["fly"], ["run"]):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == 2
    with pytest.raises(SystemExit) as e:
        main(["--help"])
    assert e.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "pytensor_rt", "run", DIGITS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "scores: float32[1, 10]" in done.stdout and not done.stderr
