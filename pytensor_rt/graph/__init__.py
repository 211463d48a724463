"""ModelProto to Graph: loading, external data, functions, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .functions import Function, builtin_function
from .load import load_model
from .model import Graph, Initializer, Model, ModelMetadata, Node, ValueInfo
from .verify import verify

if TYPE_CHECKING:
    from .export import export_model


def __getattr__(name: str) -> Any:
    """Few programs write models: the module for it is imported on first use."""
    if name == "export_model":
        from .export import export_model

        return export_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Function",
    "Graph",
    "Initializer",
    "Model",
    "ModelMetadata",
    "Node",
    "ValueInfo",
    "builtin_function",
    "export_model",
    "load_model",
    "verify",
]
