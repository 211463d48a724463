"""Device "reference": runs plans with the NumPy kernels on a real arena, filled with NaN bytes before every run. Slow, obvious, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ExecutionError
from ..kernels import ref
from ..lowering.tensor import ARENA, Buffer, Launch, Tensor
from ..plan.plan import Plan
from .program import Arrays, BoundPlan, describe_nodes


class ReferenceMemory:
    """Stands in for kernels.cpu.Memory."""

    isa = "numpy"
    threads = 1
    replays_natively = False

    class packs:
        nbytes = 0

        @staticmethod
        def pack_at_bind() -> None:
            """There is nothing to pack."""

    def bind(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer]) -> ReferenceBound:
        return ReferenceBound(plan, inputs, outputs, self)

    def new_outputs(self, specs: list[Any]) -> list[Any]:
        return [np.empty(shape, dtype) for shape, dtype in specs]

    def wait(self) -> None:
        """Everything is done when `run` returns."""

    def sibling(self) -> ReferenceMemory:
        return self


class ReferenceBound(BoundPlan):
    """A plan replayed launch by launch with kernels/ref on strided views of one arena."""

    def __init__(self, plan: Plan, inputs: list[Buffer], outputs: list[Buffer], memory: Any) -> None:
        self._plan, self._instance, self.memory, self.inputs, self.outputs = plan, None, memory, inputs, outputs
        self.native = [launch for launch in plan.launches if launch.kernel != "host"]
        self.n_native = len(self.native)
        self.words = len(self.native)
        self.program = None
        self.simple = False
        self.arena = np.empty(plan.arena_bytes, np.uint8)

    def run(self, inputs: Arrays, outputs: Arrays, host: dict[int, Any] | None = None) -> None:
        self.arena.fill(0xFF)
        values = {} if host is None else host
        for launch in self.plan.launches:
            if launch.kernel == "host":
                self._call(launch, inputs, outputs, values)  # type: ignore[arg-type]
            else:
                try:
                    self._launch(launch, inputs, outputs)
                except IndexError as e:
                    raise ExecutionError(f"{describe_nodes(launch)}: {e}") from None

    def _launch(self, launch: Launch, inputs: Arrays, outputs: Arrays) -> None:
        view: Any = lambda t: None if t is None else self.read(t, inputs, outputs, {})
        ins = [np.empty(t.shape, t.dtype) if k == 0 and launch.prologue and t is not None else view(t) for k, t in enumerate(launch.ins)]
        results = ref.execute(
            launch.kernel, ins, [None if o is None else (o.shape, o.dtype) for o in launch.outs], launch.params, launch.body, launch.prologue,
            [view(t) for t in launch.pro_ins], launch.epilogue, [view(t) for t in launch.epi_ins], launch.acc_dtype,
        )  # fmt: skip
        for o, v in zip(launch.outs, results):
            if o is not None:
                self.read(o, inputs, outputs, {})[...] = np.asarray(v)

    def read(self, t: Tensor, inputs: Arrays, outputs: Arrays, host: dict[int, Any]) -> Any:
        if t.buffer.kind != ARENA:
            return super().read(t, inputs, outputs, host)
        k = t.dtype.itemsize
        at = self.plan.offsets[t.buffer]
        return np.ndarray(t.shape, t.dtype, self.arena.data, at + k * t.offset, tuple(k * s for s in t.strides))
