"""Compiles the executor with g++, once per state of its sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing",
         "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]  # fmt: skip


def _cache_dir() -> Path:
    """Where libraries are kept: `build/` of the checkout, or a temporary directory if that cannot be written."""
    for path in (HERE.parents[2] / "build" / "cuda_on_cpu", Path(tempfile.gettempdir()) / f"cuda_on_cpu-{os.getuid()}"):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    raise OSError("no directory for the compiled executor")


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def library() -> Path:
    """Path of the shared library, compiled first if need be (half a minute). PTRT_EXECUTOR_FLAGS adds compiler flags."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, *os.environ.get("PTRT_EXECUTOR_FLAGS", "").split()]
    common = hashlib.sha256("\n".join([*command, _cpu()]).encode())
    for path in sorted(HERE.glob("*.h")):
        common.update(path.name.encode() + path.read_bytes())
    sources = {}
    whole = common.copy()
    for path in sorted(HERE.glob("*.cpp")):
        one = common.copy()
        one.update(path.read_bytes())
        whole.update(path.name.encode() + path.read_bytes())
        sources[path] = one.hexdigest()[:16]
    cache = _cache_dir()
    target = cache / f"executor-{whole.hexdigest()[:16]}.so"
    if target.exists():
        return target

    def compile_one(item: tuple[Path, str]) -> Path:
        source, key = item
        out = cache / f"{source.stem}-{key}.o"
        if not out.exists():
            _run([*command, "-c", str(source)], out)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources.items()))
    _run([*command, "-shared", *map(str, objects), "-lpthread"], target)
    for path in cache.iterdir():  # of sources long gone
        if path.stat().st_mtime < time.time() - 7 * 86400 and path not in objects:
            path.unlink(missing_ok=True)
    return target


def _run(command: list[str], target: Path) -> None:
    """Run the compiler; `target` appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
    os.close(handle)
    done = subprocess.run([*command, "-o", temporary], capture_output=True, text=True)
    if done.returncode:
        os.unlink(temporary)
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    os.rename(temporary, target)
