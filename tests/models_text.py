"""Tiny models written in ONNX's text format, and how tests run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

import pytensor_rt as rt

Arrays = dict[str, Any]


def model(body: str, opset: int = 18, ir: int = 9) -> onnx.ModelProto:
    """A model from `g (float[2,3] a) => (float[2,3] y) { y = Exp(a) }`."""
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>\n{body}')


def agree(
    proto: onnx.ModelProto,
    feeds: Arrays | Sequence[Arrays],
    device: str = "cpu",
    rtol: float = 1e-4,
    atol: float = 1e-5,
    peer: Any = None,
    **kw: Any,
) -> rt.InferenceSession:
    """Run feeds through one session and through a peer (default onnx.reference); values, shapes and dtypes must agree. Returns the session."""
    session = rt.InferenceSession(proto, device=device, **kw)
    expected = peer or ReferenceEvaluator(proto)
    for f in [feeds] if isinstance(feeds, dict) else feeds:
        for got, want in zip(session.run(None, f), expected.run(None, f), strict=True):
            want = np.asarray(want)
            assert got.shape == want.shape and got.dtype == want.dtype, (got.shape, want.shape, got.dtype, want.dtype)
            np.testing.assert_allclose(got, want, rtol, atol)
    return session
