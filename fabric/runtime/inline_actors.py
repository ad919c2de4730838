"""Actors of an inline session: instances in this process, called in order, made again by policy.

Names, lives and policies are in the control store's own table; here are the instances and the calls
that wait behind the one that runs. Such calls were made inside of it: they run when it ends, and so
waiting for one there would never end. An actor goes with its last handle, between two calls.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fabric.core.client.actors import CONSTRUCTOR, NO_FUNCTION
from fabric.core.client.calls import PendingCall
from fabric.core.control.actors import ActorRow, ActorTable
from fabric.core.control.control import LOST_LIVES
from fabric.core.control.placement import misfit_text
from fabric.core.effects import BecomeActor
from fabric.core.events import Drop, KillActor, Leave, MakeActor, SubmitToActor
from fabric.ids import ActorId, Address, ObjectId, call_of, incarnation_of
from fabric.protocol.messages import ActorChanged, GetNamedActor
from fabric.protocol.values import ActorSpec, ActorView, Failure, Shape
from fabric.runtime.execution import EXITED
from fabric.runtime.inline_execution import InlineExecution

if TYPE_CHECKING:
    from fabric.runtime.inline_fabric import InlineFabric

HERE = Address("w:here")
UNKNOWN = Failure("actor_died", "nobody knows this actor")
INTERRUPTED = Failure("actor_died", "its constructor was interrupted from the keyboard")
NOTHING = Shape(())
SESSION_ENDED = Failure("actor_died", "its driver is gone")
VIEW_BYTES_MAX = 1 << 20


class InlineActor:
    """One actor: its row in the table, its instance, and the calls that wait for it."""

    def __init__(self, row: ActorRow, spec: ActorSpec) -> None:
        self.row = row
        self.spec = spec
        self.execution: InlineExecution | None = None
        self.needed: list[object] = []  # refs inside its constructor's arguments
        self.queue: deque[PendingCall] = deque()
        self.is_ready = False  # its constructor's arguments are there
        self.is_busy = False

    @property
    def is_dead(self) -> bool:
        """It is gone for good."""
        return self.row.view.state == "dead"

    def reason(self) -> Failure:
        """Why a call of it fails."""
        view = self.row.view
        cause = view.failure or UNKNOWN
        if view.state == "dead":
            return cause
        text = f"the {view.class_name} may have run this: {cause.text}"
        return Failure("actor_unavailable", text)


class InlineActors:
    """See the module."""

    def __init__(self, fabric: InlineFabric) -> None:
        self._fabric = fabric
        self._client = fabric.client
        self._table = ActorTable({}, self._client.limits, 0.0)
        self._actors: dict[ActorId, InlineActor] = {}
        self._dropped: deque[ActorId] = deque()

    # what user threads say

    def on_make_actor(self, event: MakeActor) -> None:
        """A new actor: its constructor runs, unless its name is taken or an argument is missing."""
        spec = event.spec
        holder = self._table.named(spec.job.namespace, spec.name) if spec.name else None
        if holder is not None:
            text = f"a living actor of class {holder.view.class_name} has the name {spec.name!r}"
            taken = Failure("name_taken", f"{text} in namespace {spec.job.namespace!r}")
            dead = ActorView(spec.actor_id, "dead", 1, spec.class_name, failure=taken)
            self._client.questions.answer(spec.actor_id, ActorChanged(dead))
            return
        row = self._table.create(spec, self._client.me, 0.0)
        actor = self._actors[spec.actor_id] = InlineActor(row, spec)
        actor.needed = [self._client.living(one) for one in spec.nested]
        call = PendingCall(
            call_of(spec.actor_id),
            spec.function,
            CONSTRUCTOR,
            spec.args,
            event.inputs,
            spec.nested,
            0,
            0,
        )
        self._fabric.admit(call, lambda call: self._on_ready(actor, call))
        self._client.questions.answer(spec.actor_id, ActorChanged(row.view))

    def on_submit_to_actor(self, event: SubmitToActor) -> None:
        """A call of a method: it runs, or waits behind the one that does."""
        call = PendingCall(
            event.call_id,
            NO_FUNCTION,
            event.method,
            event.args,
            event.inputs,
            event.nested,
            event.returns,
            event.retries,
        )
        actor = self._actors.get(event.actor_id)
        if actor is None:
            row = self._table.get(event.actor_id)
            reason = row.view.failure if row is not None else None
            self._fabric.fail(call, reason or UNKNOWN)
            return
        actor.queue.append(call)
        self._fabric.admit(call, lambda call: self._drain(actor))

    def cancelled(self, call: PendingCall) -> None:
        """A call that waited is over: those behind it may run."""
        actor = self._actors.get(call.actor_id) if call.actor_id is not None else None
        if actor is not None:
            actor.queue.remove(call)
            self._drain(actor)

    def on_kill_actor(self, event: KillActor) -> None:
        """It ends, and with it what it runs; its policy may give it another life."""
        actor = self._actors.get(event.actor_id)
        if actor is None or actor.is_dead:
            return
        if event.may_restart:
            self._life_over(actor, event.failure)
        else:
            self._end(actor, event.failure)
        self._drain(actor)

    def on_drop(self, event: Drop) -> None:
        """Perhaps an actor's last handle; said from anywhere, so it is looked at later."""
        self._dropped.extend(
            ActorId(one) for one in event.object_ids if ActorId(one) in self._actors
        )
        if self._dropped and self._fabric.turn.owner is None:
            self.bury()

    def on_leave(self, event: Leave) -> None:
        """The session ends."""
        for actor in list(self._actors.values()):
            if not actor.is_dead:
                self._end(actor, SESSION_ENDED)
        self._actors.clear()

    def bury(self) -> None:
        """End the actors whose handles are gone."""
        if not self._dropped or self._fabric.turn.is_elsewhere:
            return
        with self._fabric.turn:
            for _ in range(len(self._dropped)):
                actor_id = self._dropped.popleft()
                actor = self._actors.get(actor_id)
                if actor is None or self._client.shared.find(ObjectId(actor_id)) is not None:
                    continue
                if actor.is_busy or actor.queue:
                    self._dropped.append(actor_id)
                elif actor.is_dead:
                    del self._actors[actor_id]
                elif not actor.spec.is_detached:
                    text = f"the last handle of this {actor.spec.class_name} is gone"
                    self._end(actor, Failure("actor_died", text))
                    del self._actors[actor_id]

    # what others want to know

    def named(self, question: GetNamedActor) -> ActorSpec | None:
        """Who has that name."""
        row = self._table.named(question.namespace, question.name)
        return None if row is None else row.spec

    def views(self) -> tuple[ActorView, ...]:
        """The living, and the last that died."""
        return tuple(self._table.views(VIEW_BYTES_MAX))

    # lives

    def _on_ready(self, actor: InlineActor, call: PendingCall) -> None:
        shape, totals = actor.spec.shape, self._fabric.resources.totals
        if actor.is_dead:
            return
        if call.failure is not None:
            self._end(actor, call.failure)
        elif not self._fabric.resources.could_fit(shape):
            text = misfit_text(actor.spec.class_name, shape, [totals])
            self._end(actor, Failure("unschedulable", text))
        else:
            actor.spec = replace(actor.spec, inputs=call.inputs)
            actor.is_ready = True
        self._drain(actor)

    def _start(self, actor: InlineActor) -> None:
        """Make the instance, for the first time or again."""
        life = actor.row.view.incarnation
        self._table.place(actor.row, incarnation_of(self._client.place.node))
        self._fabric.resources.take(actor.spec.shape)
        execution = actor.execution = InlineExecution(self._client.place.node)
        self._fabric.define(execution, actor.spec.function)
        failure: Failure | None = INTERRUPTED
        try:
            with self._fabric.stage(execution, NOTHING, actor):
                failure = execution.construct(BecomeActor(life, actor.spec))
        finally:
            if not self._is_of(actor, life):
                pass  # it was killed by what its constructor called
            elif failure is None:
                self._table.start(actor.row, HERE, 1, 0.0)
            elif failure.kind in LOST_LIVES:
                self._life_over(actor, failure)
            else:
                self._end(actor, failure)

    def _is_of(self, actor: InlineActor, life: int) -> bool:
        return not actor.is_dead and actor.row.view.incarnation == life

    def _life_over(self, actor: InlineActor, failure: Failure) -> None:
        if actor.row.may_restart:
            self._let_go(actor)
            self._table.restart(actor.row, failure, (), is_seen=True, now=0.0)
        else:
            self._end(actor, failure)

    def _end(self, actor: InlineActor, failure: Failure) -> None:
        if failure.kind in LOST_LIVES:
            restarts = actor.row.view.restarts
            times = f" after {restarts} restarts" if restarts else ""
            text = f"the actor {actor.spec.class_name} died{times}: {failure.text}"
            failure = Failure("actor_died", text, failure.pickled)
        self._let_go(actor)
        actor.needed = []
        self._table.end(actor.row, failure)
        self._table.take_changed()

    def _let_go(self, actor: InlineActor) -> None:
        if actor.execution is not None:
            actor.execution = None
            self._fabric.resources.give_back(actor.spec.shape)

    # calls

    def _drain(self, actor: InlineActor) -> None:
        """Run what waits for it, in order, unless this is said by something that it runs."""
        if actor.is_busy:
            return
        actor.is_busy = True
        try:
            while self._step(actor):
                pass
        finally:
            actor.is_busy = False

    def _step(self, actor: InlineActor) -> bool:
        """The next thing to be done; false if there is none, or it has to wait."""
        if actor.is_ready and actor.row.view.state in ("pending", "restarting"):
            self._start(actor)
            return True
        if not actor.queue or actor.queue[0].missing or not (actor.is_ready or actor.is_dead):
            return False
        call = actor.queue.popleft()
        failure = actor.reason() if actor.is_dead else call.failure
        if failure is not None:
            self._fabric.fail(call, failure)
        elif actor.execution is not None:
            self._run(actor, actor.execution, call)
        return True

    def _run(self, actor: InlineActor, execution: InlineExecution, call: PendingCall) -> None:
        life = actor.row.view.incarnation
        outcomes = self._fabric.run(call, execution, NOTHING, actor)
        if outcomes is None and self._is_of(actor, life):
            self._life_over(actor, execution.crash())
        if outcomes is not None and self._is_of(actor, life):
            self._fabric.answer(call, outcomes, execution)
            if execution.has_exited:
                self._end(actor, EXITED)
        elif actor.is_dead or not call.charge():
            self._fabric.fail(call, actor.reason())
        else:
            actor.queue.appendleft(call)
