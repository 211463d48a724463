"""The specification's own node tests: load, rewrite, export, and compute what the test expects. No model may fail to load or to be rewritten."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from pytensor_rt.graph import builtin_function, export_model, load_model, verify
from pytensor_rt.passes import optimize


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_onnx_node_tests() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    rewritten = bodies = 0
    for case in cases:
        model = load_model(case.model.SerializeToString())
        infos = {v.name: v for v in model.graph.inputs}
        for node in model.graph.nodes:
            bodies += builtin_function(node, node.opset, [infos.get(n) for n in node.inputs]) is not None
        before = [n.op_type for n in model.graph.nodes]
        optimize(model)
        verify(model)
        proto = export_model(model)
        if [n.op_type for n in model.graph.nodes] == before:
            continue
        rewritten += 1
        inputs, expected = case.data_sets[0]
        feeds = dict(zip([v.name for v in proto.graph.input], inputs))
        got = ReferenceEvaluator(proto).run(None, feeds)
        original = ReferenceEvaluator(case.model).run(None, feeds)
        for a, b, want in zip(got, original, expected):
            if isinstance(want, np.ndarray) and want.dtype.kind in "fiub":
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=case.name)
    assert rewritten > 200 and bodies > 500
