"""How much work a launch is: the arithmetic it must do and the bytes it must touch, from its shapes alone. For reports and roofline figures.

One operation is one addition, multiplication, comparison or elementary function on one element; a multiply-add is two. What a kernel does on
top of that (padding, packing, converting) does not count, so a rate computed from these is what the model got, not what the machine did.
"""

from __future__ import annotations

from math import log2, prod
from typing import Any

from ..lowering.symbolic import plain
from ..lowering.tensor import Launch, Tensor

_FREE = frozenset({"load", "const", "acc", "iota", "id", "cast", "cast_wrap", "cast_sat"})
_PER_ELEMENT = {"reduce": 1, "arg_reduce": 1, "scan": 1, "softmax": 5, "quantize_stats": 2}  # of operand 0
_NORMALIZE = {"layer": 8, "rms": 4}
_RESAMPLE_TAPS = {"nearest": 0, "linear": 2, "cubic": 4}


def _size(t: Tensor) -> int:
    return int(plain(t.size))


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(int(plain(n)) for n in t.shape)


def _operations(program: Any) -> int:
    return sum(1 for op, _, _ in program if op not in _FREE)


def flops(launch: Launch) -> int:
    """Arithmetic operations of a launch, its programs included. 0 for kernels that only move or select data."""
    ins, outs = launch.ins, [t for t in launch.outs if t is not None]
    if not outs:
        return 0
    y = outs[0]
    total = _operations(launch.body) * _size(y) + _operations(launch.epilogue) * _size(y)
    if launch.prologue and ins[0] is not None:
        total += _operations(launch.prologue) * _size(ins[0])
    return total + _own(launch, ins, y)


def _own(launch: Launch, ins: list[Tensor | None], y: Tensor) -> int:
    """The kernel's own operations, without programs."""
    kernel, x = launch.kernel, ins[0] if ins else None
    w = ins[1] if len(ins) > 1 else None
    if x is None:
        return 0
    if kernel in _PER_ELEMENT:
        return _PER_ELEMENT[kernel] * _size(x)
    if kernel == "normalize":
        return _NORMALIZE[launch.params["op"]] * _size(x)
    if kernel == "gemm":
        return 2 * _size(y) * _shape(x)[-1]
    if kernel in ("conv", "deform_conv") and w is not None:
        return 2 * _size(y) * prod(_shape(w)[1:])
    if kernel == "conv_transpose" and w is not None:
        return 2 * _size(x) * prod(_shape(w)[1:])
    if kernel == "pool":
        return _size(y) * int(prod(launch.params["kernel"]))
    if kernel == "attention" and w is not None:
        b, h, s, d = _shape(x)
        keys, e = _shape(w)[2], _shape(y)[3]
        return b * h * s * keys * (2 * d + 2 * e + 5)
    if kernel == "linear_attention" and w is not None and ins[2] is not None:
        (b, n, steps, e), depth, heads = _shape(ins[2]), _shape(x)[3], _shape(y)[1]
        decay = ins[4] if len(ins) > 4 else None
        per_element = n * (2 + 2 * bool(launch.params["delta"]) + (decay is not None)) + 2 * heads
        powers = 0 if decay is None else b * n * steps * (depth if plain(decay.strides[3]) != 0 else 1)
        return b * steps * depth * e * per_element + powers
    if kernel == "recurrent" and w is not None and ins[2] is not None:
        steps, n = _shape(x)[:2]
        return 2 * steps * n * (_size(w) + _size(ins[2]))
    if kernel in ("resample", "grid_sample"):
        axes = sum(a != b for a, b in zip(_shape(x), _shape(y))) if kernel == "resample" else len(_shape(x)) - 2
        return 2 * _size(y) * int(_RESAMPLE_TAPS[launch.params["op"]] ** axes if axes else 0)
    if kernel == "fft":
        n = _shape(y)[launch.params["axis"]]
        return int(5 * (_size(y) // _shape(y)[-1]) * log2(n)) if n > 1 else 0
    if kernel == "linear_algebra":
        n = _shape(x)[-1]
        return 2 * n * _size(x) // 3
    return 0


def bytes_moved(launch: Launch) -> int:
    """Bytes of the distinct elements a launch must read and write once each: what a perfect cache would leave. Broadcast axes count once."""
    total = 0
    for k, t in enumerate(launch.ins):
        if t is None or (k == 0 and launch.prologue):
            continue
        total += (
            min(_touched(t), _touched(launch.outs[0]))
            if k == 0 and launch.kernel == "gather" and launch.outs[0] is not None
            else _touched(t)
        )
    return total + sum(_touched(t) for t in (*launch.outs, *launch.pro_ins, *launch.epi_ins) if t is not None)


def _touched(t: Tensor) -> int:
    shape = _shape(t)
    if 0 in shape:
        return 0
    return prod(n for n, s in zip(shape, t.strides) if plain(s) != 0) * t.dtype.itemsize
