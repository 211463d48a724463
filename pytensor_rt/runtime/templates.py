"""Templates of a session: the second shape of a kind is traced with symbolic dimensions, and so is the third; from then on fill tables.

A kind is everything about a signature except the sizes of its dynamic dimensions. Dimensions of size 0 or 1 stay fixed (their strides and views
are different); dimensions that share a symbolic name and a size share a variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PytensorRtError
from ..lowering.symbolic import Recorder, is_symbolic
from ..lowering.tensor import Tensor
from ..lowering.tracer import Steer, Tracer
from ..plan.bands import may_cut
from ..plan.plan import VERIFY, make_plan
from .program import BoundPlan, Encoded
from .segment import Segment

if TYPE_CHECKING:
    from ..plan.template import Instance, Template

Specs = list[tuple[str, tuple[int, ...], Any]]


class Kind:
    """The dynamic dimensions of a signature: which (input, axis) is which variable."""

    def __init__(self, specs: Specs, infos: dict[str, Any]) -> None:
        self.dims: list[int] = []
        variables: dict[tuple[Any, int], int] = {}
        self.where: list[tuple[tuple[int, int], ...]] = []  # per input: (axis, variable)
        key = []
        for name, shape, dtype in specs:
            info = infos.get(name)
            axes = []
            fixed: list[Any] = []
            for axis, n in enumerate(shape):
                declared = info.shape[axis] if info is not None and info.shape is not None and axis < len(info.shape) else None
                if (isinstance(declared, int) and declared > 0) or n < 2 or info is None:
                    fixed.append(n)
                    continue
                symbol = (declared if declared else (name, axis), n)
                v = variables.get(symbol)
                if v is None:
                    v = variables[symbol] = len(self.dims)
                    self.dims.append(n)
                axes.append((axis, v))
                fixed.append(("d", v))
            self.where.append(tuple(axes))
            key.append((name, tuple(fixed), dtype))
        self.key = tuple(key)

    def symbolic_specs(self, specs: Specs, recorder: Recorder, dims: list[int]) -> Specs:
        """The specs with SymInts, hinting at `dims`."""
        values = [recorder.dimension(k, n) for k, n in enumerate(dims)]
        out = []
        for (name, shape, dtype), axes in zip(specs, self.where):
            new = list(shape)
            for axis, v in axes:
                new[axis] = values[v]
            out.append((name, tuple(new), dtype))
        return out


class SessionTemplate:
    """A verified template with what is needed to make segments of it."""

    def __init__(
        self,
        template: Template,
        results: dict[str, Any],
        encoded: Encoded,
        inputs: Any,
        outputs: Any,
        plan: Any,
        ranks: list[int],
        values: list[str],
    ) -> None:
        self.template, self.results, self.encoded, self.inputs, self.outputs, self.plan = template, results, encoded, inputs, outputs, plan
        self.ranks = ranks  # of every output buffer: `extra` begins with their shapes
        self.values = values  # outputs that are integers computed from dimensions: `extra` goes on with their elements
        self.program: Any = None  # of the last instance: the next one shares the launches that do not depend on its dimensions


class Templates:
    """The templates of one engine, by kind."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.constants = Tracer(engine.resolver)  # makes constant outputs
        self.infos = {v.name: v for v in engine.input_infos}
        self.seen: set[Any] = set()  # kinds of which there was a shape
        self.drafts: dict[Any, tuple[SessionTemplate, list[int]]] = {}  # traced once, with these sizes
        self.made: dict[Any, SessionTemplate | None] = {}  # traced twice with the same result; None: not possible

    def find(self, specs: Specs, known: dict[str, Any]) -> Any:
        """A segment for these specs from a template, or None. The second shape of a kind drafts one, the third has it checked."""
        kind = Kind(specs, self.infos)
        if not kind.dims:
            return None
        key = (kind.key, *((n, v.tobytes()) for n, v in known.items()))
        made = self.made.get(key)
        if made is None:
            if key in self.made:
                return None
            if key not in self.seen:
                self.seen.add(key)
                return None
            draft = self.drafts.get(key)
            if draft is None:
                made = self.draft(kind, specs, known, kind.dims)
                if made is None:
                    self.made[key] = None
                    return None
                self.drafts[key] = made, kind.dims  # good for the shape it was traced with, at least
            elif draft[1] == kind.dims:
                made = draft[0]
            else:
                other = _apart(kind.dims, *draft)
                if other is None:
                    return None
                second = self.draft(kind, specs, known, other)
                del self.drafts[key]
                same = second is not None and draft[0].template.same_as(second.template)
                made = self.made[key] = draft[0] if same else None
                if made is None:
                    return None
        found = made.template.instantiate(kind.dims)
        if found is None:
            return None
        if self.engine.options.workers and may_cut(made.plan.launches, (found.concrete(n) for _, _, n in made.plan.items)):
            return None  # chains are cut for the sizes at hand
        if VERIFY:
            from ..plan.verify import verify

            verify(found.plan(made.plan))
        return self.segment(made, found)

    def segment(self, made: SessionTemplate, found: Instance) -> Any:
        extra = found.extra
        shapes, at = [], 0
        for rank in made.ranks:
            shapes.append(tuple(extra[at : at + rank]))
            at += rank
        results = dict(made.results)
        for name in made.values:
            v = results[name]
            results[name] = self.constants.const(np.array(extra[at : at + v.size], v.dtype).reshape(v.shape))
            at += v.size
        bound = BoundPlan(made.plan, made.inputs, made.outputs, self.engine.memory, made.encoded, found, made.program)
        made.program = bound.program
        segment = Segment(bound, results, None, [])
        segment.out_specs = [(s, b.dtype) for s, b in zip(shapes, made.outputs)]
        return segment

    def draft(self, kind: Kind, specs: Specs, known: dict[str, Any], dims: list[int]) -> SessionTemplate | None:
        """A template traced with these sizes; None if the model or these shapes do not allow one."""
        try:
            return self.trace(kind, specs, known, dims)
        except (PytensorRtError, Steer, NotImplementedError, TypeError, ValueError, OverflowError):
            return None

    def trace(self, kind: Kind, specs: Specs, known: dict[str, Any], dims: list[int]) -> SessionTemplate | None:
        from ..plan.template import Template

        engine = self.engine
        recorder = Recorder()
        t, env = engine.tracer(kind.symbolic_specs(specs, recorder, dims), known)
        values = t.run(engine.graph, env)
        results, outputs = engine.finish(t, values)
        if any(not isinstance(v, Tensor) or (v.known and any(is_symbolic(n) for n in v.shape)) for v in results.values()):
            return None
        values_at = [name for name, v in results.items() if _holds_symbols(v)]
        if any(launch.kernel == "host" for launch in t.launches):
            return None
        plan = make_plan(t.launches, results, engine.options, check=False)
        inputs = engine.input_buffers(plan, results)
        encoded = Encoded(plan, inputs, outputs)
        if any(c.dtype == object for c in encoded.consts):
            return None
        number = dict(plan.roots)
        arena_words = [(at, number[b]) for at, b in encoded.arena_words]
        extra: list[int] = []
        ranks = []
        for b in outputs:
            shape = b.home[0]
            ranks.append(len(shape))
            extra += shape
        for name in values_at:
            extra += results[name].value.reshape(-1).tolist()
        template = Template(recorder, len(dims), encoded.code, arena_words, plan.items, extra)
        return SessionTemplate(template, results, encoded, inputs, outputs, plan, ranks, values_at)


def _apart(dims: list[int], first: SessionTemplate, traced: list[int]) -> list[int] | None:
    """Sizes for the second trace of a template, all of them others than the first had, if its guards allow it: what was silently fixed at a
    size then comes out different. None if the guards refuse these dimensions."""
    for more in (1, 8, 0):
        other = [n if n != old else n + more for n, old in zip(dims, traced)]
        if other != traced and first.template.accepts(other):
            return other
    return None


def _holds_symbols(v: Tensor) -> bool:
    value = v.value
    return value is not None and value.dtype == object and any(is_symbolic(n) for n in value.reshape(-1))
