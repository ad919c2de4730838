"""The actors that live on this node, and what the node knows of all others.

The part of the node's machine that stands between clients and the control store: it places actors
on workers, forwards requests that only the control store can answer and brings the answers back,
and keeps the cluster view by snapshot and published changes. It restarts nothing.
"""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from fabric.core.effects import Effect, Send, StopWorker
from fabric.core.machine import InvariantError
from fabric.core.node.staff import WorkerState
from fabric.ids import (
    ActorId,
    Address,
    FunctionId,
    Incarnation,
    address,
    incarnation_of,
    object_id,
    owner_address,
    owner_of,
)
from fabric.protocol.cluster import EndJob, GetView, View, ViewChanged
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorRefused,
    ActorStarted,
    AnyMessage,
    CreateActor,
    EndActor,
    EndWorker,
    FunctionFound,
    GetFunction,
    GetNamedActor,
    NamedActor,
    PlaceActor,
    PutFunction,
    StartActor,
    StopActor,
    WatchActor,
)
from fabric.protocol.values import ActorSpec, ActorView, Failure, NodeView, Progress

DEAD_VIEWS_MAX = 10_000
"""Dead actors that a node remembers."""

FUNCTIONS_CACHED_MAX = 256
"""Functions a node keeps at hand for its workers; the control store has them all."""

TOLD_ONCE = (EndJob, EndActor, PutFunction, ActorFailed)
"""What is not asked and has no answer: said again only where it may have been lost."""


class Resident:
    """One life of an actor on this node."""

    def __init__(self, incarnation: int, spec: ActorSpec, now: float) -> None:
        self.incarnation = incarnation
        self.spec = spec
        self.since = now
        self.worker: WorkerState | None = None
        self.started: ActorStarted | None = None
        self.is_over = False  # the control store has been told why
        self.stop: Failure | None = None


class Residents:
    """See the module."""

    def __init__(
        self, control: Address, my_view: Callable[[], NodeView], client_of: Callable[[bytes], bool]
    ) -> None:
        self.control = control
        self.my_view = my_view
        self.is_client = client_of
        self.actors: dict[ActorId, Resident] = {}
        self.views: dict[ActorId, ActorView] = {}
        self.dead: dict[ActorId, None] = {}  # those of the views that will not change
        self.watchers: dict[ActorId, dict[Address, None]] = {}
        self.functions: dict[FunctionId, FunctionFound] = {}
        self.askers: dict[FunctionId, dict[Address, None]] = {}
        self.view_at = (0, 0)  # epoch, sequence of what is known
        # questions of clients that the control store has not answered, by what the answer names
        self.questions: dict[bytes, CreateActor | GetNamedActor | GetView] = {}

    # lives on this node

    def waiting(self) -> list[Resident]:
        """Actors without a worker, oldest first."""
        return [one for one in self.actors.values() if one.worker is None and not one.is_over]

    def on_place_actor(self, source: Address, message: PlaceActor, now: float) -> list[Effect]:
        """A life to begin here; asked twice, it begins once."""
        actor_id = message.spec.actor_id
        known = self.actors.get(actor_id)
        if known is not None and known.incarnation >= message.incarnation:
            if known.incarnation == message.incarnation and known.started is not None:
                return [Send(self.control, known.started)]
            return []
        self.actors[actor_id] = Resident(message.incarnation, message.spec, now)
        if known is None or known.worker is None:
            return []
        known.is_over = True  # the control store has gone on without it
        known.worker.is_doomed = True
        return [StopWorker(known.worker.incarnation)]

    def settle_in(self, resident: Resident, worker: WorkerState) -> list[Effect]:
        """It has a worker, leased for life."""
        resident.worker = worker
        worker.actor_id = resident.spec.actor_id
        start = StartActor(resident.incarnation, worker.lease, resident.spec)
        return [Send(worker.address, start)]

    def on_actor_started(self, worker: Address, message: ActorStarted, now: float) -> list[Effect]:
        """Its constructor returned."""
        resident = self.actors.get(message.actor_id)
        if resident is None or resident.incarnation != message.incarnation:
            return []
        resident.started = message
        return [Send(self.control, message)]

    def on_actor_failed(self, worker: Address, message: ActorFailed, now: float) -> list[Effect]:
        """Its constructor raised, or it ended itself; the worker waits for leave to go."""
        resident = self.actors.get(message.actor_id)
        if resident is None or resident.incarnation != message.incarnation or resident.is_over:
            return []
        resident.is_over = True
        return [Send(self.control, message), Send(worker, EndWorker())]

    def on_stop_actor(self, source: Address, message: StopActor, now: float) -> list[Effect]:
        """Its life is to end."""
        resident = self.actors.get(message.actor_id)
        if resident is None or resident.incarnation != message.incarnation:
            failed = ActorFailed(message.actor_id, message.incarnation, message.failure, True)
            return [Send(self.control, failed)]
        if resident.stop is not None:
            return []
        resident.stop = message.failure
        if resident.worker is not None:
            resident.worker.is_doomed = True
            return [StopWorker(resident.worker.incarnation)]
        return self.worker_gone(resident, message.failure, ())

    def worker_gone(
        self, resident: Resident, failure: Failure, progress: tuple[Progress, ...]
    ) -> list[Effect]:
        """The process is gone, and this is how far it had come with each caller."""
        actor_id = resident.spec.actor_id
        if self.actors.get(actor_id) is resident:
            del self.actors[actor_id]
        if resident.is_over:
            return []
        resident.is_over = True
        cause = resident.stop or failure
        return [
            Send(
                self.control,
                ActorFailed(
                    actor_id, resident.incarnation, cause, may_restart=True, progress=progress
                ),
            )
        ]

    # what clients ask of the control store

    def on_create_actor(self, client: Address, message: CreateActor, now: float) -> list[Effect]:
        """Forwarded; whoever makes an actor hears what becomes of it."""
        if not self.is_client(incarnation_of(client)):
            return []  # words of a client that is gone
        self.watchers.setdefault(message.spec.actor_id, {})[client] = None
        self.questions[message.spec.actor_id] = message
        return [Send(self.control, message)]

    def on_watch_actor(self, client: Address, message: WatchActor, now: float) -> list[Effect]:
        """Answered from the view where it is known."""
        self.watchers.setdefault(message.actor_id, {})[client] = None
        view = self.views.get(message.actor_id)
        if view is not None:
            return [Send(client, ActorChanged(view))]
        return [Send(self.control, message)]

    def on_end_actor(self, client: Address, message: EndActor, now: float) -> list[Effect]:
        """Forwarded."""
        return [Send(self.control, message)]

    def on_get_named_actor(
        self, client: Address, message: GetNamedActor, now: float
    ) -> list[Effect]:
        """Forwarded."""
        self.questions[message.request] = message
        return [Send(self.control, message)]

    def on_get_view(self, client: Address, message: GetView, now: float) -> list[Effect]:
        """Forwarded."""
        self.questions[message.request] = message
        return [Send(self.control, message)]

    def on_put_function(self, client: Address, message: PutFunction, now: float) -> list[Effect]:
        """Kept at hand, and forwarded."""
        found = FunctionFound(message.function, message.name, message.pickled)
        return [*self._learn_function(found), Send(self.control, message)]

    def on_get_function(self, asker: Address, message: GetFunction, now: float) -> list[Effect]:
        """Answered from what is at hand, else asked for once."""
        found = self.functions.get(message.function)
        if found is not None:
            return [Send(asker, found)]
        askers = self.askers.setdefault(message.function, {})
        is_first = not askers
        askers[asker] = None
        return [Send(self.control, message)] if is_first else []

    # what the control store answers

    def on_function_found(
        self, source: Address, message: FunctionFound, now: float
    ) -> list[Effect]:
        """To all who asked."""
        return self._learn_function(message)

    def on_named_actor(self, source: Address, message: NamedActor, now: float) -> list[Effect]:
        """To the client whose call id the request is."""
        self.questions.pop(message.request, None)
        self.questions.pop(object_id(message.request, 0), None)
        return self._answer(message.request, message)

    def on_actor_refused(self, source: Address, message: ActorRefused, now: float) -> list[Effect]:
        """To the client that made it, and as an actor that is dead to who else watches it."""
        self.questions.pop(message.actor_id, None)
        self.watchers.get(message.actor_id, {}).pop(owner_address(message.actor_id), None)
        told = self._answer(message.actor_id, message)
        never = ActorView(message.actor_id, "dead", 1, "", failure=message.failure)
        return [*told, *self._learn_actor(never)]  # others may have its handle, and ask

    def on_actor_changed(self, source: Address, message: ActorChanged, now: float) -> list[Effect]:
        """The answer to a question; later changes are published."""
        return self._learn_actor(message.actor)

    def on_view(self, source: Address, message: View, now: float) -> list[Effect]:
        """The whole view: ours if nobody asked, else that client's, with what we have free now."""
        if message.request:
            if self.questions.pop(message.request, None) is None:
                return []  # answered already, or whoever asked is gone
            mine = self.my_view()
            nodes = tuple(mine if one.node == mine.node else one for one in message.nodes)
            view = View(
                message.request,
                message.epoch,
                message.sequence,
                nodes,
                message.actors,
                message.jobs,
            )
            return [Send(owner_address(message.request), view)]
        if (message.epoch, message.sequence) < self.view_at:
            return []  # a newer publication was heard meanwhile
        self.view_at = (message.epoch, message.sequence)
        effects = [effect for actor in message.actors for effect in self._learn_actor(actor)]
        return effects + self._miss_dead({actor.actor_id: None for actor in message.actors})

    def on_view_changed(self, source: Address, message: ViewChanged, now: float) -> list[Effect]:
        """Published: in sequence it is taken in, across a gap the whole view is asked for."""
        epoch, sequence = self.view_at
        if (message.epoch, message.sequence) <= self.view_at:
            return []
        if message.epoch != epoch or message.sequence != sequence + 1:
            return [Send(self.control, GetView(b""))]
        self.view_at = (message.epoch, message.sequence)
        return [effect for actor in message.actors for effect in self._learn_actor(actor)]

    def client_died(self, client: Incarnation) -> None:
        """It watches nothing any more, and waits for no answer."""
        place = address("c", client)
        for key in [one for one in self.questions if one.startswith(client)]:
            del self.questions[key]
        for actor_id, watchers in list(self.watchers.items()):
            watchers.pop(place, None)
            if not watchers:
                del self.watchers[actor_id]

    def control_moved(self, control: Address, unsaid: tuple[AnyMessage, ...]) -> list[Effect]:
        """Ask again what is unanswered, say again what may be forgotten; all of it is idempotent.

        The control store compares lives itself, with those that `started` lists.
        """
        self.control = control
        effects: list[Effect] = [Send(control, one) for one in self.questions.values()]
        effects += [
            Send(control, WatchActor(one)) for one in self.watchers if one not in self.views
        ]
        effects += [Send(control, GetFunction(one)) for one in self.askers]
        return effects + [Send(control, one) for one in unsaid if isinstance(one, TOLD_ONCE)]

    def started(self) -> tuple[ActorStarted, ...]:
        """The lives that callers may call here."""
        lives = [one for one in self.actors.values() if not one.is_over and one.stop is None]
        return tuple(one.started for one in lives if one.started is not None)

    def may_restart(self, actor_id: ActorId) -> bool:
        """Its policy has another life for it, as far as this node knows."""
        resident = self.actors.get(actor_id)
        return resident is not None and resident.spec.restarts_max != 0

    def check(self) -> None:
        """Every resident's worker is that actor's."""
        for actor_id, resident in self.actors.items():
            if resident.worker is not None and resident.worker.actor_id != actor_id:
                raise InvariantError(f"the worker of {actor_id!r} believes it is another actor")

    def _miss_dead(self, listed: Mapping[ActorId, None]) -> list[Effect]:
        """The whole view has everybody who lives: who is not in it died unheard, long ago."""
        effects: list[Effect] = []
        for actor_id, view in list(self.views.items()):
            if view.state != "dead" and actor_id not in listed:
                text = "it died, and the control store remembers it no longer"
                failure = Failure("actor_died", text)
                effects += self._learn_actor(replace(view, state="dead", failure=failure))
        return effects

    def _learn_actor(self, view: ActorView) -> list[Effect]:
        self.questions.pop(view.actor_id, None)
        if not view.is_news_to(self.views.get(view.actor_id)):
            return []
        self.views[view.actor_id] = view
        watchers = self.watchers.get(view.actor_id, {})
        if view.state == "dead":  # for good, and late views of it must not be believed
            self.watchers.pop(view.actor_id, None)
            self.dead[view.actor_id] = None
            if len(self.dead) > DEAD_VIEWS_MAX:
                oldest = next(iter(self.dead))
                del self.dead[oldest], self.views[oldest]
        return [Send(watcher, ActorChanged(view)) for watcher in watchers]

    def _answer(self, request: bytes, message: AnyMessage) -> list[Effect]:
        """To the client that asked, unless it is gone."""
        if not self.is_client(owner_of(request)):
            return []
        return [Send(owner_address(request), message)]

    def _learn_function(self, found: FunctionFound) -> list[Effect]:
        if found.pickled:
            self.functions.pop(found.function, None)
            self.functions[found.function] = found
            if len(self.functions) > FUNCTIONS_CACHED_MAX:
                self.functions.pop(next(iter(self.functions)))
        askers = self.askers.pop(found.function, {})
        return [Send(asker, found) for asker in askers]
