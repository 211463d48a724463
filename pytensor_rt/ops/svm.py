"""ai.onnx.ml support vector machines: kernel values, then one product with a matrix built from the coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import F32
from ..hosted import couple
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .classical import ML, _argmax, _labels, _rows, transform
from .linear import matmul_like
from .reduction import reduce_axes
from .registry import op


def _kernel(t: Tracer, x: Tensor, vectors: Any, kind: str, params: Any) -> Tensor:
    """[n, v]: the kernel of every row of x with every vector."""
    gamma, offset, degree = (float(p) for p in (*(params or ()), 0.0, 0.0, 0.0)[:3])
    if int(x.shape[1]) != vectors.shape[1]:
        t.fail(f"{int(x.shape[1])} features, but the support vectors have {vectors.shape[1]}")
    if kind == "RBF":
        squares = t.map(lambda a, b: (a - b) * (a - b), x.unsqueeze(1), t.const(vectors).unsqueeze(0))
        return t.map(lambda v: e.exp(v * -gamma), reduce_axes(t, squares, "sum", (2,), False))
    dot = matmul_like(t, x, t.const(vectors).permute((1, 0)))
    if kind == "LINEAR":
        return dot
    if kind == "SIGMOID":
        return t.map(lambda v: e.tanh(v * gamma + offset), dot)
    if kind == "POLY":
        return t.map(lambda v: e.pow_(v * gamma + offset, float(int(degree))), dot)
    t.fail(f"unknown kernel_type {kind!r}")


@op("SVMRegressor", domain=ML)
def svm_regressor(
    t: Tracer, x: Tensor, *, coefficients: Any, rho: Any, kernel_params: Any = None, kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0,
    post_transform: str = "NONE", support_vectors: Any = None,
) -> Tensor:  # fmt: skip
    """[n, 1] float32: sum of coefficient * kernel, plus rho; its sign for a one-class machine."""
    x = t.cast(_rows(t, x), F32)
    w = t.derived("coefficients", lambda: np.array(coefficients, np.float32).reshape(-1, 1))
    if n_supports > 0:
        vectors = t.derived("vectors", lambda: np.array(support_vectors, np.float32).reshape(n_supports, -1))
        values = _kernel(t, x, vectors, kernel_type, kernel_params)
    else:
        values = x
    y = t.map(lambda v: v + float(rho[0]), matmul_like(t, values, t.const(w)))
    if one_class:
        y = t.map(lambda v: e.where(v > 0, v * 0 + 1, -1), y)
    return transform(t, y, post_transform)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


@op("SVMClassifier", domain=ML)
def svm_classifier(
    t: Tracer, x: Tensor, *, coefficients: Any, rho: Any, classlabels_ints: Any = None, classlabels_strings: Any = None, kernel_params: Any = None,
    kernel_type: str = "LINEAR", post_transform: str = "NONE", prob_a: Any = None, prob_b: Any = None, support_vectors: Any = None,
    vectors_per_class: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Labels [n] and scores: one per pair of classes, or per class with prob_a and prob_b (libsvm), or of linear machines."""
    x = t.cast(_rows(t, x), F32)
    n = len(classlabels_strings or classlabels_ints or ())
    if n < 2:
        t.fail(f"expected at least two class labels, got {n}")
    per_class = [int(v) for v in vectors_per_class or ()]
    total = sum(per_class)
    if total == 0:
        w = t.derived("coefficients", lambda: np.array(coefficients, np.float32).reshape(n, -1))
        scores = t.map(lambda v: v + float(rho[0]), matmul_like(t, x, t.const(w).permute((1, 0))))
        return _labels(t, _argmax(t, scores), classlabels_strings, classlabels_ints), transform(t, scores, post_transform)
    pairs = _pairs(n)
    if len(per_class) != n or len(rho) != len(pairs) or len(coefficients) != (n - 1) * total:
        t.fail(
            f"{len(coefficients)} coefficients, {len(rho)} rho and {len(per_class)} vectors_per_class do not fit {n} classes with {total} vectors"
        )
    vectors = t.derived("vectors", lambda: np.array(support_vectors, np.float32).reshape(total, -1))
    values = _kernel(t, x, vectors, kernel_type, kernel_params)

    def votes() -> tuple[Any, Any, Any]:
        c, start = np.array(coefficients, np.float32).reshape(n - 1, total), np.cumsum([0, *per_class])
        weights, ballots = np.zeros((total, len(pairs)), np.float32), np.zeros((len(pairs), n), np.float32)
        base = np.zeros(n, np.float32)
        for k, (i, j) in enumerate(pairs):
            weights[start[i] : start[i + 1], k] = c[j - 1, start[i] : start[i + 1]]
            weights[start[j] : start[j + 1], k] = c[i, start[j] : start[j + 1]]
            ballots[k, i], ballots[k, j] = 1, -1  # j has the vote of the pair unless its score is positive
            base[j] += 1
        return weights, ballots, base

    weights, ballots, base = t.derived("votes", votes)
    scores = t.map(lambda v, r: v + r, matmul_like(t, values, t.const(weights)), t.const(np.array(rho, np.float32)))
    won = matmul_like(t, t.map(lambda v: e.cast(v > 0, F32), scores), t.const(ballots))
    index = _argmax(t, t.map(lambda v, b: v + b, won, t.const(base)))
    if prob_a:
        a, b = np.array(prob_a, np.float64), np.array(prob_b, np.float64)
        if len(a) != len(pairs) or len(b) != len(pairs):
            t.fail(f"expected {len(pairs)} values of prob_a and prob_b")
        scores = t.host(lambda s: (couple(s, a, b, n),), [scores], [((x.shape[0], n), F32)])[0]
    elif n == 2:
        scores = t.concat([t.map(lambda v: -v, scores), scores], 1)
    return _labels(t, index, classlabels_strings, classlabels_ints), transform(t, scores, post_transform)
