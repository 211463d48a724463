"""Lanes: what one run at a time needs. A session has one, and more while several threads run it at once."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Mapping
from typing import Any

from .caller import Caller, caller
from .engine import Engine, InputSpec

MAX_LANES = 8
MAX_CALLERS = 64


class Lane:
    """An engine with its memory, and the callers of the signatures it has run. Hold `lock` while using it."""

    __slots__ = ("callers", "engine", "errors", "last", "lock", "names", "plain", "steering")

    def __init__(self, engine: Engine) -> None:
        self.engine, self.lock = engine, engine.lock
        self.names = tuple([v.name for v in engine.input_infos])
        self.plain = all(v.kind == "tensor" for v in engine.input_infos)
        self.errors: Any = engine.memory.native.LaunchError if engine.memory.replays_natively else ()
        self.callers: dict[Any, Caller] = {}
        self.last: Caller | None = None  # that of the last run, if no input steers
        self.steering: tuple[int, ...] = ()  # positions of the inputs whose values are part of the key

    def run(self, feed: Mapping[str, Any]) -> list[Any] | None:
        """All outputs, if this lane has run a feed of the same kind before; None if the feed must be looked at."""
        current = self.last
        values: list[Any] | None = None
        try:
            if current is not None:
                values = current.call(feed)
            if values is None:
                current = self.find(feed)
                if current is not None:
                    values = current.call(feed)
        except self.errors as e:
            assert current is not None
            raise current.segment.bound.failure(e) from None
        return values

    def find(self, feed: Mapping[str, Any]) -> Caller | None:
        """The caller that an earlier run with inputs of the same shapes and dtypes, and the same steering values, has left."""
        if not self.callers or len(feed) != len(self.names):
            return None
        try:
            arrays = [feed[n] for n in self.names]
            key: Any = tuple([(a.shape, a.dtype) for a in arrays])
            if self.steering:
                key = (key, *[arrays[i].tobytes() for i in self.steering])
        except (KeyError, AttributeError):
            return None
        found = self.callers.get(key)
        if found is not None and not self.steering:
            self.last = found
        return found

    def run_checked(self, specs: list[InputSpec], feeds: dict[str, Any]) -> dict[str, Any]:
        """All outputs by name, for validated inputs."""
        shape_key = tuple(specs)
        values = self.engine.run(shape_key, specs, feeds)
        self.remember(shape_key, specs, feeds)
        return values

    def remember(self, shape_key: Any, specs: list[InputSpec], feeds: dict[str, Any]) -> None:
        """Let later runs of this signature skip all checks, if it is one static segment that reads inputs and writes outputs directly."""
        engine, names = self.engine, self.names
        if not self.plain or len(specs) != len(names):  # initializers were fed, too
            return
        steering = tuple([i for i, n in enumerate(names) if n in engine.steering])
        if steering != self.steering:
            self.steering = steering
            self.callers.clear()
            self.last = None
        cache_key, known = engine.key_of(shape_key, feeds)
        entry = engine.cache.get(cache_key)
        if entry is None or entry.first is None:
            return
        found = caller(entry.first, specs, engine.output_names)
        if found is None:
            return
        if len(self.callers) >= MAX_CALLERS:
            self.callers.clear()
        key: Any = tuple([(shape, dtype) for _, shape, dtype in specs])
        if steering:
            key = (key, *[known[names[i]].tobytes() for i in steering])
        else:
            self.last = found
        self.callers[key] = found


class Lanes:
    """The lanes of a session: the first is always there, others are made when several threads run at once, up to `most`."""

    def __init__(self, engine: Engine, most: int) -> None:
        self.first = Lane(engine)
        self.all = [self.first]
        self.most = max(1, min(most, MAX_LANES))
        self._turn = 0
        self._making = allocate_lock()

    def another(self) -> Lane:
        """A lane, locked, for a thread that finds the first one taken. Waits if all are."""
        with self._making:
            for lane in self.all:
                if lane.lock.acquire(False):
                    return lane
            if len(self.all) < self.most:
                lane = Lane(self.first.engine.sibling())
                lane.lock.acquire()
                self.all.append(lane)
                return lane
            self._turn += 1
            lane = self.all[self._turn % len(self.all)]
        lane.lock.acquire()
        return lane
