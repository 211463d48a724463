"""Every mutation of a kernel is caught, and the unmutated kernels pass the same launches."""

from __future__ import annotations

from typing import Any

import pytest

from pytensor_rt import _native
from pytensor_rt.kernels.cuda import device
from tests.kernels import harness

from . import executor, launcher
from .mutations import MUTATIONS, Case, Mutation

ORDERS = (1, 2, 3)


class Mutant:
    """Runs launches with changed headers, and adds up the wavefronts of shared memory."""

    def __init__(self, headers: Any) -> None:
        self.headers = headers
        self.wavefronts = self.ideal = 0

    def module(self, source: str, target: str = launcher.TARGET) -> executor.Module:
        return executor.Module(device.compile_source(source, target).decode())

    def count(self, counters: list[executor.Counters]) -> None:
        for c in counters:
            self.wavefronts += c.shared_load_wavefronts + c.shared_store_wavefronts
            self.ideal += c.shared_load_ideal + c.shared_store_ideal


def outcomes(case: Case, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What goes wrong with a launch in any order of threads."""
    monkeypatch.setattr(device, "headers", lambda: mutant.headers)
    monkeypatch.setattr(launcher, "module", mutant.module)
    execute = launcher.execute

    def counting(*args: Any) -> list[executor.Counters]:
        counters = execute(*args)
        mutant.count(counters)
        return counters

    monkeypatch.setattr(launcher, "execute", counting)
    monkeypatch.setattr(harness, "device", launcher.run)
    found = set()
    for order in ORDERS:
        try:
            case(order)
        except executor.KernelFault as fault:
            found.add(fault.kind)
        except (AssertionError, _native.LaunchError):
            found.add("wrong result")
    if mutant.wavefronts > 1.1 * mutant.ideal:
        found.add("bank conflicts")
    return found


@pytest.mark.parametrize("case", sorted({m.case for m in MUTATIONS}, key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_unmutated(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(case, Mutant(device.headers()), monkeypatch) <= {"bank conflicts"}


def mutated(m: Mutation) -> Any:
    """The headers with the one change."""
    texts, names = device.headers()
    at = names.index(m.file.encode())
    parts = texts[at].decode().split(m.old)
    assert len(parts) > m.nth + 1, f"{m.file} has no {m.old!r} number {m.nth}"
    text = m.old.join(parts[: m.nth + 1]) + m.new + m.old.join(parts[m.nth + 1 :])
    return (*texts[:at], text.encode(), *texts[at + 1 :]), names


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(mutation.case, Mutant(mutated(mutation)), monkeypatch)
    assert found & set(mutation.caught_by), f"caught by {found or 'nothing'}"


def test_there_are_enough() -> None:
    assert len(MUTATIONS) >= 25 and len({m.name for m in MUTATIONS}) == len(MUTATIONS)
