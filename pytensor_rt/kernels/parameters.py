"""Parameters of launches, with the defaults of spec.py."""

from __future__ import annotations

from typing import Any

from ..lowering.tensor import Launch
from .spec import SPECS


def param(launch: Launch, name: str) -> Any:
    """A parameter of a launch, or its default."""
    default = next(p.default for p in SPECS[launch.kernel].params if p.name == name)
    return launch.params.get(name, default)
