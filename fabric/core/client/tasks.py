"""A client's task calls: which wait for a worker, where they run, and what becomes of lost ones.

The part of the client's machine that speaks to the node about leases. It asks for workers by an
absolute number, hands ready calls to leased ones, takes back what a worker did not start, and
settles what a dead worker leaves open. Sending calls and failing them is the machine's, handed in by
`join`.
"""

from collections.abc import Callable

from fabric.config import Limits
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.leases import Lease, Leases, ShapeQueue
from fabric.core.effects import Drain, Effect, Send
from fabric.core.machine import InvariantError
from fabric.ids import Address, JobId
from fabric.protocol.messages import (
    CallsReturned,
    LeaseGranted,
    RequestLease,
    ReturnLease,
    Unschedulable,
    WorkerDied,
)
from fabric.protocol.values import Failure, Progress


class Tasks:
    """See the module."""

    def __init__(self, node: Address, job: JobId, limits: Limits) -> None:
        self.node = node
        self.job = job
        self.limits = limits
        self.leases = Leases(limits)
        self._ready: dict[int, ShapeQueue] = {}  # queues to look at in this turn

    def join(
        self,
        calls: Calls,
        fail: Callable[[PendingCall, Failure], list[Effect]],
        run_at: Callable[[Address, int, int, list[PendingCall]], list[Effect]],
    ) -> None:
        """Take the machine's table and verbs."""
        self.calls = calls
        self.fail = fail
        self.run_at = run_at

    def tick(self, now: float) -> list[Effect]:
        """Send what became ready in this turn, ask for workers, return those without work."""
        effects: list[Effect] = []
        if self._ready:
            queues, self._ready = self._ready, {}
            for queue in queues.values():
                effects += self._dispatch(queue)
        return effects + self._return_idle_leases(now)

    def deadline(self) -> float | None:
        """When the longest idle lease is to be returned."""
        idle = [one.idle_since for one in self.leases.leases.values() if not one.inflight]
        return min(idle) + self.limits.lease_idle_s if idle else None

    def check(self) -> int:
        """Every call in flight is under its number; how many calls are here in all."""
        placed = sum(len(queue.ready) for queue in self.leases.queues)
        for lease in self.leases.leases.values():
            placed += len(lease.inflight)
            for number, call in lease.inflight.items():
                if call.number != number or call.lease != lease.number:
                    raise InvariantError(f"{call.call_id!r} is in flight under a wrong number")
                if self.calls.pending.get(call.call_id) is not call:
                    raise InvariantError(f"{call.call_id!r} is in flight but not pending")
        return placed

    def clear(self) -> None:
        """Forget what is queued and in flight: the machine fails it."""
        for queue in self.leases.queues:
            queue.ready.clear()
        for lease in list(self.leases.leases.values()):
            self.leases.close(lease)

    # calls

    def enqueue(self, call: PendingCall) -> None:
        """Its arguments are there: it waits for a worker."""
        queue = self.leases.queues[call.queue_key]
        queue.ready.append(call)
        queue.depth = call.depth
        self._ready[call.queue_key] = queue

    def answered(self, lease: Lease, now: float) -> None:
        """Calls of that lease came back: there is room for others."""
        lease.is_stalled = False
        lease.idle_since = now
        if lease.is_over and not lease.inflight:
            self.leases.close(lease)
        self._ready[lease.queue.shape_id] = lease.queue

    def on_drained(self, worker: Address) -> list[Effect]:
        """All that a dead leased worker had said is heard."""
        effects: list[Effect] = []
        for lease in list(self.leases.leases.values()):
            if lease.worker == worker and lease.death is not None:
                effects += self._settle_lease(lease, *lease.death)
        return effects

    # leases

    def on_lease_granted(self, source: Address, message: LeaseGranted, now: float) -> list[Effect]:
        """A worker to stream calls to."""
        lease = self.leases.grant(message.shape_id, message.lease, message.worker, now)
        self._ready[lease.queue.shape_id] = lease.queue
        return []

    def _dispatch(self, queue: ShapeQueue) -> list[Effect]:
        effects: list[Effect] = []
        for lease, calls in self.leases.dispatch(queue, self.calls.durations):
            effects += self.run_at(lease.worker, lease.number, queue.depth, calls)
        wanted = queue.wanted(self.calls.durations, self.limits)
        if queue.ready and wanted > queue.asked:
            wanted = min(1 << (wanted - 1).bit_length(), self.limits.leases_wanted_max)
        elif queue.ready or queue.asked <= len(queue.leases):
            return effects
        else:
            wanted = len(queue.leases)
        queue.asked = wanted
        request = RequestLease(queue.shape_id, queue.shape, wanted, queue.depth, self.job)
        return [*effects, Send(self.node, request)]

    def _return_idle_leases(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for lease in list(self.leases.leases.values()):
            if lease.inflight or lease.death is not None:
                continue
            if now >= lease.idle_since + self.limits.lease_idle_s:
                self.leases.close(lease)
                lease.queue.asked = min(lease.queue.asked, len(lease.queue.leases))
                effects.append(Send(self.node, ReturnLease(lease.number)))
        return effects

    def on_calls_returned(
        self, source: Address, message: CallsReturned, now: float
    ) -> list[Effect]:
        """A worker gave back what it has not started: it goes elsewhere, uncharged."""
        lease = self.leases.leases.get(message.lease)
        if lease is None or lease.worker != source:
            return []
        back = [lease.remove(number, 0.0) for number in message.numbers]
        lease.queue.ready.extendleft(reversed([call for call in back if call is not None]))
        lease.is_over = lease.is_over or message.is_lease_over
        # what still runs there has overrun or waits: nothing more is sent before it answers
        lease.is_stalled = bool(lease.inflight)
        if lease.is_over and not lease.inflight:
            self.leases.close(lease)
        self._ready[lease.queue.shape_id] = lease.queue
        return []

    def on_unschedulable(self, source: Address, message: Unschedulable, now: float) -> list[Effect]:
        """No worker for this shape, ever: what waits for one fails with the reason."""
        queue = self.leases.queues[message.shape_id]
        queue.asked = len(queue.leases)
        calls = list(queue.ready)
        queue.ready.clear()
        return [effect for call in calls for effect in self.fail(call, message.failure)]

    def on_worker_died(self, source: Address, message: WorkerDied, now: float) -> list[Effect]:
        """A leased worker is gone: hear its last words before deciding what they leave open."""
        lease = self.leases.leases.get(message.lease)
        if lease is not None:
            lease.death = (message.progress, message.failure)
        return [Drain(message.worker)]

    def _settle_lease(
        self, lease: Lease, progress: Progress | None, failure: Failure
    ) -> list[Effect]:
        effects: list[Effect] = []
        started = -1 if progress is None or progress.lease != lease.number else progress.number
        again: list[PendingCall] = []
        for call in self.leases.close(lease):
            if call.number <= started and not call.charge():
                effects += self.fail(call, failure)
            else:
                again.append(call)
        lease.queue.ready.extendleft(reversed(again))
        self._ready[lease.queue.shape_id] = lease.queue
        return effects
