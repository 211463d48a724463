"""`pytensor-rt run MODEL`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ..errors import InputError
from .common import describe, make_inputs, open_session


def command(args: argparse.Namespace) -> int:
    """Run once, print every input and output, and save the outputs if asked to."""
    session = open_session(args)
    feeds = make_inputs(session, args)
    for name, value in feeds.items():
        print(f"input   {name}: {describe(value)}")
    names = [o.name for o in session.get_outputs()]
    values = session.run(None, feeds)
    for name, value in zip(names, values):
        print(f"output  {name}: {describe(value)}")
    if args.output:
        arrays: dict[str, Any] = {n: v for n, v in zip(names, values) if isinstance(v, np.ndarray) and v.dtype != object}
        left = [n for n in names if n not in arrays]
        if left:
            raise InputError(f"--output: {', '.join(map(repr, left))} cannot be saved in an .npz file: only tensors of numbers can")
        np.savez(args.output, **arrays)
        print(f"saved   {args.output}")
    return 0
