"""A lightweight ONNX runtime: Python plans, native kernels replay in place on preallocated, strided buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    DeviceError,
    ExecutionError,
    ExternalDataError,
    InputError,
    ModelError,
    PlanError,
    PytensorRtError,
    UnsupportedError,
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .graph import ModelMetadata
    from .session import InferenceSession, NodeArg, Runner

_LAZY = ("InferenceSession", "ModelMetadata", "NodeArg", "Runner")


def __getattr__(name: str) -> Any:
    """The session is imported on first use, so that importing the package costs no more than NumPy."""
    if name in _LAZY:
        from . import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_device() -> str:
    """The default device, for code written for onnxruntime."""
    return "CPU"


__all__ = [
    "DeviceError",
    "ExecutionError",
    "ExternalDataError",
    "InferenceSession",
    "InputError",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "PlanError",
    "PytensorRtError",
    "Runner",
    "UnsupportedError",
    "__version__",
    "get_device",
]
