"""The node's machine: the local scheduler.

It schedules leases, not calls: clients ask for workers of a shape, it grants them by fairness
between jobs and depth within one, recalls them when others wait, and lends out the share of a call
that waits. No call passes through it. What it knows of actors is in `residents`, of objects in
`store`; the tables (`staff`, `demands`, `resources`, `segments`) only answer.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fabric.config import Limits
from fabric.core.crashes import crash_failure
from fabric.core.effects import Effect, Exit, Hangup, Send, StopWorker, WatchProcess
from fabric.core.events import (
    ControlMoved,
    Event,
    OutputDrained,
    PeerLost,
    ProcessEnded,
    SegmentFailed,
    SegmentRecycled,
    ShutDown,
    WorkerExited,
    WorkerWrote,
)
from fabric.core.node.memory import Memory
from fabric.core.node.output import Output
from fabric.core.node.residents import Resident, Residents
from fabric.core.node.resources import Resources
from fabric.core.node.scheduling import Scheduling
from fabric.core.node.staff import WorkerState
from fabric.core.node.store import Store
from fabric.ids import Address, Incarnation, JobId, address, incarnation_of
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeFenced,
    NodeHeartbeat,
    NodeJoined,
    RegisterJob,
    View,
    ViewChanged,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorRefused,
    ActorStarted,
    Allocate,
    AnyMessage,
    ClientDied,
    ClientRegistered,
    CreateActor,
    EndActor,
    FlushOutput,
    FreeObjects,
    FunctionFound,
    GetFunction,
    GetNamedActor,
    JoinNode,
    KillCall,
    LeaseReturned,
    NamedActor,
    OutputShown,
    PlaceActor,
    PutFunction,
    RecallLease,
    RegisterClient,
    RequestLease,
    ReturnLease,
    SealObject,
    StopActor,
    UnregisterClient,
    WatchActor,
    WorkerBlocked,
    WorkerDied,
    WorkerReady,
    WorkerResumed,
)
from fabric.protocol.values import Crash, Failure, JobView, NodeView

if TYPE_CHECKING:
    from random import Random

CLIENTS_GONE_MAX = 10_000
"""Clients remembered after their end, so that late words about them begin nothing."""


class NodeMachine:
    """See the module. Peers are clients, workers and the control store."""

    def __init__(
        self,
        place: Address,
        control: Address,
        limits: Limits,
        random: "Random",
        *,
        resources: Mapping[str, int],
        store_prefix: str,
        store_bytes_max: int,
        workers_kept: int,
        host: str = "",
        pid: int = 0,
    ) -> None:
        self.address = place
        self.me = incarnation_of(place)
        self.control = control
        self.limits = limits
        self.host = host
        self.pid = pid
        self.store_prefix = store_prefix
        self.scheduling = Scheduling(limits, random, resources, workers_kept, self._is_client)
        self.staff = self.scheduling.staff
        self.resources = self.scheduling.resources
        self.store = Store(store_prefix, store_bytes_max, limits, self._is_gone)
        self.residents = Residents(control, self.view, self._is_client)
        self.memory = Memory(limits, self.staff, self.residents.may_restart)
        self.output = Output(limits, self.staff, self._wants_output)
        self.clients: dict[Incarnation, RegisterClient] = {}
        self.gone: dict[bytes, None] = {}  # clients that were here, the latest
        self.epoch = 0
        self._beat_at = 0.0
        self._is_new = True
        self._on = self._reactions()

    def _reactions(self) -> Mapping[type, Callable[[Address, Any, float], list[Effect]]]:
        residents, store, scheduling = self.residents, self.store, self.scheduling
        return {
            **self.memory.reactions(),
            RegisterClient: self.on_register_client,
            UnregisterClient: self.on_unregister_client,
            ProcessEnded: self.on_process_ended,
            ShutDown: self.on_shut_down,
            WorkerWrote: self.output.on_worker_wrote,
            OutputShown: self.output.on_output_shown,
            FlushOutput: self.output.on_flush_output,
            OutputDrained: self.output.on_output_drained,
            RequestLease: scheduling.on_request_lease,
            ReturnLease: scheduling.on_return_lease,
            LeaseReturned: scheduling.on_lease_returned,
            KillCall: scheduling.on_kill_call,
            WorkerReady: scheduling.on_worker_ready,
            WorkerExited: self.on_worker_exited,
            WorkerBlocked: scheduling.on_worker_blocked,
            WorkerResumed: scheduling.on_worker_resumed,
            NodeJoined: self.on_node_joined,
            NodeFenced: self.on_node_fenced,
            ControlMoved: self.on_control_moved,
            PeerLost: self.on_peer_lost,
            Allocate: store.on_allocate,
            SealObject: store.on_seal_object,
            FreeObjects: store.on_free_objects,
            SegmentRecycled: store.on_segment_recycled,
            SegmentFailed: store.on_segment_failed,
            PlaceActor: residents.on_place_actor,
            ActorStarted: residents.on_actor_started,
            ActorFailed: residents.on_actor_failed,
            StopActor: residents.on_stop_actor,
            CreateActor: residents.on_create_actor,
            WatchActor: residents.on_watch_actor,
            EndActor: residents.on_end_actor,
            GetNamedActor: residents.on_get_named_actor,
            GetView: residents.on_get_view,
            PutFunction: residents.on_put_function,
            GetFunction: residents.on_get_function,
            FunctionFound: residents.on_function_found,
            NamedActor: residents.on_named_actor,
            ActorRefused: residents.on_actor_refused,
            ActorChanged: residents.on_actor_changed,
            View: residents.on_view,
            ViewChanged: residents.on_view_changed,
        }

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message or event."""
        effects = self._join()
        react = self._on.get(type(message))
        return effects + react(source, message, now) if react is not None else effects

    def _join(self) -> list[Effect]:
        """Before anything else: the control store fences a node that speaks and has not joined."""
        if not self._is_new:
            return []
        self._is_new = False
        return [Send(self.control, JoinNode(self.view()))]

    def tick(self, now: float) -> list[Effect]:
        """Serve who waits, end what is not needed, tell the control store that we live."""
        effects = self._join()
        if not self.scheduling.is_ending:
            effects += self._place_actors(now)
        effects += self.scheduling.serve(self._lacking(), now)
        effects += self.scheduling.end_surplus(now)
        effects += self._end_leftovers(now)
        effects += self.store.tick(now)
        effects += self.memory.tick(now)
        effects += self.output.tick(now)
        if self.epoch and now >= self._beat_at:
            self._beat_at = now + self.limits.node_heartbeat_s
            effects.append(Send(self.control, NodeHeartbeat(self.view())))
        return effects

    def deadline(self) -> float | None:
        """The next heartbeat, end of a quantum, or due date of the store."""
        dues = [self._beat_at] if self.epoch else []
        parts = (self.store.segments.deadline(), self.memory.deadline())
        dues += [due for due in parts if due is not None]
        dues += self.scheduling.dues()
        dues += self.output.dues()
        return min(dues, default=None)

    def check(self) -> None:
        """Accounts balance, and workers are who they believe to be."""
        self.scheduling.check()
        self.residents.check()
        self.output.check()

    def view(self) -> NodeView:
        """This node as everybody may know it."""
        return NodeView(
            self.me,
            "alive",
            self.host,
            self.pid,
            tuple(self.resources.totals.items()),
            tuple(self.resources.free.items()),
            len(self.staff.workers),
            self.store.segments.bytes_total,
            self.store.segments.bytes_max,
        )

    def snapshot(self) -> Mapping[str, object]:
        """Figures for `fabric status` and the tests."""
        return {
            "free": dict(self.resources.free),
            "workers": {one.address: one.state for one in self.staff.workers.values()},
            "clients": len(self.clients),
            "actors": len(self.residents.actors),
            "segments": len(self.store.segments.table),
        }

    # clients

    def _is_client(self, client: bytes) -> bool:
        return client in self.clients

    def _wants_output(self, client: bytes) -> bool:
        registered = self.clients.get(Incarnation(client))
        return registered is not None and registered.wants_output

    def _is_gone(self, client: bytes) -> bool:
        return client in self.gone

    def on_register_client(
        self, client: Address, message: RegisterClient, now: float
    ) -> list[Effect]:
        """A driver, or a worker that submits; a driver starts its job."""
        incarnation = incarnation_of(client)
        if not message.is_driver and incarnation not in self.staff.workers:
            return []  # words of a worker that is gone
        is_known = incarnation in self.clients
        self.clients[incarnation] = message
        totals = tuple(self.resources.totals.items())
        welcome = Send(client, ClientRegistered(self.me, totals, self.store_prefix))
        if is_known or not message.is_driver:
            return [welcome]
        return [
            welcome,
            WatchProcess(incarnation, message.pid),
            Send(self.control, RegisterJob(_job_view(message), message.job)),
        ]

    def on_unregister_client(
        self, client: Address, message: UnregisterClient, now: float
    ) -> list[Effect]:
        """It ends in order; one that only asked something was never counted."""
        return [*self._client_gone(incarnation_of(client), now, is_orderly=True), Hangup(client)]

    def on_process_ended(self, source: Address, message: ProcessEnded, now: float) -> list[Effect]:
        """A driver's process is gone."""
        effects = self._client_gone(message.client, now)
        return [*effects, Hangup(address("c", message.client))]

    def _client_gone(
        self, client: Incarnation, now: float, is_orderly: bool = False
    ) -> list[Effect]:
        """Its demands, leases and objects go; with a driver goes its job."""
        self.residents.client_died(client)
        self.output.client_gone(client)
        registered = self.clients.pop(client, None)
        if registered is None:
            return []
        self.gone[client] = None
        if len(self.gone) > CLIENTS_GONE_MAX:
            del self.gone[next(iter(self.gone))]
        place = address("c", client)
        self.scheduling.demands.forget_client(place)
        effects: list[Effect] = [Send(self.control, EndJob(registered.job.job, client))]
        died = ClientDied(client, is_orderly)
        effects += [Send(address("c", one), died) for one in self.clients]
        for worker in self.staff.workers.values():
            if worker.state == "starting":
                continue
            if registered.is_driver and worker.job == registered.job.job:
                effects += self._end_of_job(worker, client)
            else:
                effects.append(Send(worker.address, died))
                if worker.client != place or worker.state != "leased":
                    continue
                if not is_orderly:
                    worker.orphaned_at = now
                if worker.recall != "full":
                    worker.recall = "full"
                    effects.append(Send(worker.address, RecallLease(worker.lease, False)))
        self.store.writer_died(place)
        return effects + self.store.owner_died(client, now)

    def _end_leftovers(self, now: float) -> list[Effect]:
        """Idle workers of a job that is over: leased when it was just dying, say."""
        return [
            self.scheduling.end(worker, now)
            for worker in self.staff.workers.values()
            if worker.state == "idle"
            and not worker.is_doomed
            and worker.job is not None
            and self._is_gone(worker.job)
            and not self._has_others(worker, worker.job)
        ]

    def _has_others(self, worker: WorkerState, job: JobId) -> bool:
        """Somebody else of that job is here, a detached actor that submits: it may be of use."""
        return any(
            client.job.job == job and incarnation != worker.incarnation
            for incarnation, client in self.clients.items()
        )

    def _end_of_job(self, worker: WorkerState, client: Incarnation) -> list[Effect]:
        if worker.actor_id is not None:
            resident = self.residents.actors.get(worker.actor_id)
            if resident is not None and resident.spec.is_detached:
                return [Send(worker.address, ClientDied(client))]
            if resident is not None:
                resident.stop = Failure("actor_died", "its driver is gone")
        worker.is_doomed = True
        return [StopWorker(worker.incarnation)]

    def on_worker_exited(self, source: Address, message: WorkerExited, now: float) -> list[Effect]:
        """Its process is gone: its client learns how far it came, or its actor's life is over."""
        worker = self.staff.workers.pop(message.worker, None)
        if worker is None:
            return []
        crash = self._crash(worker, message)
        failure = crash_failure(crash)
        effects: list[Effect] = []
        if worker.state != "ending" and not worker.is_doomed and not crash.limit:
            self.scheduling.crashes.add(now)
        if worker.state in ("starting", "late"):
            effects += self._start_failed(failure)
        elif worker.state == "leased":
            self.scheduling.demands.released(worker, True, now)
        effects += self._tell_lessees(worker, message, crash)
        if worker.actor_id is not None:
            resident = self.residents.actors.get(worker.actor_id)
            if resident is not None and resident.worker is worker:
                mine = tuple(one for one in message.progress if one.lease == worker.lease)
                effects += self.residents.worker_gone(resident, failure, mine)
        self.scheduling.vacate(worker)
        worker.become("gone", now)
        if self._is_client(worker.incarnation):
            effects += self._client_gone(worker.incarnation, now)
            effects.append(Hangup(address("c", worker.incarnation)))
        elif worker.job is not None and not self._is_gone(worker.incarnation):
            # what it ran may have made it a client that spoke to others and not yet to us
            died = ClientDied(worker.incarnation)
            effects += [Send(address("c", one), died) for one in self.clients]
        self.store.writer_died(worker.address)
        return [*effects, Hangup(worker.address)]

    def _tell_lessees(
        self, worker: WorkerState, exited: WorkerExited, crash: Crash
    ) -> list[Effect]:
        """Who has or had a lease of it learns how far it came, and that the link leads nowhere."""
        effects: list[Effect] = []
        for client in worker.lessees:
            me = incarnation_of(client)
            if self._is_client(me):
                mine = tuple(one for one in exited.progress if one.caller == me)
                died = WorkerDied(worker.address, mine, exited.known_from, crash)
                effects.append(Send(client, died))
        return effects

    def _crash(self, worker: WorkerState, exited: WorkerExited) -> Crash:
        return Crash(
            exit_code=exited.exit_code,
            signal=exited.signal,
            pid=exited.pid,
            node=self.address if exited.pid else Address(""),
            rss=max(worker.rss, exited.rss) if exited.memory_limit else worker.rss,
            limit=worker.memory_limit or exited.memory_limit,
            last_words=exited.log_tail,
            reason=exited.reason,
        )

    def _start_failed(self, failure: Failure) -> list[Effect]:
        """Workers do not start: after a few in a row, what waits for one fails."""
        if not self.scheduling.start_failed():
            return []
        effects = self.scheduling.refuse_all(failure)
        for resident in self.residents.waiting():
            effects += self.residents.worker_gone(resident, failure, ())
        return effects

    # actors

    def _place_actors(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for resident in self.residents.waiting():
            if not self.resources.fits(resident.spec.shape):
                continue
            worker = self.staff.idle_for(resident.spec.job.job)
            if worker is None:
                break
            effects += self._settle_in(resident, worker, now)
        return effects

    def _lacking(self) -> int:
        """How many workers those actors lack that there is room for."""
        free = Resources(self.resources.free)
        count = 0
        for resident in self.residents.waiting():
            if free.fits(resident.spec.shape):
                free.take(resident.spec.shape)
                count += 1
        return count

    def _settle_in(self, resident: Resident, worker: WorkerState, now: float) -> list[Effect]:
        self.scheduling.lease(worker, resident.spec.job.job, resident.spec.shape, now)
        worker.become("actor", now)
        return self.residents.settle_in(resident, worker)

    # the control store and the end

    def on_shut_down(self, source: Address, message: ShutDown, now: float) -> list[Effect]:
        """Nothing more is begun; idle workers end at once, others after what they run.

        From here on the control store counts us out, and we say nothing more to it.
        """
        self.epoch = 0
        return [*self.scheduling.end_all(now), Send(self.control, LeaveNode())]

    def on_node_joined(self, source: Address, message: NodeJoined, now: float) -> list[Effect]:
        """We are in."""
        self.epoch = message.epoch
        self._beat_at = now + self.limits.node_heartbeat_s
        return [Send(self.control, GetView(b""))]

    def on_control_moved(self, source: Address, message: ControlMoved, now: float) -> list[Effect]:
        """It was started again: join it, with the lives that went on, and say what it may lack."""
        before, self.control = self.control, message.control
        self.epoch = 0  # no heartbeat before we are in
        drivers = [client for client in self.clients.values() if client.is_driver]
        return [
            Hangup(before),
            Send(self.control, JoinNode(self.view(), self.residents.started())),
            *(Send(self.control, RegisterJob(_job_view(one), one.job)) for one in drivers),
            *self.residents.control_moved(message.control, message.unsaid),
        ]

    def on_node_fenced(self, source: Address, message: NodeFenced, now: float) -> list[Effect]:
        """We were declared dead: what we did since then does not count."""
        if self.scheduling.is_ending:
            return []  # we have said so ourselves
        return [Exit("the control store declared this node dead")]

    def on_peer_lost(self, source: Address, message: PeerLost, now: float) -> list[Effect]:
        """A client that is no driver of ours, or a driver that vanished."""
        if message.peer.startswith("c:"):
            return self._client_gone(incarnation_of(message.peer), now)
        return []


def _job_view(driver: RegisterClient) -> JobView:
    return JobView(driver.job.job, "running", driver.pid, driver.entrypoint)
