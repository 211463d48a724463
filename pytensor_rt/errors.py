"""Every error this package raises on purpose. Messages name the node or input, what was expected, what came and what to do."""

from __future__ import annotations


class PytensorRtError(Exception):
    """Base of all errors of this package."""


class ModelError(PytensorRtError, ValueError):
    """The model file is damaged, inconsistent or not ONNX."""


class ExternalDataError(ModelError):
    """External data is missing, too short, or outside the model's folder."""


class UnsupportedError(PytensorRtError, NotImplementedError):
    """The model uses operators, dtypes or attributes that this runtime does not implement. Lists all of them."""


class PlanError(PytensorRtError, ValueError):
    """A node cannot be planned for the given shapes and dtypes."""


class InputError(PytensorRtError, ValueError):
    """A fed input is missing, unknown, or has the wrong dtype or shape."""


class ExecutionError(PytensorRtError, RuntimeError):
    """A kernel found bad data while running, e.g. an index out of range."""


class DeviceError(PytensorRtError, RuntimeError):
    """The requested device or ISA level is not available here."""
