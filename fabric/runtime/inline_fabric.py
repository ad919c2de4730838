"""What an inline session has in place of nodes and workers: it runs a call when it hears of it.

A call runs inside of the one that makes it, on the same stack, so a debugger sees who called. Its
arguments come out of their pickle and its results go into one, as in a worker, by the code of one.
A call waits only for a ref that has no value yet, and there is none but that of an actor's call
behind one that runs (`fabric.runtime.inline_actors`). Resources are compared, never waited for.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from fabric.context import Running, running
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.effects import Run
from fabric.core.events import (
    Ask,
    Await,
    Cancel,
    DefineLocally,
    Drop,
    Event,
    Hold,
    Input,
    KillActor,
    Leave,
    MakeActor,
    Put,
    Register,
    Submit,
    SubmitToActor,
    Want,
)
from fabric.core.node.resources import Resources, amounts_text
from fabric.ids import CallId, FunctionId, ObjectId, call_of, incarnation_of, object_id
from fabric.protocol.cluster import GetView, View
from fabric.protocol.messages import (
    BorrowerAdded,
    CancelObject,
    DefineFunction,
    GetNamedActor,
    NamedActor,
)
from fabric.protocol.values import Failure, NodeView, Sealed, Shape
from fabric.refs import ObjectRef
from fabric.runtime.execution import Outcome
from fabric.runtime.inline_actors import InlineActor, InlineActors
from fabric.runtime.inline_execution import InlineExecution

if TYPE_CHECKING:
    from fabric.runtime.inline import InlineClient

Ref = ObjectRef[Any]

INTERRUPTED = Failure("cancelled", "it was interrupted from the keyboard while it ran")
LOST = Failure("object_lost", "this process knows nothing of that object any more")


class InlineFabric:
    """See the module."""

    def __init__(self, client: InlineClient, units: Mapping[str, int]) -> None:
        self.client = client
        self.turn = client.turn
        self.resources = Resources(units)
        self.functions: dict[FunctionId, DefineLocally] = {}
        self.actors = InlineActors(self)
        self._tasks = InlineExecution(client.place.node)
        self._calls = Calls()
        # calls that wait for arguments → what to do then, and the refs they need until then
        self._waiting: dict[CallId, tuple[Callable[[PendingCall], None], list[Ref | None]]] = {}
        self._stack_max = sys.getrecursionlimit()
        self._on: Mapping[type, Callable[[Any], None]] = {
            Submit: self.on_submit,
            SubmitToActor: self.actors.on_submit_to_actor,
            MakeActor: self.actors.on_make_actor,
            KillActor: self.actors.on_kill_actor,
            Cancel: self.on_cancel,
            Leave: self.actors.on_leave,
        }
        self._on_aside: Mapping[type, Callable[[Any], None]] = {
            Drop: self.actors.on_drop,
            Ask: self.on_ask,
            DefineLocally: self.on_define_locally,
            Put: self.on_put,
            Want: self.on_want,
            Hold: lambda event: None,  # refs of one process are counted by Python
            Register: self.on_register,
        }

    def hear(self, event: Event) -> None:
        """Do it now. What may run user code or end an actor waits for its thread's turn."""
        react = self._on_aside.get(type(event))
        if react is not None:
            react(event)
            return
        react = self._on.get(type(event))
        if react is None:
            raise TypeError(f"an inline session cannot do {event!r}")
        with self.turn:
            self.actors.bury()
            react(event)
            self.actors.bury()

    def hears(self) -> frozenset[type]:
        """The events that it knows."""
        return frozenset((*self._on, *self._on_aside))

    # calls

    def on_submit(self, event: Submit) -> None:
        """A task was called: it runs, unless an argument is missing or it never can."""
        call = PendingCall(
            event.call_id,
            event.function,
            "",
            event.args,
            event.inputs,
            event.nested,
            event.returns,
            event.retries,
        )
        self.admit(call, lambda call: self._run_task(call, event.shape))

    def admit(self, call: PendingCall, on_ready: Callable[[PendingCall], None]) -> None:
        """Go on with it once its arguments are there; meanwhile it keeps what it will need."""
        waits_for: list[ObjectId] = []
        call.inputs = tuple(self._filled(one, waits_for) for one in call.inputs)
        call.failure = next((one for one in call.inputs if type(one) is Failure), None)
        self._calls.add(call, waits_for)
        if waits_for:
            needed = [self.client.living(one) for one in (*call.nested, *waits_for)]
            self._waiting[call.call_id] = on_ready, needed
        else:
            on_ready(call)

    def _filled(self, one: Input, waits_for: list[ObjectId]) -> Input:
        if type(one) is not Await:
            return one
        ref = self.client.living(one.object_id)
        if ref is None or (ref._value is None and one.object_id not in self.client.inflight):
            return LOST
        if ref._value is None:
            waits_for.append(one.object_id)
            return one
        return ref._value

    def _run_task(self, call: PendingCall, shape: Shape) -> None:
        failure = call.failure or self._why_not(shape)
        if failure is not None:
            self.fail(call, failure)
            return
        self.define(self._tasks, call.function)
        while True:
            outcomes = self.run(call, self._tasks, shape)
            if outcomes is not None:
                self.answer(call, outcomes, self._tasks)
                return
            if not call.charge():
                self.fail(call, self._tasks.crash())
                return

    def _why_not(self, shape: Shape) -> Failure | None:
        if not self.resources.could_fit(shape):
            text = f"no node can run it: it needs {amounts_text(dict(shape.amounts))}"
            totals = amounts_text(self.resources.totals)
            return Failure("unschedulable", f"{text}; the best node has {totals}")
        depth_max = self.client.limits.workers_max
        if self.turn.depth > depth_max:
            text = f"{depth_max} calls of this inline session run inside one another"
            return Failure("waits_limit", text)
        return None

    def define(self, execution: InlineExecution, function: FunctionId) -> None:
        """Let it know a function or class that it will load from its pickle."""
        known = self.functions[function]
        execution.learn(DefineFunction(known.function, known.name, known.pickled))

    def run(
        self,
        call: PendingCall,
        execution: InlineExecution,
        shape: Shape,
        actor: InlineActor | None = None,
    ) -> list[Outcome] | None:
        """Run one attempt, here and now; None if the code ended what it takes for its process."""
        try:
            with self.stage(execution, shape, actor) as depth:
                return execution.attempt(Run(self.client.address, 0, depth, call.spec()))
        except BaseException:
            self.fail(call, INTERRUPTED)
            raise

    @contextlib.contextmanager
    def stage(
        self, execution: InlineExecution, shape: Shape, actor: InlineActor | None
    ) -> Iterator[int]:
        """What user code finds around it in a worker: a context, and room on the stack.

        All of it is put back for the call in which this one was made.
        """
        names = Running.__slots__
        before = [getattr(running, name) for name in names]
        outer, depth, stack_max = execution.outer, self.client.depth, sys.getrecursionlimit()
        running.actor_id = actor.row.actor_id if actor else None
        running.class_name = actor.spec.class_name if actor else ""
        running.restarts = actor.row.view.restarts if actor else 0
        execution.outer = sys.exception()
        self.client.depth = depth + 1
        self.resources.take(shape)
        sys.setrecursionlimit(self._stack_max + _frames())
        try:
            yield depth
        finally:
            sys.setrecursionlimit(stack_max)
            self.resources.give_back(shape)
            self.client.depth = depth
            execution.outer = outer
            for name, value in zip(names, before, strict=True):
                setattr(running, name, value)

    def answer(
        self, call: PendingCall, outcomes: list[Outcome], execution: InlineExecution | None = None
    ) -> None:
        """The values of its refs, which keep the refs inside them alive."""
        self._calls.pending.pop(call.call_id, None)
        revive = self.client.shared.revive
        answers: list[tuple[bytes | Failure, tuple[Ref, ...]]] = [
            (one, ())
            if isinstance(one, Failure)
            else (one.packed(), tuple(revive(each) for each in one.refs))
            for one in outcomes[: call.returns]
        ]
        if execution is not None:
            execution.result = None
        for index, (value, contained) in enumerate(answers):
            self.settle(object_id(call.call_id, index), value, contained)

    def fail(self, call: PendingCall, failure: Failure) -> None:
        """It has no value, and that is why."""
        self.answer(call, [failure] * call.returns)

    def settle(
        self, name: ObjectId, value: bytes | Failure, contained: tuple[Ref, ...] = ()
    ) -> None:
        """An object has its value: calls that waited for it may run."""
        self.client.settle(name, value, contained)
        for call in self._calls.resolved(name, value):
            on_ready, _ = self._waiting.pop(call.call_id)
            if not call.is_over:
                on_ready(call)

    def on_cancel(self, event: Cancel) -> None:
        """A call that waits for an argument will not run; any other has run, or is running."""
        name = event.object_id
        call = self._calls.pending.get(call_of(name))
        is_refused = event.is_forced and call is not None and call.actor_id is not None
        if call is not None and call.call_id in self._waiting and not is_refused:
            call.is_over = True
            self.fail(call, Failure("cancelled", "it was cancelled before it could run"))
            self.actors.cancelled(call)
        told = CancelObject(name, event.is_forced and not is_refused, event.is_recursive)
        self.client.questions.answer(event.request, told)

    # what is done without a turn

    def on_define_locally(self, event: DefineLocally) -> None:
        """A function or class that calls will name."""
        self.functions[event.function] = event

    def on_put(self, event: Put) -> None:
        """A promise is kept; other refs have their values already."""
        if event.object_id in self.client.inflight and not isinstance(event.value, Sealed):
            contained = tuple(self.client.shared.revive(one) for one in event.contained)
            self.settle(event.object_id, event.value, contained)

    def on_want(self, event: Want) -> None:
        """Somebody waits for a ref that came out of a pickle of unknown age: its value is gone."""
        if event.object_id in self.client.inflight:
            self.settle(event.object_id, LOST)

    def on_ask(self, event: Ask) -> None:
        """A question to the control store."""
        self.actors.bury()
        message = event.message
        answer: View | NamedActor
        if isinstance(message, GetNamedActor):
            answer = NamedActor(message.request, self.actors.named(message))
        elif isinstance(message, GetView):
            answer = View(event.request, 1, 1, (self._node(),), self.actors.views(), ())
        else:
            raise TypeError(f"an inline session cannot answer {message!r}")
        self.client.questions.answer(event.request, answer)

    def on_register(self, event: Register) -> None:
        """Their owner is this process, which knows."""
        self.client.questions.answer(event.request, BorrowerAdded(event.object_ids))

    def _node(self) -> NodeView:
        totals, free = self.resources.totals, self.resources.free
        return NodeView(
            incarnation_of(self.client.place.node),
            "alive",
            os.uname().nodename,
            os.getpid(),
            tuple(totals.items()),
            tuple((name, max(0, free[name])) for name in totals),
            workers=1,
        )


def _frames() -> int:
    """How deep the stack is."""
    count = 0
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count
