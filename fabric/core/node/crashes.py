"""How often workers crash: a budget for their successors, so that a crash loop forks no storm.

A part of the node. Single crashes cost nothing; beyond `worker_crashes_max` the node starts workers
only as it forgets crashes. Who is charged for a crash, and how often a call may run, is decided by
its owner.
"""

from fabric.config import Limits


class Crashes:
    """A bucket that crashes fill and time empties."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._count = 0.0
        self._at = 0.0
        self._refused_until: float | None = None

    def add(self, now: float) -> None:
        """A worker crashed."""
        self._forget(now)
        self._count = min(self._count + 1, 2.0 * self.limits.worker_crashes_max)

    def admit(self, wished: int, now: float) -> int:
        """How many workers may be started, of so many."""
        self._refused_until = None
        if wished <= 0:
            return 0
        self._forget(now)
        over = self._count + 1 - self.limits.worker_crashes_max
        if over <= 0:
            return wished
        self._refused_until = now + over * self.limits.worker_crash_forget_s
        return 0

    def dues(self) -> list[float]:
        """When workers may be started again that were refused."""
        return [] if self._refused_until is None else [self._refused_until]

    def _forget(self, now: float) -> None:
        self._count = max(0.0, self._count - (now - self._at) / self.limits.worker_crash_forget_s)
        self._at = now
