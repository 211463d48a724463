"""The ONNX graph in memory: plain data, attributes decoded once, shapes not needed.

Names are the identity of values, as in ONNX. `""` stands for an absent optional input or output. A subgraph keeps lexical scope: a name it reads
but does not define is a free variable, defined by an enclosing graph. Loading makes every name that a subgraph defines different from every
name visible around it, so rewrites may move names across scopes without capturing anything.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .functions import Function

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
INTERNAL = "pytensor_rt"  # the domain of nodes that ONNX has no op for
RELEASE_BYTES = 1 << 16  # pages of smaller spans are not worth a system call


class ValueInfo:
    """What the model says about a value. `kind` is None when it says nothing; `shape` None means unknown rank; a dim is int, name or None."""

    __slots__ = ("elem_type", "kind", "name", "shape", "type_string")

    def __init__(
        self,
        name: str,
        kind: str | None = None,
        elem_type: int | None = None,
        shape: tuple[int | str | None, ...] | None = None,
        type_string: str = "",
    ) -> None:
        self.name, self.kind, self.elem_type, self.shape, self.type_string = name, kind, elem_type, shape, type_string

    def __repr__(self) -> str:
        return f"{self.name}: {self.type_string or self.kind}{'' if self.shape is None else list(self.shape)}"


class Initializer:
    """A constant of the graph, read-only.

    A weight whose bytes lie in the mapped file and are aligned for its dtype is a view of the mapping (`mapped`). Protobuf does not align
    weights: a misaligned one is copied when `array` is first asked for, not while loading. `unaligned` gives the bytes where they are, as a
    NumPy array that may be misaligned, for packing code that reads them once; `release` then hands the file's pages back to the system.
    """

    __slots__ = ("_array", "_source", "mapped", "unaligned")

    def __init__(self, array: Array, mapped: bool = False, source: tuple[mmap.mmap, int, int] | None = None) -> None:
        array.flags.writeable = False
        self.unaligned = array
        self._array: Array | None = array if array.flags.aligned else None
        self.mapped = mapped and array.flags.aligned
        self._source = source

    @property
    def array(self) -> Array:
        """The value: aligned, C-contiguous unless it was made otherwise, read-only."""
        array = self._array
        if array is None:
            array = self.unaligned.copy()
            array.flags.writeable = False
            self._array = self.unaligned = array
            self.release()
            self._source = None
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.unaligned.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.unaligned.dtype

    @property
    def nbytes(self) -> int:
        return self.unaligned.nbytes

    @property
    def is_mapping(self) -> bool:
        """Do the bytes of `unaligned` lie in the mapped file?"""
        return self._source is not None

    def release(self) -> None:
        """Let the system drop the file pages behind this weight; reading it again reads the file again."""
        if self._source is None:
            return
        mapping, start, stop = self._source
        page = mmap.PAGESIZE
        first, last = -(-start // page) * page, stop // page * page
        if last - first >= RELEASE_BYTES:
            mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    def __repr__(self) -> str:
        return f"Initializer({self.dtype}{list(self.shape)}{', mapped' if self.mapped else ''})"


class Node:
    """One operator call. `domain` is "" for ai.onnx; `opset` is the version of its domain that applies here.

    `attrs` holds int, float, str (bytes if not UTF-8), tuples of those (long ones of numbers as `Numbers`), ndarrays, Graphs, tuples of Graphs, sparse
    tensors as dense ndarrays, TypeProto as it is. `origins` names the model's own nodes that this one stands for, when a rewrite made it. `derived` is what
    rules made of attributes alone, kept for the next trace (Tracer.derived).
    """

    __slots__ = ("attrs", "derived", "domain", "index", "inputs", "name", "op_type", "opset", "origins", "outputs", "subgraphs")

    def __init__(
        self,
        op_type: str,
        domain: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        attrs: dict[str, Any],
        index: int = -1,
        opset: int = 1,
        origins: tuple[str, ...] = (),
        subgraphs: tuple[Graph, ...] = (),
    ) -> None:
        self.op_type, self.domain, self.name = op_type, domain, name
        self.inputs, self.outputs, self.attrs = inputs, outputs, attrs
        self.index, self.opset, self.origins, self.subgraphs = index, opset, origins, subgraphs
        self.derived: dict[Any, Any] = {}

    @property
    def where(self) -> str:
        """`[Conv] 'conv1'`: how messages name this node."""
        op = f"{self.domain}::{self.op_type}" if self.domain else self.op_type
        return f"[{op}] '{self.name or (self.outputs[0] if self.outputs else '')}'"

    def reads(self) -> Iterator[str]:
        """Names this node needs: its present inputs and the free names of its subgraphs."""
        for name in self.inputs:
            if name:
                yield name
        for graph in self.subgraphs:
            yield from graph.free_names

    def __repr__(self) -> str:
        return f"{', '.join(self.outputs)} = {self.op_type}({', '.join(self.inputs)})"


class Graph:
    """Nodes in topological order. Call `touch` after changing nodes or outputs so that the derived facts are computed again."""

    __slots__ = ("_free", "_last_use", "initializers", "inputs", "name", "nodes", "outputs", "value_infos")

    def __init__(
        self,
        nodes: list[Node],
        initializers: dict[str, Initializer],
        inputs: list[ValueInfo],
        outputs: list[ValueInfo],
        name: str = "",
        value_infos: dict[str, ValueInfo] | None = None,
    ) -> None:
        self.nodes, self.initializers, self.inputs, self.outputs, self.name = nodes, initializers, inputs, outputs, name
        self.value_infos = {} if value_infos is None else value_infos
        self._free: tuple[str, ...] | None = None
        self._last_use: dict[str, int] | None = None

    @property
    def free_names(self) -> tuple[str, ...]:
        """Names read here (nested graphs included) that an enclosing graph must define, in order of first use."""
        if self._free is None:
            defined = self.defined()
            free: dict[str, None] = {}
            for node in self.nodes:
                for name in node.reads():
                    if name not in defined:
                        free[name] = None
            for out in self.outputs:
                if out.name not in defined:
                    free[out.name] = None
            self._free = tuple(free)
        return self._free

    @property
    def last_use(self) -> dict[str, int]:
        """For each name read: the position of the last node that reads it, nested reads included; len(nodes) for outputs."""
        if self._last_use is None:
            last: dict[str, int] = {}
            for i, node in enumerate(self.nodes):
                for name in node.reads():
                    last[name] = i
            for out in self.outputs:
                last[out.name] = len(self.nodes)
            self._last_use = last
        return self._last_use

    @property
    def overridable(self) -> frozenset[str]:
        """Initializers that a caller may replace because they are inputs too: never fold them."""
        return frozenset(v.name for v in self.inputs if v.name in self.initializers)

    def defined(self) -> set[str]:
        """Every name this graph itself defines."""
        names = set(self.initializers)
        names.update(v.name for v in self.inputs)
        for node in self.nodes:
            names.update(node.outputs)
        names.discard("")
        return names

    def touch(self) -> None:
        """Forget derived facts here and in nested graphs, and renumber the nodes."""
        self._free = self._last_use = None
        for i, node in enumerate(self.nodes):
            node.index = i
            for graph in node.subgraphs:
                graph.touch()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all nested ones, outermost first."""
        yield self
        for node in self.nodes:
            for graph in node.subgraphs:
                yield from graph.graphs()


class ModelMetadata:
    """What the file says about itself, under onnxruntime's names."""

    __slots__ = (
        "custom_metadata_map", "description", "domain", "graph_description", "graph_name", "ir_version", "producer_name", "producer_version", "version",
    )  # fmt: skip

    def __init__(
        self,
        producer_name: str = "",
        producer_version: str = "",
        graph_name: str = "",
        domain: str = "",
        description: str = "",
        graph_description: str = "",
        version: int = 0,
        custom_metadata_map: dict[str, str] | None = None,
        ir_version: int = 0,
    ) -> None:
        self.producer_name, self.producer_version, self.domain, self.version = producer_name, producer_version, domain, version
        self.graph_name, self.graph_description, self.description = graph_name, graph_description, description
        self.custom_metadata_map, self.ir_version = custom_metadata_map or {}, ir_version

    def __repr__(self) -> str:
        return f"ModelMetadata({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Model:
    """A loaded model. `opsets` maps a domain ("" for ai.onnx) to its version; `functions` are the model's own, by (domain, name)."""

    __slots__ = ("functions", "graph", "mappings", "metadata", "opsets", "path")

    def __init__(self, graph: Graph, opsets: dict[str, int], functions: dict[tuple[str, str], Function], metadata: ModelMetadata) -> None:
        self.graph, self.opsets, self.functions, self.metadata = graph, opsets, functions, metadata
        self.mappings: list[mmap.mmap] = []  # kept open as long as the model
        self.path: str | None = None
