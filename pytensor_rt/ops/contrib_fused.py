"""What onnxruntime's optimiser fuses into single operators of com.microsoft, attention aside. Defined by its docs/ContribOperators.md."""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import BOOL, I32
from ..lowering import expr as e
from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from . import find
from .convolution import conv, conv_transpose, grid_sample
from .elementwise import swish
from .linear import gemm, matmul_like
from .movement import unique
from .normalization import normalize
from .quantize import dequantize, params
from .reduction import reduce_axes
from .registry import MICROSOFT, op
from .util import norm_axis, to_channels_first, to_channels_last, wants

_ACTIVATIONS: dict[str, dict[str, float]] = {  # of ai.onnx, with the parameters they take and their defaults
    "Clip": {"min": -math.inf, "max": math.inf}, "Elu": {"alpha": 1.0}, "Gelu": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "HardSwish": {}, "LeakyRelu": {"alpha": 0.01}, "Mish": {}, "Relu": {},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}, "Sigmoid": {}, "Softplus": {}, "Softsign": {}, "Tanh": {},
    "ThresholdedRelu": {"alpha": 1.0},
}  # fmt: skip


def activate(t: Tracer, x: Tensor, name: str | None, given: Any = ()) -> Tensor:
    """The ai.onnx activation of that name, if any; `given`: its parameters by name, or in order."""
    if not name:
        return x
    rule, defaults = find("", name, 22), _ACTIVATIONS.get(name)
    if defaults is None or rule is None:
        t.unsupported(f"activation {name!r}")
    chosen = (
        dict(zip(defaults, given)) if not isinstance(given, dict) else {k: v for k, v in given.items() if k in defaults and v is not None}
    )
    y: Tensor = rule(t, x, **{**defaults, **chosen})
    return y


# --------------------------------------------------------------------------------------------------------------------- products
@op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(
    t: Tracer, a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0
) -> Tensor:
    """alpha * a @ b as NumPy's matmul; transBatch moves the first axis behind the batch axes, trans then swaps the last two."""

    def arranged(x: Tensor, swap: int, batch: int) -> Tensor:
        if batch and x.ndim > 2:
            x = x.permute((*range(1, x.ndim - 1), 0, x.ndim - 1))
        return x.permute((*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)) if swap and x.ndim > 1 else x

    return matmul_like(t, arranged(a, transA, transBatchA), arranged(b, transB, transBatchB), alpha=alpha)


@op("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(
    t: Tracer, a: Tensor, b: Tensor, *, activation: str, activation_alpha: float | None = None, activation_beta: float | None = None,
    activation_gamma: float | None = None, activation_axis: int | None = None, **attrs: Any,
) -> Tensor:  # fmt: skip
    given = {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}
    return activate(t, fused_matmul(t, a, b, **attrs), activation, given)


@op("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    t: Tracer, a: Tensor, b: Tensor, c: Tensor | None = None, *, activation: str = "", activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, **attrs: Any,
) -> Tensor:  # fmt: skip
    """ai.onnx Gemm and an activation of ai.onnx."""
    given = {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}
    return activate(t, gemm(t, a, b, c, **attrs), activation, given)


@op("FusedConv", domain=MICROSOFT)
def fused_conv(
    t: Tracer, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None, *, activation: str = "", activation_params: Any = (), **attrs: Any
) -> Tensor:  # fmt: skip
    """activation(Conv(x, w, b) + z)"""
    y = conv(t, x, w, b, **attrs)
    return activate(t, y if z is None else t.map(lambda v, s: v + s, y, z), activation, activation_params or ())


@op("NhwcFusedConv", domain=MICROSOFT)
def nhwc_fused_conv(t: Tracer, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None, **attrs: Any) -> Tensor:
    """FusedConv of x [N, d..., C], with z and the result [N, o..., M]; w is [M, C / group, k...] as in ai.onnx."""
    if x.ndim < 3:
        t.fail(f"expected x [N, spatial..., C], got rank {x.ndim}")
    return to_channels_last(fused_conv(t, to_channels_first(x), w, b, None if z is None else to_channels_first(z), **attrs))


@op("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def conv_transpose_with_dynamic_pads(
    t: Tracer, x: Tensor, w: Tensor, pads: Tensor | None = None, b: Tensor | None = None, **attrs: Any
) -> Tensor:
    return conv_transpose(t, x, w, b, pads=None if pads is None else t.ints(pads), **attrs)


@op("CDist", domain=MICROSOFT)
def cdist(t: Tracer, a: Tensor, b: Tensor, *, metric: str = "sqeuclidean") -> Tensor:
    """Distances of the rows of a [m, k] and b [n, k] as |a|^2 - 2 a.b + |b|^2, in float64 throughout if they are."""
    if metric not in ("sqeuclidean", "euclidean"):
        t.unsupported(f"metric {metric!r}")
    squares: Any = lambda x: reduce_axes(t, x, "sum_square", (1,), True)
    twice = matmul_like(t, a, b.permute((1, 0)), alpha=-2.0)
    root = metric == "euclidean"

    def distance(v: e.Var, p: e.Var, q: e.Var) -> e.Var:
        d = e.max_(v + p + q, 0)
        return e.sqrt(d) if root else d  # type: ignore[no-any-return]

    return t.map(distance, twice, squares(a), squares(b).permute((1, 0)))


# ------------------------------------------------------------------------------------------------------------------ activations
@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(t: Tracer, x: Tensor, bias: Tensor) -> Tensor:
    return t.map(lambda v, b: e.gelu_erf(v + b), x, bias)


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(t: Tracer, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The tanh approximation of Gelu(x + bias)."""
    return t.map(e.gelu_tanh, x) if bias is None else t.map(lambda v, b: e.gelu_tanh(v + b), x, bias)


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(t: Tracer, x: Tensor, *, alpha: float = 1.7020000219345093) -> Tensor:
    """x * sigmoid(alpha * x)"""
    return swish(t, x, alpha=alpha)


@op("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(t: Tracer, x: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: int) -> Tensor:
    """Softmax of x + bias over all axes from `axis` on, taken as one. The bias broadcasts as NumPy has it, which covers both kinds."""
    a = norm_axis(t, axis, x.ndim)
    flat = t.reshape(t.map(lambda v, b: v + b, x, bias.expand(x.shape)), (size_of(x.shape[:a]), size_of(x.shape[a:])))
    return t.reshape(t.record("softmax", [flat], [(flat.shape, x.dtype)], {"op": "softmax", "axis": 1})[0], x.shape)


@op("BiasDropout", domain=MICROSOFT)
def bias_dropout(
    t: Tracer, x: Tensor, bias: Tensor, residual: Tensor | None = None, ratio: Tensor | None = None, training: Tensor | None = None, *, seed: int = 0
) -> Any:  # fmt: skip
    """x + bias + residual, and a mask of ones: what it is outside training."""
    if training is not None and t.item(training):
        t.unsupported("training_mode")
    y = t.map(lambda v, b: v + b, x, bias)
    return (y if residual is None else t.map(lambda v, r: v + r, y, residual)), t.full(x.shape, True, BOOL)


# ---------------------------------------------------------------------------------------------------------------- normalisation
@op("SimplifiedLayerNormalization")
def simplified_layer_normalization(
    t: Tracer, x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> list[Any]:
    """RMSNormalization; onnxruntime writes it into ai.onnx. Second output: 1 / sqrt(mean(x^2) + epsilon)."""
    axes = tuple(range(norm_axis(t, axis, x.ndim), x.ndim))
    y, _, inverse = normalize(t, x, scale, None, "rms", axes, epsilon, (False, wants(t, 1)))
    return [y, inverse]


def _skip_norm(
    t: Tracer, kind: str, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None, bias: Tensor | None, epsilon: float
) -> list[Any]:
    """Of x + skip + bias over the last axis; also that sum, of x's shape."""
    total = t.map(lambda v, s: v + s, x, skip) if bias is None else t.map(lambda v, s, b: v + s + b, x, skip, bias)
    y, mean, inverse = normalize(t, total, gamma, beta, kind, (x.ndim - 1,), epsilon, (wants(t, 1), wants(t, 2)))
    return [y, mean, inverse, total]


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    t: Tracer, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> list[Any]:
    """x [..., D]; skip broadcasts to it; gamma, beta and bias [D]. Outputs y, mean, 1 / deviation, and x + skip + bias."""
    return _skip_norm(t, "layer", x, skip, gamma, beta, bias, epsilon)


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    t: Tracer, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> list[Any]:
    return _skip_norm(t, "rms", x, skip, gamma, None, bias, epsilon)


def _rows(t: Tracer, table: Tensor, index: Tensor) -> Tensor:
    """table [n, D] at index [...] -> [..., D]"""
    return t.record("gather", [table, index], [((*index.shape, table.shape[1]), table.dtype)], {"mode": "axis", "axis": 0})[0]


def _embedding(t: Tracer, parts: list[Tensor], gamma: Tensor, beta: Tensor, mask: Tensor | None, epsilon: float) -> list[Any]:
    """The normalised sum of embeddings [B, S, D], the number of ones in each row of the mask (0 without one), and the sum."""
    total = parts[0]
    for x in parts[1:]:
        total = t.map(lambda v, w: v + w, total, x)
    y = normalize(t, total, gamma, beta, "layer", (2,), epsilon)[0]
    batch = total.shape[0]
    if mask is None:
        return [y, t.full((batch,), 0, I32), total]
    return [y, reduce_axes(t, t.map(lambda m: e.cast(m == 1, I32), mask), "sum", (1,), False), total]


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    t: Tracer, ids: Tensor, segment_ids: Tensor | None, words: Tensor, positions: Tensor, segments: Tensor | None, gamma: Tensor, beta: Tensor,
    mask: Tensor | None = None, position_ids: Tensor | None = None, *, epsilon: float = 1e-12, mask_index_type: int = 0,
) -> list[Any]:  # fmt: skip
    """ids, segment_ids and mask int32 [B, S], position_ids [B, S] or [1, S]; tables [n, D]. Outputs [B, S, D], int32 [B], [B, S, D]."""
    if (segment_ids is None) != (segments is None):
        t.fail("segment_ids and segment_embedding come together")
    parts = [_rows(t, words, ids), _rows(t, positions, position_ids) if position_ids is not None else positions.slice(0, 0, ids.shape[1])]
    if segments is not None and segment_ids is not None:
        parts.append(_rows(t, segments, segment_ids))
    return _embedding(t, parts, gamma, beta, mask, epsilon)


@op("QEmbedLayerNormalization", domain=MICROSOFT)
def qembed_layer_normalization(
    t: Tracer, ids: Tensor, segment_ids: Tensor | None, words: Tensor, positions: Tensor, segments: Tensor | None, gamma: Tensor, beta: Tensor,
    mask: Tensor | None, words_scale: Tensor, positions_scale: Tensor, segments_scale: Tensor | None, gamma_scale: Tensor, beta_scale: Tensor,
    words_zero: Tensor, positions_zero: Tensor, segments_zero: Tensor | None, gamma_zero: Tensor, beta_zero: Tensor, *, epsilon: float = 1e-12,
) -> list[Any]:  # fmt: skip
    """EmbedLayerNormalization of 8-bit tables, gamma and beta, each quantised per tensor; float32 out."""
    real: Any = lambda x, scale, zero: dequantize(t, x, params(t, scale, zero, x.dtype))
    parts = [
        real(_rows(t, words, ids), words_scale, words_zero),
        real(positions.slice(0, 0, ids.shape[1]), positions_scale, positions_zero),
    ]
    if segments is not None and segment_ids is not None and segments_scale is not None:
        parts.append(real(_rows(t, segments, segment_ids), segments_scale, segments_zero))
    return _embedding(t, parts, real(gamma, gamma_scale, gamma_zero), real(beta, beta_scale, beta_zero), mask, epsilon)


# ------------------------------------------------------------------------------------------- other spellings of ai.onnx operators
@op("ExpandDims", domain=MICROSOFT)
def expand_dims(t: Tracer, x: Tensor, axis: Tensor) -> Tensor:
    return x.unsqueeze(norm_axis(t, int(t.item(axis)), x.ndim + 1))


@op("GridSample", domain=MICROSOFT)
def grid_sample_2d(
    t: Tracer, x: Tensor, grid: Tensor, *, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    if mode == "bicubic" and padding_mode == "border":  # onnxruntime clamps the neighbours of a point, onnx.reference the point
        t.unsupported("bicubic sampling with border padding")
    return grid_sample(t, x, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners)


@op("Unique", domain=MICROSOFT)
def unique_in_order(t: Tracer, x: Tensor) -> list[Any]:
    """x [n]: its values in order of first occurrence, where each element is among them, and how often each occurs."""
    y, _, inverse, counts = unique(t, x, sorted=0)
    return [y, inverse, counts]
