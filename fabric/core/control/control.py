"""The control store's machine: the cluster's memory, and the only one that restarts actors.

It hears from nodes only, what they have to say themselves and what their clients ask; it answers
to the node that asked, which knows whose request it was. Within a turn it changes its tables; at
the turn's end everything follows in this order: one commit with the new rows, what is to be said,
one publication of what everybody may see. So nothing is ever heard from it that a crash could take
back, not even an answer that changes nothing. No call, no result and no heartbeat is recorded.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fabric.config import Limits
from fabric.core.control.actors import NOWHERE, ActorRow, thin
from fabric.core.control.answers import Answers, end_of, never_made
from fabric.core.control.tables import Tables
from fabric.core.control.waits import Waits
from fabric.core.effects import Commit, Effect, Hangup, Publish, Send
from fabric.core.events import SELF, Event, PeerLost
from fabric.core.machine import InvariantError, WordError
from fabric.ids import (
    ActorId,
    Address,
    Incarnation,
    JobId,
    address,
    call_of,
    incarnation_of,
    owner_of,
)
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeFenced,
    NodeHeartbeat,
    NodeJoined,
    RegisterJob,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorRefused,
    ActorStarted,
    AnyMessage,
    CreateActor,
    EndActor,
    FunctionFound,
    GetFunction,
    GetNamedActor,
    JoinNode,
    NamedActor,
    PlaceActor,
    PutFunction,
    StopActor,
    WatchActor,
)
from fabric.protocol.records import EpochRecord, FunctionRecord, Record
from fabric.protocol.values import ActorView, Failure, Progress

if TYPE_CHECKING:
    from random import Random

FENCED_LINKS_KEPT = 10
"""A dead node's link is kept for this many times `node_dead_s`, to tell it so when it speaks."""

LOST_LIVES = "worker_crashed", "actor_unavailable"
"""Kinds of failure that say how a worker ended; callers of a dead actor hear that it died of it."""


class ControlMachine:
    """See the module. ``tables`` are the journal's rows by table; ``epoch`` is a new one."""

    def __init__(
        self,
        epoch: int,
        cluster: str,
        tables: Mapping[str, Mapping[bytes, Record]],
        limits: Limits,
        now: float,
        random: "Random",
    ) -> None:
        self.cluster = cluster
        self.limits = limits
        self.random = random
        self.tables = Tables(tables, epoch, limits, now)
        self.nodes = self.tables.nodes
        self.actors = self.tables.actors
        self.jobs = self.tables.jobs
        self.functions = self.tables.functions
        self.answers = Answers(limits.answers_kept_max)
        self.waits = Waits()
        self._is_new = True
        self._beat_at = now
        self._sends: list[Effect] = []
        self._hangups: dict[Incarnation, float] = {}  # dead nodes whose link still stands -> until
        self._on = self._reactions()
        for row in self.actors.living.values():
            if row.view.node == NOWHERE:
                self._seek(row, now)

    def _reactions(self) -> Mapping[type, Callable[[Address, Any, float], None]]:
        return {
            JoinNode: self.on_join_node,
            NodeHeartbeat: self.on_node_heartbeat,
            LeaveNode: self.on_leave_node,
            RegisterJob: self.on_register_job,
            EndJob: self.on_end_job,
            CreateActor: self.on_create_actor,
            WatchActor: self.on_watch_actor,
            EndActor: self.on_end_actor,
            GetNamedActor: self.on_get_named_actor,
            ActorStarted: self.on_actor_started,
            ActorFailed: self.on_actor_failed,
            PutFunction: self.on_put_function,
            GetFunction: self.on_get_function,
            GetView: self.on_get_view,
        }

    # the machine

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message; all that follows from it is said at the end of the turn."""
        if source == SELF and isinstance(message, PeerLost):
            self.on_peer_lost(message, now)
            return []
        react = self._on.get(type(message))
        if react is None or not source.startswith("n:"):
            raise WordError(f"{source} said {type(message).__name__} to the control store")
        if self._is_admitted(source, message, now):
            react(source, message, now)
        return []

    def tick(self, now: float) -> list[Effect]:
        """Look at what fell due, then speak."""
        for node in self.nodes.silent(now):
            self._bury(node, now, f"was silent for {self.limits.node_dead_s:g} s")
        for actor_id in self.waits.overdue(now):
            self._tell_to_begin(self.actors.living[actor_id], now)
        for function, askers in self.functions.overdue(now):
            for asker in askers:
                self._say(asker, FunctionFound(function, "", b""))
        self._place_waiting(now)
        self._answer_questions()
        return [*self._speech(now), *self._goodbyes(now)]

    def deadline(self) -> float | None:
        """The next node to die, life to begin, asker to answer, or beat of the publication."""
        dues = [
            self.nodes.deadline(),
            self.waits.deadline(),
            self.functions.deadline(),
            self._beat_at if self._is_new or self.nodes.joined() else None,
            min(self._hangups.values(), default=None),
        ]
        return min((due for due in dues if due is not None), default=None)

    def check(self) -> None:
        """The tables are sound, and every life has a node or waits for one."""
        for part in (self.tables, self.waits, self.answers):
            part.check()
        for row in self.actors.living.values():
            if (row.view.node == NOWHERE) != (row.actor_id in self.waits.seats):
                raise InvariantError(f"it waits for a node it has, or not for one: {row.told()}")

    def snapshot(self) -> Mapping[str, object]:
        """Figures for `fabric status` and the tests."""
        return {
            "epoch": self.tables.epoch,
            "sequence": self.tables.sequence,
            "nodes": len(self.nodes.alive),
            "actors": {row.actor_id: row.view.state for row in self.actors.rows()},
            "waiting": len(self.waits.seats),
            "jobs": len(self.jobs.running),
            "functions_bytes": self.functions.nbytes,
        }

    # nodes

    def _is_admitted(self, source: Address, message: object, now: float) -> bool:
        """Who speaks lives; the dead, and those who never joined, are told to go."""
        node = incarnation_of(source)
        if node in self.nodes.alive:
            self.nodes.heard(node, now)
            return True
        if isinstance(message, JoinNode) and node not in self.nodes.dead:
            return True
        self._sends.append(Send(source, NodeFenced()))
        self._hangups.setdefault(node, now + FENCED_LINKS_KEPT * self.limits.node_dead_s)
        return False

    def on_join_node(self, source: Address, message: JoinNode, now: float) -> None:
        """A node is in: it hears of the epoch, then of the lives that are to begin on it."""
        if message.view.node != incarnation_of(source):
            raise WordError(f"{source} joins as {message.view.node.hex()}")
        is_first = self.nodes.join(message.view, now)
        self._say(source, NodeJoined(self.tables.epoch, self.cluster))
        if is_first:
            self._compare(source, message.actors, now)

    def on_node_heartbeat(self, source: Address, message: NodeHeartbeat, now: float) -> None:
        """It lives, and this is what it has free."""
        if message.view.node != incarnation_of(source):
            raise WordError(f"{source} beats as {message.view.node.hex()}")
        self.nodes.refresh(message.view)

    def on_leave_node(self, source: Address, message: LeaveNode, now: float) -> None:
        """It ends in order."""
        self._bury(incarnation_of(source), now, "was shut down")

    def on_peer_lost(self, message: PeerLost, now: float) -> None:
        """The link to a node is over for good; what it says later comes from a stranger."""
        node = incarnation_of(message.peer)
        if node in self.nodes.alive:
            self._bury(node, now, f"was lost: {message.reason}")

    def _compare(self, source: Address, listed: tuple[ActorStarted, ...], now: float) -> None:
        """After a restart of this process: what the node says lives on it, and what should."""
        node = incarnation_of(source)
        there = {one.actor_id: one for one in listed}
        for actor_id, one in there.items():
            row = self.actors.living.get(actor_id)
            if row is None or one.incarnation < row.view.incarnation:
                self._say(source, end_of(one))
            elif one.incarnation > row.view.incarnation:  # the journal lost its last rows
                self._stop(row, Failure("actor_died", "a later life of the actor runs elsewhere"))
                self.waits.forget(actor_id)
                self.actors.report(row, node, one.incarnation, one.worker, one.lease, now)
            else:
                self.on_actor_started(source, one, now)
        for row in self.actors.on_node(node):
            life = row.view.incarnation
            if row.view.state != "alive":
                self._tell_to_begin(row, now)
            elif row.actor_id not in there or there[row.actor_id].incarnation != life:
                lost = Failure("actor_unavailable", "it ended while the control store was away")
                self._life_over(row, lost, (), is_seen=False, now=now)
            elif row.stopped == life:
                again = Failure("actor_died", "it was told to end")
                self._say(source, StopActor(row.actor_id, life, again))

    def _bury(self, node: Incarnation, now: float, why: str) -> None:
        """A node is dead: what its clients began ends, what lived on it goes on elsewhere."""
        self.nodes.bury(node)
        self._hangups[node] = now + FENCED_LINKS_KEPT * self.limits.node_dead_s
        self.answers.forget_asker(address("n", node))
        for job in self.jobs.via(node):
            self._end_job(job)
        view = self.nodes.view(node)
        name = f"node {node.hex()}" + (f" on {view.host}" if view is not None else "")
        orphaned = Failure("actor_died", f"its creator was lost with {name}, which {why}")
        unseated = Failure("actor_unavailable", f"its {name} {why}")
        for row in list(self.actors.living.values()):
            is_orphan = row.via == node or self.jobs.is_over(row.spec.job.job)
            if is_orphan and not row.spec.is_detached:
                self._kill(row, orphaned)
            elif row.view.node == node and row.view.state == "alive":
                self._life_over(row, unseated, (), is_seen=False, now=now)
            elif row.view.node == node:
                self.actors.unseat(row)
                self._seek(row, now)

    # jobs

    def on_register_job(self, source: Address, message: RegisterJob, now: float) -> None:
        """A driver started."""
        self.jobs.register(message.view, message.spec, incarnation_of(source))

    def on_end_job(self, source: Address, message: EndJob, now: float) -> None:
        """A client is gone, and if it was the driver, so is its job."""
        is_driver = message.client in (b"", message.job)
        if message.client:
            self.jobs.client_gone(message.client)
            self.answers.reopen_of(message.client)
        if is_driver:
            self._end_job(message.job)
        for row in list(self.actors.living.values()):
            is_its = owner_of(row.actor_id) == message.client
            if (is_its or (is_driver and row.spec.job.job == message.job)) and (
                not row.spec.is_detached
            ):
                who = "the driver of its job" if is_driver else "the worker that made it"
                self._kill(row, Failure("actor_died", f"{who} has ended"))

    def _end_job(self, job: JobId) -> None:
        self.jobs.end(job)
        self.jobs.client_gone(Incarnation(job))
        self.answers.reopen_of(Incarnation(job))

    # actors: what clients ask

    def on_create_actor(self, source: Address, message: CreateActor, now: float) -> None:
        """A new actor, or why not; asked twice, the answer is the same."""
        spec = message.spec
        actor_id = spec.actor_id
        if self.actors.get(actor_id) is not None:
            self.answers.ask(actor_id, source)
            return
        answer = self.answers.given.get(actor_id)
        if answer is None:
            answer = self.tables.instead(spec)
            if answer is not None:
                self.answers.give(actor_id, answer)
        if answer is None:
            row = self.actors.create(spec, incarnation_of(source), now)
            self._seek(row, now)
            self.answers.reopen(actor_id)
            self.answers.ask(actor_id, source)
        elif isinstance(answer, Failure):
            self.answers.reopen(actor_id)
            self._say(source, ActorRefused(actor_id, answer))
        else:
            self._say(source, NamedActor(call_of(actor_id), answer))

    def on_watch_actor(self, source: Address, message: WatchActor, now: float) -> None:
        """Answered at the turn's end; later changes are published."""
        self.answers.ask(message.actor_id, source)

    def on_get_named_actor(self, source: Address, message: GetNamedActor, now: float) -> None:
        """Who has that name?"""
        row = self.actors.named(message.namespace, message.name)
        self._say(source, NamedActor(message.request, None if row is None else thin(row.spec)))

    def on_end_actor(self, source: Address, message: EndActor, now: float) -> None:
        """It ends for good, also if its creation is still on its way; or only this life does."""
        row = self.actors.living.get(message.actor_id)
        if row is None:
            is_known = (
                message.actor_id in self.actors.dead or message.actor_id in self.answers.given
            )
            if not message.may_restart and not is_known:
                self.answers.give(message.actor_id, message.failure)
                self.answers.reopen(message.actor_id)
        elif not message.may_restart:
            self._kill(row, message.failure)
        elif row.view.node != NOWHERE and row.stopped < row.view.incarnation:
            self.actors.stop(row)
            self._stop(row, message.failure)

    def _answer_questions(self) -> None:
        """What actors are at the end of this turn, to those who asked in it."""
        for actor_id, asker in self.answers.take_asked():
            view = self._known(actor_id)
            if view is not None:
                self._say(asker, ActorChanged(view))
                continue
            for forgotten, waiting in self.answers.leave_open(actor_id, asker):
                unknown = Failure("actor_died", "nobody knows this actor")
                self._say(waiting, ActorChanged(never_made(forgotten, unknown)))

    def _known(self, actor_id: ActorId) -> ActorView | None:
        row = self.actors.get(actor_id)
        if row is not None:
            return row.view
        refused = self.answers.given.get(actor_id)
        if isinstance(refused, Failure):
            return never_made(actor_id, refused)
        if owner_of(actor_id) in self.jobs.gone:
            return never_made(actor_id, Failure("actor_died", "its creator has ended"))
        return None

    # actors: what becomes of them

    def on_actor_started(self, source: Address, message: ActorStarted, now: float) -> None:
        """Its constructor returned: callers may call."""
        row = self.actors.living.get(message.actor_id)
        if row is None or message.incarnation < row.view.incarnation:
            self._say(source, end_of(message))
            return
        self._must_be_there(row, source, message)
        if row.view.state != "alive":
            self.waits.forget(row.actor_id)
            self.actors.start(row, message.worker, message.lease, now)
        elif (row.view.worker, row.view.lease) != (message.worker, message.lease):
            raise WordError(f"{source} reports {message.worker} in its stead: {row.told()}")

    def on_actor_failed(self, source: Address, message: ActorFailed, now: float) -> None:
        """A life is over."""
        row = self.actors.living.get(message.actor_id)
        if row is None or message.incarnation < row.view.incarnation:
            return  # an old life
        self._must_be_there(row, source, message)
        if message.may_restart:
            self._life_over(row, message.failure, message.progress, is_seen=True, now=now)
        else:
            self._end(row, message.failure, message.progress)

    def _must_be_there(
        self, row: ActorRow, source: Address, message: ActorStarted | ActorFailed
    ) -> None:
        is_there = row.view.node == incarnation_of(source)
        if message.incarnation != row.view.incarnation or not is_there:
            kind = type(message).__name__
            raise WordError(f"{source} says {kind} of life {message.incarnation}: {row.told()}")

    def _life_over(
        self,
        row: ActorRow,
        failure: Failure,
        progress: tuple[Progress, ...],
        *,
        is_seen: bool,
        now: float,
    ) -> None:
        """Another life if its policy allows one, else it is dead."""
        if not row.may_restart:
            self._end(row, failure, progress)
            return
        delay_s = self.actors.restart(row, failure, progress, is_seen=is_seen, now=now)
        self._seek(row, now + delay_s * self.random.uniform(0.5, 1.0))

    def _kill(self, row: ActorRow, failure: Failure) -> None:
        """It is dead from now on, and its node is told to make that true."""
        self._stop(row, failure)
        self._end(row, failure)

    def _end(self, row: ActorRow, failure: Failure, progress: tuple[Progress, ...] = ()) -> None:
        if failure.kind in LOST_LIVES:
            times = f" after {row.view.restarts} restarts" if row.view.restarts else ""
            text = f"the actor {row.view.class_name} died{times}: {failure.text}"
            failure = Failure("actor_died", text, failure.pickled)
        self.waits.forget(row.actor_id)
        self.actors.end(row, failure, progress)

    def _stop(self, row: ActorRow, failure: Failure) -> None:
        if row.view.node != NOWHERE:
            stop = StopActor(row.actor_id, row.view.incarnation, failure)
            self._say(address("n", row.view.node), stop)

    # placement

    def _seek(self, row: ActorRow, not_before: float) -> None:
        """Its next life needs a node; one is chosen at the end of the turn."""
        give_up_at = not_before + self.limits.unschedulable_grace_s
        self.waits.seek(row.actor_id, not_before, give_up_at)

    def _place_waiting(self, now: float) -> None:
        for actor_id in self.waits.due(now):
            row = self.actors.living[actor_id]
            if self.tables.seat(row):
                self._tell_to_begin(row, now)
            elif self.waits.found_none(actor_id, now):
                misfit = self.tables.misfit(row)
                if misfit is not None:
                    self._end(row, misfit)

    def _tell_to_begin(self, row: ActorRow, now: float) -> None:
        """Said again where no answer comes: a node begins a life once, however often it is told."""
        self.waits.told(row.actor_id, now + self.limits.actor_start_s)
        place = PlaceActor(row.view.incarnation, row.spec)
        self._say(address("n", row.view.node), place)

    # functions and the view

    def on_put_function(self, source: Address, message: PutFunction, now: float) -> None:
        """Keep it, and tell those who waited for it."""
        record = FunctionRecord(message.function, message.name, message.pickled)
        for asker in self.functions.put(record, self.actors.functions):
            self._say(asker, FunctionFound(record.function, record.name, record.pickled))

    def on_get_function(self, source: Address, message: GetFunction, now: float) -> None:
        """What is behind that hash; who asks too early waits."""
        found = self.functions.ask(message.function, source, now)
        if found is not None:
            self._say(source, FunctionFound(found.function, found.name, found.pickled))

    def on_get_view(self, source: Address, message: GetView, now: float) -> None:
        """The whole view, as of the last publication or newer."""
        self._say(source, self.tables.view(message.request))

    # speaking

    def _say(self, place: Address, message: AnyMessage) -> None:
        """To a node that is alive and has a link to us; to no other."""
        if self.nodes.can_be_told(incarnation_of(place)):
            self._sends.append(Send(place, message))

    def _speech(self, now: float) -> list[Effect]:
        """The turn's commit, then what is said, then what is published."""
        is_beat = now >= self._beat_at and bool(self.nodes.joined())
        rows, news = self.tables.take_changes(is_beat)
        if self._is_new:
            self._is_new = False
            rows.insert(0, ("meta", b"epoch", EpochRecord(self.cluster, self.tables.epoch)))
        sends, self._sends = self._sends, []
        published: list[Effect] = []
        if news is not None:
            self._beat_at = now + self.limits.node_heartbeat_s
            published.append(Publish(news))
        if not (rows or sends or published):
            return []
        return [Commit(tuple(rows)), *sends, *published]

    def _goodbyes(self, now: float) -> list[Effect]:
        """Links of nodes that died long ago and did not come back to be told."""
        due = [node for node, at in self._hangups.items() if at <= now]
        for node in due:
            del self._hangups[node]
        return [Hangup(address("n", node)) for node in due]
