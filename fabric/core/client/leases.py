"""Leases and windows: which worker gets which of the calls that are ready.

A part: a queue per resource shape holds ready calls and the leases they may run on. The window at a
worker is a time budget by the function's measured duration, and one call until it is measured. The
machine sends what `dispatch` picks.
"""

from collections import deque
from collections.abc import Mapping

from fabric.config import Limits
from fabric.core.client.calls import PendingCall
from fabric.core.machine import WordError
from fabric.ids import Address, FunctionId
from fabric.protocol.values import Crash, Shape

LEASE_WORTH_S = 0.002
"""A further worker is asked for when this much work waits for it."""


class Death:
    """How a leased worker ended: calls up to number ``reached`` may have run, all if it is None."""

    __slots__ = ("crash", "reached")

    def __init__(self, reached: int | None, crash: Crash) -> None:
        self.reached = reached
        self.crash = crash


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
        self.death: Death | None = None  # settled when its last words are heard
        self.idle_since = now
        self.head: PendingCall | None = None  # runs, if the calls of its queue are timed
        self.head_number = -1
        self.head_since = now

    @property
    def is_idle(self) -> bool:
        """It could run something and does not."""
        return not self.inflight and self.death is None

    def remove(self, call: PendingCall) -> None:
        """A call was answered or came back."""
        del self.inflight[call.number]
        call.lease = 0
        if self.inflight:
            self.queued_s -= call.queued_s
            self.queued_bytes -= call.queued_bytes
        else:  # sums of many small numbers drift
            self.queued_s, self.queued_bytes = 0.0, 0


class ShapeQueue:
    """The ready calls of one resource shape and the leases of that shape.

    Calls that have one attempt only are apart: their workers are the last to be ended when a node
    runs out of memory. So are those that may run only so long: they are timed.
    """

    def __init__(
        self, shape_id: int, shape: Shape, may_retry: bool, timeout_s: float | None
    ) -> None:
        self.shape_id = shape_id
        self.shape = shape
        self.may_retry = may_retry
        self.timeout_s = timeout_s  # each of its calls may run so long
        self.kind = (may_retry, timeout_s)
        self.ready: deque[PendingCall] = deque()
        self.cancelled = 0  # how many of those are over
        self.leases: dict[int, Lease] = {}  # lease number → lease
        self.asked = 0  # what the node was last told we want
        self.is_unsure = False  # a lease was lost, and with it what the node thinks we want
        self.depth = 0  # of the newest call
        self.asked_depth = 0  # what the node was last told

    def sweep(self) -> None:
        """Take out what was cancelled."""
        if self.cancelled:
            self.ready = deque(call for call in self.ready if not call.is_over)
            self.cancelled = 0

    def wanted(self, durations: Mapping[FunctionId, float], limits: Limits) -> int:
        """How many workers this queue could use now."""
        waiting = len(self.ready)
        busy = sum(1 for lease in self.leases.values() if lease.inflight)
        if not waiting:
            return busy
        duration = durations.get(self.ready[0].function)
        if duration is not None:
            waiting = min(waiting, int(waiting * duration / LEASE_WORTH_S) + 1)
        return busy + min(waiting, limits.leases_wanted_max)

    def ask(self, durations: Mapping[FunctionId, float], limits: Limits) -> int | None:
        """How many workers to ask the node for now, if that is news to it.

        Asked for in powers of two while calls wait, so that a growing queue says so seldom.
        """
        if self.ready:
            wanted = self.wanted(durations, limits)
            is_known = wanted <= self.asked and self.depth <= self.asked_depth
            if is_known and not self.is_unsure:
                return None
            held = len(self.leases)
            wanted = min(1 << (wanted - 1).bit_length(), held + limits.leases_wanted_max)
        elif self.asked > len(self.leases) or self.is_unsure:
            wanted = len(self.leases)
        else:
            return None
        self.asked = wanted
        self.asked_depth = self.depth
        self.is_unsure = False
        return wanted


class Leases:
    """All queues and leases of a client."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queues: list[ShapeQueue] = []
        self.leases: dict[int, Lease] = {}
        self._by_shape: dict[tuple[Shape, bool, float | None], ShapeQueue] = {}

    def queue_for(
        self, shape: Shape, may_retry: bool = True, timeout_s: float | None = None
    ) -> ShapeQueue:
        """The queue of that shape, for calls of that kind."""
        queue = self._by_shape.get((shape, may_retry, timeout_s))
        if queue is None:
            queue = ShapeQueue(len(self.queues), shape, may_retry, timeout_s)
            self.queues.append(queue)
            self._by_shape[shape, may_retry, timeout_s] = queue
        return queue

    def known(self, shape_id: int) -> ShapeQueue:
        """The queue that the node means."""
        if not 0 <= shape_id < len(self.queues):
            raise WordError(f"nobody asked for a worker of shape {shape_id}")
        return self.queues[shape_id]

    def grant(self, shape_id: int, number: int, worker: Address, now: float) -> Lease:
        """The node granted a lease."""
        queue = self.known(shape_id)
        lease = Lease(number, worker, queue, now)
        queue.leases[number] = lease
        self.leases[number] = lease
        return lease

    def give_back(self, lease: Lease) -> None:
        """It is idle and goes back to the node, which then knows that we want one less."""
        self._forget(lease)
        lease.queue.asked = min(lease.queue.asked, len(lease.queue.leases))

    def lose(self, lease: Lease) -> list[PendingCall]:
        """It was taken from us or its worker died: what was in flight on it, in number order."""
        self._forget(lease)
        lease.queue.is_unsure = True
        calls = list(lease.inflight.values())
        lease.inflight.clear()
        for call in calls:
            call.lease = 0
        return calls

    def _forget(self, lease: Lease) -> None:
        self.leases.pop(lease.number, None)
        lease.queue.leases.pop(lease.number, None)

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
        """The calls that fit into the window, numbered and in flight from now on.

        An idle worker takes one call whatever it costs. One that is not measured fills the window:
        nothing is queued behind it.
        """
        limits, inflight = self.limits, lease.inflight
        number, lease_number = lease.next_number, lease.number
        queued_s, queued_bytes = lease.queued_s, lease.queued_bytes
        calls: list[PendingCall] = []
        share = min(share, limits.window_calls_max - len(inflight))
        function: FunctionId | None = None
        duration: float | None = None
        while ready and len(calls) < share:
            call = ready[0]
            if call.function is not function:
                function = call.function
                duration = durations.get(function)
            nbytes = call.nbytes if call.inputs else len(call.args)
            if inflight and (
                duration is None
                or queued_s + duration > limits.window_s
                or queued_bytes + nbytes > limits.window_bytes_max
            ):
                break
            ready.popleft()
            call.lease = lease_number
            call.number = number
            call.queued_s = limits.window_s if duration is None else duration
            call.queued_bytes = nbytes
            inflight[number] = call
            calls.append(call)
            number += 1
            queued_s += call.queued_s
            queued_bytes += nbytes
        lease.next_number = number
        lease.queued_s, lease.queued_bytes = queued_s, queued_bytes
        return calls
