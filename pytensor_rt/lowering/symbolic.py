"""Symbolic integers: dimensions that record how they were computed and which comparisons a trace relied on.

A `SymInt` is an int with a hint value (so every rule runs unchanged) and an expression number in a `Recorder`. Arithmetic builds expressions,
comparisons record guards: the trace is valid for every assignment of the dimensions under which all guards have the same outcome. `int()` and
`float()` record that the expression has exactly this value. C code (`range()`, NumPy, indexing) takes the value without a word: templates are
therefore traced twice with different hints and must come out the same (runtime/templates.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

_FUNCTIONS: dict[str, Callable[[int, int], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv, "mod": operator.mod,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


class Recorder:
    """Expressions and guards of one symbolic trace. Expression i is ("dim", k) or (function, a, b); operands are ("s", i) or ("c", value)."""

    def __init__(self) -> None:
        self.expressions: list[tuple[Any, ...]] = []
        self.guards: dict[tuple[Any, ...], bool] = {}
        self._memo: dict[tuple[Any, ...], int] = {}

    def dimension(self, number: int, hint: int) -> SymInt:
        """Dimension variable `number` of the template, with the value it has in this trace."""
        return SymInt(hint, self, self._node(("dim", number)))

    def _node(self, key: tuple[Any, ...]) -> int:
        index = self._memo.get(key)
        if index is None:
            index = self._memo[key] = len(self.expressions)
            self.expressions.append(key)
        return index


class SymInt(int):
    """An integer dimension whose value may differ between the shapes one template serves."""

    _expr: int
    _rec: Recorder

    def __new__(cls, value: int, recorder: Recorder, expression: int) -> SymInt:
        self = int.__new__(cls, value)
        self._rec, self._expr = recorder, expression
        return self

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __neg__(self) -> int:
        return 0 - self

    def __pos__(self) -> int:
        return self

    def __abs__(self) -> int:
        return self if self >= 0 else -self

    def __divmod__(self, other: int) -> tuple[int, int]:
        return self // other, self % other

    def __rdivmod__(self, other: int) -> tuple[int, int]:
        return other // self, other % self

    def _concrete(self) -> int:
        value = int.__int__(self)
        self._rec.guards.setdefault(("eq", ("s", self._expr), ("c", value)), True)
        return value

    def __int__(self) -> int:
        return self._concrete()

    def __index__(self) -> int:
        return self._concrete()

    def __float__(self) -> float:
        return float(self._concrete())

    def __truediv__(self, other: Any) -> Any:
        return self._concrete() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._concrete()

    def __pow__(self, other: Any, mod: Any = None) -> Any:
        return self._concrete() ** other


def is_symbolic(x: object) -> bool:
    return type(x) is SymInt


def plain(x: int) -> int:
    """The hint value, without recording a guard: for diagnostics and placement only."""
    return int.__int__(x) if type(x) is SymInt else x


def _ref(x: int) -> tuple[str, int]:
    return ("s", x._expr) if type(x) is SymInt else ("c", int(x))


def _simplify(name: str, a: int, b: int) -> int | None:
    """Results that need no expression: neutral and absorbing elements, and equal operands."""
    if type(b) is not SymInt:
        n = int(b)
        if n == 0 and name in ("add", "sub"):
            return a
        if n == 1 and name in ("mul", "floordiv"):
            return a
        if (n == 0 and name == "mul") or (n == 1 and name == "mod"):
            return 0
    if type(a) is not SymInt:
        n = int(a)
        if n == 0 and name == "add":
            return b
        if n == 1 and name == "mul":
            return b
        if n == 0 and name in ("mul",):
            return 0
    return None


def _combine(name: str, a: int, b: int) -> int:
    found = _simplify(name, a, b)
    if found is not None:
        return found
    rec = a._rec if type(a) is SymInt else b._rec  # type: ignore[attr-defined]
    ra, rb = _ref(a), _ref(b)
    if ra == rb and name in ("sub", "mod", "floordiv"):
        if name == "sub":
            return 0
        if _compare("ne", a, 0):
            return 0 if name == "mod" else 1
    if name in ("add", "mul") and rb < ra:
        ra, rb = rb, ra
    if name in ("floordiv", "mod") and rb[0] == "c" and rb[1] > 0:  # (e * c) // d and (e * c) % d with d dividing c
        e = rec.expressions[ra[1]] if ra[0] == "s" else None
        if e is not None and e[0] == "mul":
            for c, other in ((e[1], e[2]), (e[2], e[1])):
                if c[0] == "c" and c[1] % rb[1] == 0:
                    if name == "mod":
                        return 0
                    k = c[1] // rb[1]
                    value = plain(a) // plain(b)
                    rest = SymInt(value // k if k else 0, rec, other[1]) if other[0] == "s" else other[1]
                    return _combine("mul", rest, k)
    value = _FUNCTIONS[name](plain(a), plain(b))
    return SymInt(value, rec, rec._node((name, ra, rb)))


def _compare(name: str, a: int, b: int) -> bool:
    rec = a._rec if type(a) is SymInt else b._rec  # type: ignore[attr-defined]
    ra, rb = _ref(a), _ref(b)
    if ra == rb:
        return bool(_FUNCTIONS[name](0, 0))
    result = bool(_FUNCTIONS[name](plain(a), plain(b)))
    rec.guards.setdefault((name, ra, rb), result)
    return result


def _install() -> None:
    def arithmetic(name: str) -> tuple[Any, Any]:
        def forward(a: int, b: Any) -> Any:
            if isinstance(b, float):
                return _FUNCTIONS[name](float(a), b)  # type: ignore[arg-type]
            return _combine(name, a, b) if isinstance(b, int) or hasattr(b, "__index__") else NotImplemented

        def backward(a: int, b: Any) -> Any:
            if isinstance(b, float):
                return _FUNCTIONS[name](b, float(a))  # type: ignore[arg-type]
            return _combine(name, b, a) if isinstance(b, int) or hasattr(b, "__index__") else NotImplemented

        return forward, backward

    for name in ("add", "sub", "mul", "floordiv", "mod"):
        forward, backward = arithmetic(name)
        setattr(SymInt, f"__{name}__", forward)
        setattr(SymInt, f"__r{name}__", backward)

    def comparison(name: str) -> Any:
        def compare(a: int, b: Any) -> Any:
            if isinstance(b, float):
                return _FUNCTIONS[name](float(a), b)  # type: ignore[arg-type]
            return _compare(name, a, b) if isinstance(b, int) or hasattr(b, "__index__") else NotImplemented

        return compare

    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(SymInt, f"__{name}__", comparison(name))


_install()
