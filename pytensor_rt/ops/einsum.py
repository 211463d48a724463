"""Einsum as views, products and one gemm per pair of operands."""

from __future__ import annotations

from typing import Any

from ..lowering.tensor import Tensor, size_of
from ..lowering.tracer import Tracer
from .reduction import reduce_axes
from .registry import op

_SPARE = "ΑΒΓΔΕΖΗΘΙΚΛΜ"  # names for the axes that an ellipsis stands for


def _diagonal(t: Tracer, x: Tensor, labels: str) -> tuple[Tensor, str]:
    """Repeated labels within one operand: a view whose stride is the sum of the axes' strides."""
    out = ""
    shape: list[int] = []
    strides: list[int] = []
    for name, n, s in zip(labels, x.shape, x.strides):
        if name in out:
            i = out.index(name)
            if shape[i] != n:
                t.fail(f"label {name!r} stands for sizes {int(shape[i])} and {int(n)}")
            strides[i] = strides[i] + s
        else:
            out += name
            shape.append(n)
            strides.append(s)
    return (x, labels) if out == labels else (x.view(tuple(shape), tuple(strides)), out)


def _parse(t: Tracer, equation: str, xs: tuple[Tensor, ...]) -> tuple[list[str], str]:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        t.fail(f"equation {equation!r} has {len(terms)} terms for {len(xs)} inputs")
    widest = max((x.ndim - len(term.replace("...", "")) for term, x in zip(terms, xs) if "..." in term), default=0)
    out = []
    for term, x in zip(terms, xs):
        if "..." in term:
            k = x.ndim - len(term) + 3
            term = term.replace("...", _SPARE[widest - k : widest])
        if len(term) != x.ndim:
            t.fail(f"term {term!r} of {equation!r} does not fit rank {x.ndim}")
        out.append(term)
    if arrow:
        return out, right.replace("...", _SPARE[:widest])
    everything = "".join(out)
    return out, _SPARE[:widest] + "".join(sorted(c for c in set(everything) if everything.count(c) == 1 and c not in _SPARE))


def _arrange(x: Tensor, labels: str, wanted: str) -> Tensor:
    """x with axes in the order of `wanted`; labels that x lacks become axes of size 1."""
    y = x.permute(tuple(labels.index(c) for c in wanted if c in labels))
    for i, c in enumerate(wanted):
        if c not in labels:
            y = y.unsqueeze(i)
    return y


def _sum_out(t: Tracer, x: Tensor, labels: str, keep: str) -> tuple[Tensor, str]:
    gone = tuple(i for i, c in enumerate(labels) if c not in keep)
    return (reduce_axes(t, x, "sum", gone, False), "".join(c for c in labels if c in keep)) if gone else (x, labels)


def _pair(t: Tracer, a: Tensor, la: str, b: Tensor, lb: str, later: str) -> tuple[Tensor, str]:
    """Contract two operands; labels that appear in `later` survive."""
    a, la = _sum_out(t, a, la, lb + later)  # what only one operand has
    b, lb = _sum_out(t, b, lb, la + later)
    batch = "".join(c for c in la if c in lb and c in later)
    inner = "".join(c for c in la if c in lb and c not in later)
    rows = "".join(c for c in la if c not in lb)
    cols = "".join(c for c in lb if c not in la)
    if not inner:
        out = batch + rows + cols
        return t.map(lambda p, q: p * q, _arrange(a, la, out), _arrange(b, lb, out)), out
    sizes = dict(zip(la, a.shape)) | {c: n for c, n in zip(lb, b.shape) if n != 1 or c not in la}
    dims: Any = lambda labels: tuple(sizes[c] for c in labels)
    full: Any = lambda x, lx, order: _arrange(x, lx, order).expand(dims(order))
    a2 = t.reshape(full(a, la, batch + rows + inner), (*dims(batch), size_of(dims(rows)), size_of(dims(inner))))
    b2 = t.reshape(full(b, lb, batch + inner + cols), (*dims(batch), size_of(dims(inner)), size_of(dims(cols))))
    y = t.record("gemm", [a2, b2], [((*dims(batch), a2.shape[-2], b2.shape[-1]), a.dtype)])[0]
    out = batch + rows + cols
    return t.reshape(y, dims(out)), out


@op("Einsum", since=12)
def einsum(t: Tracer, *xs: Tensor, equation: str) -> Tensor:
    terms, result = _parse(t, equation, xs)
    operands = [_diagonal(t, x, term) for x, term in zip(xs, terms)]
    x, labels = operands[0]
    for k, (y, ly) in enumerate(operands[1:], 2):
        later = result + "".join(term for _, term in operands[k:])
        x, labels = _pair(t, x, labels, y, ly, later)
    x, labels = _sum_out(t, x, labels, result)
    return x.permute(tuple(labels.index(c) for c in result))
