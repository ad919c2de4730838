"""When the node's memory runs out: who is ended before the kernel ends the node.

A part of the node. While calls run it has the memory measured, the more often the fuller it is, and
never when nothing runs. Above the limit one worker is chosen, and the next only when that one is
gone: first what costs nothing, then the youngest call that may run again, for it loses least. What
uses the memory may be none of ours; workers that would give back little are left alone. What
becomes of the calls, their owners decide.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fabric.config import Limits
from fabric.core.effects import Effect, MeasureMemory, StopWorker
from fabric.core.events import MemoryMeasured, WorkerMemory
from fabric.core.node.staff import Staff, WorkerState
from fabric.ids import ActorId, Address

WORTH_OF_LIMIT = 0.01
WORTH_OF_LARGEST = 0.1
"""A worker is ended only if it uses this share of the memory, and of what the largest one uses."""


class Memory:
    """See the module."""

    def __init__(
        self, limits: Limits, staff: Staff, may_restart: Callable[[ActorId], bool]
    ) -> None:
        self.limits = limits
        self.staff = staff
        self.may_restart = may_restart
        self.look_at: float | None = None
        self._is_busy = False
        self._is_asked = False  # how much each worker uses

    def reactions(self) -> Mapping[type, Callable[[Address, Any, float], list[Effect]]]:
        """What the machine hears for this part."""
        return {MemoryMeasured: self.on_memory_measured}

    def tick(self, now: float) -> list[Effect]:
        """Look, if it is time to. What the last look has found still holds after a pause."""
        self._is_busy = any(one.state in ("leased", "actor") for one in self.staff.workers.values())
        if self.look_at is None and self._is_busy:
            self.look_at = now + self.limits.memory_look_s
        if not self._is_busy or self.look_at is None or now < self.look_at:
            return []
        self.look_at = now + self.limits.memory_look_max_s
        return [MeasureMemory()]

    def deadline(self) -> float | None:
        """When to look next."""
        return self.look_at if self._is_busy else None

    def on_memory_measured(
        self, source: Address, message: MemoryMeasured, now: float
    ) -> list[Effect]:
        """Enough is left until then; or it is not, and somebody has to go."""
        limits, workers = self.limits, self.staff.workers
        is_answer, self._is_asked = self._is_asked, False
        if not message.limit or not self._is_busy:
            return []
        room = message.limit * limits.memory_used_max - message.used
        room_s = max(room / limits.memory_growth_bytes, limits.memory_look_s)
        self.look_at = now + min(room_s, limits.memory_look_max_s)
        if room > 0 or any(one.memory_limit for one in workers.values()):
            return []  # what the one before had used is still to come back
        if not is_answer:
            living = [one for one in workers.values() if one.state not in ("starting", "late")]
            self._is_asked = True
            return [MeasureMemory(tuple(one.incarnation for one in living))]
        chosen = self._choose(message)
        if chosen is None:
            self.look_at = now + limits.memory_look_idle_s
            return []
        worker = workers[chosen.worker]
        worker.rss, worker.memory_limit = chosen.rss, message.limit
        return [StopWorker(worker.incarnation)]

    def _choose(self, message: MemoryMeasured) -> WorkerMemory | None:
        """Whose end costs least of those whose end helps."""
        found = [one for one in message.workers if one.worker in self.staff.workers]
        largest = max((one.rss for one in found), default=0)
        worth = max(message.limit * WORTH_OF_LIMIT, largest * WORTH_OF_LARGEST)
        worthy = [one for one in found if one.rss >= worth]
        return min(worthy, key=self._cost, default=None)

    def _cost(self, one: WorkerMemory) -> tuple[int, float]:
        return self._rank(self.staff.workers[one.worker], one), -one.started_at

    def _rank(self, worker: WorkerState, memory: WorkerMemory) -> int:
        """Idle ones, calls that may run again, actors that may, other calls, other actors."""
        if worker.actor_id is not None:
            return 2 if self.may_restart(worker.actor_id) else 4
        if worker.state != "leased" or not memory.started_at:
            return 0
        return 1 if worker.may_retry else 3
