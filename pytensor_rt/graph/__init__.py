"""ModelProto to Graph: loading, external data, functions, verification."""

from .export import export_model
from .functions import Function, builtin_function
from .load import load_model
from .model import Graph, Initializer, Model, ModelMetadata, Node, ValueInfo
from .verify import verify

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
