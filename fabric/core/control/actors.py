"""The table of actors and their names: every life that each of them has had.

A part of the control store. `TRANSITIONS` is the specification: what may become of an actor, and
nothing else may. Lives are numbered, so that a word about an old one is told by its number; a name
is taken while its actor is not dead. Where an actor goes is not decided here, and nobody is told.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.machine import InvariantError
from fabric.ids import ActorId, Address, FunctionId, Incarnation, brief
from fabric.protocol.records import ActorRecord, Record
from fabric.protocol.values import ActorSpec, ActorView, Failure, Progress

TRANSITIONS: dict[tuple[str, str], str] = {
    ("new", "created"): "pending",
    ("pending", "placed"): "pending",  # its node is chosen
    ("pending", "unseated"): "pending",  # and died before it was alive: another life, for free
    ("pending", "started"): "alive",
    ("pending", "restarted"): "restarting",  # a life ended, another begins
    ("pending", "ended"): "dead",
    ("alive", "restarted"): "restarting",
    ("alive", "reported"): "alive",
    ("alive", "ended"): "dead",
    ("restarting", "placed"): "restarting",
    ("restarting", "unseated"): "restarting",
    ("restarting", "started"): "alive",
    ("restarting", "restarted"): "restarting",
    ("restarting", "ended"): "dead",
    ("pending", "reported"): "alive",  # a node tells of a life that the journal lost
    ("restarting", "reported"): "alive",
}
"""(state, what happened) -> state."""

STORY_WORDS_MAX = 16
NOWHERE = Incarnation(b"")


class ActorRow:
    """One actor: its record, and what only this life of the control store knows."""

    def __init__(self, record: ActorRecord, now: float) -> None:
        self.spec = record.spec
        self.view = record.view
        self.via = record.via
        self.stopped = record.stopped
        self.alive_since = now
        self.short_lives = 0  # in a row
        self.story: deque[str] = deque(maxlen=STORY_WORDS_MAX)

    @property
    def actor_id(self) -> ActorId:
        """Its id."""
        return self.view.actor_id

    @property
    def may_restart(self) -> bool:
        """Its policy allows another life."""
        return self.spec.restarts_max < 0 or self.view.restarts < self.spec.restarts_max

    def record(self) -> ActorRecord:
        """What of it must survive."""
        return ActorRecord(self.spec, self.view, self.via, self.stopped)

    def told(self) -> str:
        """What happened to it, for an error."""
        name = brief("a", self.actor_id)
        words = ", ".join(self.story) or "nothing yet"
        return f"{name} is {self.view.state} in life {self.view.incarnation} after: {words}"


def thin(spec: ActorSpec) -> ActorSpec:
    """The spec without what only the constructor needs."""
    return replace(spec, args=b"", inputs=(), nested=())


class ActorTable:
    """Every living actor, and the last ones that died."""

    def __init__(self, records: Mapping[bytes, Record], limits: Limits, now: float) -> None:
        self.limits = limits
        self.living: dict[ActorId, ActorRow] = {}
        self.dead: dict[ActorId, ActorRow] = {}
        self.names: dict[tuple[str, str], ActorId] = {}  # (namespace, name) -> who has it
        self._changed: dict[ActorId, None] = {}
        for record in records.values():
            if not isinstance(record, ActorRecord):
                raise InvariantError(f"table actors has a row {record!r}")
            row = ActorRow(record, now)
            (self.dead if row.view.state == "dead" else self.living)[row.actor_id] = row
            if row.view.state != "dead" and row.view.name:
                self.names[row.view.namespace, row.view.name] = row.actor_id

    def get(self, actor_id: ActorId) -> ActorRow | None:
        """That actor, living or dead."""
        return self.living.get(actor_id) or self.dead.get(actor_id)

    def named(self, namespace: str, name: str) -> ActorRow | None:
        """Who has that name."""
        holder = self.names.get((namespace, name))
        return None if holder is None else self.living[holder]

    def on_node(self, node: Incarnation) -> list[ActorRow]:
        """Whose present life is there, or is to begin there."""
        return [row for row in self.living.values() if row.view.node == node]

    def functions(self) -> frozenset[FunctionId]:
        """The classes that living actors may need again."""
        return frozenset(row.spec.function for row in self.living.values())

    # what becomes of them

    def create(self, spec: ActorSpec, via: Incarnation, now: float) -> ActorRow:
        """A new actor, in its first life; its name is taken from now on."""
        namespace = spec.job.namespace
        view = ActorView(spec.actor_id, "new", 1, spec.class_name, spec.name, namespace)
        row = ActorRow(ActorRecord(spec, view, via), now)
        self.living[spec.actor_id] = row
        if spec.name:
            self.names[namespace, spec.name] = spec.actor_id
        self._become(row, "created")
        return row

    def place(self, row: ActorRow, node: Incarnation) -> None:
        """Its present life is to begin on that node."""
        self._become(row, "placed", node=node)

    def start(self, row: ActorRow, worker: Address, lease: int, now: float) -> None:
        """Its constructor returned."""
        row.alive_since = now
        self._become(row, "started", worker=worker, lease=lease)

    def report(
        self, row: ActorRow, node: Incarnation, life: int, worker: Address, lease: int, now: float
    ) -> None:
        """A node has it in a life that the journal had forgotten."""
        row.alive_since = now
        self._become(
            row, "reported", incarnation=life, node=node, worker=worker, lease=lease, progress=()
        )

    def unseat(self, row: ActorRow) -> None:
        """Its node died before it was alive; nobody called it there, so it costs no restart."""
        self._become(row, "unseated", incarnation=row.view.incarnation + 1, node=NOWHERE)

    def restart(
        self,
        row: ActorRow,
        failure: Failure,
        progress: tuple[Progress, ...],
        *,
        is_seen: bool,
        now: float,
    ) -> float:
        """Its life is over and another begins, after the seconds returned.

        Where nobody saw the end of a life that may have run calls, a number is left out.
        """
        was_alive = row.view.state == "alive"
        is_short = not was_alive or now - row.alive_since < self.limits.actor_settled_s
        row.short_lives = row.short_lives + 1 if is_short else 0
        self._become(
            row,
            "restarted",
            incarnation=row.view.incarnation + (1 if is_seen or not was_alive else 2),
            worker=Address(""),
            lease=0,
            node=NOWHERE,
            restarts=row.view.restarts + 1,
            failure=failure,
            progress=progress,
        )
        if row.short_lives < 2:
            return 0.0
        doublings = min(row.short_lives - 2, 32)
        wait_s = self.limits.actor_restart_s * float(2**doublings)
        return min(wait_s, self.limits.actor_restart_max_s)

    def end(self, row: ActorRow, failure: Failure, progress: tuple[Progress, ...] = ()) -> None:
        """It is dead; its name is free."""
        self._become(row, "ended", failure=failure, progress=progress)
        row.spec = thin(row.spec)
        del self.living[row.actor_id]
        self.dead[row.actor_id] = row
        if row.view.name:
            del self.names[row.view.namespace, row.view.name]

    def forget_oldest(self) -> list[ActorId]:
        """The dead beyond the limit, whose deaths have been told by now: they are forgotten."""
        excess = max(0, len(self.dead) - self.limits.dead_actors_max)
        oldest = list(islice(self.dead, excess))
        for actor_id in oldest:
            del self.dead[actor_id]
        return oldest

    def stop(self, row: ActorRow) -> None:
        """Its present life is told to end; what follows is decided when it has."""
        row.stopped = row.view.incarnation
        row.story.append(f"life {row.stopped} told to end")
        self._changed[row.actor_id] = None

    def _become(self, row: ActorRow, word: str, **changes: object) -> None:
        state = TRANSITIONS.get((row.view.state, word))
        if state is None:
            raise InvariantError(f"an actor cannot be {word}: {row.told()}")
        row.view = replace(row.view, state=state, **changes)
        row.story.append(f"{word} ({row.view.incarnation})")
        self._changed[row.actor_id] = None

    # what others want to know

    def views(self, bytes_max: int) -> list[ActorView]:
        """Every living actor and as many of the last dead as the bytes allow, oldest first."""
        dead: deque[ActorView] = deque()
        room = bytes_max
        for row in reversed(self.dead.values()):
            room -= _size(row.view)
            if room < 0:
                break
            dead.appendleft(row.view)
        return [*dead, *(row.view for row in self.living.values())]

    def take_changed(self) -> list[ActorId]:
        """What changed since the last call."""
        changed, self._changed = list(self._changed), {}
        return changed

    def check(self) -> None:
        """Names lead to living actors, lives have what their state says, the dead are bounded."""
        for (namespace, name), actor_id in self.names.items():
            row = self.living.get(actor_id)
            if row is None or (row.view.namespace, row.view.name) != (namespace, name):
                raise InvariantError(f"the name {name!r} leads to nobody")
        for row in self.rows():
            view = row.view
            if (view.state == "alive") != bool(view.worker) and view.state != "dead":
                raise InvariantError(f"worker {view.worker!r}: {row.told()}")
            if row.stopped > view.incarnation or view.restarts >= view.incarnation:
                raise InvariantError(f"stopped {row.stopped}: {row.told()}")
            if view.name and view.state != "dead" and (view.namespace, view.name) not in self.names:
                raise InvariantError(f"its name is free: {row.told()}")
        if len(self.dead) > self.limits.dead_actors_max:
            raise InvariantError(f"{len(self.dead)} dead actors are remembered")

    def rows(self) -> Iterator[ActorRow]:
        """All of them."""
        yield from self.living.values()
        yield from self.dead.values()


def _size(view: ActorView) -> int:
    """About how many bytes it takes in a frame."""
    failure = 0 if view.failure is None else len(view.failure.text) + len(view.failure.pickled)
    texts = len(view.class_name) + len(view.name) + len(view.namespace)
    return 150 + texts + failure + 40 * len(view.progress)
