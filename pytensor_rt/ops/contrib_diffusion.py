"""What onnxruntime's optimiser writes for diffusion models: operators of com.microsoft on channels-last images [N, H, W, C].

Defined by onnxruntime's docs/ContribOperators.md; it has kernels for them on GPUs only.
"""

from __future__ import annotations

from typing import Any

from ..dtypes import F32
from ..lowering import expr as e
from ..lowering.tensor import Tensor
from ..lowering.tracer import Tracer
from .convolution import conv
from .elementwise import swish
from .normalization import normalize
from .registry import MICROSOFT, op
from .util import expect_shape, to_channels_first, to_channels_last


@op("NhwcConv", domain=MICROSOFT)
def nhwc_conv(t: Tracer, x: Tensor, w: Tensor, b: Tensor | None = None, *, kernel_shape: Any = None, **attrs: Any) -> Tensor:
    """com.microsoft NhwcConv: ai.onnx Conv of x [N, d..., C] with w [M, k..., C / group] and b [M]: y [N, o..., M]. float16, float32, float64.

    w has its channels last, as onnxruntime's optimiser writes it and its kernel reads it; the text of the schema is that of Conv.
    """
    if x.ndim < 3 or w.ndim != x.ndim:
        t.fail(f"expected x [N, spatial..., C] and w [M, kernel..., C / group] of the same rank, got ranks {x.ndim} and {w.ndim}")
    group = attrs.get("group", 1)
    if w.shape[-1] * group != x.shape[-1]:
        t.fail(
            f"expected w [M, kernel..., {int(x.shape[-1])} / group {group}], channels last, for {int(x.shape[-1])} channels of x, "
            f"got {list(map(int, w.shape))}"
        )
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[1:-1]:
        t.fail(f"kernel_shape {list(kernel_shape)} does not fit w {list(map(int, w.shape))}, which is [M, kernel..., C / group]")
    return to_channels_last(conv(t, to_channels_first(x), to_channels_first(w), b, **attrs))


@op("GroupNorm", domain=MICROSOFT)
def group_norm(
    t: Tracer, x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, activation: int, epsilon: float = 1e-5, channels_last: int = 1
) -> Tensor:
    """com.microsoft GroupNorm: x [N, d..., C], or without channels_last [N, C, d...], normalised over the positions and channels of each group.

    gamma and beta [C]; float16 or float32, which may differ from x's type; activation 1: SiLU of the result.
    """
    if x.ndim < 2:
        t.fail(f"expected x of rank 2 at least, got rank {x.ndim}")
    if activation not in (0, 1):
        t.fail(f"activation must be 0 (none) or 1 (SiLU), got {activation}")
    at = x.ndim - 1 if channels_last else 1  # of the channels
    c = x.shape[at]
    if groups < 1 or c % groups != 0:
        t.fail(f"groups must divide the {int(c)} channels, got {groups}")
    expect_shape(t, "gamma", gamma, (c,))
    expect_shape(t, "beta", beta, (c,))

    dtype = x.dtype if gamma.dtype == beta.dtype == x.dtype else F32
    grouped = (*x.shape[:at], groups, c // groups, *x.shape[at + 1 :])
    per_channel: Any = lambda p: t.reshape(t.cast(p, dtype), (groups, c // groups, *(1,) * (x.ndim - at - 1)))
    axes = tuple(k for k in range(1, x.ndim + 1) if k != at)
    y = normalize(t, t.reshape(t.cast(x, dtype), grouped), per_channel(gamma), per_channel(beta), "layer", axes, epsilon)[0]
    return t.cast(t.reshape(swish(t, y) if activation else y, x.shape), x.dtype)


@op("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    t: Tracer, x: Tensor, gamma: Tensor, beta: Tensor, skip: Tensor, bias: Tensor | None = None, *, channels_last: int = 1, **attrs: Any
) -> list[Tensor]:
    """com.microsoft SkipGroupNorm: GroupNorm of x + skip + bias, and that sum, both of x's shape.

    skip: of x's shape, or [N, C] or [N, 1..., C], added at every position; bias [C].
    """
    if x.ndim < 2:
        t.fail(f"expected x of rank 2 at least, got rank {x.ndim}")
    n, c = x.shape[0], x.shape[-1 if channels_last else 1]
    ones = (1,) * (x.ndim - 2)

    def spread(p: Tensor) -> Tensor:
        """[N or 1, C] along x's axes"""
        return t.reshape(p, (p.shape[0], *ones, c) if channels_last else (p.shape[0], c, *ones))

    if skip.shape != x.shape:
        if skip.shape not in ((n, c), (n, *ones, c)) and (channels_last or skip.shape != (n, c, *ones)):
            t.fail(
                f"expected skip of shape {list(map(int, x.shape))}, {[int(n), int(c)]} or {[int(n), *ones, int(c)]}, got {list(map(int, skip.shape))}"
            )
        skip = spread(t.reshape(skip, (n, c)))
    if bias is None:
        total = t.map(lambda v, s: v + s, x, skip)
    else:
        expect_shape(t, "bias", bias, (c,))
        total = t.map(lambda v, s, b: v + s + b, x, skip, spread(bias.unsqueeze(0)))
    return [group_norm(t, total, gamma, beta, channels_last=channels_last, **attrs), total]


@op("BiasAdd", domain=MICROSOFT)
def bias_add(t: Tracer, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """com.microsoft BiasAdd: x + bias + skip of x and skip [N, S, C] and bias [C]. float16, float32."""
    expect_shape(t, "bias", bias, x.shape[-1:])
    expect_shape(t, "skip", skip, x.shape)
    return t.map(lambda v, b, s: v + b + s, x, bias, skip)


@op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(t: Tracer, x: Tensor, bias: Tensor) -> Tensor:
    """com.microsoft BiasSplitGelu: of x + bias, x [N, S, D] and bias [D], the first half times Gelu of the second: [N, S, D / 2]. float16, float32."""
    if x.ndim < 1 or x.shape[-1] % 2 != 0:
        t.fail(f"expected x [..., D] with an even D, got {list(map(int, x.shape))}")
    expect_shape(t, "bias", bias, x.shape[-1:])
    half, last = x.shape[-1] // 2, x.ndim - 1
    parts = [p.slice(axis, k * half, half) for k in (0, 1) for p, axis in ((x, last), (bias, 0))]
    return t.map(lambda v, b, w, c: (v + b) * e.gelu_erf(w + c), *parts)
