"""One-node models through onnx.reference, and the comparison with a launch of the NumPy backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pytensor_rt.kernels.ref import execute


def onnx_run(op: str, ins: Sequence[Any], n_outputs: int = 1, opset: int = 23, domain: str = "", **attrs: Any) -> list[Any]:
    """Outputs of a single node on these inputs (None: absent)."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(ins)]
    outs = [f"y{i}" for i in range(n_outputs)]
    node = helper.make_node(op, names, outs, domain=domain, **attrs)
    infos = [
        helper.make_tensor_value_info(n, numpy_helper.from_array(x[:0] if x.ndim else x).data_type, x.shape)
        for n, x in zip(names, ins)
        if x is not None
    ]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in outs])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 5)] if domain else [])
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(
            None, {n: x for n, x in zip(names, ins) if x is not None}
        )


def check(
    kernel: str, ins: Sequence[Any], wants: Sequence[Any], params: dict[str, Any], rtol: float = 1e-5, atol: float = 1e-6, **kw: Any
) -> None:
    """Run a launch whose outputs are declared like `wants` and compare: floats within a tolerance, everything else exactly."""
    got = execute(kernel, ins, [None if w is None else (w.shape, w.dtype) for w in wants], params, **kw)
    for g, w in zip(got, wants):
        if w is None:
            continue
        assert g is not None and g.dtype == w.dtype and g.shape == w.shape, (g, w)
        if w.dtype.kind in "fc":
            np.testing.assert_allclose(g, w, rtol=rtol, atol=atol, err_msg=f"{kernel} {params}")
        else:
            np.testing.assert_array_equal(g, w, err_msg=f"{kernel} {params}")


def ort_run(op: str, ins: Sequence[Any], n_outputs: int = 1, opset: int = 20, domain: str = "", **attrs: Any) -> list[Any]:
    """As onnx_run, through onnxruntime: for what onnx.reference ignores or gets wrong."""
    import onnxruntime as ort

    names = ["" if x is None else f"x{i}" for i, x in enumerate(ins)]
    outs = [f"y{i}" for i in range(n_outputs)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in zip(names, ins) if x is not None
    ]
    node = helper.make_node(op, names, outs, domain=domain, **attrs)
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info(o) for o in outs])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 5 if domain == "ai.onnx.ml" else 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {n: x for n, x in zip(names, ins) if x is not None}))
