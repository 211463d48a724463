"""Static gates: every kernel, on every architecture, against what the manifest says of its machine code."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pytensor_rt.kernels.cuda import device
from pytensor_rt.kernels.cuda.build import Call
from pytensor_rt.kernels.cuda.manifest import Entry
from pytensor_rt.kernels.cuda.plans import FAMILIES, entries
from pytensor_rt.kernels.spec import SPECS

from .binaries import Binary, inspect, sample_calls

Case = tuple[str, str]  # a translation unit and one of its kernels
CALLS: dict[Case, tuple[Entry, str, Call, bool]] = {}
for _entry, _label, _launch, _call in sample_calls():
    _bf16 = _launch.params.get("precision") == "bf16" or any(t.dtype.name == "bfloat16" for t in _launch.tensors())
    CALLS.setdefault((_call.source, _entry.name), (_entry, _label, _call, _bf16))


def test_every_kernel_of_the_vocabulary_is_planned() -> None:
    assert set(FAMILIES) == set(SPECS)


def test_every_kernel_has_a_sample() -> None:
    sampled = {e.name for e, *_ in CALLS.values()}
    assert sampled == set(entries())


@pytest.fixture(scope="module")
def binaries(request: pytest.FixtureRequest) -> dict[tuple[Case, int], Future[Binary]]:
    """Every selected case compiled and taken apart, two at a time: most of the time is spent in NVIDIA's tools."""
    pool = ThreadPoolExecutor(2)
    request.addfinalizer(lambda: pool.shutdown(cancel_futures=True))
    wanted = [i.callspec.params for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    jobs = [(p["case"], p["arch"]) for p in wanted if p["arch"] >= CALLS[p["case"]][0].min_arch]
    return {(case, arch): pool.submit(inspect, case[0], arch, case[1]) for case, arch in jobs}


@pytest.mark.parametrize("arch", device.ARCHS)
@pytest.mark.parametrize("case", CALLS, ids=[f"{e.name}-{label}" for e, label, *_ in CALLS.values()])
def test_machine_code(case: Case, arch: int, binaries: dict[tuple[Case, int], Future[Binary]]) -> None:
    entry, _, call, bf16 = CALLS[case]
    if arch < entry.min_arch:
        pytest.skip(f"{entry.name} is for sm_{entry.min_arch} and newer")
    made = binaries[case, arch].result()
    assert not made.spills, f"{made.stack} bytes of stack, {made.local} of local memory"
    assert made.registers <= entry.registers
    assert made.occupancy(arch, call.block[0] * call.block[1] * call.block[2], call.shared) > 0, "not even one block fits a multiprocessor"
    if entry.wide_loads:
        assert made.widest_load == 16, [o for o in made.opcodes if o.startswith("LDG")]
    if entry.opcodes and (arch >= 80 or not bf16):  # sm_75 has no tensor cores for bfloat16
        assert any(made.has(o) for o in entry.opcodes), f"none of {', '.join(entry.opcodes)}"
