"""Open a model: map the file, read all but the weights, build the graph, verify it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from . import wire
from .build import Builder, check_text, normal_domain
from .external import Bytes, ExternalFiles, map_file
from .functions import Function, function
from .model import Model, ModelMetadata
from .tensors import TensorReader
from .verify import verify

if TYPE_CHECKING:
    from onnx import ModelProto


def load_model(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | ModelProto, *, base_dir: str | os.PathLike[str] | None = None
) -> Model:
    """Load and verify a model from a path, from its bytes, or from a ModelProto.

    Weights of a path or of bytes stay where they are (see Initializer). External data is looked for next to the file, or in `base_dir`, which
    sources without a path need. Raises ModelError if the model is damaged or inconsistent, ExternalDataError if external data is missing or
    outside the folder, OSError if the file cannot be opened.
    """
    path: str | None = None
    mapping: mmap.mmap | None = None
    data: Bytes = np.empty(0, np.uint8)
    proto: ModelProto | wire.Message
    folders: list[str] = [] if base_dir is None else [os.fspath(base_dir)]
    if isinstance(source, (str, os.PathLike)):
        path = os.path.abspath(os.fspath(source))
        try:
            mapping, data = map_file(path)
        except ValueError as error:
            raise ModelError(f"'{path}': {error}") from None
        if mapping is None:
            raise ModelError(f"'{path}' is an empty file")
        if not folders:  # a file that is itself a link (as in download caches) may have its data next to its target
            folders = [os.path.dirname(path), os.path.dirname(os.path.realpath(path))]
        proto = wire.read_message("ModelProto", mapping, data)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        if not content:
            raise ModelError("the model has no bytes")
        data = np.frombuffer(content, np.uint8)
        proto = wire.read_message("ModelProto", content, data)
    else:
        proto = source
    external = ExternalFiles(dict.fromkeys(folders))
    reader = TensorReader(external, data, mapping)
    try:
        model = _model(proto, reader)
        verify(model)
    except UnicodeDecodeError as error:
        raise ModelError(f"damaged model: a name is not UTF-8: {error}") from None
    model.path = path
    model.mappings = ([] if mapping is None else [mapping]) + external.mappings
    return model


def _model(p: ModelProto | wire.Message, reader: TensorReader) -> Model:
    if not p.HasField("graph"):
        raise ModelError("not an ONNX model, or cut off: it has no graph")
    properties = [text for e in p.metadata_props for text in (e.key, e.value)]
    check_text("the model", p.producer_name, p.producer_version, p.domain, p.doc_string, p.graph.doc_string, *properties)
    check_text("the opset imports", *[o.domain for o in p.opset_import])
    opsets: dict[str, int] = {}
    for o in p.opset_import:
        domain = normal_domain(o.domain)
        if opsets.setdefault(domain, o.version) != o.version:
            raise ModelError(f"opset of domain '{domain or 'ai.onnx'}' is imported twice: versions {opsets[domain]} and {o.version}")
    if not opsets and p.ir_version < 3:
        opsets[""] = 1  # imports came with IR version 3
    g = p.graph
    metadata = ModelMetadata(
        p.producer_name,
        p.producer_version,
        g.name,
        p.domain,
        p.doc_string,
        g.doc_string,
        p.model_version,
        _pairs(p.metadata_props),
        p.ir_version,
    )
    functions: dict[tuple[str, str], Function] = {}
    for f in p.functions:
        key = (normal_domain(f.domain), f"{f.name}:{f.overload}" if f.overload else f.name)
        if key in functions:
            raise ModelError(f"function '{key[0]}::{key[1]}' is defined twice")
        functions[key] = function(f, reader)
    graph = Builder(reader, opsets, p.ir_version).graph(g)
    return Model(graph, opsets, functions, metadata)


def _pairs(entries: Iterable[Any]) -> dict[str, str]:
    return {e.key: e.value for e in entries}
