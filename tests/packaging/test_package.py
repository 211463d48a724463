"""What is shipped: the README's example, the demo's files, the typing marker, versions that agree."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import pytensor_rt

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(pytensor_rt.__file__).parent


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


def test_the_readme_example_runs(tmp_path, monkeypatch, capsys):
    shutil.copy(PACKAGE / "demo" / "digits.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(ROOT / "README.md")
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    np.testing.assert_array_equal(names["runner"].outputs["scores"], names["scores"])  # type: ignore[attr-defined]
    assert "lower bound" in capsys.readouterr().out


def test_the_readme_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(.*?)```", text, re.S)
    assert commands is not None and text.index("```sh") < 400
    assert "pip install . && pytensor-rt demo" in commands[1] and 'pip install -e ".[test]" && pytest' in commands[1]


def test_links_in_the_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_demo_ships_whole():
    model = onnx.load(PACKAGE / "demo" / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    with np.load(PACKAGE / "demo" / "digits.npz") as archive:
        assert archive["images"].shape == (32, 1, 8, 8) and archive["labels"].shape == (32,)
        assert archive["images"].min() >= 0 and archive["images"].max() <= 1
    assert (PACKAGE / "py.typed").exists()


def test_versions_agree():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{pytensor_rt.__version__}"' in text
    try:
        installed = importlib.metadata.version("pytensor_rt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree without an installation")
    assert installed == pytensor_rt.__version__


def test_everything_public_is_importable():
    for name in pytensor_rt.__all__:
        assert getattr(pytensor_rt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytensor_rt.nothing  # noqa: B018


def test_importing_the_package_loads_neither_onnx_nor_the_extension():
    code = "import sys, pytensor_rt; print([m for m in ('onnx', 'ml_dtypes', 'onnxruntime', 'pytensor_rt._native', 'pytensor_rt.session') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
