"""The one module that touches CuPy: compiling, memory, launches, graphs. Everything above it speaks `Call`s and addresses.

CuPy is imported when it is first needed. Facts about it (14.x) that shape this code: `RawModule(path=...)` takes PTX and cubins alike; `getCUBIN`
drops the last byte; a grid of 0 is clamped to 1; Python numbers reach a kernel as 8 bytes, unchecked, so arguments travel as one structure;
more than 48 KB of shared memory must be asked for; a graph is captured on a non-default stream, after a warm-up, with addresses baked in;
asynchronous copies need pinned host memory that outlives them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError, UnsupportedError

ARCHS = (75, 80, 86, 89, 90, 100, 120)  # what the kernels are verified for
DEFAULT_SHARED = 48 << 10


@lru_cache(maxsize=1)
def headers() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """(texts, names) of all *.cuh files: from the package's archive, or csrc/cuda of a checkout."""
    archive = Path(__file__).parent / "csrc.tar.xz"
    if archive.exists():
        with tarfile.open(archive) as held:
            texts = {Path(m.name).name: held.extractfile(m).read() for m in held if m.name.endswith(".cuh")}  # type: ignore[union-attr]
    else:
        texts = {f.name: f.read_bytes() for f in (Path(__file__).parents[3] / "csrc" / "cuda").glob("*.cuh")}
    names = sorted(texts)
    return tuple([texts[n] for n in names]), tuple([n.encode() for n in names])


@lru_cache(maxsize=1)
def _headers_digest() -> bytes:
    return hashlib.sha256(b"\0".join([*headers()[0], *headers()[1]])).digest()


def cache_folder() -> Path:
    """Where compiled kernels are kept: PTRT_CUDA_CACHE, else pytensor_rt/cuda in XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("PTRT_CUDA_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytensor_rt" / "cuda"


def compile_source(source: str, target: str, options: Iterable[str] = ()) -> bytes:
    """PTX (target "compute_80") or a cubin ("sm_80") of one translation unit. Raises UnsupportedError with the compiler's log."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", *headers())
    try:
        flags = [f"--gpu-architecture={target}", "--std=c++17", "--device-as-default-execution-space", *options]
        try:
            nvrtc.compileProgram(program, flags)
        except nvrtc.NVRTCError:
            raise UnsupportedError(f"NVRTC could not compile a kernel for {target}:\n{nvrtc.getProgramLog(program)}") from None
        if target.startswith("compute"):
            ptx: bytes = nvrtc.getPTX(program)
            return ptx.rstrip(b"\0")
        cubin: bytes = nvrtc.getCUBIN(program)
        return cubin + b"\0"
    finally:
        nvrtc.destroyProgram(program)


def file_name(source: str, target: str) -> str:
    """The name under which a compiled translation unit is kept."""
    digest = hashlib.sha256(_headers_digest() + f"{target}|{source}".encode()).hexdigest()
    return f"{digest}.{'ptx' if target.startswith('compute') else 'cubin'}"


def compiled(source: str, target: str) -> Path:
    """The file of a compiled translation unit: shipped with the package, from the cache on disk, or made now."""
    name = file_name(source, target)
    shipped = Path(__file__).parent / "binaries" / name
    if shipped.exists():
        return shipped
    path = cache_folder() / name[:2] / name
    if not path.exists():
        data = compile_source(source, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(temporary, path)
    return path


def why_not() -> dict[str, str | None]:
    """What a CUDA device needs, in order: requirement -> None if it is there, else what is wrong and what to do."""
    out: dict[str, str | None] = {}
    try:
        import cupy
    except Exception as e:  # a broken CuPy raises all kinds
        out["CuPy"] = (
            f"cannot be imported ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}): pip install 'pytensor_rt[cuda]'"
        )
        return out
    out["CuPy"] = None
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
        out["NVRTC"] = None
    except Exception as e:
        out["NVRTC"] = f"cannot be loaded ({str(e).splitlines()[0]}): pip install nvidia-cuda-nvrtc-cu12"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        out["driver"] = None if count else "the driver lists no device: is CUDA_VISIBLE_DEVICES empty?"
    except Exception as e:
        out["driver"] = f"{str(e).splitlines()[0]}: install NVIDIA's driver, or use device='cpu'"
        return out
    if count:
        arch = int(cupy.cuda.Device(0).compute_capability)
        out["architecture"] = None if arch >= ARCHS[0] else f"sm_{arch} is older than sm_{ARCHS[0]}, the oldest the kernels support"
    return out


def require() -> None:
    """Raises DeviceError naming everything that keeps device 'cuda' from working."""
    missing = [f"{what}: {problem}" for what, problem in why_not().items() if problem]
    if missing:
        raise DeviceError("device 'cuda' is not available here. " + "; ".join(missing))


def usable() -> bool:
    """Is everything there that device 'cuda' needs? Does not import CuPy where it is not installed."""
    return importlib.util.find_spec("cupy") is not None and not any(why_not().values())


class Device:
    """One GPU, its stream and what was loaded on it. Raises DeviceError where there is none."""

    def __init__(self, number: int = 0) -> None:
        require()
        import cupy

        self.cupy = cupy
        self.device = cupy.cuda.Device(number)
        self.arch = int(self.device.compute_capability)
        known = [a for a in ARCHS if a <= self.arch]
        # An architecture newer than all known ones runs the PTX of the newest, compiled by the driver.
        self.target = f"sm_{self.arch}" if self.arch in ARCHS else f"compute_{known[-1]}"
        with self.device:
            self.stream = cupy.cuda.Stream(non_blocking=True)
        self._functions: dict[tuple[str, str], Any] = {}

    def sibling(self) -> Device:
        """The same GPU and loaded kernels with another stream."""
        other = object.__new__(Device)
        other.__dict__.update(self.__dict__)
        with self.device:
            other.stream = self.cupy.cuda.Stream(non_blocking=True)
        return other

    def name(self) -> str:
        """The GPU's product name."""
        properties: dict[str, Any] = self.cupy.cuda.runtime.getDeviceProperties(self.device.id)
        name = properties["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    # -------------------------------------------------------------------------------------------------------------------- memory
    def allocate(self, nbytes: int) -> Any:
        """Device memory, freed with the object returned, whose `ptr` is its address (a multiple of 256)."""
        with self.device:
            return self.cupy.cuda.alloc(max(256, nbytes))

    def pinned(self, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Page-locked host memory."""
        memory = self.cupy.cuda.alloc_pinned_memory(max(1, nbytes))
        return np.frombuffer(memory, np.uint8, max(1, nbytes))

    def upload(self, memory: Any, offset: int, host: np.ndarray[Any, Any]) -> None:
        """Queue a copy from a contiguous host array, which must stay alive (and, to be asynchronous, be pinned)."""
        (memory + offset).copy_from_host_async(host.ctypes.data, host.nbytes, self.stream)

    def download(self, memory: Any, offset: int, host: np.ndarray[Any, Any]) -> None:
        """Queue a copy into a contiguous host array."""
        (memory + offset).copy_to_host_async(host.ctypes.data, host.nbytes, self.stream)

    def array(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any) -> Any:
        """A CuPy array of contiguous memory at a device address. `owner` keeps the memory alive."""
        nbytes = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        memory = self.cupy.cuda.UnownedMemory(address, nbytes, owner, self.device.id)
        return self.cupy.ndarray(shape, dtype, memptr=self.cupy.cuda.MemoryPointer(memory, 0))

    def adopt(self, value: Any) -> Any:
        """A CuPy array over the memory of any array on this device; what its producer queued happens before what is queued here from now on."""
        cupy = self.cupy
        if isinstance(value, cupy.ndarray):
            event = cupy.cuda.Event(disable_timing=True)
            event.record(cupy.cuda.get_current_stream())
            self.stream.wait_event(event)
            return value
        with self.device, self.stream:  # both protocols make the current stream wait for the producer's
            return cupy.asarray(value) if hasattr(type(value), "__cuda_array_interface__") else cupy.from_dlpack(value)

    def read(self, array: Any) -> np.ndarray[Any, Any]:
        """A CuPy array of any strides as a NumPy array; waits."""
        low = sum(min(0, (n - 1) * s) for n, s in zip(array.shape, array.strides))
        high = sum(max(0, (n - 1) * s) for n, s in zip(array.shape, array.strides)) + array.dtype.itemsize
        if array.size == 0:
            return np.empty(array.shape, array.dtype)
        host = np.empty(high - low, np.uint8)
        self.download(array.data, low, host)
        self.synchronize()
        view: np.ndarray[Any, Any] = np.ndarray(array.shape, array.dtype, host.data, -low, array.strides)
        return np.array(view)

    def fill(self, memory: Any, offset: int, value: int, nbytes: int) -> None:
        """Queue setting bytes."""
        (memory + offset).memset_async(value, nbytes, self.stream)

    # ------------------------------------------------------------------------------------------------------------------ launches
    def function(self, source: str, name: str) -> Any:
        """The kernel `name` of a translation unit, compiled and loaded."""
        key = (source, name)
        found = self._functions.get(key)
        if found is None:
            path = compiled(source, self.target)
            with self.device:
                found = self._functions[key] = self.cupy.RawModule(path=str(path)).get_function(name)
        return found

    def launch(self, function: Any, grid: tuple[int, int, int], block: tuple[int, int, int], args: bytes, shared: int) -> None:
        """Queue one kernel whose only parameter is the structure `args`."""
        if shared > DEFAULT_SHARED:
            function.max_dynamic_shared_size_bytes = shared
        function(grid, block, (np.frombuffer(args, np.dtype((np.void, len(args)))),), shared_mem=shared)

    def queued(self, work: Callable[[], None]) -> None:
        """Run `work` with this device's stream as the current one."""
        with self.device, self.stream:
            work()

    def capture(self, work: Callable[[], None]) -> Any:
        """A CUDA graph of what `work` queues. It must have run once before, so that all kernels are loaded."""
        with self.device, self.stream:
            self.stream.begin_capture()
            try:
                work()
            finally:
                graph = self.stream.end_capture()
        return graph

    def replay(self, graph: Any) -> None:
        """Queue a captured graph."""
        graph.launch(self.stream)

    def synchronize(self) -> None:
        """Wait for everything queued."""
        self.stream.synchronize()


class Offline(Device):
    """Stands in for a Device where there is none: plans are bound, their kernels compiled for `targets`, and nothing can be run."""

    def __init__(self, targets: Iterable[str]) -> None:
        self.arch, self.targets = 0, tuple(targets)

    def sibling(self) -> Offline:
        return self

    def allocate(self, nbytes: int) -> Any:
        """No memory; its address is 0."""
        return type("Nothing", (), {"ptr": 0})()

    def pinned(self, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.empty(0, np.uint8)

    def upload(self, memory: Any, offset: int, host: np.ndarray[Any, Any]) -> None:
        """Nothing to do."""

    def synchronize(self) -> None:
        """Nothing to do."""

    def function(self, source: str, name: str) -> list[Path]:
        """The files of the kernel's translation unit, compiled for every target."""
        return [compiled(source, t) for t in self.targets]
