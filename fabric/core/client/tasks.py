"""A client's task calls: which wait for a worker, where they run, and what becomes of lost ones.

The part of the client's machine that speaks to the node about leases. It asks for workers by an
absolute number, hands ready calls to leased ones, takes back what a worker did not start, and
settles what a dead worker leaves open. Sending calls and failing them is the machine's, handed in
by `join`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from fabric.config import Limits
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.leases import Death, Lease, Leases, ShapeQueue
from fabric.core.crashes import crash_failure
from fabric.core.effects import Drain, Effect, Send
from fabric.core.events import DefineLocally
from fabric.core.machine import InvariantError
from fabric.ids import Address, CallId, FunctionId, JobId
from fabric.protocol.messages import (
    CallsReturned,
    LeaseGranted,
    RequestLease,
    ReturnLease,
    Unschedulable,
    WorkerDied,
)
from fabric.protocol.values import Failure

if TYPE_CHECKING:
    from fabric.core.client.cancels import Cancels


class Tasks:
    """See the module."""

    def __init__(self, node: Address, job: JobId, limits: Limits) -> None:
        self.node = node
        self.job = job
        self.limits = limits
        self.leases = Leases(limits)
        self._ready: dict[int, ShapeQueue] = {}  # queues to look at in this turn
        self._timed: dict[int, ShapeQueue] = {}  # those whose calls may run only so long
        self.memory_deaths: dict[CallId, int] = {}  # call → attempts lost to save memory
        self.resting: list[tuple[float, PendingCall]] = []  # calls to be tried again, from when on

    def join(
        self,
        calls: Calls,
        fail: Callable[[PendingCall, Failure, list[Effect]], None],
        run_at: Callable[[Address, int, int, list[PendingCall]], list[Effect]],
        functions: Mapping[FunctionId, DefineLocally],
        cancels: "Cancels",
    ) -> None:
        """Take the machine's tables and verbs."""
        self.calls = calls
        self.fail = fail
        self.run_at = run_at
        self.functions = functions
        self.cancels = cancels

    def tick(self, now: float) -> list[Effect]:
        """Send what became ready in this turn, ask for workers, return those without work."""
        effects: list[Effect] = []
        if self.resting:
            self._wake_rested(now)
        if self._ready:
            queues, self._ready = self._ready, {}
            for queue in queues.values():
                self._dispatch(queue, effects)
                if queue.timeout_s is not None:
                    self._time(queue, now)
        self._return_idle_leases(now, effects)
        return effects

    def end_overdue(self, now: float) -> list[Effect]:
        """Calls that have run for as long as they may are cancelled."""
        effects: list[Effect] = []
        for queue in self._timed.values():
            for due, call in _dues(queue):
                if now >= due:
                    effects += self.cancels.time_out(call, queue.timeout_s or 0.0, now)
        return effects

    def deadline(self) -> float | None:
        """When the longest idle lease is to be returned, or a call ended or tried again."""
        dues = [due for due, _ in self.resting]
        idle = [one.idle_since for one in self.leases.leases.values() if one.is_idle]
        if idle:
            dues.append(min(idle) + self.limits.lease_idle_s)
        for queue in self._timed.values():
            dues += [due for due, _ in _dues(queue)]
        return min(dues, default=None)

    def check(self) -> int:
        """Every call in flight is under its number; how many calls are here in all."""
        placed = sum(len(queue.ready) - queue.cancelled for queue in self.leases.queues)
        placed += len(self.resting)
        for lease in self.leases.leases.values():
            for number, call in lease.inflight.items():
                placed += not call.is_over
                if call.number != number or call.lease != lease.number:
                    raise InvariantError(f"{call.call_id!r} is in flight under a wrong number")
                table = self.calls.over if call.is_over else self.calls.pending
                if table.get(call.call_id) is not call:
                    raise InvariantError(f"{call.call_id!r} is in flight but not pending")
            if lease.is_over and not lease.inflight:
                raise InvariantError(f"lease {lease.number} is over and still here")
        return placed

    def clear(self) -> None:
        """Forget what is queued and in flight: the machine fails it."""
        for queue in self.leases.queues:
            queue.ready.clear()
            queue.cancelled = 0
        self.resting.clear()
        for lease in list(self.leases.leases.values()):
            self.leases.lose(lease)

    # calls

    def enqueue(self, call: PendingCall) -> None:
        """Its arguments are there: it waits for a worker."""
        queue = self.leases.queues[call.queue_key]
        queue.ready.append(call)
        queue.depth = call.depth
        self._ready[call.queue_key] = queue

    def cancelled(self, call: PendingCall) -> None:
        """A ready or resting call is over; when none is left, no worker is needed."""
        resting = [(due, one) for due, one in self.resting if one is not call]
        if len(resting) < len(self.resting):
            self.resting = resting
            return
        queue = self.leases.queues[call.queue_key]
        queue.cancelled += 1
        if queue.cancelled == len(queue.ready):
            self._ready[queue.shape_id] = queue

    def answered(self, lease: Lease, now: float) -> None:
        """Calls of that lease came back: there is room for others."""
        lease.is_stalled = False
        self._look_at(lease, now)

    def on_drained(self, worker: Address, effects: list[Effect], now: float) -> None:
        """All that a dead worker had said is heard: settle what was in flight to it."""
        for lease in list(self.leases.leases.values()):
            if lease.worker == worker and lease.death is not None:
                self._settle(lease, lease.death, effects, now)

    def _settle(self, lease: Lease, death: Death, effects: list[Effect], now: float) -> None:
        """What may have run is charged, what never started goes elsewhere."""
        again: list[PendingCall] = []
        last = lease.inflight.get(-1 if death.reached is None else death.reached)
        is_innocent = last is not None and last.is_over  # ended for, or by, a cancelled call
        for call in self.leases.lose(lease):
            attempt = call.attempt
            may_have_run = death.reached is None or call.number <= death.reached
            if call.is_over:
                effects += self.cancels.gone(call, may_have_sealed=may_have_run)
            elif not may_have_run:
                again.append(call)
            elif is_innocent and call.retries:
                call.charge_nothing()
                again.append(call)
            elif death.crash.limit and lease.queue.may_retry and self._rest(call, now):
                continue
            elif not death.crash.limit and call.charge():
                again.append(call)
            else:
                call.may_have_sealed = True
                name = self.functions[call.function].name
                crash = msgspec.structs.replace(death.crash, task=name, attempt=attempt)
                self.fail(call, crash_failure(crash), effects)
        lease.queue.ready.extendleft(reversed(again))
        self._ready[lease.queue.shape_id] = lease.queue

    def _rest(self, call: PendingCall, now: float) -> bool:
        """Its worker was ended to save memory: try again when there may be more, if it still may.

        That is counted apart from crashes: it says little about the call.
        """
        limits = self.limits
        deaths = self.memory_deaths.get(call.call_id, 0)
        if deaths >= limits.oom_retries_max:
            return False
        self.memory_deaths[call.call_id] = deaths + 1
        call.charge_nothing()
        rest_s = min(limits.oom_retry_s * 2.0**deaths, limits.oom_retry_max_s)
        self.resting.append((now + rest_s, call))
        return True

    def _wake_rested(self, now: float) -> None:
        rested = [call for due, call in self.resting if due <= now]
        self.resting = [(due, call) for due, call in self.resting if due > now]
        for call in rested:
            if self.calls.pending.get(call.call_id) is call:
                self.enqueue(call)

    def _of(self, call: PendingCall, failure: Failure) -> Failure:
        """What the node said of a shape, as what befell this call's task."""
        task = f"task `{self.functions[call.function].name}`"
        if failure.kind == "unschedulable":
            text = f"no node can run {task}: {failure.text}"
        else:
            text = f"{task} cannot run: {failure.text}"
        return msgspec.structs.replace(failure, text=text)

    # leases

    def on_lease_granted(self, source: Address, message: LeaseGranted, now: float) -> list[Effect]:
        """A worker to stream calls to."""
        lease = self.leases.grant(message.shape_id, message.lease, message.worker, now)
        self._ready[lease.queue.shape_id] = lease.queue
        return []

    def on_calls_returned(
        self, source: Address, message: CallsReturned, now: float
    ) -> list[Effect]:
        """A worker gave back what it has not started: it goes elsewhere, uncharged."""
        lease = self.leases.leases.get(message.lease)
        if lease is None or lease.worker != source:
            return []
        effects: list[Effect] = []
        back = [lease.inflight[number] for number in message.numbers if number in lease.inflight]
        for call in back:
            lease.remove(call)
            if call.is_over:
                effects += self.cancels.gone(call, may_have_sealed=False)
        lease.queue.ready.extendleft(call for call in reversed(back) if not call.is_over)
        lease.is_over = lease.is_over or message.is_lease_over
        # what still runs there has overrun or waits: nothing more is sent before it answers
        lease.is_stalled = bool(lease.inflight)
        self._look_at(lease, now)
        return effects

    def on_unschedulable(self, source: Address, message: Unschedulable, now: float) -> list[Effect]:
        """No worker for this shape, ever: what waits for one fails with the reason."""
        effects: list[Effect] = []
        queue = self.leases.known(message.shape_id)
        queue.asked = len(queue.leases)
        queue.sweep()
        calls = list(queue.ready)
        queue.ready.clear()
        for call in calls:
            self.fail(call, self._of(call, message.failure), effects)
        return effects

    def on_worker_died(self, source: Address, message: WorkerDied, now: float) -> list[Effect]:
        """A worker that we lease or have leased is gone: hear its last words, then decide.

        A lease of ours that was over before may still have calls in flight, whose answers were on
        their way.
        """
        for lease in self.leases.leases.values():
            if lease.worker == message.worker:
                lease.death = Death(_reached(message, lease.number), message.crash)
        return [Drain(message.worker)]

    def _look_at(self, lease: Lease, now: float) -> None:
        """Something came back from it: it may be over, or have room."""
        if not lease.inflight:
            lease.idle_since = now
            if lease.is_over:
                self.leases.lose(lease)
        self._ready[lease.queue.shape_id] = lease.queue

    def _dispatch(self, queue: ShapeQueue, effects: list[Effect]) -> None:
        durations = self.calls.durations
        queue.sweep()
        for lease, calls in self.leases.dispatch(queue, durations):
            effects += self.run_at(lease.worker, lease.number, queue.depth, calls)
        wanted = queue.ask(durations, self.limits)
        if wanted is not None:
            request = RequestLease(
                queue.shape_id, queue.shape, wanted, queue.depth, self.job, queue.may_retry
            )
            effects.append(Send(self.node, request))

    def _time(self, queue: ShapeQueue, now: float) -> None:
        """The lowest number in flight runs, since the one before it was answered."""
        self._timed[queue.shape_id] = queue
        for lease in queue.leases.values():
            head = next(iter(lease.inflight.values()), None)
            number = -1 if head is None else head.number
            if head is not lease.head or number != lease.head_number:  # it may come again
                lease.head, lease.head_number, lease.head_since = head, number, now

    def _return_idle_leases(self, now: float, effects: list[Effect]) -> None:
        for lease in list(self.leases.leases.values()):
            if lease.is_idle and now >= lease.idle_since + self.limits.lease_idle_s:
                self.leases.give_back(lease)
                effects.append(Send(self.node, ReturnLease(lease.number)))


def _dues(queue: ShapeQueue) -> list[tuple[float, PendingCall]]:
    """The calls that run in time, and when that time is over."""
    timeout_s = queue.timeout_s or 0.0
    dues: list[tuple[float, PendingCall]] = []
    for lease in queue.leases.values():
        head = lease.head
        # it may have been answered in this very turn
        is_there = head is not None and lease.inflight.get(head.number) is head
        if head is not None and is_there and not head.is_over and lease.death is None:
            dues.append((lease.head_since + timeout_s, head))
    return dues


def _reached(died: WorkerDied, lease: int) -> int | None:
    """The last number of that lease that started; -1 if none did, None if nobody knows."""
    for progress in died.progress:
        if progress.lease == lease:
            return progress.number
    return None if lease < died.known_from else -1
