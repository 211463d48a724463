"""Registration of op rules. Explicit: a duplicate raises at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..lowering.tracer import Rule

_R = TypeVar("_R", bound=Rule)
_RULES: dict[tuple[str, str], list[tuple[int, Rule]]] = {}  # (domain, op type) -> [(since, rule)] ascending

INTERNAL = "pytensor_rt"  # domain of nodes created by passes


def op(name: str, *more: str, since: int = 1, domain: str = "") -> Callable[[_R], _R]:
    """Register a rule for one or more op types, valid from opset `since` up to the next registered version."""

    def register(rule: _R) -> _R:
        for n in (name, *more):
            versions = _RULES.setdefault((domain, n), [])
            if any(s == since for s, _ in versions):
                raise ValueError(f"rule for {domain}.{n} since {since} registered twice")
            versions.append((since, rule))
            versions.sort(key=lambda v: v[0])
        return rule

    return register


def find(domain: str, name: str, opset: int) -> Rule | None:
    """The rule that applies to an op at an opset, or None."""
    found = None
    for since, rule in _RULES.get((domain, name), ()):
        if since <= opset:
            found = rule
    return found


def registered() -> dict[tuple[str, str], list[int]]:
    """All op types with the versions at which their rules change."""
    return {k: [s for s, _ in v] for k, v in _RULES.items()}
