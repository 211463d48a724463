"""Op rules, one file per ONNX op family. Importing this package registers all of them."""

from __future__ import annotations

import importlib

from .registry import INTERNAL, find, op, registered

FAMILIES = (
    "classical",
    "control",
    "convolution",
    "einsum",
    "elementwise",
    "flex_attention",
    "image",
    "linear",
    "movement",
    "normalization",
    "random",
    "recurrent",
    "reduction",
    "roi_pool",
    "sequence",
    "shape",
    "signal",
    "strings",
    "svm",
    "training",
    "trees",
)

for _family in FAMILIES:
    importlib.import_module(f"{__name__}.{_family}")

__all__ = ["FAMILIES", "INTERNAL", "find", "op", "registered"]
