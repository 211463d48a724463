"""Copy elision: a copy X -> (part of) Y goes away when all views of X can live inside Y. Serves Concat, Pad, reshape copies and outputs."""

from __future__ import annotations

from ..lowering.tensor import ARENA, Launch
from .fuse import Stats, base_of, count
from .layout import references, rehome


def elide_copies(launches: list[Launch], stats: Stats, into: dict[int, set[int]]) -> list[Launch]:
    """Remove the copies that can be computed in place. `into` receives {vid of Y: vids found inside it}, for the verifier."""
    if not any(launch.is_copy for launch in launches):
        return launches
    refs = references(launches)
    out: list[Launch] = []
    for launch in launches:
        if launch.is_copy:
            src, dst = launch.ins[0], launch.outs[0]
            assert src is not None and dst is not None
            x, y = src.buffer, dst.buffer
            base = base_of(src, dst.strides) if x.kind == ARENA and x is not y and y.kind != "host" else None
            if base is not None:
                vid, target = src.vid, dst.vid
                if rehome(refs, x, base, y, dst.offset):
                    into.setdefault(target, set()).add(vid)
                    count(stats, "write into place")
                    continue
            count(stats, "copy")
        out.append(launch)
    return out
