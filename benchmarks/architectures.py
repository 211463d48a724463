"""Well-known architectures with seeded random weights, exported to ONNX by both of torch's exporters (TorchScript and torch.export); some also
quantised to 8 bits by onnxruntime's tools (static, QDQ).

`python benchmarks/architectures.py --list` shows them, `--export` makes those that are not cached. The exported files lie in
`$PTRT_ARCHITECTURES`, by default `~/.cache/pytensor_rt/architectures`, under a name that changes with the network's source, the export code and
the versions of torch and transformers. Exporting needs torch and transformers (extra `bench`) and runs in a process of its own, so that a program
that only reads the cache never imports torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.zoo import DEFAULT, Inputs, Tolerance

EXPORTERS = ("script", "dynamo")


class ExportError(RuntimeError):
    """torch is missing, or cannot export the network."""


@dataclass(frozen=True)
class Architecture:
    """One exported network with one set of inputs. `builder`: "file:function" in benchmarks/nets."""

    name: str
    builder: str
    exporter: str
    small: bool
    make: Callable[[np.random.Generator, bool], Inputs]
    tolerance: Tolerance = DEFAULT

    def cached(self) -> Path:
        """Where the file lies once exported. Raises ExportError without torch and transformers."""
        here = Path(__file__).resolve().parent / "nets"
        file, function = self.builder.split(":")
        key = hashlib.sha256(inspect.getsource(export).encode())
        if self.exporter == "qdq":
            key.update(inspect.getsource(quantize).encode() + importlib.metadata.version("onnxruntime").encode())
        for name in ("common", file):
            key.update((here / f"{name}.py").read_bytes())
        for package in ("torch", "transformers"):
            try:
                key.update(importlib.metadata.version(package).encode())
            except importlib.metadata.PackageNotFoundError:
                raise ExportError(f"{self.name} needs {package}, which is not installed; pip install 'pytensor_rt[bench]'") from None
        size = "-small" if self.small else ""
        return cache_folder() / f"{function}-{self.exporter}{size}-{key.hexdigest()[:12]}" / "model.onnx"

    def path(self) -> Path:
        """The .onnx file, exported first if need be. Raises ExportError."""
        if not self.cached().exists():
            prepare([self])
        return self.cached()

    def inputs(self, rng: np.random.Generator) -> Inputs:
        """Random feeds of the benchmark's shapes."""
        return self.make(rng, self.small)


def cache_folder() -> Path:
    """Where the exported files lie."""
    return Path(os.environ.get("PTRT_ARCHITECTURES") or Path.home() / ".cache" / "pytensor_rt" / "architectures")


def prepare(models: Iterable[Architecture]) -> dict[str, str]:
    """Export all that are not cached, in one other process. Returns what went wrong by name; raises ExportError if a lone model failed."""
    models = list(models)
    missing = {m.cached(): m for m in models if not m.cached().exists()}
    if not missing:
        return {}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--export", *(m.name for m in missing.values())]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None, text=True)
    failed = {m.name: "export failed" for file, m in missing.items() if not file.exists()}
    for line in done.stdout.splitlines():
        name, _, why = line.partition(" FAILED: ")
        if why:
            failed[name] = why
    if failed and len(models) == 1:
        raise ExportError(f"{models[0].name}: {next(iter(failed.values()))}")
    return failed


def export(builder: str, exporter: str, small: bool, target: Path) -> None:
    """Build the network from its seed and write `target`. Weights of large networks lie beside it."""
    import logging

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    file, function = builder.split(":")
    torch.manual_seed(20240229)
    net = getattr(importlib.import_module(f"benchmarks.nets.{file}"), function)(small)
    target.parent.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"input_names": list(net.inputs), "output_names": list(net.outputs)}
    with torch.no_grad():
        if exporter == "script":
            torch.onnx.export(net.module, net.args, str(target), dynamo=False, dynamic_axes=net.dynamic or None, opset_version=17, **common)
        else:
            symbols = {s: torch.export.Dim.DYNAMIC for axes in net.dynamic.values() for s in axes.values()}
            shapes = tuple({axis: symbols[s] for axis, s in net.dynamic.get(n, {}).items()} for n in net.inputs) if net.dynamic else None
            torch.onnx.export(
                net.module, net.args, str(target), dynamo=True, dynamic_shapes=shapes, external_data=not small, verbose=False, **common
            )


def quantize(path: Path, samples: list[Inputs]) -> None:
    """Replace the model by what onnxruntime's static quantiser makes of it: uint8 activations, int8 weights, one scale per output channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Inputs | None:
            return next(self.rest, None)

    whole = path.with_name("float.onnx")
    path.rename(whole)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(whole), str(path), Samples(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    whole.unlink()


# ---------------------------------------------------------------------------------------------------------------------------- inputs
def _image(full: int, little: int) -> Callable[[np.random.Generator, bool], Inputs]:
    def make(rng: np.random.Generator, small: bool) -> Inputs:
        size = little if small else full
        return {"image": rng.standard_normal((1, 3, size, size)).astype(np.float32)}

    return make


def _tokens(rng: np.random.Generator, small: bool) -> Inputs:
    length, vocabulary = (16, 200) if small else (128, 30522)
    mask = np.ones((1, length), np.int64)
    mask[:, length * 7 // 8 :] = 0
    ids = rng.integers(0, vocabulary, (1, length)).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((1, length), np.int64)}


def _decoder(new: int, past: int) -> Callable[[np.random.Generator, bool], Inputs]:
    def make(rng: np.random.Generator, small: bool) -> Inputs:
        layers, heads, width, vocabulary, scale = (2, 3, 16, 100, 4) if small else (12, 12, 64, 50257, 1)
        ids = rng.integers(0, vocabulary, (1, max(1, new // scale))).astype(np.int64)
        return {"ids": ids, "past": rng.standard_normal((layers, 2, 1, heads, past // scale, width)).astype(np.float32)}

    return make


def _steps(rng: np.random.Generator, small: bool) -> Inputs:
    return {"x": rng.standard_normal((1, 12, 10) if small else (1, 200, 128)).astype(np.float32)}


def _row(rng: np.random.Generator, small: bool) -> Inputs:
    return {"x": rng.standard_normal((1, 64)).astype(np.float32)}


_TABLE: list[tuple[str, str, Callable[[np.random.Generator, bool], Inputs]]] = [
    ("resnet50", "classify:resnet50", _image(224, 64)),
    ("mobilenet_v2", "classify:mobilenet_v2", _image(224, 64)),
    ("convnext_t", "classify:convnext_t", _image(224, 64)),
    ("vit_b16", "classify:vit_b16", _image(224, 32)),
    ("bert_base", "sequence:bert_base", _tokens),
    ("minilm_l6", "sequence:minilm_l6", _tokens),
    ("gpt2_decode", "sequence:gpt2", _decoder(1, 128)),
    ("gpt2_prefill", "sequence:gpt2", _decoder(64, 0)),
    ("unet", "dense:unet", _image(256, 32)),
    ("detector", "dense:detector", _image(320, 64)),
    ("bilstm", "sequence:bilstm", _steps),
    ("mlp", "sequence:mlp", _row),
]


_QUANTIZED = ("resnet50", "mobilenet_v2", "unet", "detector")
_STEPS = Tolerance(1.0, 1.0, "a rounding tie that falls the other way moves everything after it by a step of 8 bits")


def _quantized(small: bool) -> dict[str, Architecture]:
    suffix = "-small" if small else ""
    every = [
        Architecture(f"{name}-qdq{suffix}", builder, "qdq", small, make, _STEPS) for name, builder, make in _TABLE if name in _QUANTIZED
    ]
    return {m.name: m for m in every}


def _models(small: bool) -> dict[str, Architecture]:
    suffix = "-small" if small else ""
    every = [Architecture(f"{name}-{e}{suffix}", builder, e, small, make) for name, builder, make in _TABLE for e in EXPORTERS]
    return {m.name: m for m in every}


MODELS: dict[str, Architecture] = _models(small=False) | _quantized(small=False)
SMALL: dict[str, Architecture] = _models(small=True)
SMALL_QUANTIZED: dict[str, Architecture] = _quantized(small=True)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Architectures exported from torch with random weights.")
    parser.add_argument("--list", action="store_true", help="list the networks (the default)")
    parser.add_argument("--export", nargs="*", metavar="NAME", help="export these, or all full-size ones, unless cached")
    args = parser.parse_args()
    every = {**MODELS, **SMALL, **SMALL_QUANTIZED}
    if args.export is None:
        for m in every.values():
            print(f"{m.name:28s} {m.builder:24s} {'cached' if m.cached().exists() else 'missing'}")
        return 0
    unknown = [n for n in args.export if n not in every]
    if unknown:
        parser.error(f"unknown network {unknown[0]!r}; --list shows them")
    status = 0
    for m in [every[n] for n in args.export or MODELS]:
        final = m.cached().parent
        if final.exists():
            continue
        cache_folder().mkdir(parents=True, exist_ok=True)
        print(f"architectures: exporting {m.name} ...", file=sys.stderr, flush=True)
        scratch = Path(tempfile.mkdtemp(dir=cache_folder()))
        try:
            export(m.builder, "script" if m.exporter == "qdq" else m.exporter, m.small, scratch / "model.onnx")
            if m.exporter == "qdq":
                quantize(scratch / "model.onnx", [m.inputs(np.random.default_rng(seed)) for seed in range(3)])
            scratch.replace(final)
            print(f"{m.name} {final}", flush=True)
        except Exception as error:
            if final.exists():  # another process was faster
                continue
            status = 1
            print(f"{m.name} FAILED: {type(error).__name__}: {' '.join(str(error).split())[:400]}", flush=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
