"""The command line and device "numba"."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytensor_rt.cli import main
from pytensor_rt.kernels.numba import code
from tests.session.models import DIGITS

from .test_session import child

WARMUP = "import sys; from pytensor_rt.cli import main; sys.exit(main(['warmup', *sys.argv[1:]]))"


def test_warmup_of_a_model_leaves_nothing_to_compile(tmp_path: Path) -> None:
    out, _ = child(WARMUP, DIGITS, "--shape", "image=4,1,8,8", NUMBA_CACHE_DIR=str(tmp_path))
    files = sorted(tmp_path.glob("*/*.o"))
    assert files and f"in {files[0].parent}" in out and out.split()[0] == str(len(files))
    program = WARMUP.replace("sys.exit(", "code = ").rstrip(")") + "); print('numba' in sys.modules)"
    out, said = child(program, DIGITS, "--shape", "image=4,1,8,8", NUMBA_CACHE_DIR=str(tmp_path))
    assert out.endswith("False") and said == ""
    assert sorted(tmp_path.glob("*/*.o")) == files


def test_the_stock_is_what_warmup_compiles(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stock = code.stock()
    assert len(stock) > 100 and stock == sorted(set(stock)) and "replay.run" in stock and "gemm_tile.product[float32]" in stock
    compiled: list[str] = []
    monkeypatch.setattr(code, "is_cached", lambda name: name != stock[3])
    monkeypatch.setattr(code, "function", compiled.append)
    assert main(["warmup"]) == 0
    out, err = capsys.readouterr()
    assert compiled == [stock[3]] and f"1/1 {stock[3]}" in err and f"{len(stock)} kernels are compiled" in out


def test_every_function_of_the_stock_exists() -> None:
    """A name that nobody plans any more would fail when it is compiled."""
    jit = Path(code.__file__).parent / "jit"
    for name in code.stock():
        module, _, rest = name.partition(".")
        assert f"\ndef {rest.partition('[')[0]}(" in (jit / f"{module}.py").read_text(encoding="utf-8"), name


def test_doctor_tells_where_the_kernels_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "device numba" in out and f"in {code.folder()}" in out and f"{8 * code.vector_bytes()} bits" in out


def test_commands_take_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", DIGITS, "--device", "numba", "--shape", "image=2,1,8,8"]) == 0
    assert main(["plan", DIGITS, "--device", "numba", "--shape", "image=2,1,8,8"]) == 0
    assert main(["profile", DIGITS, "--device", "numba", "--shape", "image=2,1,8,8", "--repeat", "2"]) == 0
    out = capsys.readouterr().out
    assert "gemm" in out and "conv_" in out
