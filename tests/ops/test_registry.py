"""Families are imported when an op of theirs is first used, and list exactly what they register."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytensor_rt import ops
from pytensor_rt.ops.registry import RULES, op


def test_families_list_what_they_register() -> None:
    ops.registered()
    assert {key: rule.__module__.rpartition(".")[2] for key, versions in RULES.items() for _, rule in versions} == ops.FAMILY_OF
    listed = sum(not word.endswith(":") for words in ops.FAMILIES.values() for word in words.split())
    assert listed == len(ops.FAMILY_OF)  # none twice


def test_one_name_in_two_domains_is_two_ops() -> None:
    """Looking one up imports its own family only, and one domain's name is not found in another."""
    code = """
import sys
from pytensor_rt.ops import find
assert find("", "Add", 17) and not find("com.microsoft", "Add", 1) and not find("", "MatMulNBits", 17)
assert find("", "QLinearConv", 17) and "pytensor_rt.ops.contrib_quantized" not in sys.modules
assert find("com.microsoft", "QLinearConv", 1) is not find("", "QLinearConv", 17) and "pytensor_rt.ops.contrib_quantized" in sys.modules
assert find("pytensor_rt", "Attention", 1) and "pytensor_rt.ops.contrib_attention" not in sys.modules
assert find("com.microsoft", "Attention", 1) is not find("pytensor_rt", "Attention", 1)
assert not find("", "Attention", 22) and find("", "Attention", 23) is not find("com.microsoft", "Attention", 1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})


def test_an_op_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="does not list Unheard"):
        op("Unheard")(lambda t, x: x)


def test_opening_a_model_imports_what_it_uses() -> None:
    """Neither onnx nor protobuf, dataclass machinery, or op families that the model does not use."""
    code = """
import sys, numpy as np, pytensor_rt, pathlib
s = pytensor_rt.InferenceSession(pathlib.Path(pytensor_rt.__file__).parent / "demo" / "digits.onnx")
i = s.get_inputs()[0]
s.run(None, {i.name: np.zeros([n if isinstance(n, int) else 1 for n in i.shape], np.float32)})
loaded = set(sys.modules)
assert not loaded & {"onnx", "google.protobuf", "ml_dtypes", "importlib.metadata", "pytensor_rt.ops.strings", "pytensor_rt.ops.classical"}, sorted(loaded)
assert not {m for m in loaded if m.startswith("pytensor_rt.kernels.ref.") or m in ("pytensor_rt.plan.verify", "pytensor_rt.runtime.report")}
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})
