"""`pytensor-rt doctor`."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform

from .. import __version__
from ..errors import DeviceError
from ..kernels.spec import SPECS
from ..ops import registered


def command(args: argparse.Namespace) -> int:
    """Print versions, devices, ISA levels and CPUs; exit code 1 if there is neither the compiled extension nor numba."""
    print(f"pytensor_rt  {__version__}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("numpy", "onnx", "ml_dtypes", "numba", "onnxruntime"):
        try:
            print(f"{package:<12} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package:<12} not installed")
    print(f"operators    {len(registered())} have rules of their own")
    from ..kernels import cpu

    works = False
    try:
        level = cpu.isa_level()
        print(f"device cpu   {level} (available: {', '.join(cpu.native().isa_levels())}), {cpu.available_cpus()} CPUs")
        missing = sorted(set(SPECS) - set(cpu.native().available_kernels(level)))
        print(f"not compiled {', '.join(missing) or 'none'}")
        works = True
    except DeviceError as e:
        print(f"device cpu   {e}")
    from ..kernels.numba import code

    problem = code.why_not()
    if problem:
        print(f"device numba {problem}")
    else:
        held = code.folder()
        count = len(list(held.glob("*.o"))) if held else 0
        print(
            f"device numba {code.cpu()[0]}, {8 * code.vector_bytes()} bits; {count} compiled kernels in {held or 'no folder: none can be written'}"
        )
        works = True
    print("device cuda")
    from ..kernels.cuda import device

    for what, lack in device.why_not().items():
        print(f"  {what:<12} {lack or 'ok'}")
    for name in ("PTRT_ISA", "PTRT_VERIFY", "PTRT_CUDA_CACHE", "NUMBA_CACHE_DIR"):
        if name in os.environ:
            print(f"{name:<12} {os.environ[name]}")
    return 0 if works else 1
