"""The build backend: scikit-build-core, except that a machine without a C++ compiler (or PTRT_PURE=1) gets a wheel of Python only.

Such an installation runs on device "numba". A build whose compiler fails is an error, not a pure wheel.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scikit_build_core import build as core
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

Settings = dict[str, Any] | None
ROOT = Path(__file__).resolve().parents[1]


def is_pure() -> bool:
    """Is the extension left out: PTRT_PURE=1, or no C++ compiler on PATH or in CXX (on Windows, CMake finds them itself)?"""
    wanted = os.environ.get("PTRT_PURE", "")
    if wanted not in ("", "0"):
        return True
    if os.name == "nt" or wanted == "0":
        return False
    named = os.environ.get("CXX", "").split()[:1]
    return not any(shutil.which(name) for name in (*named, "c++", "g++", "clang++"))


def _settings(settings: Settings) -> Settings:
    if not is_pure():
        return settings
    print(
        "pytensor_rt: building without the compiled kernels (no C++ compiler found, or PTRT_PURE=1): device 'numba' will be the default, which is slower. "
        "Install a C++ compiler and reinstall to get them.",
        file=sys.stderr,
    )
    return {**(settings or {}), "wheel.cmake": "false"}


@contextmanager
def _cuda_sources() -> Iterator[None]:
    """The CUDA kernels' sources beside the Python package, which CMake would install there."""
    archive = ROOT / "pytensor_rt" / "kernels" / "cuda" / "csrc.tar.xz"
    if not is_pure():
        yield
        return
    try:
        with tarfile.open(archive, "w:xz") as out:
            for path in sorted((ROOT / "csrc" / "cuda").glob("*.cuh")):
                out.add(path, path.name)
        yield
    finally:
        archive.unlink(missing_ok=True)


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What a build needs: CMake and Ninja only where there is something to compile."""
    return core.get_requires_for_build_wheel(_settings(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """As for a wheel."""
    return core.get_requires_for_build_editable(_settings(config_settings))


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel; its name."""
    with _cuda_sources():
        return core.build_wheel(wheel_directory, _settings(config_settings), metadata_directory)


def build_editable(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build an editable wheel; its name."""
    return core.build_editable(wheel_directory, _settings(config_settings), metadata_directory)


__all__ = [
    "build_editable", "build_sdist", "build_wheel", "get_requires_for_build_editable", "get_requires_for_build_sdist", "get_requires_for_build_wheel",
]  # fmt: skip
