"""What is convolved with what: operands over one batch and three spatial axes, and the taps of the window.

A transposed convolution is a set of convolutions of step 1, one per phase of its strides, that write every stride-th output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from ....dtypes import F32, F64, I32, DType, is_float
from ....errors import UnsupportedError
from ....lowering.tensor import Launch
from ..build import Operand, Scratch, View, view

_LIMIT = 1 << 31
INTEGERS = ("int8", "uint8")


@dataclass(frozen=True)
class Tap:
    """One filter element: output pixel o reads pixel o * step + base of x; `offset`: where it lies in a filter, in elements."""

    base: tuple[int, int, int]
    offset: int


@dataclass(frozen=True)
class Problem:
    """x [N, C, D, H, W] (sizes and strides of five axes), filters by strides, and which pixels of y [N, M, d, h, w] are computed.

    `origin` and `every` place the computed pixels in y: pixel o of the problem is y's pixel origin + o * every. Sums go to `target` as they are, if
    there is one: a tensor of their dtype of y's shape, with dense channels.
    """

    launch: Launch
    x: View
    w: View
    y_shape: tuple[int, ...]
    step: tuple[int, int, int]
    taps: tuple[Tap, ...]  # in the order of their bases
    groups: int
    channels: int  # of a group
    filters: int  # of a group
    w_strides: tuple[int, int, int]  # of groups, filters and channels, in elements
    origin: tuple[int, int, int] = (0, 0, 0)
    every: tuple[int, int, int] = (1, 1, 1)
    target: View | None = None

    @property
    def sum(self) -> DType:
        """The dtype of the sums: float64 for itself, float32 for shorter floats, int32 for bytes."""
        if self.x.dtype == F64:
            return F64
        return F32 if is_float(self.x.dtype) else I32

    @property
    def pixels(self) -> int:
        """Number of output pixels."""
        return self.y_shape[0] * prod(self.y_shape[2:])

    def output(self, v: View) -> View:
        """A tensor of output 0's shape at this problem's pixels."""
        _, strides = spatial(v.shape, v.strides)
        at = sum(o * s for o, s in zip(self.origin, strides[2:])) * v.dtype.itemsize
        a = v.address
        if at:
            assert isinstance(a, (Operand, Scratch))
            a = replace(a, offset=a.offset + at)
        moved = [s * e if n > 1 else 0 for s, e, n in zip(strides[2:], self.every, self.y_shape[2:])]
        return View(a, v.dtype, self.y_shape, (*[s if n > 1 else 0 for s, n in zip(strides[:2], self.y_shape)], *moved))


def spatial(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[N, C, d...] as [N, C, D, H, W]."""
    k = 5 - len(shape)
    return (*shape[:2], *[1] * k, *shape[2:]), (*strides[:2], *[0] * k, *strides[2:])


def require(ok: bool, what: str) -> None:
    """Raises UnsupportedError unless ok."""
    if not ok:
        raise UnsupportedError(f"conv: {what}")


@dataclass(frozen=True)
class Window:
    """A launch's spatial parameters, with leading axes of size 1."""

    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    pad: tuple[int, int, int]  # at the beginning
    kernel: tuple[int, int, int]


def _window(launch: Launch, transposed: bool) -> Window:
    """The window of a conv or conv_transpose launch. Raises UnsupportedError for operands that do not fit together."""
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    n = x.ndim - 2
    require(1 <= n <= 3 and w.ndim == x.ndim == y.ndim, "expected 1 to 3 spatial axes")
    strides, dilations, pads = ([int(v) for v in launch.params[k]] for k in ("strides", "dilations", "pads"))
    groups = int(launch.params.get("group", 1))
    require(len(strides) == len(dilations) == n and len(pads) == 2 * n, "strides, dilations and pads must match the spatial axes")
    fits = y.shape[0] == x.shape[0] and groups >= 1 and x.shape[1] % groups == 0 and y.shape[1] % groups == 0
    require(fits, "batch or groups do not match")
    want = (x.shape[1], y.shape[1] // groups) if transposed else (y.shape[1], x.shape[1] // groups)
    require(w.shape[:2] == want, "weight shape does not match")
    ok = all(1 <= v < _LIMIT for v in (*strides, *dilations)) and all(-_LIMIT < v < _LIMIT for v in pads)
    require(ok and max(*x.shape[2:], *w.shape[2:], *y.shape[2:]) < _LIMIT, "stride, dilation or pad out of range")
    b = launch.ins[2] if len(launch.ins) > 2 else None
    require(b is None or b.shape == (y.shape[1],), "b must be [M]")
    return Window(_three(strides, 1), _three(dilations, 1), _three(pads[:n], 0), _three([int(v) for v in w.shape[2:]], 1))


def _three(values: Sequence[int], filled: int) -> tuple[int, int, int]:
    d, h, w = (*[filled] * (3 - len(values)), *values)
    return d, h, w


def _dtypes(launch: Launch) -> None:
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    own = (launch.acc_dtype if launch.epilogue else None) or y.dtype
    if x.dtype.name in INTEGERS:
        require(w.dtype.name in INTEGERS and launch.kernel == "conv", "unsupported dtype")
        require(own == I32, "unsupported result dtype")
    else:
        require(x.dtype.name in ("float32", "float64", "float16", "bfloat16") and w.dtype == x.dtype, "unsupported dtype")
        require(is_float(own), "unsupported result dtype")


def of_launch(launch: Launch) -> Problem:
    """`conv`."""
    window = _window(launch, False)
    x, w, y_shape, groups = _operands(launch)
    taps = []
    for k in product(*map(range, window.kernel)):
        base = _three([i * d - p for i, d, p in zip(k, window.dilation, window.pad)], 0)
        if reads(base, window.stride, x.shape[2:], y_shape[2:]):
            taps.append(Tap(base, sum(i * s for i, s in zip(k, w.strides[2:]))))
    filters = y_shape[1] // groups
    held = (w.strides[0] * filters, w.strides[0], w.strides[1])
    return Problem(launch, x, w, y_shape, window.stride, tuple(taps), groups, x.shape[1] // groups, filters, held)


def _operands(launch: Launch) -> tuple[View, View, tuple[int, ...], int]:
    """x and w with three spatial axes, y's shape with as many, the number of groups. Raises UnsupportedError for their dtypes."""
    _dtypes(launch)
    x, w, y = launch.ins[0], launch.ins[1], launch.outs[0]
    assert x is not None and w is not None and y is not None
    five = [v.with_axes(*spatial(v.shape, v.strides)) for v in (view(x), view(w), view(y))]
    return five[0], five[1], five[2].shape, int(launch.params.get("group", 1))


def reads(base: tuple[int, ...], step: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Does a tap read any pixel of x?"""
    for b, s, n, o in zip(base, step, size, out):
        first = max(0, -(b // s))  # the first output for which o * s + b >= 0
        if first >= o or first * s + b >= n:
            return False
    return True


def transposed(launch: Launch) -> Iterator[Problem]:
    """`conv_transpose`, phase by phase."""
    window = _window(launch, True)
    x, w, y_shape, groups = _operands(launch)
    channels, filters = x.shape[1] // groups, y_shape[1] // groups
    held = (w.strides[0] * channels, w.strides[1], w.strides[0])
    one = (1, 1, 1)
    for phase in product(*[range(min(s, n)) for s, n in zip(window.stride, y_shape[2:])]):
        out = tuple(-(-(n - p) // s) for n, p, s in zip(y_shape[2:], phase, window.stride))
        taps = []
        for k in product(*map(range, window.kernel)):
            away = [p + pad - i * d for p, pad, i, d in zip(phase, window.pad, k, window.dilation)]
            base = _three([a // s for a, s in zip(away, window.stride)], 0)
            if all(a % s == 0 for a, s in zip(away, window.stride)) and reads(base, one, x.shape[2:], out):
                taps.append(Tap(base, sum(i * s for i, s in zip(k, w.strides[2:]))))
        taps.sort(key=lambda t: t.base)
        shape = (*y_shape[:2], *out)
        yield Problem(launch, x, w, shape, one, tuple(taps), groups, channels, filters, held, _three(phase, 0), window.stride)
