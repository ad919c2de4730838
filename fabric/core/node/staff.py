"""The node's workers: who is idle, leased, an actor, or on its way in or out.

A part of the node. It keeps the table and finds workers; the machine starts, leases and ends them.
"""

from fabric.config import Limits
from fabric.core.machine import InvariantError
from fabric.ids import ActorId, Address, Incarnation, JobId, address
from fabric.protocol.values import Shape

NO_SHAPE = Shape(())

TRANSITIONS: dict[str, tuple[str, ...]] = {
    "starting": ("idle", "late", "gone"),
    "late": ("gone",),
    "idle": ("leased", "actor", "ending", "gone"),
    "leased": ("idle", "ending", "gone"),
    "actor": ("ending", "gone"),
    "ending": ("gone",),
    "gone": (),
}
"""A worker's states and what may follow each."""


class WorkerState:
    """One worker process of this node."""

    def __init__(self, incarnation: Incarnation, now: float) -> None:
        self.incarnation = incarnation
        self.address = address("w", incarnation)
        self.pid = 0  # as soon as it has said so
        self.state = "starting"
        self.job: JobId | None = None  # bound at its first lease, for life
        self.lease = 0
        self.client = Address("")
        self.shape = NO_SHAPE
        self.shape_id = 0
        self.depth = 0
        self.is_blocked = False
        self.waits_in = ""  # the name of the call that last waited
        self.orphaned_at: float | None = None  # when the client of its lease died
        self.since = now  # in this state
        self.recall = ""  # "", "idle" or "full": what the worker was told of the present lease
        self.recall_words = 0  # how often its client had said what it wants when told "idle"
        self.lessees: dict[Address, None] = {}  # clients that have or had a link to it
        self.actor_id: ActorId | None = None
        self.may_retry = True  # the calls of its lease have further attempts
        self.is_doomed = False  # its end was asked for, and is no crash
        self.memory_limit = 0  # not 0: ended to save memory, which was full with so many bytes
        self.rss = 0  # of which it used so many

    def become(self, state: str, now: float) -> None:
        """Change state as the table allows."""
        if state not in TRANSITIONS[self.state]:
            story = f"{self.address} of lease {self.lease} for {self.client or 'nobody'}"
            raise InvariantError(f"{story} cannot go from {self.state} to {state}")
        self.state = state
        self.since = now

    @property
    def uses_resources(self) -> bool:
        """Its lease counts against the node."""
        return self.state in ("leased", "actor") and not self.is_blocked


class Staff:
    """All of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.workers: dict[Incarnation, WorkerState] = {}
        self.by_lease: dict[int, WorkerState] = {}
        self.failed_starts = 0  # in a row

    def count(self, state: str) -> int:
        """How many are in that state."""
        return sum(1 for worker in self.workers.values() if worker.state == state)

    def idle_for(self, job: JobId) -> WorkerState | None:
        """An idle worker that this job may use: one of its own, else one that is nobody's."""
        fresh: WorkerState | None = None
        for worker in self.workers.values():
            if worker.state != "idle":
                continue
            if worker.job == job:
                return worker
            if worker.job is None and fresh is None:
                fresh = worker
        return fresh

    def late(self, now: float) -> list[WorkerState]:
        """Workers that have not said hello in time."""
        start_s = self.limits.worker_start_s
        return [
            one
            for one in self.workers.values()
            if one.state == "starting" and now >= one.since + start_s
        ]

    def strangers(self) -> list[WorkerState]:
        """Idle workers bound to some job, longest idle first."""
        bound = [one for one in self.workers.values() if one.state == "idle" and one.job]
        return sorted(bound, key=lambda one: one.since)

    def surplus(self, keep: int, now: float) -> list[WorkerState]:
        """Workers idle for too long, beyond those to keep."""
        idle = sorted(
            (one for one in self.workers.values() if one.state == "idle"), key=lambda one: one.since
        )
        old = [one for one in idle if now >= one.since + self.limits.worker_idle_s]
        return old[: max(0, len(idle) - keep)]

    @property
    def is_stuck(self) -> bool:
        """At the limit, and every task worker waits for others: nobody will ever come free."""
        if len(self.workers) < self.limits.workers_max:
            return False
        return all(
            one.state == "actor" or (one.state == "leased" and one.is_blocked)
            for one in self.workers.values()
        )
