"""The quantize_stats kernel against the formula of DynamicQuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np

from .harness import run, strided

A = np.ndarray[Any, Any]


def check(x: A) -> None:
    low, high = np.float32(min(0, x.min(initial=0))), np.float32(max(0, x.max(initial=0)))
    scale = np.float32((high - low) / np.float32(255))
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255)) if scale else np.uint8(0)
    for threads in (1, 2):
        s, z = run("quantize_stats", [x], [((), np.float32), ((), np.uint8)], threads=threads)
        assert s == scale and z == zero


def test_shapes_and_strides() -> None:
    rng = np.random.default_rng(1)
    for shape in [(), (1,), (5,), (0,), (3, 0), (1000,), (7, 33, 5), (300, 700), (1, 1, 1)]:
        for shift in (-3, 0, 3):
            x = (rng.standard_normal(shape) + shift).astype(np.float32)
            check(x)
            check(strided(rng, np.asarray(x)))
    check(np.zeros((4, 4), np.float32))
    check(np.broadcast_to(np.float32(-2.5), (5, 6)))


def test_extremes_are_found_anywhere() -> None:
    for size in (1, 63, 64, 65, 4097, 70_000):
        for at in (0, size // 2, size - 1):
            for value in (-7.0, 9.0):
                x = np.zeros(size, np.float32)
                x[at] = value
                check(x)
