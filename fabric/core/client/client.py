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
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.core.effects import Effect, Hangup, Reply, Send
from fabric.core.events import (
    Ask,
    Await,
    DefineLocally,
    Drained,
    Drop,
    Event,
    Hold,
    Input,
    KillActor,
    Leave,
    MakeActor,
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
    incarnation_of,
    object_id,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorRefused,
    AddBorrower,
    AnyMessage,
    BorrowerAdded,
    CallsDone,
    CallsReturned,
    ClientDied,
    ClientRegistered,
    DefineFunction,
    DefineJob,
    FunctionFound,
    GetFunction,
    LeaseGranted,
    NamedActor,
    ObjectReady,
    PutFunction,
    RegisterClient,
    Release,
    RunCalls,
    Taken,
    UnregisterClient,
    Unschedulable,
    View,
    WantObject,
    WorkerDied,
)
from fabric.protocol.values import CallDone, Failure, JobSpec, Value


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
    ) -> None:
        self.address = address
        self.me = incarnation_of(address)
        self.node = node
        self.job = job
        self.limits = limits
        self.hello = RegisterClient(pid, is_driver, job, entrypoint)
        self.calls = Calls()
        self.tasks = Tasks(node, job.job, limits)
        self.actors = Actors(self.me, node, limits)
        self.references = References(
            self.me, node, self.calls, self.actors.on_handles_gone, self._wake
        )
        self.tasks.join(self.calls, self._fail, self._run_at)
        self.actors.join(self.calls, self.references, self._admit, self._fail, self._run_at)
        self.functions: dict[FunctionId, DefineLocally] = {}
        self.introduced: dict[Address, dict[FunctionId, None]] = {}  # worker → what it was sent
        self.asks: dict[bytes, bytes] = {}  # key of the expected answer → request
        self.node_is_lost: Failure | None = None
        self._is_new = True
        self._on = self._reactions()

    def _reactions(self) -> Mapping[type, Callable[[Address, Any, float], list[Effect]]]:
        return {
            **Allocations(self.node).reactions(),
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
            Ask: self.on_ask,
            NamedActor: self.on_answer,
            FunctionFound: self.on_answer,
            View: self.on_answer,
            ClientRegistered: self.on_client_registered,
            Leave: self.on_leave,
        }

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message or event."""
        react = self._on.get(type(message))
        if react is None:
            return []
        return react(source, message, now)

    def tick(self, now: float) -> list[Effect]:
        """Send what became ready in this turn, ask for workers, return those without work."""
        effects: list[Effect] = []
        if self._is_new:
            self._is_new = False
            effects.append(Send(self.node, self.hello))
        effects += self.tasks.tick(now)
        effects += self.actors.tick()
        effects += self.references.tick()
        return effects

    def deadline(self) -> float | None:
        """When the longest idle lease is to be returned."""
        return self.tasks.deadline()

    def check(self) -> None:
        """Every pending call is in exactly one place, and counts are not negative."""
        placed = self.tasks.check() + self.actors.placed()
        waiting = sum(
            1 for call in self.calls.pending.values() if call.missing and not call.actor_id
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

    # submission

    def on_submit(self, source: Address, message: Submit, now: float) -> list[Effect]:
        """A task call: ready at once, or as soon as its arguments are."""
        call = PendingCall(
            message.call_id,
            message.function,
            "",
            message.args,
            message.inputs,
            message.nested,
            message.returns,
            message.retries,
        )
        queue = self.tasks.leases.queue_for(message.shape)
        call.queue_key = queue.shape_id
        call.depth = message.depth
        return self._admit(call)

    def on_define_locally(
        self, source: Address, message: DefineLocally, now: float
    ) -> list[Effect]:
        """A function that calls will name; a shared one is kept in the control store too."""
        self.functions[message.function] = message
        if not message.is_shared:
            return []
        return [Send(self.node, PutFunction(message.function, message.name, message.pickled))]

    def _admit(self, call: PendingCall) -> list[Effect]:
        waits_for: list[ObjectId] = []
        effects: list[Effect] = []
        if call.inputs or call.nested or call.holds:
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
                missing.append(one.object_id)
                effects += self.references.want(one.object_id)
            filled.append(one if value is None else value)
        return filled, missing, holds

    def _enqueue(self, call: PendingCall) -> list[Effect]:
        if call.actor_id is not None:
            return self.actors.on_ready(call)
        if call.failure is not None:
            return self._fail(call, call.failure)
        self.tasks.enqueue(call)
        return []

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
        pending = self.calls.pending
        lease = self.tasks.leases.leases.get(message.lease)
        for done in message.calls:
            call = pending.get(done.call_id)
            if call is None or call.attempt != done.attempt or call.lease != message.lease:
                continue  # an older attempt may still report; it no longer counts
            if lease is not None:
                lease.remove(call.number, self.calls.durations.get(call.function, 0.0))
                self.calls.measured(call.function, done.duration_us * 1e-6)
            else:
                self.actors.answered(call)
            effects += self._complete(source, call, done)
        if lease is not None:
            self.tasks.answered(lease, now)
        return effects

    def _complete(self, worker: Address, call: PendingCall, done: CallDone) -> list[Effect]:
        effects: list[Effect] = []
        contained = done.contained or ((),) * len(done.values)
        for index, (value, inner) in enumerate(zip(done.values, contained, strict=True)):
            effects += self.references.resolve(object_id(call.call_id, index), value, inner)
        del self.calls.pending[call.call_id]
        inner_ids = tuple(one for inner in contained for one in inner)
        if inner_ids:
            taken = Send(worker, Taken((call.call_id,)))
            effects += self.references.register(inner_ids, [taken])
        return effects + self._finish(call)

    def _fail(self, call: PendingCall, failure: Failure) -> list[Effect]:
        effects: list[Effect] = []
        for index in range(call.returns):
            result = object_id(call.call_id, index)
            effects += self.references.resolve(result, failure)
            if call.attempt > 1:
                self.references.free_attempts(result)
        del self.calls.pending[call.call_id]
        return effects + self._finish(call)

    def _finish(self, call: PendingCall) -> list[Effect]:
        """The call is over: what it held may go."""
        effects: list[Effect] = []
        for held in call.holds:
            effects += self.references.unhold(held)
        return effects

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
        effects = self.tasks.on_drained(message.peer)
        effects += self.actors.on_drained(message.peer)
        self.introduced.pop(message.peer, None)
        return [*effects, Hangup(message.peer)]

    def on_client_died(self, source: Address, message: ClientDied, now: float) -> list[Effect]:
        """Another client is gone."""
        return self.references.client_died(message.client)

    def on_peer_lost(self, source: Address, message: PeerLost, now: float) -> list[Effect]:
        """A link is over for good: an owner's objects are lost, without a node everything is."""
        if message.peer != self.node:
            if message.peer.startswith("c:"):
                return self.references.client_died(incarnation_of(message.peer))
            return []
        failure = Failure("cluster", f"the node is gone: {message.reason}")
        self.node_is_lost = failure
        effects: list[Effect] = []
        self.tasks.clear()
        self.actors.clear()
        for call in list(self.calls.pending.values()):
            if call.call_id in self.calls.pending:
                effects += self._fail(call, failure)
        for request in self.asks.values():
            effects.append(Reply(request, failure))
        self.asks.clear()
        return effects

    # requests of user threads

    def on_ask(self, source: Address, message: Ask, now: float) -> list[Effect]:
        """A question to the node or the control store."""
        if self.node_is_lost is not None:
            return [Reply(message.request, self.node_is_lost)]
        asked = message.message
        key = asked.function if type(asked) is GetFunction else message.request
        self.asks[key] = message.request
        return [Send(self.node, asked)]

    def on_answer(
        self, source: Address, message: NamedActor | FunctionFound | View, now: float
    ) -> list[Effect]:
        """Its answer."""
        key = message.function if isinstance(message, FunctionFound) else message.request
        request = self.asks.pop(key, None)
        return [] if request is None else [Reply(request, message)]

    def on_client_registered(
        self, source: Address, message: ClientRegistered, now: float
    ) -> list[Effect]:
        """The node knows us."""
        return [Reply(b"registered", message)]

    def on_leave(self, source: Address, message: Leave, now: float) -> list[Effect]:
        """Say goodbye; the node returns what we hold."""
        return [Send(self.node, UnregisterClient())]
