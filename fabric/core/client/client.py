"""The client's machine: the owner of its calls, its objects and their references.

User threads submit; it waits for arguments, asks its node for leases, streams calls straight to
leased workers and to actors, keeps the answers, and counts who needs which object. Its parts hold
the tables (`calls`, `leases`, `channels`, `objects`); every message a client can send
is sent here or in `tasks`, `actors` and `references`. It does not look into values.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fabric.config import Limits
from fabric.core.allocations import Allocations
from fabric.core.client.actors import NO_FUNCTION, Actors
from fabric.core.client.asks import Asks
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.cancels import Cancels
from fabric.core.client.leases import ShapeQueue
from fabric.core.client.reasons import reason_of
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.core.effects import Effect, Hangup, Reply, Resolve, Send, ShowOutput
from fabric.core.events import (
    Ask,
    Await,
    Cancel,
    CancelSince,
    DefineLocally,
    Drained,
    Drop,
    Event,
    Hold,
    Input,
    KillActor,
    Leave,
    MakeActor,
    OutputPrinted,
    PeerLost,
    Put,
    Register,
    Submit,
    SubmitToActor,
    Want,
)
from fabric.core.machine import InvariantError
from fabric.ids import (
    Address,
    FunctionId,
    ObjectId,
    address,
    incarnation_of,
    object_id,
)
from fabric.protocol.cluster import View
from fabric.protocol.messages import (
    ActorChanged,
    ActorRefused,
    AddBorrower,
    AnyMessage,
    BorrowerAdded,
    CallsDone,
    CallsReturned,
    CancelObject,
    ClientDied,
    ClientRegistered,
    DefineFunction,
    DefineJob,
    FlushOutput,
    FunctionFound,
    LeaseGranted,
    NamedActor,
    ObjectReady,
    OutputShown,
    OutputWritten,
    PutFunction,
    RegisterClient,
    Release,
    RunCalls,
    Taken,
    UnregisterClient,
    Unschedulable,
    WantObject,
    WorkerDied,
)
from fabric.protocol.values import CallDone, Failure, JobSpec, Sealed, Value

FIRST_INDEX = bytes(2)


class ClientMachine:
    """See the module. Peers are its node, leased workers, workers of actors, other clients."""

    def __init__(
        self,
        address: Address,
        node: Address,
        job: JobSpec,
        limits: Limits,
        *,
        is_driver: bool,
        pid: int = 0,
        entrypoint: str = "",
        wants_output: bool = False,
    ) -> None:
        self.address = address
        self.me = incarnation_of(address)
        self.node = node
        self.job = job
        self.limits = limits
        self.hello = RegisterClient(pid, is_driver, job, entrypoint, wants_output)
        self.calls = Calls()
        self.functions: dict[FunctionId, DefineLocally] = {}
        self.tasks = Tasks(node, job.job, limits)
        self.actors = Actors(self.me, node, limits)
        self.references = References(
            self.me, node, self.calls, self.actors.on_handles_gone, self._wake
        )
        self.cancels = cancels = Cancels(node, limits)
        cancels.join(self.calls, self.tasks, self.actors, self.references, self._fail)
        self.tasks.join(self.calls, self._fail, self._run_at, self.functions, cancels)
        self.actors.join(
            self.calls, self.references, self._admit, self._fail, self._run_at, cancels
        )
        self.allocations = Allocations(node)
        self.introduced: dict[Address, dict[FunctionId, None]] = {}  # worker → what it was sent
        self.asks = Asks(node)
        self.node_is_lost: Failure | None = None
        self._failing: list[PendingCall] = []  # ready, but with a failed input
        self._queue: ShapeQueue | None = None  # of the last call
        self._is_usual = False  # known to the node, and the node is there
        self._on = self._reactions()

    def _reactions(self) -> Mapping[type, Callable[[Address, Any, float], list[Effect]]]:
        return {
            **self.allocations.reactions(),
            Submit: self.on_submit,
            SubmitToActor: self.actors.on_submit_to_actor,
            CallsDone: self.on_calls_done,
            LeaseGranted: self.tasks.on_lease_granted,
            CallsReturned: self.tasks.on_calls_returned,
            WorkerDied: self.tasks.on_worker_died,
            Drained: self.on_drained,
            Unschedulable: self.tasks.on_unschedulable,
            DefineLocally: self.on_define_locally,
            MakeActor: self.actors.on_make_actor,
            KillActor: self.actors.on_kill_actor,
            Cancel: self.cancels.on_cancel,
            CancelObject: self.cancels.on_cancel_object,
            CancelSince: self.cancels.on_cancel_since,
            ActorChanged: self.actors.on_actor_changed,
            ActorRefused: self.actors.on_actor_refused,
            Drop: self.references.on_drop,
            Hold: self.references.on_hold,
            Put: self.on_put,
            Want: self.references.on_want,
            Register: self.references.on_register,
            AddBorrower: self.references.on_add_borrower,
            BorrowerAdded: self.references.on_borrower_added,
            Release: self.references.on_release,
            WantObject: self.references.on_want_object,
            ObjectReady: self.on_object_ready,
            ClientDied: self.on_client_died,
            PeerLost: self.on_peer_lost,
            Ask: self.asks.on_ask,
            NamedActor: self.asks.on_answer,
            FunctionFound: self.asks.on_answer,
            View: self.asks.on_answer,
            FlushOutput: self.asks.on_answer,
            OutputWritten: self.on_output_written,
            OutputPrinted: self.on_output_printed,
            ClientRegistered: self.on_client_registered,
            Leave: self.on_leave,
        }

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message or event."""
        react = self._on.get(type(message))
        if react is None:
            return []
        effects = react(source, message, now)
        return effects if self._is_usual else self._unusual(effects)

    def tick(self, now: float) -> list[Effect]:
        """Send what became ready in this turn, ask for workers, return those without work."""
        effects = self.tasks.end_overdue(now)
        while self._failing or self.actors.has_news:  # each may bring about the other
            self._fail_those_with_failed_inputs(effects)
            self.actors.tick(effects)
        effects += self.tasks.tick(now)
        effects += self.cancels.tick(now)
        effects += self.references.tick()
        return effects if self._is_usual else self._unusual(effects)

    def _unusual(self, effects: list[Effect]) -> list[Effect]:
        """At first the node must know us before we ask; when it is lost, nothing is said to it."""
        if self.node_is_lost is None:
            self._is_usual = True
            return [Send(self.node, self.hello), *effects]
        # its workers went with it
        return [one for one in effects if type(one) is not Send or one.peer.startswith("c:")]

    def deadline(self) -> float | None:
        """When its parts have something to do; at once if something is in doubt."""
        if self.references.is_in_doubt:
            return 0.0
        due, grace_over = self.tasks.deadline(), self.cancels.deadline()
        return due if grace_over is None else grace_over if due is None else min(due, grace_over)

    def check(self) -> None:
        """Every pending call is in exactly one place, and counts are not negative."""
        placed = self.tasks.check() + self.actors.check()
        waiting = sum(
            1 for call in self.calls.pending.values() if call.missing and call.actor_id is None
        )
        if placed + waiting != len(self.calls.pending):
            raise InvariantError(
                f"{len(self.calls.pending)} calls pending, {placed} placed, {waiting} waiting"
            )
        self.references.check()

    def snapshot(self) -> Mapping[str, object]:
        """Counts of what is in the tables."""
        return {
            "pending": len(self.calls.pending),
            "ready": sum(len(queue.ready) for queue in self.tasks.leases.queues),
            "leases": len(self.tasks.leases.leases),
            "owned": len(self.references.objects.owned),
            "borrowed": len(self.references.objects.borrowed),
            "actors": len(self.actors.channels),
        }

    def reason_of(self, object_id: ObjectId) -> str:
        """Why an object has no value: a name of `REASONS`."""
        return reason_of(self.calls, self.tasks, self.actors, self.references, object_id)

    # submission

    def on_submit(self, source: Address, message: Submit, now: float) -> list[Effect]:
        """A task call: ready at once, or as soon as its arguments are."""
        queue = self._queue  # most often, a call has the shape of the one before
        kind = (message.retries != 0, message.timeout_s)
        if queue is None or message.shape is not queue.shape or kind != queue.kind:
            queue = self._queue = self.tasks.leases.queue_for(message.shape, *kind)
        call = PendingCall(
            message.call_id,
            message.function,
            "",
            message.args,
            message.inputs,
            message.nested,
            message.returns,
            message.retries,
            queue.shape_id,
            message.depth,
        )
        if call.inputs or call.nested or self.node_is_lost is not None:
            return self._admit(call)
        self.calls.pending[call.call_id] = call
        self.tasks.enqueue(call)
        return []

    def on_define_locally(
        self, source: Address, message: DefineLocally, now: float
    ) -> list[Effect]:
        """A function that calls will name; a shared one is kept in the control store too."""
        self.functions[message.function] = message
        if not message.is_shared:
            return []
        return [Send(self.node, PutFunction(message.function, message.name, message.pickled))]

    def _admit(self, call: PendingCall) -> list[Effect]:
        """A new call: hold what it needs, wait for what is missing."""
        effects: list[Effect] = []
        if self.node_is_lost is not None:
            self.calls.pending[call.call_id] = call
            call.holds = ()
            self._fail(call, self.node_is_lost, effects)
            return effects
        filled, waits_for, holds = self._inputs(call.inputs, effects)
        call.inputs = tuple(filled)
        for held in (*call.holds, *call.nested):
            self.references.hold(held)
        call.holds = (*call.holds, *call.nested, *holds)
        call.failure = next((one for one in filled if type(one) is Failure), None)
        self.calls.add(call, waits_for)
        if not call.missing:
            effects += self._enqueue(call)
        return effects

    def _inputs(
        self, inputs: tuple[Input, ...], effects: list[Effect]
    ) -> tuple[list[Input], list[ObjectId], list[ObjectId]]:
        """Fill in what has a value; what is missing, and what was held meanwhile."""
        filled: list[Input] = []
        missing: list[ObjectId] = []
        holds: list[ObjectId] = []
        for one in inputs:
            if type(one) is not Await:
                filled.append(one)
                continue
            value = self.references.value_of(one.object_id)
            if value is None and type(one.slot.value) in (bytes, Failure):
                filled.append(one.slot.value)  # type: ignore[arg-type]  # resolved and forgotten
                continue
            self.references.hold(one.object_id)
            holds.append(one.object_id)
            if value is None:
                effects += self.references.want(one.object_id)
                value = self.references.value_of(one.object_id)  # at once, if its owner is gone
            if value is None:
                missing.append(one.object_id)
            filled.append(one if value is None else value)
        return filled, missing, holds

    def _enqueue(self, call: PendingCall) -> list[Effect]:
        if call.inputs and call.nbytes > self.limits.call_bytes_max:
            text = (
                f"the arguments of one call weigh {call.nbytes:,} bytes in all, "
                f"more than a message takes ({self.limits.call_bytes_max:,})"
            )
            call.failure = call.failure or Failure("serialization", text)
        if call.actor_id is not None:
            return self.actors.on_ready(call)
        if call.failure is not None:
            self._failing.append(call)
        else:
            self.tasks.enqueue(call)
        return []

    def _fail_those_with_failed_inputs(self, effects: list[Effect]) -> None:
        """One after the other, not by recursion: a chain of calls may be as long as it likes."""
        for call in self._failing:
            if self.calls.pending.get(call.call_id) is call and call.failure is not None:
                self._fail(call, call.failure, effects)
        self._failing.clear()

    def _run_at(
        self, worker: Address, lease: int, depth: int, calls: list[PendingCall]
    ) -> list[Effect]:
        effects: list[Effect] = []
        known = self.introduced.get(worker)
        if known is None:
            known = self.introduced[worker] = {NO_FUNCTION: None}
            effects.append(Send(worker, DefineJob(self.job)))
        for call in calls:
            if call.function not in known:
                known[call.function] = None
                local = self.functions[call.function]
                definition = DefineFunction(local.function, local.name, local.pickled)
                effects.append(Send(worker, definition))
        effects.append(Send(worker, RunCalls(lease, depth, [call.spec() for call in calls])))
        return effects

    # answers

    def on_calls_done(self, source: Address, message: CallsDone, now: float) -> list[Effect]:
        """Calls came back: keep the answers, wake who waits, send what waited for them."""
        effects: list[Effect] = []
        pending, owned = self.calls.pending, self.references.objects.owned
        lease = self.tasks.leases.leases.get(message.lease)
        for done in message.calls:
            call = pending.get(done.call_id)
            if call is None or call.attempt != done.attempt or call.lease != message.lease:
                # a cancelled call or an older attempt may still report; it no longer counts
                effects += self.cancels.answered(source, message.lease, done)
                continue
            if lease is not None:
                lease.remove(call)
                self.calls.measured(call.function, done.duration_us * 1e-6)
            else:
                self.actors.answered(call)
            result = ObjectId(call.call_id + FIRST_INDEX)
            if call.holds or call.returns != 1 or call.may_have_sealed or result in owned:
                self._complete(source, call, done, effects)
                continue
            value = done.values[0] if done.values else None
            if type(value) is not bytes or done.contained:
                self._complete(source, call, done, effects)
                continue
            del pending[call.call_id]  # as most calls end
            effects.append(Resolve(result, value))
        if lease is not None:
            self.tasks.answered(lease, now)
        return effects

    def _complete(
        self, worker: Address, call: PendingCall, done: CallDone, effects: list[Effect]
    ) -> None:
        if len(done.values) != call.returns:
            text = f"its worker answered with {len(done.values)} results of {call.returns}"
            self._fail(call, Failure("worker_crashed", text), effects)
            return
        contained = (*done.contained, *((),) * len(done.values))[: len(done.values)]
        for index, (value, inner) in enumerate(zip(done.values, contained, strict=True)):
            result = object_id(call.call_id, index)
            effects += self.references.resolve(result, value, inner)
            is_half = type(value) is Failure and value.kind == "store_full"  # a segment is left
            if (call.may_have_sealed or is_half) and type(value) is not Sealed:
                self.references.free_attempts(result)
        del self.calls.pending[call.call_id]
        inner_ids = tuple(one for inner in contained for one in inner)
        if inner_ids:
            taken = Send(worker, Taken((call.call_id,)))
            effects += self.references.register(inner_ids, [taken])
        self._finish(call, effects)

    def _fail(self, call: PendingCall, failure: Failure, effects: list[Effect]) -> None:
        for index in range(call.returns):
            result = object_id(call.call_id, index)
            effects += self.references.resolve(result, failure)
            if call.may_have_sealed:
                self.references.free_attempts(result)
        del self.calls.pending[call.call_id]
        self._finish(call, effects)

    def _finish(self, call: PendingCall, effects: list[Effect]) -> None:
        """The call is over: what it held may go."""
        self.tasks.memory_deaths.pop(call.call_id, None)
        for held in call.holds:
            effects += self.references.unhold(held)

    def _wake(self, resolved: ObjectId, value: Value) -> list[Effect]:
        """Calls that waited for that object only are ready, or failed with it."""
        effects: list[Effect] = []
        for call in self.calls.resolved(resolved, value):
            if self.calls.pending.get(call.call_id) is call:
                effects += self._enqueue(call)
        return effects

    def on_put(self, source: Address, message: Put, now: float) -> list[Effect]:
        """The user's process says what an object of ours is."""
        return self.references.put(message.object_id, message.value, message.contained)

    def on_object_ready(self, source: Address, message: ObjectReady, now: float) -> list[Effect]:
        """An owner told us the value of a borrowed object."""
        return self.references.received(message.object_id, message.value, message.contained)

    # workers, clients and nodes that die

    def on_drained(self, source: Address, message: Drained, now: float) -> list[Effect]:
        """All it had said is heard: what ran is charged, what never started goes elsewhere."""
        effects: list[Effect] = []
        self.tasks.on_drained(message.peer, effects, now)
        self.actors.on_drained(message.peer, effects)
        self.introduced.pop(message.peer, None)
        self.references.worker_gone(message.peer)
        return [*effects, Hangup(message.peer)]

    def on_client_died(self, source: Address, message: ClientDied, now: float) -> list[Effect]:
        """Another client is gone."""
        effects = self.references.client_died(message.client)
        return [*effects, Hangup(address("c", message.client))]

    def on_peer_lost(self, source: Address, message: PeerLost, now: float) -> list[Effect]:
        """A link is over for good: an owner's objects are lost, without a node everything is."""
        if message.peer != self.node:
            if message.peer.startswith("c:"):
                return self.references.client_died(incarnation_of(message.peer))
            return []
        failure = Failure("cluster", f"the node is gone: {message.reason}")
        self.node_is_lost = failure
        self._is_usual = False
        effects: list[Effect] = []
        self.tasks.clear()
        self.cancels.clear()
        effects += self.actors.clear(failure)
        effects += self.allocations.node_lost(failure)
        effects += self.references.node_lost(failure)
        for call in list(self.calls.pending.values()):
            if call.call_id in self.calls.pending:
                self._fail(call, failure, effects)
        effects += self.asks.node_lost(failure)
        return [*effects, *(Hangup(worker) for worker in self.introduced)]

    # what else is said

    def on_client_registered(
        self, source: Address, message: ClientRegistered, now: float
    ) -> list[Effect]:
        """The node knows us."""
        return [Reply(b"registered", message)]

    def on_output_written(
        self, source: Address, message: OutputWritten, now: float
    ) -> list[Effect]:
        """Our workers' words, for the user to see."""
        return [ShowOutput(source, message)]

    def on_output_printed(
        self, source: Address, message: OutputPrinted, now: float
    ) -> list[Effect]:
        """They are seen: their node may send more."""
        return [Send(message.node, OutputShown(message.nbytes))]

    def on_leave(self, source: Address, message: Leave, now: float) -> list[Effect]:
        """Say goodbye; the node returns what we hold."""
        return [Send(self.node, UnregisterClient())]
