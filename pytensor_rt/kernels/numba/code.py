"""Machine code: compiled by numba once, kept on disk, loaded through llvmlite alone.

A kernel is named `module.factory[dtype,dtype]`: `jit/module.py` has a function `factory` that, called with numba's types, returns the Python function
to compile. That function takes 64-bit integers (a parameter called `w` is a pointer to some) and returns one. It raises nothing, allocates nothing
and refers to no Python object, so its machine code needs neither numba nor the interpreter to run: importing numba costs most of a second, which a
process that finds its kernels on disk does not spend.

The object files lie in NUMBA_CACHE_DIR, or else in the user's cache folder; where neither can be written they are kept in memory only. Their names
hold digests of numba's version, the CPU and the text of the modules they come from, so code for another machine or version is never loaded. A file that is
damaged fails its checksum and is compiled again.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from threading import RLock, local
from typing import Any

from ...errors import DeviceError

FORMAT = 1  # of the files; count up when the way functions are compiled or kept changes
OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # of numba.njit
ENTRY = "ptrt_entry"  # the name of every kernel's symbol
QUIET_SECONDS = 2.0  # compilation that takes longer says so

_lock = RLock()
_functions: dict[str, Function] = {}
_LIBRARIES = (None, "libm.so.6", "libm.dylib", "libSystem.dylib")


class Function:
    """Machine code that is loaded: its address, and the engine that keeps it there."""

    __slots__ = ("_engine", "address", "args", "name")

    def __init__(self, name: str, address: int, args: int, engine: Any) -> None:
        self.name, self.address, self.args, self._engine = name, address, args, engine

    def callable(self) -> Callable[..., int]:
        """It as a Python function of integers, which runs without the GIL."""
        function = _prototype(self.args)(self.address)
        held, at = local(), ctypes.addressof

        def call(*args: int) -> int:
            try:
                result, address = held.result
            except AttributeError:
                result = ctypes.c_int64()
                address = at(result)
                held.result = result, address
            function(address, None, *args)
            value: int = result.value
            return value

        return call


@lru_cache(maxsize=32)
def _prototype(args: int) -> Any:
    """The type of a function of so many integers, as numba calls one: status f(result*, exception**, ...)."""
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * args)


def why_not() -> str:
    """What this installation lacks for device "numba", or nothing."""
    missing = [name for name in ("numba", "llvmlite") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'pytensor_rt[numba]'"
    return ""


def require() -> None:
    """Raises DeviceError if device "numba" cannot be used."""
    problem = why_not()
    if problem:
        raise DeviceError(f"device 'numba' is not available: {problem}")


def functions(names: Iterable[str]) -> list[Function]:
    """The functions of these names, compiled where they are not on disk yet. Raises DeviceError without numba."""
    wanted = list(names)
    with _lock:
        missing = [n for n in dict.fromkeys(wanted) if n not in _functions]
        progress = _Progress(missing)
        for name in missing:
            _functions[name] = _load(name, progress)
        progress.close()
        return [_functions[n] for n in wanted]


def function(name: str) -> Function:
    """One function; see `functions`."""
    held = _functions.get(name)
    return held if held is not None else functions([name])[0]


def loaded() -> list[str]:
    """The names of the functions this process has loaded."""
    return sorted(_functions)


def stock() -> list[str]:
    """The names of the functions that common models need: what tools/numba_stock.py found published models and architectures to use."""
    return (Path(__file__).parent / "stock.txt").read_text(encoding="utf-8").split()


class _Progress:
    """A line on stderr, once compilation has taken longer than QUIET_SECONDS."""

    def __init__(self, names: list[str]) -> None:
        self._names, self._start, self._done, self._shown = names, time.perf_counter(), 0, False

    def compiling(self, name: str) -> None:
        spent = time.perf_counter() - self._start
        if spent > QUIET_SECONDS:
            where = folder()
            kept = f"kept in {where}" if where else "not kept: no cache folder can be written; set NUMBA_CACHE_DIR"
            text = f"pytensor_rt: compiling kernels for device 'numba' ({self._names.index(name) + 1} of {len(self._names)}, {kept})"
            end = "" if sys.stderr.isatty() else "\n"
            if sys.stderr.isatty() or not self._shown:
                print(f"\r{text}" if not end else text, end=end, file=sys.stderr, flush=True)
            self._shown = True

    def close(self) -> None:
        if self._shown and sys.stderr.isatty():
            print(file=sys.stderr)


# --------------------------------------------------------------------------------------------------------------------------- the machine
@lru_cache(maxsize=1)
def _llvm() -> Any:
    require()
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in _LIBRARIES:  # the kernels call the C library's mathematical functions
        try:
            llvm.load_library_permanently(name)
        except (RuntimeError, TypeError, AttributeError):
            continue
    return llvm


@lru_cache(maxsize=1)
def cpu() -> tuple[str, str]:
    """The CPU that code is compiled for, and its features, as LLVM names them. NUMBA_CPU_NAME and NUMBA_CPU_FEATURES override."""
    llvm = _llvm()
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        try:
            features = llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM cannot ask this machine: what every CPU of its kind has
            features = ""
    return name, features


@lru_cache(maxsize=1)
def vector_bytes() -> int:
    """Width of a vector register: 64 with AVX-512, 32 with AVX2, else 16."""
    held = set(cpu()[1].split(","))
    return 64 if "+avx512f" in held else 32 if "+avx2" in held and "+fma" in held else 16


def _machine(llvm: Any) -> Any:
    name, features = cpu()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=3, reloc="default", codemodel="jitdefault", jit=True)


# ------------------------------------------------------------------------------------------------------------------------------ on disk
@lru_cache(maxsize=1)
def key() -> str:
    """What all machine code depends on, as a hexadecimal digest."""
    digest = hashlib.sha256()
    for part in (
        metadata.version("numba"),
        metadata.version("llvmlite"),
        platform.python_version(),
        platform.machine(),
        sys.platform,
        *cpu(),
    ):
        digest.update(part.encode() + b"\0")
    digest.update(repr((FORMAT, sorted(OPTIONS), ENTRY)).encode())
    return digest.hexdigest()[:24]


@lru_cache(maxsize=64)
def _text_key(module: str) -> str:
    """A digest of the text of a module of jit/ and of those it imports."""
    here = Path(__file__).parent / "jit"
    texts: dict[str, bytes] = {}
    left = [module]
    while left:
        m = left.pop()
        if m not in texts:
            texts[m] = (here / f"{m}.py").read_bytes()
            left += [name.decode() for name in re.findall(rb"^from \.(\w+) import", texts[m], re.MULTILINE)]
    return hashlib.sha256(b"\0".join(texts[m] for m in sorted(texts))).hexdigest()[:16]


@lru_cache(maxsize=8)
def _folder(wanted: str) -> Path | None:
    if wanted:
        places = [Path(wanted)]
    else:
        user = os.environ.get("XDG_CACHE_HOME")
        places = [(Path(user) if user else Path.home() / ".cache") / "pytensor_rt", Path(tempfile.gettempdir()) / f"pytensor_rt-{_user()}"]
    for place in places:
        path = place / f"numba-{key()}"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = path.stat().st_uid if hasattr(os, "getuid") else 0
            if os.access(path, os.R_OK) and (not hasattr(os, "getuid") or owner in (os.getuid(), 0) or wanted):
                return path
        except OSError:
            continue
    return None


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def folder() -> Path | None:
    """Where compiled kernels lie: in NUMBA_CACHE_DIR if set, else in the user's cache; None if no folder can be had."""
    return _folder(os.environ.get("NUMBA_CACHE_DIR", ""))


def _file(name: str) -> Path | None:
    where = folder()
    if where is None:
        return None
    plain = name.replace("[", "-").replace(",", "-").replace("]", "").replace(":", "")
    return where / f"{plain}-{_text_key(name.partition('.')[0])}.o"


def _read(path: Path | None) -> tuple[dict[str, Any], bytes] | None:
    """A file's header and object code, if it is whole."""
    if path is None:
        return None
    try:
        head, _, code = path.read_bytes().partition(b"\n")
        header = json.loads(head)
        whole = hashlib.sha256(code).hexdigest() == header["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (header, code) if whole else None


def _write(path: Path | None, header: dict[str, Any], code: bytes) -> None:
    if path is None:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as f:
            f.write(json.dumps(header).encode() + b"\n" + code)
        os.replace(f.name, path)
    except OSError:  # a folder that can only be read
        return


def is_cached(name: str) -> bool:
    """Is this function loaded, or on disk?"""
    return name in _functions or _read(_file(name)) is not None


# ------------------------------------------------------------------------------------------------------------------- compiling, loading
def _load(name: str, progress: _Progress) -> Function:
    llvm = _llvm()
    path = _file(name)
    held = _read(path)
    if held is None or any(llvm.address_of_symbol(s) is None for s in held[0]["symbols"]):
        progress.compiling(name)
        held = _compile(name)
        _write(path, *held)
    header, code = held
    unknown = [s for s in header["symbols"] if llvm.address_of_symbol(s) is None]
    if unknown:  # resolving would end the process
        raise DeviceError(f"kernel {name} needs {', '.join(unknown)}, which no loaded library has")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Function(name, int(engine.get_function_address(ENTRY)), int(header["args"]), engine)


def _compile(name: str) -> tuple[dict[str, Any], bytes]:
    llvm = _llvm()
    import numba
    from numba import types

    module, _, rest = name.partition(".")
    attribute, _, dtypes = rest.partition("[")
    factory = getattr(import_module(f".jit.{module}", __package__), attribute)
    python = factory(*[_type(numba, t) for t in dtypes.rstrip("]").split(",") if t])
    parameters = python.__code__.co_varnames[: python.__code__.co_argcount]
    signature = types.int64(*[types.CPointer(types.int64) if p == "w" else types.int64 for p in parameters])
    if numba.config.DISABLE_JIT:
        raise DeviceError("device 'numba' cannot compile its kernels because NUMBA_DISABLE_JIT is set; unset it")
    dispatcher = numba.njit(fastmath={"contract"}, **OPTIONS)(python)
    dispatcher.compile(signature)
    symbol = dispatcher.overloads[signature.args].fndesc.llvm_func_name
    parsed = llvm.parse_assembly(dispatcher.inspect_llvm(signature.args).replace(symbol, ENTRY))
    defined = {f.name for f in parsed.functions if not f.is_declaration}
    symbols = sorted(f.name for f in parsed.functions if f.is_declaration and not f.name.startswith("llvm."))
    machine = _machine(llvm)
    code = bytes(machine.emit_object(parsed))
    assert ENTRY in defined
    symbols += [s for s in _undefined(code) if s not in symbols]
    return {"name": name, "args": len(parameters), "symbols": symbols, "sha256": hashlib.sha256(code).hexdigest()}, code


def _type(numba: Any, name: str) -> Any:
    """An argument of a factory: an integer, one of numba's types, or else (always, after a colon) a string."""
    if name.lstrip("-").isdigit():
        return int(name)
    return getattr(numba.types, name) if name in _TYPES else name.lstrip(":")


_TYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "complex64", "complex128")


_LIBM = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh",
    "acosh", "atanh", "erf", "erfc", "pow", "fmod", "sqrt", "floor", "ceil", "rint", "nearbyint", "trunc", "round", "fma", "ldexp", "frexp", "hypot",
    "cbrt", "tgamma", "lgamma", "sincos", "roundeven",
)  # fmt: skip
_KNOWN = (*_LIBM, *[f"{n}f" for n in _LIBM], "memcpy", "memset", "memmove")


def _undefined(code: bytes) -> list[str]:
    """Names among _KNOWN in an object's string table: what LLVM's intrinsics may have become."""
    return [s for s in _KNOWN if b"\0" + s.encode() + b"\0" in code]
