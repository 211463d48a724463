"""An installation without a C++ compiler: in a virtual environment of its own, with nothing on PATH but Python."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import zoo

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.network
SOURCES = ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "pytensor_rt", "csrc", "tools")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a shell in a fresh virtual environment, whose PATH has its programs only."""
    if sys.platform == "win32":
        pytest.skip("CMake finds compilers that are not on PATH")
    folder = tmp_path_factory.mktemp("pure")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=300)
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy", "LANG"))}
    return {**kept, "PATH": str(folder / "venv" / "bin"), "HOME": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")}


def run(environment: dict[str, str], *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = Path(environment["PATH"]) / command[0]
    return subprocess.run([program, *command[1:]], env=environment, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def installed(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources and installed with the extra `numba`. Skips where no registry can be reached."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:  # without what an editable installation has left there
        subprocess.run(["cp", "-r", ROOT / name, folder / name], check=True)
    for left in (*folder.glob("pytensor_rt/*.so"), *folder.rglob("__pycache__")):
        subprocess.run(["rm", "-r", left], check=True)
    reached = run(environment, "pip", "download", "--no-deps", "--dest", str(folder / "reach"), "scikit-build-core")
    if reached.returncode:
        pytest.skip(f"no package registry: {reached.stderr.strip().splitlines()[-1:]}")
    built = run(environment, "pip", "wheel", "-v", "--no-deps", "--wheel-dir", str(folder / "dist"), str(folder))
    assert built.returncode == 0, built.stderr + built.stdout
    assert built.stdout.count("building without the compiled kernels") + built.stderr.count("building without the compiled kernels") >= 1
    (wheel,) = (folder / "dist").glob("*.whl")
    done = run(environment, "pip", "install", f"{wheel}[numba]")
    assert done.returncode == 0, done.stderr
    return wheel


def test_the_wheel_is_python_only(installed: Path) -> None:
    assert installed.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(installed) as held:
        names = held.namelist()
    assert not [n for n in names if n.endswith((".so", ".pyd", ".cubin"))]
    assert "pytensor_rt/kernels/cuda/csrc.tar.xz" in names and "pytensor_rt/kernels/numba/stock.txt" in names
    assert not (ROOT / "pytensor_rt" / "kernels" / "cuda" / "csrc.tar.xz").exists()


def test_the_demo_runs(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, "pytensor-rt", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy        32 of 32" in done.stdout and "kernels numba" in done.stdout
    assert done.stderr.count("installed without its compiled kernels") == 1
    report = run(environment, "pytensor-rt", "doctor")
    assert report.returncode == 0 and "device numba" in report.stdout and "lacks" in report.stdout


def test_a_published_model_runs(installed: Path, environment: dict[str, str], tmp_path: Path) -> None:
    try:
        path = zoo.MODELS["rapidocr_cls"].path()
    except zoo.RegistryError as error:
        pytest.skip(str(error))
    done = run(environment, "pytensor-rt", "run", str(path), "--shape", "x=1,3,48,192", "--output", "out.npz", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "out.npz").exists(), done.stderr
