"""python -m tests.core.fuzz KERNEL SEED COUNT: mutated programs must be refused or run; anything else ends this process.

Runs as a child process of test_program.py (and under the sanitizers of tools/sanitize.sh). Prints how many programs were refused and run.
"""

from __future__ import annotations

import faulthandler
import sys

import numpy as np

from tests.core import cases

EDGES = [
    0,
    1,
    -1,
    -2,
    2,
    3,
    5,
    7,
    11,
    12,
    13,
    16,
    64,
    255,
    4096,
    2**20,
    2**31,
    2**32 - 1,
    2**48,
    2**52,
    2**62,
    2**63 - 1,
    -(2**31),
    -(2**63),
]
RUNNABLE = 64  # programs that keep a larger word than their original may legally take forever


def mutate(rng: np.random.Generator, code: np.ndarray) -> np.ndarray:
    new = code.copy()
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(new.size))
        kind = rng.integers(4)
        if kind == 0:
            new[k] = rng.choice(EDGES)
        elif kind == 1:
            new[k] += rng.integers(-3, 4)
        elif kind == 2:
            new[k] = new[int(rng.integers(new.size))]
        else:
            new = np.delete(new, k) if rng.random() < 0.5 else np.insert(new, k, rng.choice(EDGES))
    return new


def refused_alone(case: cases.Case, code: np.ndarray, why: str) -> None:
    """A program is refused for the same reason whether or not there is one to share launches with."""
    try:
        case.bind(code)
    except RuntimeError as e:
        if str(e) == why:
            return
    raise AssertionError(f"alone the program is not refused with {why!r}")


def main(kernel: str, seed: int, count: int) -> None:
    faulthandler.enable()
    rng = np.random.default_rng(seed)
    case = cases.BUILDERS[kernel]()
    case.bind().run(case.inputs, case.outputs, 0, 1)
    refused = ran = 0
    for _ in range(count):
        code = mutate(rng, case.code)
        try:
            try:
                program = case.bind_all(case.code, code)[1]
            except RuntimeError as e:
                refused_alone(case, code, str(e))
                raise
            if program.arena_bytes + program.scratch_bytes > 1 << 24:
                continue
            if np.abs(np.setdiff1d(code, case.code).astype(object)).max(initial=0) > RUNNABLE:
                continue
            program.run(case.inputs, case.outputs, 0, program.num_launches)
            ran += 1
        except (RuntimeError, ValueError, MemoryError):
            refused += 1
    print(refused, ran)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
