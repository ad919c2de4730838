"""A client's actors: making them, calling them in order, and ending those whose handles are gone.

The part of the client's machine that speaks to the control store (through the node) about actors
and decides what a caller repeats after a restart. The control store alone restarts; the actor's
worker alone knows what ran. Sending to workers and failing calls is the machine's, handed in by
`join`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from fabric.config import Limits
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.channels import Channel
from fabric.core.client.references import References
from fabric.core.effects import Drain, Effect, Reply, Send
from fabric.core.events import KillActor, MakeActor, SubmitToActor
from fabric.core.machine import InvariantError
from fabric.ids import ActorId, Address, FunctionId, Incarnation, ObjectId, call_of
from fabric.protocol.messages import ActorChanged, ActorRefused, CreateActor, EndActor, WatchActor
from fabric.protocol.values import ActorSpec, ActorView, Failure

if TYPE_CHECKING:
    from fabric.core.client.cancels import Cancels

NO_FUNCTION = FunctionId(b"")
"""Calls of methods name no function: the actor's worker has the class."""

CONSTRUCTOR = "__init__"


class Actors:
    """See the module."""

    def __init__(self, me: Incarnation, node: Address, limits: Limits) -> None:
        self.me = me
        self.node = node
        self.limits = limits
        self.channels: dict[ActorId, Channel] = {}
        self.made: dict[ActorId, ActorSpec] = {}  # by this client, and not known to be dead
        self.holds: dict[ActorId, tuple[ObjectId, ...]] = {}  # constructor arguments of those
        self.ended: dict[ActorId, None] = {}  # those of `made` whose last handle is gone
        self.lost: Failure | None = None  # the node is gone
        self._open: dict[ActorId, Channel] = {}  # channels to look at in this turn

    def join(
        self,
        calls: Calls,
        references: References,
        admit: Callable[[PendingCall], list[Effect]],
        fail: Callable[[PendingCall, Failure, list[Effect]], None],
        run_at: Callable[[Address, int, int, list[PendingCall]], list[Effect]],
        cancels: "Cancels",
    ) -> None:
        """Take the machine's parts and verbs; they need each other, so neither comes first."""
        self.calls = calls
        self.references = references
        self.admit = admit
        self.fail = fail
        self.run_at = run_at
        self.cancels = cancels

    @property
    def has_news(self) -> bool:
        """Channels are to be looked at."""
        return bool(self._open)

    def tick(self, effects: list[Effect]) -> None:
        """Send what became ready in this turn."""
        channels, self._open = self._open, {}
        for channel in channels.values():
            self._send_ready(channel, effects)

    def check(self) -> int:
        """How many pending calls are here: in channels, or constructors that wait for arguments."""
        placed = 0
        for one in self.channels.values():
            placed += len(one.queue) - one.cancelled
            placed += sum(1 for call in one.inflight.values() if not call.is_over)
        placed += sum(1 for actor_id in self.made if call_of(actor_id) in self.calls.pending)
        for channel in self.channels.values():
            if channel.is_over and (channel.queue or channel.inflight):
                raise InvariantError(f"calls wait for the dead {channel.actor_id!r}")
        return placed

    def clear(self, failure: Failure) -> list[Effect]:
        """Forget what is queued and in flight: the machine fails it."""
        self.lost = failure
        effects: list[Effect] = []
        for channel in self.channels.values():
            channel.queue.clear()
            channel.cancelled = 0
            channel.inflight.clear()
            if channel.is_awaited:
                channel.is_awaited = False
                effects.append(Reply(channel.actor_id, failure))
        self._open.clear()
        made, self.made = self.made, {}
        for actor_id in made:  # those whose handles went while their arguments were waited for
            handle = ObjectId(actor_id)
            if handle in self.references.objects.owned and not self.references.is_needed(handle):
                effects += self.references.forget(handle)
        return effects

    # what user threads say

    def on_submit_to_actor(
        self, source: Address, message: SubmitToActor, now: float
    ) -> list[Effect]:
        """A call of a method: it takes its place behind this client's earlier ones."""
        actor_id = message.actor_id
        call = PendingCall(
            message.call_id,
            NO_FUNCTION,
            message.method,
            message.args,
            message.inputs,
            message.nested,
            message.returns,
            message.retries,
        )
        call.actor_id = actor_id
        call.holds = (ObjectId(actor_id),)
        effects: list[Effect] = []
        if self.lost is not None:
            return self.admit(call)
        channel = self.channels.get(actor_id)
        if channel is None:
            channel = self.channels[actor_id] = Channel(actor_id)
            effects.append(Send(self.node, WatchActor(actor_id)))
        channel.queue.append(call)
        if channel.is_over:
            self._open[actor_id] = channel
        return [*effects, *self.admit(call)]

    def on_make_actor(self, source: Address, message: MakeActor, now: float) -> list[Effect]:
        """A new actor: the control store hears of it when its arguments are ready."""
        spec = message.spec
        self.references.hold_handle(ObjectId(spec.actor_id))
        if self.lost is not None:
            return [Reply(spec.actor_id, self.lost)] if spec.name else []
        channel = self.channels[spec.actor_id] = Channel(spec.actor_id)
        channel.is_awaited = bool(spec.name)
        call = PendingCall(
            call_of(spec.actor_id),
            spec.function,
            CONSTRUCTOR,
            spec.args,
            message.inputs,
            spec.nested,
            0,
            0,
        )
        call.actor_id = spec.actor_id
        self.made[spec.actor_id] = spec
        return self.admit(call)

    def on_kill_actor(self, source: Address, message: KillActor, now: float) -> list[Effect]:
        """The user ends an actor."""
        return [Send(self.node, EndActor(message.actor_id, message.failure, message.may_restart))]

    # what becomes of calls

    def on_ready(self, call: PendingCall) -> list[Effect]:
        """Its arguments are there: a constructor goes to the control store, a call to its turn."""
        if call.actor_id is None:
            raise InvariantError(f"{call.call_id!r} is no call of an actor")
        if self.lost is not None:
            return []  # it is failing with all others
        if call.call_id == call_of(call.actor_id):
            return self._create(call)
        channel = self.channels.get(call.actor_id)
        if channel is not None:
            self._open[call.actor_id] = channel
        return []

    def answered(self, call: PendingCall) -> None:
        """A call came back: there is room for another."""
        channel = self.channels.get(call.actor_id) if call.actor_id is not None else None
        if channel is not None:
            channel.inflight.pop(call.number, None)
            self._open[channel.actor_id] = channel

    def cancelled(self, call: PendingCall) -> None:
        """A call that was not sent is over: those behind it may go."""
        channel = self.channels.get(call.actor_id) if call.actor_id is not None else None
        if channel is not None:
            channel.cancelled += 1
            if channel.queue[0].is_over:
                self._open[channel.actor_id] = channel

    def on_drained(self, worker: Address, effects: list[Effect]) -> None:
        """All that a dead actor's worker had said is heard."""
        for channel in list(self.channels.values()):
            if channel.is_draining and channel.worker == worker:
                self._settle(channel, effects)

    def _create(self, call: PendingCall) -> list[Effect]:
        """The arguments stay held while the actor may be started again."""
        actor_id = ActorId(call.actor_id or b"")
        del self.calls.pending[call.call_id]
        self.holds[actor_id] = call.holds
        spec = self.made[actor_id]
        if not self.references.is_needed(ObjectId(actor_id)) and not spec.is_detached:
            effects = self._let_go(actor_id)  # its handles went while it waited: never made
            return effects + self.references.forget(ObjectId(actor_id))
        if call.failure is not None:
            dead = ActorView(actor_id, "dead", 1, spec.class_name, failure=call.failure)
            # others may have its handle by now, and ask the control store
            told = EndActor(actor_id, call.failure, may_restart=False)
            effects = [*self._learn(dead), Send(self.node, told)]
        else:
            spec = msgspec.structs.replace(spec, inputs=call.inputs)
            effects = [Send(self.node, CreateActor(spec))]
        if not self.references.is_needed(ObjectId(actor_id)):  # a detached one needs no handle
            effects += self.references.forget(ObjectId(actor_id))
        return effects

    def _send_ready(self, channel: Channel, effects: list[Effect]) -> None:
        channel.sweep()
        if channel.is_over:
            while channel.queue:
                self.fail(channel.queue.popleft(), channel.reason(), effects)
                channel.sweep()
            if not self.references.is_needed(ObjectId(channel.actor_id)):
                self.channels.pop(channel.actor_id, None)
            return
        while True:
            limits = self.limits
            calls = channel.take_ready(limits.window_calls_max, limits.window_bytes_max)
            if calls and channel.worker is not None:
                effects += self.run_at(channel.worker, calls[0].lease, 0, calls)
                channel.sweep()
                continue
            head = channel.queue[0] if channel.queue else None
            if head is None or head.missing or head.failure is None:
                return
            channel.queue.popleft()
            self.fail(head, head.failure, effects)
            channel.sweep()

    def _settle(self, channel: Channel, effects: list[Effect]) -> None:
        """After a life's end: what never started is sent again, what may have run by policy."""
        is_dead = channel.view is not None and channel.view.state == "dead"
        again: list[PendingCall] = []
        for call, may_have_run in channel.settle(self.me):
            if call.is_over:
                effects += self.cancels.gone(call, may_have_sealed=may_have_run)
            elif (may_have_run and not call.charge()) or is_dead:
                self.fail(call, channel.reason(), effects)
            else:
                again.append(call)
        channel.queue.extendleft(reversed(again))
        self._open[channel.actor_id] = channel

    # what becomes of actors

    def on_actor_changed(self, source: Address, message: ActorChanged, now: float) -> list[Effect]:
        """News of an actor."""
        return self._learn(message.actor)

    def on_actor_refused(self, source: Address, message: ActorRefused, now: float) -> list[Effect]:
        """It cannot be: its calls fail with the reason, and whoever made it is told."""
        spec = self.made.get(message.actor_id)
        name = spec.class_name if spec is not None else ""
        return self._learn(ActorView(message.actor_id, "dead", 1, name, failure=message.failure))

    def _learn(self, view: ActorView) -> list[Effect]:
        channel = self.channels.get(view.actor_id)
        if channel is None or not channel.learn(view):
            return []
        effects: list[Effect] = []
        if channel.is_awaited:
            channel.is_awaited = False
            effects.append(Reply(view.actor_id, ActorChanged(view)))
        if view.state == "dead":
            effects += self._let_go(view.actor_id)
        if channel.must_drain() and channel.worker is not None:
            channel.is_draining = True
            effects.append(Drain(channel.worker))
        self._open[view.actor_id] = channel
        return effects

    def on_handles_gone(self, handle: ObjectId) -> list[Effect]:
        """No handle of it is left in this process or, if this client made it, anywhere.

        What was numbered for its worker stays known while it lives: a handle may come back, and the
        worker goes on counting from there.
        """
        actor_id = ActorId(handle)
        spec = self.made.get(actor_id)
        if spec is None:
            channel = self.channels.get(actor_id)
            if channel is not None and (channel.life == 0 or channel.is_over):
                del self.channels[actor_id]
            return []
        if spec.is_detached or actor_id in self.ended:
            return []  # until it is dead, it may be started by the arguments that we hold
        self.ended[actor_id] = None
        gone = Failure("actor_died", f"the last handle of this {spec.class_name} is gone")
        return [Send(self.node, EndActor(actor_id, gone, may_restart=False))]

    def _let_go(self, actor_id: ActorId) -> list[Effect]:
        """It will not be started again by our arguments."""
        effects: list[Effect] = []
        self.made.pop(actor_id, None)
        self.ended.pop(actor_id, None)
        for held in self.holds.pop(actor_id, ()):
            effects += self.references.unhold(held)
        return effects
