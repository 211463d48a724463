"""The Tracer: runs op rules over tensors that have shapes, strides and dtypes but usually no data, and records kernel launches.

An op rule is `rule(t, *inputs, **attributes) -> value | tuple of values`. It returns views of its inputs, folded constants, or tensors that
a recorded launch will write. Values are Tensors, `Sequence`s of values, or None for an absent optional. Rules use only its methods and those
of the Recorder it is:

    t.map(fn, *xs)                       elementwise program over broadcast operands (fn works on expr.Vars)
    t.record(kernel, ins, outs, ...)     a launch of the vocabulary; outs are (shape, dtype) pairs
    x.permute / x.slice / x.expand ...   views (methods of Tensor); t.reshape copies only if no strides can express the result
    t.concat, t.copy, t.fill, t.empty    destination-style building blocks; copies are elided later where possible
    t.const, t.int_tensor                constants; int_tensor takes dimensions, which may be symbolic
    t.need / t.ints / t.floats / t.item  the value of a tensor, if the plan depends on it
    t.host(fn, ins, outs)                a Python function between kernels (strings, maps)
    t.derived(key, make)                 what depends on the node's attributes alone, made once for all traces
    t.made_once(name, parts, make)       a tensor made of others: of constants once for all traces
    t.node, t.fail(message)              the node being traced; a PlanError naming it; t.unsupported(what): an UnsupportedError
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import numpy as np

from ..dtypes import DType
from ..errors import PlanError, PytensorRtError, UnsupportedError
from .recorder import Recorder
from .tensor import ARENA, CONST, HOST, INPUT, Array, Buffer, Launch, Tensor, row_major
from .widening import narrowed, widened

STEER_ELEMENTS = 16


class Sequence:
    """An ONNX sequence while tracing: its length is known, its elements are values."""

    __slots__ = ("dtype", "items")

    def __init__(self, items: Iterable[Any], dtype: DType | None = None) -> None:
        self.items = list(items)
        self.dtype = dtype


Value = Any  # Tensor | Sequence | None
Rule = Callable[..., Any]


class NodeLike(Protocol):
    """What the tracer needs of graph.Node."""

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]
    index: int
    opset: int


class Steer(Exception):
    """The plan depends on the values of these small inputs: trace again with them known."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.names = names


class Frame:
    """A graph being traced: its environment and position."""

    __slots__ = ("env", "graph", "index", "outer")

    def __init__(self, graph: Any, env: dict[str, Value], outer: Frame | None) -> None:
        self.graph, self.env, self.outer, self.index = graph, env, outer, 0

    def get(self, name: str) -> Value:
        frame: Frame | None = self
        while frame is not None:
            if name in frame.env:
                return frame.env[name]
            frame = frame.outer
        raise KeyError(name)


class Resolve(Protocol):
    """Finds the rule of a node (runtime/resolve.py)."""

    def __call__(self, node: NodeLike) -> Rule: ...
    def by_definition(self, t: Tracer, *xs: Any) -> list[Any]: ...


class Tracer(Recorder):
    """One trace of a graph for one signature."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        cut: Callable[[Tracer, Tensor, list[Tensor]], Array] | None = None,
        steer: Callable[[str], bool] = lambda name: True,
        first_buffer: int = 0,
        widens: bool = False,
    ) -> None:
        """widens: float16 becomes float32 (widening.py)."""
        super().__init__(first_buffer)
        self.resolve = resolve
        self.widens = widens
        self.frame: Frame | None = None
        self.kept: list[Value] = []  # values that rules hold on to across a possible cut (loop state)
        self.views = 0  # nodes that recorded nothing and folded nothing: their results are views
        self._cut = cut
        self._may_steer = steer

    # ---------------------------------------------------------------------------------------------------------------- values
    def need(self, x: Tensor) -> Array:
        """The value of x. If it is not known the plan comes to depend on it: through small inputs (a retrace), or by ending the segment."""
        if x.known:
            return x.value  # type: ignore[return-value]
        leaves = self._leaves(x)
        if leaves and all(
            b.kind == INPUT
            and b.dtype.kind in "iub"
            and b.size <= STEER_ELEMENTS
            and not b.name.startswith("carry:")
            and self._may_steer(b.name)
            for b in leaves
        ):
            raise Steer(tuple(sorted(b.name for b in leaves)))
        if self._cut is None:
            self.fail("the value of an input is needed while planning, but it is only known at run time")
        live = self._live()
        value = self._cut(self, x, live)
        x.buffer = self.buffer(CONST, value.size, x.dtype, value)
        x.offset, x.strides, x._value, x.vid = 0, row_major(x.shape), value, x.buffer.id
        return value

    def ints(self, x: Tensor) -> tuple[int, ...]:
        """The value of an integer tensor, flattened; dimensions may be symbolic."""
        return tuple(self.need(x).reshape(-1).tolist())

    def floats(self, x: Tensor) -> tuple[float, ...]:
        """The value of a float tensor, flattened."""
        return tuple(float(v) for v in self.need(x).reshape(-1))

    def item(self, x: Tensor) -> Any:
        """The value of a tensor with one element, as a Python number (or symbolic integer)."""
        v = self.need(x).reshape(-1)
        if len(v) != 1:
            self.fail(f"expected a tensor of one element, got shape {list(x.shape)}")
        return v[0] if v.dtype == object or v.dtype.kind == "V" else v[0].item()

    def _leaves(self, x: Tensor) -> list[Buffer]:
        """The non-constant buffers, not written by any launch, that x depends on."""
        writers: dict[int, list[Launch]] = {}
        for launch in self.launches:
            for o in launch.writes():
                writers.setdefault(o.buffer.id, []).append(launch)
        seen: set[int] = set()
        todo, out = [x.buffer], []
        while todo:
            b = todo.pop()
            if b.id in seen or b.kind == CONST:
                continue
            seen.add(b.id)
            if b.id not in writers:
                out.append(b)
            for launch in writers.get(b.id, ()):
                todo += [t.buffer for t in launch.reads()]
        return out

    def _live(self) -> list[Tensor]:
        """Every distinct tensor that later nodes of any active graph may read, in a deterministic order."""
        found: dict[int, Tensor] = {}

        def visit(v: Value) -> None:
            if isinstance(v, Tensor):
                if v.buffer.kind in (ARENA, HOST):
                    found.setdefault(id(v), v)
            elif isinstance(v, Sequence):
                for item in v.items:
                    visit(item)

        for v in self.kept:
            visit(v)
        frame = self.frame
        while frame is not None:
            last = frame.graph.last_use
            for name, v in frame.env.items():
                if last.get(name, -1) >= frame.index:
                    visit(v)
            frame = frame.outer
        return list(found.values())

    # ----------------------------------------------------------------------------------------------------------------- nodes
    def fail(self, message: str) -> NoReturn:
        """Raise a PlanError that names the current node."""
        raise PlanError(f"{self.where()}: {message}{self.operands()}")

    def unsupported(self, what: str) -> NoReturn:
        """Raise an UnsupportedError that names the current node: what it asks for is valid and has no implementation here."""
        raise UnsupportedError(f"{self.where()}: {what} is not supported{self.operands()}")

    def derived(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, called once for this node and key: arrays made of attributes alone, which every trace of the model shares (and with them what
        kernels pack of them)."""
        if self.node is None:
            return make()
        if key not in self.node.derived:
            self.node.derived[key] = make()
        return self.node.derived[key]

    def made_once(self, name: Any, parts: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """What `make` computes of these parts; of constants once for this node and name, so that traces share the result and what is packed of it."""
        if self.node is None or not all(p.known for p in parts):
            return make()
        key = [(id(p.buffer.data), p.offset, p.shape, p.strides) for p in parts]
        found = self.node.derived.get(name)
        if found is None or found[0] != key:
            made = make()
            if not made.known:
                return made
            memory = [p.buffer.data for p in parts]  # lives on, or something else could get its id
            found = self.node.derived[name] = key, memory, np.ascontiguousarray(made.value)
        return self.const(found[2])

    def where(self) -> str:
        n = self.node
        return "graph" if n is None else f"[{n.domain + '.' if n.domain else ''}{n.op_type}] {n.name or '/'.join(n.outputs)!r}"

    def operands(self) -> str:
        """The current node's inputs, for error messages."""
        if self.node is None or self.frame is None:
            return ""
        parts = []
        for name in self.node.inputs:
            try:
                v = self.frame.get(name) if name else None
            except KeyError:
                v = None
            if isinstance(v, Tensor):
                parts.append(f"{name}: {v.dtype}{list(map(int, v.shape))}")
            elif v is not None:
                parts.append(f"{name}: {type(v).__name__.lower()}")
        return f" (inputs: {', '.join(parts)})" if parts else ""

    def run(self, graph: Any, env: dict[str, Value], nested: bool = True) -> list[Value]:
        """Trace all nodes of a graph. `env` maps its inputs (and receives everything it defines); returns its outputs.

        nested: names that env lacks are looked up in the graph being traced around it (subgraphs); False for function bodies.
        """
        outer = self.frame
        frame = self.frame = Frame(graph, env, outer if nested else None)
        hidden = outer if not nested else None
        for name, init in graph.initializers.items():
            if name not in env:
                env[name] = self.initializer(init)
        caller, node = self.node, None
        if hidden is not None:  # a function body cannot see its caller's names, but what the caller still needs must survive a cut
            self.kept.append(Sequence(_frame_values(hidden)))
        try:
            for node in graph.nodes:
                self.node = node
                frame.index = node.index
                self.step(node, frame)
            frame.index = len(graph.nodes)
            self.node = caller
            values = [frame.get(v.name) for v in graph.outputs]
            return narrowed(self, values, graph.outputs) if outer is None and self.widens else values
        finally:
            if hidden is not None:
                self.kept.pop()
            self.frame = outer

    def step(self, node: Any, frame: Frame) -> None:
        """Trace one node: look up its inputs, call its rule, bind its outputs."""
        env = frame.env
        rule = self.resolve(node)
        recorded = len(self.launches)
        try:
            inputs = [(env[i] if i in env else frame.get(i)) if i else None for i in node.inputs]
            if self.widens:
                inputs = widened(self, node, inputs)
            values = rule(self, *inputs, **node.attrs)
        except (PytensorRtError, Steer):
            raise
        except (ValueError, TypeError, IndexError, KeyError, AssertionError, AttributeError) as e:
            self.node = node
            raise PlanError(f"{self.where()}: {type(e).__name__}: {e}{self.operands()}") from e
        if (
            len(self.launches) == recorded
            and isinstance(v := values[0] if isinstance(values, (tuple, list)) and values else values, Tensor)
            and not v.known
        ):
            self.views += 1
        if isinstance(values, (tuple, list)):
            for name, v in zip(node.outputs, values):
                if name:
                    env[name] = v
        elif node.outputs and node.outputs[0]:
            env[node.outputs[0]] = values


def _frame_values(frame: Frame | None) -> list[Value]:
    out: list[Value] = []
    while frame is not None:
        out += [v for n, v in frame.env.items() if frame.graph.last_use.get(n, -1) >= frame.index]
        frame = frame.outer
    return out
