"""A client's cancelled calls: over for whoever waits, and perhaps still at a worker.

The part of the client's machine that carries out `cancel`. A call that is cancelled has failed from
that moment on, whatever its worker says later. What has not been sent never is; what has been sent
stays in the lease's or channel's flight, and keeps what it holds, until its worker answers. A task
that goes on after its grace is ended with its worker by the node, an actor's call never.
"""

from collections.abc import Callable

from fabric.config import Limits
from fabric.core.client.actors import CONSTRUCTOR, Actors
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.core.effects import Effect, Reply, Send
from fabric.core.events import Cancel, CancelSince
from fabric.ids import (
    INCARNATION_BYTES,
    Address,
    CallId,
    call_of,
    object_id,
    owner_address,
)
from fabric.protocol.messages import CancelCalls, CancelObject, KillCall, Taken
from fabric.protocol.values import CallDone, Failure, Sealed


class Cancels:
    """See the module."""

    def __init__(self, node: Address, limits: Limits) -> None:
        self.node = node
        self.limits = limits
        self._due: dict[CallId, float] = {}  # tasks at a worker → when the node is asked to end it

    def join(
        self,
        calls: Calls,
        tasks: Tasks,
        actors: Actors,
        references: References,
        fail: Callable[[PendingCall, Failure, list[Effect]], None],
    ) -> None:
        """Take the machine's parts and verbs."""
        self.calls = calls
        self.tasks = tasks
        self.actors = actors
        self.references = references
        self.fail = fail

    # what is asked for

    def on_cancel(self, source: Address, message: Cancel, now: float) -> list[Effect]:
        """A user's thread wants an object no longer; the answer says whether force was in order."""
        name = message.object_id
        is_forced, is_recursive = message.is_forced, message.is_recursive
        if not self.references.objects.is_mine(name):
            told = CancelObject(name, is_forced, is_recursive)
            effects: list[Effect] = []
            if not self.references.is_dead(name):
                effects.append(Send(owner_address(name), told))
            return [*effects, Reply(message.request, told)]
        call = self.calls.pending.get(call_of(name))
        if call is not None and call.actor_id is not None and is_forced:
            return [Reply(message.request, CancelObject(name, False, is_recursive))]
        effects = self._cancel(call, is_forced, is_recursive, now)
        return [*effects, Reply(message.request, CancelObject(name, is_forced, is_recursive))]

    def on_cancel_object(self, source: Address, message: CancelObject, now: float) -> list[Effect]:
        """A borrower says so, who cannot know that an actor's call is not forced."""
        call = self.calls.pending.get(call_of(message.object_id))
        return self._cancel(call, message.is_forced, message.is_recursive, now)

    def on_cancel_since(self, source: Address, message: CancelSince, now: float) -> list[Effect]:
        """The call that this worker runs is cancelled: so is what it has called."""
        effects: list[Effect] = []
        for call in list(self.calls.pending.values()):
            number = int.from_bytes(call.call_id[INCARNATION_BYTES:], "big")
            if number >= message.number and self.calls.pending.get(call.call_id) is call:
                effects += self._cancel(call, False, True, now)
        return effects

    def time_out(self, call: PendingCall, timeout_s: float, now: float) -> list[Effect]:
        """It has run for as long as it may."""
        text = f"it ran longer than its timeout_s of {timeout_s:g} s"
        return self._end(call, Failure("cancelled", text), False, True, now)

    def tick(self, now: float) -> list[Effect]:
        """Have those ended that go on after their grace; once more if even that takes time."""
        effects: list[Effect] = []
        for call_id, due in list(self._due.items()):
            if now >= due:
                call = self.calls.over[call_id]
                self._due[call_id] = now + self.limits.cancel_grace_s
                effects.append(Send(self.node, KillCall(call.lease, call.number)))
        return effects

    def deadline(self) -> float | None:
        """When the first grace is over."""
        return min(self._due.values(), default=None)

    # what becomes of them

    def _cancel(
        self, call: PendingCall | None, is_forced: bool, is_recursive: bool, now: float
    ) -> list[Effect]:
        if call is None or call.method == CONSTRUCTOR:
            return []  # it has ended, or is none
        where = "at its worker" if call.lease else "before it was sent to a worker"
        failure = Failure("cancelled", f"it was cancelled {where}")
        return self._end(call, failure, is_forced, is_recursive, now)

    def _end(
        self, call: PendingCall, failure: Failure, is_forced: bool, is_recursive: bool, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        call.is_over = True
        if not call.lease:
            self.fail(call, failure, effects)
            self._leave_queue(call)
            return effects
        # what it was given stays where its worker may look for it
        holds, call.holds = call.holds, ()
        self.fail(call, failure, effects)
        call.holds = holds
        self.calls.over[call.call_id] = call
        worker = self._worker_of(call)
        if worker is not None:
            numbers = (call.number,)
            told = CancelCalls(call.lease, numbers, is_forced and not call.actor_id, is_recursive)
            effects.append(Send(worker, told))
        if call.actor_id is None:
            grace_s = self.limits.cancel_forced_s if is_forced else self.limits.cancel_grace_s
            self._due[call.call_id] = now + grace_s
        return effects

    def _leave_queue(self, call: PendingCall) -> None:
        """Queues are long and cancels many: it stays where it is until its turn comes."""
        if call.actor_id is not None:
            self.actors.cancelled(call)
        elif not call.missing and call.failure is None:
            self.tasks.cancelled(call)

    def _worker_of(self, call: PendingCall) -> Address | None:
        if call.actor_id is not None:
            channel = self.actors.channels.get(call.actor_id)
            return None if channel is None or channel.is_draining else channel.worker
        lease = self.tasks.leases.leases.get(call.lease)
        return None if lease is None or lease.death is not None else lease.worker

    def answered(self, worker: Address, lease_number: int, done: CallDone) -> list[Effect]:
        """An answer that nobody waits for: of a cancelled call, or of an older attempt."""
        effects: list[Effect] = []
        call = self.calls.over.get(done.call_id)
        if call is not None and (call.attempt, call.lease) == (done.attempt, lease_number):
            lease = self.tasks.leases.leases.get(lease_number)
            if lease is not None:
                lease.remove(call)
            else:
                self.actors.answered(call)
            is_sealed = any(type(one) is Sealed for one in done.values)
            effects += self.gone(call, may_have_sealed=is_sealed)
        if any(done.contained):
            effects.append(Send(worker, Taken((done.call_id,))))
        return effects

    def gone(self, call: PendingCall, *, may_have_sealed: bool) -> list[Effect]:
        """A cancelled call is at no worker any more: what it held may go, and what it left."""
        del self.calls.over[call.call_id]
        self._due.pop(call.call_id, None)
        if may_have_sealed:
            for index in range(call.returns):
                self.references.free_attempts(object_id(call.call_id, index))
        return [one for held in call.holds for one in self.references.unhold(held)]

    def clear(self) -> None:
        """The node and its workers are gone."""
        self.calls.over.clear()
        self._due.clear()
