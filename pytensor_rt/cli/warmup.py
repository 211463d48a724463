"""`pytensor-rt warmup`."""

from __future__ import annotations

import argparse
import sys
import time

from ..kernels.numba import code
from .common import make_inputs, open_session


def command(args: argparse.Namespace) -> int:
    """Compile kernels of device "numba" into its cache, showing progress."""
    code.require()
    start = time.perf_counter()
    if args.model is not None:
        args.device = "numba"
        session = open_session(args)
        session.run(None, make_inputs(session, args))
        names = code.loaded()
    else:
        names = code.stock()
        todo = [n for n in names if not code.is_cached(n)]
        for k, name in enumerate(todo, 1):
            bar = "#" * (30 * k // len(todo))
            print(f"\r[{bar:<30}] {k}/{len(todo)} {name:<60.60}", end="", file=sys.stderr, flush=True)
            code.function(name)
        if todo:
            print(file=sys.stderr)
    where = code.folder()
    print(
        f"{len(names)} kernels are compiled ({time.perf_counter() - start:.1f} s), in {where or 'memory only: no cache folder can be written'}"
    )
    return 0
