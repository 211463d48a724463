"""`pytensor-rt compile MODEL`."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import InputError
from ..graph import load_model
from ..kernels.cuda.device import ARCHS, Offline
from ..passes import optimize
from ..plan.plan import PlanOptions
from ..runtime.cuda import CudaBound, CudaMemory
from ..runtime.engine import Engine
from ..session import PRECISIONS
from .common import make_inputs, open_session


def command(args: argparse.Namespace) -> int:
    """Plan for the given or random inputs, and compile every kernel of the plan for the architectures asked for."""
    archs = args.arch or list(ARCHS)
    unknown = [a for a in archs if a not in ARCHS]
    if unknown:
        raise InputError(f"--arch {unknown[0]}: the kernels are written for {', '.join(map(str, ARCHS))}")
    os.environ["PTRT_CUDA_CACHE"] = args.output
    args.device = "reference"
    feeds = make_inputs(open_session(args), args)
    device = Offline(f"sm_{a}" for a in archs)
    memory = CudaMemory(device)
    engine = Engine(optimize(load_model(args.model)), memory, PlanOptions(precision=PRECISIONS[args.precision]))
    bound = engine.bind_static(feeds, set(feeds), memory).bound
    assert isinstance(bound, CudaBound)
    calls = {(c.source, c.entry.name): None for launch in bound.calls for c in launch}
    files = set()
    for i, (source, name) in enumerate(calls):
        if sys.stderr.isatty():
            print(f"\r{i + 1} of {len(calls)} kernels", end="", file=sys.stderr, flush=True)
        files.update(device.function(source, name))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(
        f"{len(calls)} kernels of {bound.n_native} launches for {', '.join(f'sm_{a}' for a in archs)}: {len(files)} files in {args.output}"
    )
    print(f"run with PTRT_CUDA_CACHE={args.output}")
    return 0
