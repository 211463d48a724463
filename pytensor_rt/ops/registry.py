"""Registration of op rules. Explicit: a duplicate, or an op that `FAMILIES` does not list under its file, raises at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..lowering.tracer import Rule

_R = TypeVar("_R", bound=Rule)
RULES: dict[tuple[str, str], list[tuple[int, Rule]]] = {}  # (domain, op type) -> [(since, rule)] ascending; of the families imported so far

INTERNAL = "pytensor_rt"  # domain of nodes created by passes
MICROSOFT = "com.microsoft"  # onnxruntime's own operators; its docs/ContribOperators.md defines them


def op(name: str, *more: str, since: int = 1, domain: str = "") -> Callable[[_R], _R]:
    """Register a rule for one or more op types, valid from opset `since` up to the next registered version."""

    def register(rule: _R) -> _R:
        from . import FAMILY_OF

        family = rule.__module__.rpartition(".")[2]
        for n in (name, *more):
            if FAMILY_OF.get((domain, n)) != family:
                raise ValueError(f"FAMILIES in ops/__init__.py does not list {domain + '.' if domain else ''}{n} under {family}")
            versions = RULES.setdefault((domain, n), [])
            if any(s == since for s, _ in versions):
                raise ValueError(f"rule for {domain}.{n} since {since} registered twice")
            versions.append((since, rule))
            versions.sort(key=lambda v: v[0])
        return rule

    return register
