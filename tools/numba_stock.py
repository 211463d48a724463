"""Write pytensor_rt/kernels/numba/stock.txt: the functions that published models and small architectures use on device "numba".

    python tools/numba_stock.py

`pytensor-rt warmup` compiles these. Needs onnxruntime's and torch's packages for the models (extra `bench`); models that cannot be had are named.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytensor_rt as rt
from benchmarks import architectures, zoo
from pytensor_rt.kernels.numba import code


def main() -> None:
    for name, model in {**zoo.MODELS, **architectures.SMALL, **architectures.SMALL_QUANTIZED}.items():
        try:
            path = model.path()
        except (zoo.RegistryError, architectures.ExportError) as e:
            print(f"{name}: {e}")
            continue
        before = len(code.loaded())
        for threads in (1, 2):
            rt.InferenceSession(path, device="numba", threads=threads).run(None, model.inputs(np.random.default_rng(1)))
        print(f"{name}: {len(code.loaded()) - before} more, {len(code.loaded())} in all")
    Path(code.__file__).with_name("stock.txt").write_text("\n".join(code.loaded()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
