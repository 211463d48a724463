"""The command line: `pytensor-rt COMMAND ...` and `python -m pytensor_rt COMMAND ...`. Commands are imported when they are asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..errors import PytensorRtError

COMMANDS = {
    "demo": "classify the digits that ship with the package, and show the plan and its speed",
    "info": "what a model is: opsets, inputs, outputs, operators, weights, and what is not implemented",
    "run": "run a model once on given or random inputs",
    "plan": "what the planner made of a model: totals, and every launch",
    "profile": "where the time goes, per kernel and per ONNX node",
    "compare": "check the results against onnxruntime and onnx.reference; find the first node that differs",
    "bench": "latency, next to onnxruntime's",
    "compile": "compile the CUDA kernels of a model ahead of time, for machines without a compiler; needs no GPU",
    "warmup": "compile the kernels of device 'numba' into its cache: those a model needs, or all that common models do",
    "doctor": "what this installation is made of and can do",
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from .. import __version__

    top = argparse.ArgumentParser(prog="pytensor-rt", description="A lightweight ONNX runtime: Python plans, native kernels replay.")
    top.add_argument("--version", action="version", version=f"pytensor_rt {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == "doctor":
            continue
        if name == "warmup":
            p.add_argument("model", metavar="MODEL", nargs="?", help="an .onnx file (default: what common models need)")
        elif name != "demo":
            p.add_argument("model", metavar="MODEL", help="an .onnx file")
        if name == "info":
            continue
        p.add_argument("--threads", type=int, default=None, metavar="N", help="the most CPU threads to use (default: all)")
        p.add_argument("--device", default=None, help="cpu (default where the compiled kernels are), numba, cuda, auto or reference")
        if name == "demo":
            continue
        p.add_argument(
            "--precision", default="float32", help="of float32 products by constant matrices: float32 (default), bf16, fp16 or int8"
        )
        p.add_argument(
            "--weights", default="packed", help="packed (default) or mapped: large weights stay in the file, less memory, slower"
        )
        p.add_argument(
            "--input", action="append", default=[], metavar="NAME=VALUE",
            help="an input: name=file.npy, name=file.pb (a TensorProto), name=number, or file.npz with one array per input; may be repeated",
        )  # fmt: skip
        p.add_argument(
            "--shape", action="append", default=[], metavar="NAME=SHAPE",
            help="the shape of a random input, name=1,3,224,224, or the size of a named dimension, batch=4; others that are dynamic are 1",
        )  # fmt: skip
        p.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
        if name == "run":
            p.add_argument("--output", metavar="FILE.npz", help="save the outputs")
        if name == "compile":
            p.add_argument(
                "--arch",
                type=int,
                action="append",
                metavar="N",
                help="a compute capability such as 80 or 90; may be repeated (default: all)",
            )
            p.add_argument(
                "--output", default="kernels", metavar="FOLDER", help="where to put them (default: kernels); see PTRT_CUDA_CACHE"
            )
        if name in ("profile", "bench"):
            p.add_argument("--repeat", type=int, default=20, metavar="N", help="measurements (default 20)")
        if name == "compare":
            p.add_argument("--rtol", type=float, default=1e-3, help="allowed relative difference (default 1e-3)")
            p.add_argument("--atol", type=float, default=1e-4, help="allowed absolute difference (default 1e-4)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 after an error or a difference found, 2 for a wrong command line (by SystemExit)."""
    args = parser().parse_args(argv)
    try:
        code: int = importlib.import_module(f"{__name__}.{args.command}").command(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (PytensorRtError, OSError, ValueError) as e:
        print(f"pytensor-rt: error: {e}", file=sys.stderr)
        return 1


__all__ = ["COMMANDS", "main", "parser"]
