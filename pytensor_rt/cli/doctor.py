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
    """Print versions, devices, ISA levels and CPUs; exit code 1 if the compiled kernels are missing."""
    print(f"pytensor_rt  {__version__}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("numpy", "onnx", "ml_dtypes", "onnxruntime"):
        try:
            print(f"{package:<12} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package:<12} not installed")
    print(f"operators    {len(registered())} have rules of their own")
    from ..kernels import cpu

    try:
        level = cpu.isa_level()
        print(f"cpu kernels  {level} (available: {', '.join(cpu.native().isa_levels())}), {cpu.available_cpus()} CPUs")
        missing = sorted(set(SPECS) - set(cpu.native().available_kernels(level)))
        print(f"not compiled {', '.join(missing) or 'none'}")
    except DeviceError as e:
        print(f"cpu kernels  {e}")
        return 1
    print("device cuda")
    from ..kernels.cuda import device

    for what, problem in device.why_not().items():
        print(f"  {what:<12} {problem or 'ok'}")
    for name in ("PTRT_ISA", "PTRT_VERIFY", "PTRT_CUDA_CACHE"):
        if name in os.environ:
            print(f"{name:<12} {os.environ[name]}")
    return 0
