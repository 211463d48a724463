"""Mixed-radix transforms (Stockham's self-sorting form) of lines that lie side by side: element i of line l is at position i * L + l.

Real and imaginary parts are kept apart, so that every butterfly is the same arithmetic on whole vectors: a stage over L lines is a stage of one line
whose inner loop is L times as long.

Words of a plan: 0 stages, then of each: function, radix, length of a transform after it, its twiddles, the roots of its radix. Twiddles of a stage: for each k below that
length, for r = 1 .. radix - 1, cos and sin of -2 pi k r / (radix * length); roots: cos and sin of -2 pi k / radix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float64 as D
from numba import int64

from .intrinsics import at, inline, invoke
from .vectors import fma, lanes, splat, vadd, vload, vmul, vstore, vsub

LANES = lanes(D)
HALF_ROOT = 0.70710678118654752440
SIN_60 = 0.86602540378443864676
COS_72, SIN_72 = 0.30901699437494742410, 0.95105651629515357212
COS_144, SIN_144 = -0.80901699437494742410, 0.58778525229247312917


class _Vectors:
    """What butterflies are made of, on vectors."""

    step = LANES
    load = staticmethod(inline(lambda address: vload(address, D)))
    store, add, sub, mul, fma, spread = (staticmethod(f) for f in (vstore, vadd, vsub, vmul, fma, splat))


@inline
def _store(address: Any, x: Any) -> None:
    at(address, D)[0] = x


class _Numbers:
    """The same on single numbers."""

    step = 1
    load = staticmethod(inline(lambda address: at(address, D)[0]))
    store = staticmethod(_store)
    add, sub, mul = (staticmethod(inline(f)) for f in (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y))
    fma = staticmethod(inline(lambda x, y, z: x * y + z))
    spread = staticmethod(inline(lambda x: x))


def _butterflies(ops: Any) -> dict[int, Any]:
    """Functions (x, y, u, v, apart, s, twiddles, roots, radix, begin, end): positions [begin, end) of one k; all distances in bytes."""
    load, store, add, sub, mul, fma, spread, step = ops.load, ops.store, ops.add, ops.sub, ops.mul, ops.fma, ops.spread, ops.step

    @inline
    def turned(u, v, at_byte, re, im, twiddles, r):  # type: ignore[no-untyped-def]
        """Store (re, im) times twiddle r."""
        t = at(twiddles, D)
        c, s = t[2 * r - 2], t[2 * r - 1]
        cs, ss = spread(c), spread(s)
        store(u + at_byte, fma(re, cs, mul(im, spread(-s))))
        store(v + at_byte, fma(re, ss, mul(im, cs)))

    @inline
    def radix2(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        for j in range(8 * begin, 8 * end, 8 * step):
            ar, br, ai, bi = load(x + j), load(x + j + apart), load(y + j), load(y + j + apart)
            store(u + j, add(ar, br))
            store(v + j, add(ai, bi))
            turned(u, v, j + s, sub(ar, br), sub(ai, bi), twiddles, 1)

    @inline
    def radix3(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        half, height = spread(-0.5), spread(SIN_60)
        for j in range(8 * begin, 8 * end, 8 * step):
            ar, br, cr = load(x + j), load(x + j + apart), load(x + j + 2 * apart)
            ai, bi, ci = load(y + j), load(y + j + apart), load(y + j + 2 * apart)
            sr, si = add(br, cr), add(bi, ci)
            dr, di = mul(height, sub(bi, ci)), mul(height, sub(cr, br))
            store(u + j, add(ar, sr))
            store(v + j, add(ai, si))
            mr, mi = fma(half, sr, ar), fma(half, si, ai)
            turned(u, v, j + s, add(mr, dr), add(mi, di), twiddles, 1)
            turned(u, v, j + 2 * s, sub(mr, dr), sub(mi, di), twiddles, 2)

    @inline
    def four(ar, ai, br, bi, cr, ci, dr, di):  # type: ignore[no-untyped-def]
        """The transform of four numbers."""
        pr, pi, mr, mi = add(ar, cr), add(ai, ci), sub(ar, cr), sub(ai, ci)
        qr, qi, nr, ni = add(br, dr), add(bi, di), sub(bi, di), sub(dr, br)
        return add(pr, qr), add(pi, qi), add(mr, nr), add(mi, ni), sub(pr, qr), sub(pi, qi), sub(mr, nr), sub(mi, ni)

    @inline
    def radix4(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        for j in range(8 * begin, 8 * end, 8 * step):
            p, q = x + j, y + j
            r0, i0, r1, i1, r2, i2, r3, i3 = four(
                load(p),
                load(q),
                load(p + apart),
                load(q + apart),
                load(p + 2 * apart),
                load(q + 2 * apart),
                load(p + 3 * apart),
                load(q + 3 * apart),
            )
            store(u + j, r0)
            store(v + j, i0)
            turned(u, v, j + s, r1, i1, twiddles, 1)
            turned(u, v, j + 2 * s, r2, i2, twiddles, 2)
            turned(u, v, j + 3 * s, r3, i3, twiddles, 3)

    @inline
    def radix5(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        c1, s1, c2, s2 = spread(COS_72), spread(SIN_72), spread(COS_144), spread(SIN_144)
        for j in range(8 * begin, 8 * end, 8 * step):
            p, q = x + j, y + j
            ar, br, cr, dr, er = load(p), load(p + apart), load(p + 2 * apart), load(p + 3 * apart), load(p + 4 * apart)
            ai, bi, ci, di, ei = load(q), load(q + apart), load(q + 2 * apart), load(q + 3 * apart), load(q + 4 * apart)
            pr, pi, mr, mi = add(br, er), add(bi, ei), sub(br, er), sub(bi, ei)
            qr, qi, nr, ni = add(cr, dr), add(ci, di), sub(cr, dr), sub(ci, di)
            store(u + j, add(ar, add(pr, qr)))
            store(v + j, add(ai, add(pi, qi)))
            fr, fi = fma(c1, pr, fma(c2, qr, ar)), fma(c1, pi, fma(c2, qi, ai))
            gr, gi = fma(s1, mi, mul(s2, ni)), fma(s1, mr, mul(s2, nr))
            turned(u, v, j + s, add(fr, gr), sub(fi, gi), twiddles, 1)
            turned(u, v, j + 4 * s, sub(fr, gr), add(fi, gi), twiddles, 4)
            fr, fi = fma(c2, pr, fma(c1, qr, ar)), fma(c2, pi, fma(c1, qi, ai))
            gr, gi = sub(mul(s2, mi), mul(s1, ni)), sub(mul(s2, mr), mul(s1, nr))
            turned(u, v, j + 2 * s, add(fr, gr), sub(fi, gi), twiddles, 2)
            turned(u, v, j + 3 * s, sub(fr, gr), add(fi, gi), twiddles, 3)

    @inline
    def radix8(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        h = spread(HALF_ROOT)
        for j in range(8 * begin, 8 * end, 8 * step):
            p, q = x + j, y + j
            ar, ai, er, ei = load(p), load(q), load(p + 4 * apart), load(q + 4 * apart)
            br, bi, fr, fi = load(p + apart), load(q + apart), load(p + 5 * apart), load(q + 5 * apart)
            cr, ci, gr, gi = load(p + 2 * apart), load(q + 2 * apart), load(p + 6 * apart), load(q + 6 * apart)
            dr, di, kr, ki = load(p + 3 * apart), load(q + 3 * apart), load(p + 7 * apart), load(q + 7 * apart)
            r0, i0, r1, i1, r2, i2, r3, i3 = four(
                add(ar, er), add(ai, ei), add(br, fr), add(bi, fi), add(cr, gr), add(ci, gi), add(dr, kr), add(di, ki)
            )
            store(u + j, r0)
            store(v + j, i0)
            turned(u, v, j + 2 * s, r1, i1, twiddles, 2)
            turned(u, v, j + 4 * s, r2, i2, twiddles, 4)
            turned(u, v, j + 6 * s, r3, i3, twiddles, 6)
            fr, fi, kr, ki = sub(br, fr), sub(bi, fi), sub(dr, kr), sub(di, ki)
            r0, i0, r1, i1, r2, i2, r3, i3 = four(
                sub(ar, er), sub(ai, ei), mul(h, add(fr, fi)), mul(h, sub(fi, fr)),
                sub(ci, gi), sub(gr, cr), mul(h, sub(ki, kr)), mul(spread(-HALF_ROOT), add(kr, ki)),
            )  # fmt: skip
            turned(u, v, j + s, r0, i0, twiddles, 1)
            turned(u, v, j + 3 * s, r1, i1, twiddles, 3)
            turned(u, v, j + 5 * s, r2, i2, twiddles, 5)
            turned(u, v, j + 7 * s, r3, i3, twiddles, 7)

    @inline
    def any_radix(x, y, u, v, apart, s, twiddles, roots, radix, begin, end):  # type: ignore[no-untyped-def]
        w = at(roots, D)
        for j in range(8 * begin, 8 * end, 8 * step):
            for r in range(radix):
                re, im = load(x + j), load(y + j)
                k = 0
                for t in range(1, radix):
                    k += r
                    k -= radix if k >= radix else 0
                    c, cs, ss = w[2 * k], spread(w[2 * k + 1]), spread(-w[2 * k + 1])
                    xr, xi = load(x + j + t * apart), load(y + j + t * apart)
                    re, im = fma(xr, spread(c), fma(xi, ss, re)), fma(xi, spread(c), fma(xr, cs, im))
                if r == 0:
                    store(u + j, re)
                    store(v + j, im)
                else:
                    turned(u, v, j + r * s, re, im, twiddles, r)

    return {2: radix2, 3: radix3, 4: radix4, 5: radix5, 8: radix8, 0: any_radix}


RADICES = (2, 3, 4, 5, 8)  # of butterflies of their own
_V, _N = _butterflies(_Vectors), _butterflies(_Numbers)


def stage(radix: int) -> Callable[..., int]:
    """One stage: (x, y, u, v, s, rest, twiddles, roots, p): from (x, y) to (u, v), inner loops of s numbers; `radix` 0: any radix p."""
    vectors, numbers = _V[radix], _N[radix]

    def kernel(x, y, u, v, s, rest, twiddles, roots, p):  # type: ignore[no-untyped-def]
        apart = 8 * s * rest
        whole = s // LANES * LANES
        for k in range(rest):
            a, b, c, d, t = x + 8 * s * k, y + 8 * s * k, u + 8 * s * p * k, v + 8 * s * p * k, twiddles + 16 * (p - 1) * k
            vectors(a, b, c, d, apart, 8 * s, t, roots, p, 0, whole)
            if whole < s:
                numbers(a, b, c, d, apart, 8 * s, t, roots, p, whole, s)
        return 0

    return kernel


@inline
def transform(plan: Any, lines: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Transform (a, b) with (c, d) as the other memory; is the result in (c, d)?"""
    w = at(plan, int64)
    s = lines
    for k in range(w[0]):
        first = 1 + 5 * k
        invoke(w[first], (a, b, c, d, s, w[first + 2], w[first + 3], w[first + 4], w[first + 1]))
        s *= w[first + 1]
        a, b, c, d = c, d, a, b
    return w[0] & 1
