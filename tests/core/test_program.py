"""The program decoder believes nothing: malformed words raise, whatever they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytensor_rt import _native
from pytensor_rt.kernels.spec import SPECS

from . import cases

# positions in the code of the two-operand map case: 2 counts, 3 buffers of 3 words, no strands, a header of 10 words, operands of 4 + 2 * rank words
BUFFERS, STRANDS, HEADER = 2, 11, 12
OPERANDS = HEADER + 10


def map_case() -> cases.Case:
    return cases.BUILDERS["map"]()


def test_valid_program_runs() -> None:
    case = map_case()
    case.bind().run(case.inputs, case.outputs, 0, 1)
    x, y = (a.view(np.float32) for a in case.inputs)
    np.testing.assert_allclose(case.outputs[0].view(np.float32), x * y + 2)


@pytest.mark.parametrize("kernel", cases.available())
def test_every_truncation_raises(kernel: str) -> None:
    case = cases.BUILDERS[kernel]()
    for n in range(case.code.size):
        with pytest.raises(RuntimeError, match=r"encoding|expected|parameters"):
            case.bind(case.code[:n])


EDITS: list[tuple[int, int, str]] = [
    (0, -1, "count"), (0, 1 << 62, "count"), (1, 1 << 40, "count"), (BUFFERS, 4, "buffer kind"), (BUFFERS, -1, "buffer kind"),
    (BUFFERS + 1, -1, "bad buffer"), (BUFFERS + 1, 1 << 62, "bad buffer"), (BUFFERS + 2, -1, "bad buffer"), (BUFFERS + 2, 79, "outside its buffer"),
    (STRANDS, -1, "count"), (STRANDS, 2, "count"), (BUFFERS + 6, 2, "must not be written"), (BUFFERS + 6, 1, "bad constant"), (HEADER, -1, "bad kernel"), (HEADER, len(SPECS), "bad kernel"),
    (HEADER + 1, 5000, "count"), (HEADER + 2, -1, "count"), (HEADER + 3, 1, "no prologue"), (HEADER + 4, 1, "no epilogue"),
    (HEADER + 6, 0, "only map has a body"), (HEADER + 9, 0, "bad dtype"), (HEADER + 9, 8, "bad dtype"), (HEADER + 9, 99, "bad dtype"),
    (OPERANDS, 3, "bad buffer index"), (OPERANDS, -3, "bad buffer index"), (OPERANDS, -2, "has no memory"), (OPERANDS + 1, -1, "outside its buffer"),
    (OPERANDS + 1, 1, "outside its buffer"), (OPERANDS + 1, 1 << 62, "outside its buffer"), (OPERANDS + 2, 8, "bad dtype"),
    (OPERANDS + 3, 13, "count"), (OPERANDS + 3, -1, "count"), (OPERANDS + 4, 1 << 53, "shape"), (OPERANDS + 4, -4, "shape"),
    (OPERANDS + 6, 6, "outside its buffer"), (OPERANDS + 6, -5, "outside its buffer"), (OPERANDS + 6, -(1 << 63), "stride"),
    (OPERANDS + 2, 11, "outside its buffer"), (OPERANDS + 16 + 7, 0, "output is broadcast"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "value", "message"), EDITS, ids=[f"{a}={v}" for a, v, _ in EDITS])
def test_edited_words_raise(at: int, value: int, message: str) -> None:
    case = map_case()
    code = case.code.copy()
    code[at] = value
    with pytest.raises(RuntimeError, match=message):
        case.bind(code)


@pytest.mark.parametrize("words", [[0, 0], [1, 0], [1, -1, 1], [1, 0, 2], [1, 1, 0], [2, 0, 1], [1 << 40, 0, 1], [1, 0, 1 << 40], [-1, 0]])
def test_bad_strands_raise(words: list[int]) -> None:
    case = map_case()
    with pytest.raises(RuntimeError, match="encoding"):
        case.bind(np.array([*case.code[:STRANDS], 1, *words, *case.code[STRANDS + 1 :]]))


def test_a_launch_may_be_a_strand() -> None:
    case = map_case()
    for words in ([1, 0, 1], [1, 0, 0], [1, 1, 1]):
        for outputs in case.outputs:
            outputs[...] = 0
        case.bind(np.array([*case.code[:STRANDS], 1, *words, *case.code[STRANDS + 1 :]])).run(case.inputs, case.outputs, 0, 1)
        x, y = (a.view(np.float32) for a in case.inputs)
        np.testing.assert_allclose(case.outputs[0].view(np.float32), x * y + 2)


def test_sizes_cannot_overflow() -> None:
    """Four broadcast axes of 2^16 are 2^64 elements, which is 0 in 64 bits."""
    case = cases.BUILDERS["reduce" if "reduce" in cases.available() else "nonzero"]()
    code = case.code.copy()
    at = int(np.flatnonzero((code[:-4] == 0) & (code[2:-2] == 1) & (code[3:-1] == 2))[0])  # buffer 0, offset, float, rank 2
    rank4 = [0, 0, 1, 4, *[1 << 16] * 4, *[0] * 4]
    with pytest.raises(RuntimeError, match="shape out of range"):
        case.bind(np.concatenate([code[:at], np.array(rank4), code[at + 8 :]]))


def swap_program(case: cases.Case, edit: Callable[[list[int]], None]) -> Any:
    """The map case with its instructions edited; each is six words."""
    words = case.code.tolist()
    edit(words)
    return case.bind(np.array(words))


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (0, 9999, "bad opcode"), (0, -1, "bad opcode"), (1, 8, "bad dtype"), (2, 2, "operand number"), (2, -1, "operand number"), (2, 1 << 40, "bad argument"),
        (12 + 2, 5, "bad register"), (12 + 3, -1, "bad register"), (12 + 3, 2, "bad register"),
    ],
)  # fmt: skip
def test_bad_instructions_raise(word: int, value: int, message: str) -> None:
    case = map_case()
    n = 5 * 6  # load, load, mul, const, add

    def edit(words: list[int]) -> None:
        words[len(words) - n + word] = value

    with pytest.raises(RuntimeError, match=message):
        swap_program(case, edit)


def test_missing_and_superfluous_operands_raise() -> None:
    x, i = np.zeros((3, 2), np.float32), np.zeros(2, np.int64)
    for ins in ([x], [None, i], [x, None], [x, i, i]):
        case = cases.record("gather", ins, [((2, 2), np.float32)], {"mode": "axis"})
        with pytest.raises(RuntimeError, match="operand"):
            case.bind()


def test_epilogue_operands_must_have_the_output_shape() -> None:
    x, i = np.zeros((3, 2), np.float32), np.zeros(4, np.int64)
    for shape in [(2, 2), (4,), (4, 3)]:
        case = cases.record(
            "gather", [x, i], [((4, 2), np.float32)], {"mode": "axis"}, epilogue=lambda a, b: a + b, epi_ins=[np.zeros(shape, np.float32)]
        )
        with pytest.raises(RuntimeError, match="wrong shape"):
            case.bind()


def test_arrays_are_checked_when_a_program_runs() -> None:
    case = map_case()
    program = case.bind()
    with pytest.raises(ValueError, match="too few"):
        program.run(case.inputs[:1], case.outputs, 0, 1)
    with pytest.raises(ValueError, match="smaller than"):
        program.run((case.inputs[0][:-1], case.inputs[1]), case.outputs, 0, 1)
    with pytest.raises(TypeError, match="NumPy"):
        program.run((1, 2), case.outputs, 0, 1)
    frozen = case.outputs[0].copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        program.run(case.inputs, (frozen,), 0, 1)
    for begin, end in [(0, 2), (1, 0), (0, 2**63)]:
        with pytest.raises((RuntimeError, TypeError)):
            program.run(case.inputs, case.outputs, begin, end)
    with pytest.raises(RuntimeError, match="attach"):
        program.replay()
    with pytest.raises(IndexError):
        program.describe(1)
    with pytest.raises(TypeError, match="NumPy"):
        _native.Program(case.code, [object()], [False], "", _native.Arena(), _native.Packs(), 1)


def test_programs_share_launches_that_differ_in_offsets() -> None:
    case = map_case()
    x, y, out = (a.view(np.float32).reshape(4, 5) for a in (*case.inputs, *case.outputs))
    shorter = case.code.copy()
    shorter[[OPERANDS + 8 * operand + 4 for operand in range(3)]] = 3  # rows
    later = shorter.copy()
    later[OPERANDS + 1] = 5  # the first operand begins a row later
    programs = case.bind_all(case.code, later, shorter)
    assert [p.shared_launches for p in programs] == [0, 0, 1]
    for program, skip in [(programs[2], 0), (programs[1], 1)] * 2:
        out[...] = 0
        program.run(case.inputs, case.outputs, 0, 1)
        np.testing.assert_allclose(out[:3], x[skip : skip + 3] * y[:3] + 2, atol=2.0**-21)  # rounded once or twice
        assert not out[3].any()
    outside = shorter.copy()
    outside[OPERANDS + 1] = 10
    for codes in ((outside,), (shorter, outside)):
        with pytest.raises(RuntimeError, match="outside its buffer"):
            case.bind_all(*codes)


def test_a_program_that_cannot_be_bound_leaves_the_arena_usable() -> None:
    """An arena that cannot grow keeps the memory of the programs bound before."""
    case = map_case()
    arena = _native.Arena()
    isa = _native.isa_levels()[0]
    inputs_in_arena = case.code.copy()
    inputs_in_arena[BUFFERS + 6 :][:3] = (0, 0, 80)  # the output
    program = _native.Program(inputs_in_arena, [], [], isa, arena, _native.Packs(), 1)
    huge = inputs_in_arena.copy()
    huge[BUFFERS + 7] = 1 << 55
    with pytest.raises(MemoryError):
        _native.Program(huge, [], [], isa, arena, _native.Packs(), 1)
    assert arena.nbytes >= 80
    program.run(case.inputs, (), 0, 1)


@pytest.mark.parametrize("kernel", cases.available())
def test_mutated_programs_never_crash(kernel: str) -> None:
    """In a child process, so that a crash is a failure and not the end of the tests."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.fuzz", kernel, "1", "1500"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    refused, _ = map(int, done.stdout.split())
    assert refused > 100
