"""Windows of output pixels as rows: what the register tiles read where pixels have few channels, or lie badly in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from .conv_tile import I32, I64, lane_mask, load, masked_load
from .intrinsics import at
from .vectors import BYTES


@intrinsic
def copy_words(typingctx: Any, to: Any, source: Any, words: Any) -> Any:
    """Copy 32-bit words; `to` has room for whole vectors, which may be overwritten with zeros."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to_, from_, words_ = [context.cast(builder, v, t, types.int64) for v, t in zip(args, signature.args)]
        n = BYTES // 4
        kind = ir.VectorType(I32, n)
        whole = builder.sdiv(words_, ir.Constant(I64, n))
        with cgutils.for_range(builder, whole) as loop:
            at_ = builder.mul(loop.index, ir.Constant(I64, BYTES))
            v = load(builder, builder.add(from_, at_), kind, 1)
            builder.store(v, builder.inttoptr(builder.add(to_, at_), ir.PointerType(kind)), align=1)
        done = builder.mul(whole, ir.Constant(I64, n))
        left = builder.sub(words_, done)
        with builder.if_then(builder.icmp_signed(">", left, ir.Constant(I64, 0))):
            at_ = builder.mul(whole, ir.Constant(I64, BYTES))
            v = masked_load(builder, builder.add(from_, at_), kind, lane_mask(builder, left, n), 1)
            builder.store(v, builder.inttoptr(builder.add(to_, at_), ir.PointerType(kind)), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def windows() -> Callable[..., int]:
    """Rows of the windows of the output pixels [q0, q1): all taps' channels, one after the other; outside of x, the first word of the padding.

    Words: 0-18 those of the problem (conv_block.py)  19 bytes of a row  20 32-bit words of a pixel  21 runs of taps  22 their table: bases of the first
    tap, three int64, and the number of taps, which follow each other in memory along the last axis
    """

    def run(w, q0, q1, own, rows):  # type: ignore[no-untyped-def]
        OD, OH, OW, words = w[2], w[3], w[4], w[20]
        size = 4 * words
        pad = at(w[18], types.int32)[0]
        for q in range(q0, q1):
            line = q // OW
            ow = q - line * OW
            plane = line // OH
            oh = line - plane * OH
            n = plane // OD
            od = plane - n * OD
            to = rows + (q - q0) * w[19]
            for r in range(w[21]):
                runs = at(w[22] + 32 * r, int64)
                count = runs[3]
                di, hi, first = od * w[5] + runs[0], oh * w[6] + runs[1], ow * w[7] + runs[2]
                begin = min(count, max(int64(0), -first))
                end = max(begin, min(count, w[10] - first))
                if di < 0 or di >= w[8] or hi < 0 or hi >= w[9]:
                    begin, end = count, count
                line_out = at(to, types.int32)
                for k in range(begin * words):
                    line_out[k] = pad
                if end > begin:
                    source = w[11] + n * w[12] + di * w[13] + hi * w[14] + (first + begin) * w[15]
                    copy_words(to + begin * size, source, (end - begin) * words)
                for k in range(end * words, count * words):
                    line_out[k] = pad
                to += count * size
        return 0

    return run
