"""The engine of a session: signatures, steering inputs, segments, plan cache.

A signature is the shapes and dtypes of the inputs plus the values of steering inputs. Its entry is a tree of segments: a segment is a bound plan;
where a later part of the graph depends on a value known only at run time, the segment ends by handing that value out and the next segment is
looked up by it. The first run of a path traces and executes in turns: when a rule needs such a value, everything recorded so far is planned, bound
and run, and tracing goes on with the value in hand. Later runs follow the tree; on a value not seen before the graph is traced again with the
known answers up to that point.
"""

from __future__ import annotations

from _thread import RLock
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dtypes import STRING, DType, from_code
from ..errors import PlanError
from ..graph import Graph, Initializer, Model
from ..lowering.tensor import ARENA, HOST, INPUT, OUTPUT, Array, Buffer, Launch, Tensor, row_major, tensors_of
from ..lowering.tracer import Sequence, Steer, Tracer
from ..lowering.widening import widens
from ..plan.plan import Plan, PlanOptions, make_plan
from .program import BoundPlan
from .quiet import Quiet
from .resolve import Resolver
from .segment import Segment, segments
from .templates import Templates

MAX_STEERING_KEYS = 8  # distinct values per shape after which an input stops steering
CACHE_WORDS = 8 << 20  # encoded words kept over all cached plans (64 MiB)

InputSpec = tuple[str, tuple[int, ...], DType]
Layout = tuple[tuple[int, ...], int, int]  # strides, offset and extent in elements of an input that is used where it lies
_DENSE: Mapping[str, Layout] = {}


class Entry:
    """Everything known about one signature."""

    def __init__(self) -> None:
        self.first: Segment | None = None
        self.words = 0


class Engine:
    """Traces, plans, binds and runs one model."""

    def __init__(self, model: Model, memory: Any, options: PlanOptions = PlanOptions()) -> None:  # noqa: B008
        self.model, self.memory, self.options = model, memory, options
        self.resolver = Resolver(model)
        self.resolver.check()
        self.lock = RLock()
        self.cache: OrderedDict[Any, Entry] = OrderedDict()
        self.words = 0
        self.traces = 0
        self.plans = 0
        self.steering: dict[str, set[bytes]] = {}
        self.not_steering: set[str] = set()
        graph = model.graph
        self.overridable = graph.overridable
        self.input_infos = [v for v in graph.inputs if v.name not in graph.initializers]
        self.output_names = [v.name for v in graph.outputs]
        self.widens = memory.replays_natively and widens(graph)
        self.base_env, self.graph, self.next_buffer = self._fold(graph)
        self.templates = Templates(self) if memory.replays_natively and not self.overridable else None

    def sibling(self) -> Engine:
        """Another engine of this model with memory and plans of its own; it shares the graph, the constants and the packed weights."""
        other = object.__new__(Engine)
        other.__dict__.update(self.__dict__)
        other.memory, other.lock = self.memory.sibling(), RLock()
        other.cache, other.words, other.traces, other.plans = OrderedDict(), 0, 0, 0
        other.steering, other.not_steering = {}, set()
        other.templates = Templates(other) if self.templates is not None else None
        return other

    # ------------------------------------------------------------------------------------------------------------- preparation
    def _fold(self, graph: Graph) -> tuple[dict[str, Any], Graph, int]:
        """Run every rule whose operands are all constants once: the environment all traces start from, and the graph that is left.

        What only folded nodes read is let go as soon as the last of them has run, and so are the file's pages behind it.
        """
        t = Tracer(self.resolver)
        env: dict[str, Any] = {}
        mapped: dict[Buffer, Initializer] = {}
        for name, init in graph.initializers.items():
            if name not in self.overridable:
                env[name] = value = t.initializer(init)
                if value.buffer.mapped:
                    mapped[value.buffer] = init
        from ..lowering.tracer import Frame

        t.frame = Frame(graph, env, None)
        readers = Counter(n for node in graph.nodes for n in node.reads()) + Counter(v.name for v in graph.outputs)
        views = Counter(mapped.keys())  # names whose values lie in the buffer
        rest = []
        for node in graph.nodes:
            if node.subgraphs or not node.inputs or any(n and n not in env for n in node.inputs) or node.op_type.startswith("Random"):
                rest.append(node)
                continue
            t.node = node
            before = len(t.launches)
            try:
                t.step(node, t.frame)
            except Exception:  # whatever is wrong will be reported when the node is traced with its inputs
                rest.append(node)
                continue
            values = [env.get(o) for o in node.outputs if o]
            if len(t.launches) != before or not all(isinstance(v, Tensor) and v.known for v in values):
                del t.launches[before:]
                for o in node.outputs:
                    env.pop(o, None)
                rest.append(node)
                continue
            views.update(v.buffer for v in values if isinstance(v, Tensor) and v.buffer in mapped)
            readers.subtract(node.reads())
            for n in set(node.reads()):
                if readers[n] <= 0:
                    buffer = env.pop(n).buffer
                    views[buffer] -= 1
                    if buffer in mapped and not views[buffer]:
                        mapped[buffer].release()
        needed = {n for node in rest for n in node.reads()} | {v.name for v in graph.outputs}
        env = {k: v for k, v in env.items() if k in needed}
        left = Graph(rest, {k: v for k, v in graph.initializers.items() if k in self.overridable}, graph.inputs, graph.outputs, graph.name)
        last: dict[str, int] = {}
        for node in rest:
            for name in node.reads():
                last[name] = node.index
        for out in graph.outputs:
            last[out.name] = len(graph.nodes)
        left._last_use = last
        return env, left, t._next

    # ---------------------------------------------------------------------------------------------------------------- tracing
    def may_steer(self, name: str) -> bool:
        return name not in self.not_steering

    def tracer(
        self, specs: list[InputSpec], known: dict[str, Array], cut: Any = None, layouts: Mapping[str, Layout] = _DENSE
    ) -> tuple[Tracer, dict[str, Any]]:
        """A tracer and its starting environment for inputs of these shapes.

        `known` gives the steering inputs' values, `layouts` the inputs that do not lie in row-major order.
        """
        self.traces += 1
        t = Tracer(self.resolver, cut=cut, steer=self.may_steer, first_buffer=self.next_buffer, widens=self.widens)
        env = dict(self.base_env)
        sequences: dict[str, list[Tensor]] = {}
        for name, shape, dtype in specs:
            base, _, _element = name.partition("#")
            if name.endswith("#len"):
                sequences.setdefault(base, [])
                continue
            if name in known:
                v: Tensor = t.const(known[name].copy())
            elif 0 in shape:
                v = t.const(np.empty(tuple(map(int, shape)), dtype))
            elif name in layouts:
                strides, offset, extent = layouts[name]
                v = Tensor(t.buffer(INPUT, extent, dtype, name=name), offset, shape, strides, dtype)
            else:
                b = t.buffer(INPUT, _size(shape), dtype, name=name)
                b.home = (shape, row_major(shape))
                v = Tensor(b, 0, shape, row_major(shape), dtype)
            if base != name:
                sequences.setdefault(base, []).append(v)
            else:
                env[name] = v
        for info in self.input_infos:
            if info.kind == "sequence":
                env[info.name] = Sequence(sequences.get(info.name, []), from_code(info.elem_type) if info.elem_type else None)
            elif info.kind == "optional" and info.name not in env:
                held = sequences.get(info.name)
                if held is not None and info.type_string.startswith("optional(seq("):
                    env[info.name] = Sequence(held, from_code(info.elem_type) if info.elem_type else None)
                else:
                    env[info.name] = held[0] if held else None
        return t, env

    def finish(self, t: Tracer, values: list[Any]) -> tuple[dict[str, Any], list[Buffer]]:
        """Record the copies that hand out the graph's outputs; returns the value tree and the OUTPUT buffers."""
        buffers: list[Buffer] = []

        def out(v: Any) -> Any:
            if isinstance(v, Sequence):
                return Sequence([out(i) for i in v.items], v.dtype)
            if not isinstance(v, Tensor) or v.known or v.buffer.kind == HOST or v.dtype == STRING:
                return v
            b = t.buffer(OUTPUT, v.size, v.dtype)
            b.home = (v.shape, row_major(v.shape))
            buffers.append(b)
            o = Tensor(b, 0, v.shape, row_major(v.shape), v.dtype)
            t.copy(v, o)
            return o

        return {name: out(v) for name, v in zip(self.output_names, values)}, buffers

    def segment(
        self,
        launches: list[Launch],
        results: Any,
        out_buffers: list[Buffer],
        keep: set[Buffer],
        read: Tensor | None,
        carried: Any,
        views: int = 0,
        memory: Any = None,
    ) -> Segment:
        """Plan and bind recorded launches."""
        plan = make_plan(launches, results if read is None else {"": Sequence([read])}, self.options, keep)
        self.plans += 1
        plan.stats["views"] = views
        inputs = self.input_buffers(plan, results)
        memory = memory or self.memory
        bound = BoundPlan(plan, inputs, out_buffers, memory) if memory.replays_natively else memory.bind(plan, inputs, out_buffers)
        return Segment(bound, results, read, carried)

    def input_buffers(self, plan: Plan, results: Any) -> list[Buffer]:
        """The INPUT buffers a plan reads or hands out, in order of first use."""
        inputs: list[Buffer] = []
        seen: set[Buffer] = set()
        for launch in plan.launches:
            for x in launch.reads():
                if x.buffer.kind == INPUT and x.buffer not in seen:
                    seen.add(x.buffer)
                    inputs.append(x.buffer)
        for v in tensors_of(results):
            if v.buffer.kind == INPUT and v.buffer not in seen:
                seen.add(v.buffer)
                inputs.append(v.buffer)
        return inputs

    # ---------------------------------------------------------------------------------------------------------------- running
    def entry(self, key: Any) -> Entry | None:
        e = self.cache.get(key)
        if e is not None:
            self.cache.move_to_end(key)
        return e

    def key_of(self, shape_key: Any, feeds: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        """The cache key: shapes and dtypes plus the values of the steering inputs."""
        known = {n: feeds[n] for n in self.steering if n in feeds}
        return (shape_key, *(v.tobytes() for v in known.values())), known

    def run(self, shape_key: Any, specs: list[InputSpec], feeds: dict[str, Array]) -> dict[str, Any]:
        """Run the model on validated inputs; returns all outputs by name."""
        layouts = {n: found for n, a in feeds.items() if (found := getattr(a, "layout", None)) is not None}
        if layouts:
            shape_key = (*shape_key, *layouts.items())
        with self.lock:
            while True:
                plans = self.plans
                key, known = self.key_of(shape_key, feeds)
                e = self.entry(key)
                if e is None:
                    if self._tired(shape_key, known):
                        continue
                    e = Entry()
                    if self.templates is not None:
                        with Quiet():
                            e.first = self.templates.find(specs, known)
                try:
                    out = _Run(self, e, specs, known, feeds, layouts).run()
                except Steer as s:
                    for name in s.names:
                        self.steering[name] = set()
                    continue
                if key not in self.cache or self.plans != plans:  # new, or grown by a segment
                    self._remember(key, e)
                return out

    def _tired(self, shape_key: Any, known: dict[str, Array]) -> bool:
        """Count distinct steering values; an input with too many stops steering (its reads become segment boundaries)."""
        for name, v in known.items():
            values = self.steering[name]
            values.add(repr(shape_key).encode() + v.tobytes())
            if len(values) > MAX_STEERING_KEYS:
                same_shape = sum(1 for q in values if q.startswith(repr(shape_key).encode()))
                if same_shape > MAX_STEERING_KEYS:
                    self.not_steering.add(name)
                    del self.steering[name]
                    return True
        return False

    def _remember(self, key: Any, e: Entry) -> None:
        self.cache[key] = e
        self.words -= e.words
        e.words = max(1, sum(s.bound.words for s in segments(e.first)))
        self.words += e.words
        while self.words > CACHE_WORDS and len(self.cache) > 1:
            _, old = self.cache.popitem(last=False)
            self.words -= old.words

    # ----------------------------------------------------------------------------------------------------------------- binding
    def bind_static(self, feeds: dict[str, Array], valued: set[str], memory: Any) -> Segment:
        """One segment bound to memory of its own. Steering inputs must be among `valued`: their values are baked into the plan.

        Raises PlanError if the model is not one static segment for these inputs.
        """
        with self.lock:
            specs = [(n, a.shape, a.dtype) for n, a in feeds.items()]
            known: dict[str, Array] = {}
            while True:
                t, env = self.tracer(specs, known)
                try:
                    values = t.run(self.graph, env)
                    break
                except Steer as s:
                    missing = [n for n in s.names if n not in valued]
                    if missing:
                        raise PlanError(
                            f"bind: the plan depends on the value of input {missing[0]!r}: give an array instead of a shape"
                        ) from None
                    known |= {n: feeds[n] for n in s.names}
            results, buffers = self.finish(t, values)
            for name, v in results.items():
                if not isinstance(v, Tensor) or v.buffer.kind == HOST:
                    raise PlanError(f"bind: output {name!r} is not a tensor of numbers, so it has no buffer; use run()")
            return self.segment(t.launches, results, buffers, set(), None, [], t.views, memory)


class _Run:
    """One execution: follows the segment tree, extending it where it ends."""

    def __init__(
        self,
        engine: Engine,
        entry: Entry,
        specs: list[InputSpec],
        known: dict[str, Array],
        feeds: dict[str, Array],
        layouts: Mapping[str, Layout] = _DENSE,
    ) -> None:
        self.engine, self.entry, self.specs, self.known, self.layouts = engine, entry, specs, known, layouts
        self.values: dict[str, Any] = dict(feeds)  # inputs and carried values by buffer name
        self.host: dict[int, Any] = {}
        self.answers: list[Array] = []
        self.path: list[Segment] = []

    def run(self) -> dict[str, Any]:
        segment = self.entry.first
        while segment is not None:
            arrays = self.execute(segment)
            if segment.read is None:
                return self.collect(segment, arrays)
            segment = segment.children.get(self.answers[-1].tobytes())
        return self.extend()

    def execute(self, segment: Segment) -> list[Any]:
        arrays = segment.run(self.values, self.host)
        self.path.append(segment)
        if segment.read is not None:
            self.answers.append(segment.hand_on(arrays, self.values))
        return arrays

    def extend(self) -> dict[str, Any]:
        """Trace again with the answers so far, then go on live."""
        engine = self.engine
        depth = 0

        def cut(t: Tracer, x: Tensor, live: list[Tensor]) -> Array:
            nonlocal depth
            launches, t.launches = t.launches, []
            moving = [v for v in live if v.buffer.kind == ARENA and v is not x]
            buffers: list[Buffer] = []
            carried = []
            fresh: list[tuple[Tensor, Tensor]] = []
            for k, v in enumerate(moving):
                o, i = t.buffer(OUTPUT, v.size, v.dtype), t.buffer(INPUT, v.size, v.dtype, name=f"carry:{depth}:{k}")
                o.home = i.home = (v.shape, row_major(v.shape))
                fresh.append((Tensor(o, 0, v.shape, row_major(v.shape), v.dtype), Tensor(i, 0, v.shape, row_major(v.shape), v.dtype)))
                buffers.append(o)
                carried.append((i.name, o))
            o = t.buffer(OUTPUT, x.size, x.dtype)
            o.home = (x.shape, row_major(x.shape))
            read = Tensor(o, 0, x.shape, row_major(x.shape), x.dtype)
            buffers.append(o)
            if depth >= len(self.answers):
                for v, (dst, _) in zip(moving, fresh):
                    t.launches.append(Launch("map", [v], [dst], None, (("load", (0,), v.dtype),)))
                t.launches.append(Launch("map", [x], [read], None, (("load", (0,), x.dtype),)))
                tail, t.launches = t.launches, []
                keep = {v.buffer for v in live if v.buffer.kind == HOST}
                clones = [launch.clone() for launch in (*launches, *tail)]
                segment = engine.segment(clones, None, buffers, keep, read, carried)
                self.attach(segment)
                self.execute(segment)
            for v, (_, src) in zip(moving, fresh):
                v.buffer, v.offset, v.strides, v.vid, v._value = src.buffer, 0, src.strides, src.vid, None
            depth += 1
            return self.answers[depth - 1]

        with Quiet():
            t, env = engine.tracer(self.specs, self.known, cut, self.layouts)
            values = t.run(engine.graph, env)
            results, buffers = engine.finish(t, values)
            keep = {v.buffer for v in tensors_of(results) if v.buffer.kind == HOST}
            segment = engine.segment(t.launches, results, buffers, keep, None, [], t.views)
        self.attach(segment)
        return self.collect(segment, self.execute(segment))

    def collect(self, segment: Segment, arrays: list[Any]) -> dict[str, Any]:
        return dict(zip(segment.results, segment.collect(arrays, self.values, self.host)))

    def attach(self, segment: Segment) -> None:
        if self.path:
            self.path[-1].children[self.answers[-1].tobytes()] = segment
        else:
            self.entry.first = segment


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for m in shape:
        n = n * m
    return n
