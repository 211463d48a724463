"""Kernels `conv`, `conv_transpose` and `deform_conv`."""

from __future__ import annotations

from dataclasses import replace

from ..build import Builder
from . import conv_deform, conv_depthwise, conv_products, conv_weights, conv_winograd, edges
from .conv_problem import Problem, of_launch, transposed


def conv(b: Builder) -> None:
    """y = the convolution of x with w."""
    _plan(b, of_launch(b.launch))


def conv_transpose(b: Builder) -> None:
    """y[o] += x[i] * w[k] where o = i * stride + k * dilation - pad: a convolution per phase of the strides."""
    problems = list(transposed(b.launch))
    p, y = problems[0], b.launch.outs[0]
    assert y is not None
    x = p.x if conv_weights.in_place(p.x, p.sum) else conv_weights.copied(b, p.x, p.sum)
    target = None
    if len(problems) > 1 and y.shape[1] > 1 and y.strides[1] != 1:  # too far apart for a program to write them
        n, m, *rest = map(int, y.shape)
        t = b.temporary(p.sum, (n, *rest, m))
        target = t.with_axes((n, m, *rest), (t.strides[0], t.strides[-1], *t.strides[1:-1]))
    for p in problems:
        _plan(b, replace(p, x=x, target=target))
    if target is not None:
        edges.finish(b, target)


deform_conv = conv_deform.deform_conv


def _plan(b: Builder, p: Problem) -> None:
    if conv_depthwise.applies(p):
        conv_depthwise.plan(b, p)
    elif conv_winograd.applies(p):
        conv_winograd.plan(b, p)
    else:
        conv_products.plan(b, p)
