"""Leases and windows: which worker gets which of the calls that are ready.

A part: a queue per resource shape holds ready calls and the leases they may run on. The window at a
worker is a time budget by the function's measured duration, and one call until it is measured. The
machine sends what `dispatch` picks.
"""

from collections import deque
from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.client.calls import PendingCall
from fabric.ids import Address, FunctionId
from fabric.protocol.values import Failure, Progress, Shape

LEASE_WORTH_S = 0.002
"""A further worker is asked for when this much work waits for it."""


class Lease:
    """A worker held by this client, and the calls in flight to it."""

    def __init__(self, number: int, worker: Address, queue: "ShapeQueue", now: float) -> None:
        self.number = number
        self.worker = worker
        self.queue = queue
        self.inflight: dict[int, PendingCall] = {}  # call number → call
        self.next_number = 0
        self.queued_s = 0.0
        self.queued_bytes = 0
        self.is_stalled = False  # it handed calls back: nothing more until it answers
        self.is_over = False  # recalled: it ends with what is in flight
        self.death: tuple[Progress | None, Failure] | None = None
        self.idle_since = now

    def place(self, call: PendingCall, duration_s: float) -> None:
        """Number the call; it is in flight from now on."""
        call.lease = self.number
        call.number = self.next_number
        self.inflight[call.number] = call
        self.next_number += 1
        self.queued_s += duration_s
        self.queued_bytes += call.nbytes

    def remove(self, number: int, duration_s: float) -> PendingCall | None:
        """A call was answered or came back."""
        call = self.inflight.pop(number, None)
        if call is not None:
            call.lease = 0
            if self.inflight:
                self.queued_s = max(0.0, self.queued_s - duration_s)
                self.queued_bytes -= call.nbytes
            else:
                self.queued_s, self.queued_bytes = 0.0, 0
        return call


class ShapeQueue:
    """The ready calls of one resource shape and the leases of that shape."""

    def __init__(self, shape_id: int, shape: Shape) -> None:
        self.shape_id = shape_id
        self.shape = shape
        self.ready: deque[PendingCall] = deque()
        self.leases: dict[int, Lease] = {}  # lease number → lease
        self.asked = 0  # what the node was last told we want
        self.depth = 0

    def wanted(self, durations: Mapping[FunctionId, float], limits: Limits) -> int:
        """How many workers this queue could use now."""
        waiting = len(self.ready)
        busy = sum(1 for lease in self.leases.values() if lease.inflight)
        if not waiting:
            return busy
        duration = durations.get(self.ready[0].function)
        if duration is not None:
            waiting = min(waiting, int(waiting * duration / LEASE_WORTH_S) + 1)
        return min(busy + waiting, limits.leases_wanted_max)


class Leases:
    """All queues and leases of a client."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queues: list[ShapeQueue] = []
        self.leases: dict[int, Lease] = {}
        self._by_shape: dict[Shape, ShapeQueue] = {}

    def queue_for(self, shape: Shape) -> ShapeQueue:
        """The queue of that shape."""
        queue = self._by_shape.get(shape)
        if queue is None:
            queue = ShapeQueue(len(self.queues), shape)
            self.queues.append(queue)
            self._by_shape[shape] = queue
        return queue

    def grant(self, shape_id: int, number: int, worker: Address, now: float) -> Lease:
        """The node granted a lease."""
        queue = self.queues[shape_id]
        lease = Lease(number, worker, queue, now)
        queue.leases[number] = lease
        self.leases[number] = lease
        return lease

    def close(self, lease: Lease) -> list[PendingCall]:
        """The lease is over: what was in flight on it, in number order."""
        self.leases.pop(lease.number, None)
        lease.queue.leases.pop(lease.number, None)
        calls = list(lease.inflight.values())
        lease.inflight.clear()
        for call in calls:
            call.lease = 0
        return calls

    def dispatch(
        self, queue: ShapeQueue, durations: Mapping[FunctionId, float]
    ) -> list[tuple[Lease, list[PendingCall]]]:
        """Hand ready calls to leases with room, evenly."""
        picked: list[tuple[Lease, list[PendingCall]]] = []
        open_leases = [
            lease
            for lease in queue.leases.values()
            if not lease.is_stalled and not lease.is_over and lease.death is None
        ]
        open_leases.sort(key=lambda lease: lease.queued_s)
        for index, lease in enumerate(open_leases):
            if not queue.ready:
                break
            share = -(-len(queue.ready) // (len(open_leases) - index))
            calls = self._fill(lease, queue.ready, durations, share)
            if calls:
                picked.append((lease, calls))
        return picked

    def _fill(
        self,
        lease: Lease,
        ready: deque[PendingCall],
        durations: Mapping[FunctionId, float],
        share: int,
    ) -> list[PendingCall]:
        limits = self.limits
        calls: list[PendingCall] = []
        while ready and len(calls) < share:
            duration = durations.get(ready[0].function)
            if lease.inflight and (
                duration is None
                or lease.queued_s + duration > limits.window_s
                or len(lease.inflight) >= limits.window_calls_max
                or lease.queued_bytes + ready[0].nbytes > limits.window_bytes_max
            ):
                break
            call = ready.popleft()
            # an unmeasured call fills the window: nothing is queued behind it
            lease.place(call, limits.window_s if duration is None else duration)
            calls.append(call)
        return calls
