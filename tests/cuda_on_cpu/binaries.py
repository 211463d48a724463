"""What the compiler made of a kernel: registers, stack, shared memory and opcodes of a cubin, by NVIDIA's binary tools (no GPU needed)."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytensor_rt.kernels.cuda import device
from pytensor_rt.kernels.cuda.build import Call
from pytensor_rt.kernels.cuda.manifest import Entry
from pytensor_rt.kernels.cuda.plans import plan_launch, samples
from pytensor_rt.lowering.tensor import Launch

# Of a multiprocessor: warps, blocks, bytes of shared memory ("CUDA C++ Programming Guide", compute capabilities)
LIMITS = {
    75: (32, 16, 64 << 10), 80: (64, 32, 164 << 10), 86: (48, 16, 100 << 10), 89: (48, 24, 100 << 10), 90: (64, 32, 228 << 10),
    100: (64, 32, 228 << 10), 120: (48, 24, 100 << 10),
}  # fmt: skip


@dataclass(frozen=True)
class Binary:
    """One kernel in one cubin. Bytes per thread (stack, local) and per block (shared, without dynamic)."""

    registers: int
    stack: int
    local: int
    shared: int
    opcodes: tuple[str, ...]  # in order, with their suffixes

    def has(self, prefix: str) -> bool:
        return any(o.startswith(prefix) for o in self.opcodes)

    @property
    def spills(self) -> bool:
        """Local memory in use: either spilled registers or an array the compiler could not keep in them."""
        return bool(self.stack or self.local) or self.has("LDL") or self.has("STL")

    @property
    def widest_load(self) -> int:
        """Bytes of the widest load from global memory."""
        widths = [int(m[1]) // 8 if m else 4 for o in self.opcodes if o.startswith("LDG") for m in [re.search(r"\.(128|64)\b", o)]]
        return max(widths, default=0)

    def occupancy(self, arch: int, threads: int, dynamic: int) -> float:
        """Warps that fit a multiprocessor at once over the most it can hold: by registers, shared memory and blocks."""
        warps, blocks, shared = LIMITS[arch]
        per_block = -(-threads // 32)
        registers = -(-self.registers * 32 // 256) * 256 * per_block
        bytes_ = self.shared + dynamic + (1024 if arch >= 80 else 0)
        fit = min(warps // per_block, blocks, 65536 // max(1, registers), shared // max(1, bytes_))
        return fit * per_block / warps


def _cuobjdump() -> str:
    import nvidia

    for folder in nvidia.__path__:
        for path in sorted(Path(folder).glob("*/bin/cuobjdump")):
            return str(path)
    raise FileNotFoundError("cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def inspect(source: str, arch: int, name: str) -> Binary:
    """Compile a translation unit and take its kernel `name` apart."""
    tool = _cuobjdump()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(device.compile_source(source, f"sm_{arch}"))
        f.flush()
        path = os.path.dirname(tool) + os.pathsep + os.environ.get("PATH", "")
        command = [tool, "-res-usage", "-sass", f.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}).stdout
    usage = re.search(rf"Function {name}:\s*\n\s*(.*)", text)
    assert usage is not None, f"{name} is not in the cubin"
    numbers = {k: int(v) for k, v in re.findall(r"([A-Z]+):(\d+)", usage[1])}
    body = re.search(rf"Function : {name}\n(.*?)(?=\n\s*Function : |\Z)", text, re.S)
    assert body is not None
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", body[1])
    return Binary(numbers["REG"], numbers["STACK"], numbers["LOCAL"], numbers["SHARED"], tuple(opcodes))


def sample_calls() -> Iterator[tuple[Entry, str, Launch, Call]]:
    """Every call of every sample launch, each kernel's own first: (kernel, label, launch, call)."""
    for entry, label, launch in samples():
        for call in plan_launch(launch):
            yield call.entry, label if call.entry is entry else f"{label} (part of {entry.name})", launch, call
