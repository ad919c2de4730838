"""What must never happen, whatever the seed: small checkers that watch the whole world at once.

They hear what machines hear, what clients are told and what workers begin, and raise `Violation`.
What a machine can see alone it checks itself, after every turn of it.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fabric.core.effects import BecomeActor, Run
from fabric.core.events import Event, KillActor, MakeActor, Submit, SubmitToActor
from fabric.ids import ActorId, Address, CallId, ObjectId, call_of, owner_address, owner_of
from fabric.protocol.cluster import NodeJoined, View, ViewChanged
from fabric.protocol.messages import ActorChanged, OutputWritten, WorkerDied
from fabric.protocol.records import ActorRecord, Record
from fabric.protocol.values import ActorView, Failure, Sealed, Value
from tests.sim.cancels import Cancels
from tests.sim.refs import Content, decoded
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.processes import Worker, WorkerProcess
    from tests.sim.shells import Client, Shell
    from tests.sim.simulation import Simulation

STATES = {"pending": 0, "restarting": 0, "alive": 1, "dead": 2}


class Values:
    """I1: whoever reads an object reads the same value, for ever. I5: of its newest attempt."""

    def __init__(self) -> None:
        self.known: dict[ObjectId, Value] = {}
        self.ended: dict[ObjectId, Failure] = {}

    def resolved(self, client: "Client", name: ObjectId, value: Value) -> None:
        """A client was told what an object is."""
        is_owner = owner_of(name) == client.me
        if isinstance(value, Failure):
            if is_owner and name in self.known:
                raise Violation(f"I1: {name.hex()} had a value and is now {value}")
            if is_owner:
                self.ended[name] = value
            return
        known = self.known.setdefault(name, value)
        if known != value:
            raise Violation(f"I1: {name.hex()} was {known!r} and is {value!r}")
        if name in self.ended:
            raise Violation(f"I1: {name.hex()} had failed with {self.ended[name]} and has a value")
        if type(value) is bytes and value:
            self.read(name, decoded(value))

    def read(self, name: ObjectId, content: Content) -> None:
        """The bytes of a value were looked into."""
        if (content.made_by, content.index) != (call_of(name), int.from_bytes(name[14:], "big")):
            raise Violation(f"I1: {name.hex()} reads as a value of {content.made_by.hex()}")


class Executions:
    """I6: an attempt runs at most once, a call no more often than its retries allow."""

    def __init__(self) -> None:
        self.allowed: dict[CallId, int] = {}  # retries; -1 without end
        self.count: dict[CallId, int] = {}
        self.attempts: dict[tuple[CallId, int], Address] = {}
        self.dependent: dict[CallId, None] = {}  # may fail with what they depend on
        self.dependent_actors: dict[ActorId, None] = {}  # may never be made, for the same reason
        self.is_vague = False  # a worker died whose last words say nothing of some lease
        self.free_retries = 0  # after losses to a lack of memory

    def told(self, event: Event) -> None:
        """A call was made."""
        if isinstance(event, Submit | SubmitToActor):
            self.allowed[event.call_id] = event.retries
            if event.inputs or getattr(event, "actor_id", None) in self.dependent_actors:
                self.dependent[event.call_id] = None
        elif isinstance(event, MakeActor) and event.inputs:
            self.dependent_actors[event.spec.actor_id] = None

    def began(self, place: Address, run: Run) -> None:
        """A worker begins an attempt."""
        call = run.call
        key = (call.call_id, call.attempt)
        if key in self.attempts:
            raise Violation(f"I6: attempt {call.attempt} of {call.call_id.hex()} runs again")
        self.attempts[key] = place
        self.count[call.call_id] = self.count.get(call.call_id, 0) + 1
        if call.function and not self.is_vague and self.count[call.call_id] < call.attempt:
            raise Violation(f"I6: {call.call_id.hex()} was charged for an attempt that never began")
        allowed = self.allowed.get(call.call_id, -1)
        if allowed > 0:  # attempts that are ended to save memory are counted apart
            allowed += self.free_retries
        if 0 <= allowed < self.count[call.call_id] - 1:
            raise Violation(f"I6: {call.call_id.hex()} runs oftener than {allowed} retries allow")

    def killed(self, place: Address) -> None:
        """A worker is ended for a cancelled call: what else it had run may run again, for free."""
        for (call, _), where in self.attempts.items():
            if where == place and self.allowed.get(call, -1) > 0:
                self.allowed[call] += 1

    def failed(self, name: ObjectId, failure: Failure) -> None:
        """A call failed: with a crash only if it had begun."""
        call = call_of(name)
        is_crash = failure.kind == "worker_crashed" and "ended by signal" in failure.text
        is_sure = call in self.allowed and call not in self.dependent and not self.is_vague
        if is_crash and is_sure and call not in self.count:
            raise Violation(f"I6: {name.hex()} is charged with a crash and never began")


class ActorOrder:
    """I8: each caller's calls run in the order of submission. I9: no life after a newer one."""

    def __init__(self) -> None:
        self.submitted: dict[CallId, int] = {}
        self.numbers = 0
        self.last: dict[tuple[Address, ActorId, int], int] = {}
        self.lives: dict[tuple[Address, ActorId], int] = {}
        self.actor_of: dict[CallId, ActorId] = {}

    def told(self, event: Event) -> None:
        """A method was called."""
        if isinstance(event, SubmitToActor):
            self.numbers += 1
            self.submitted[event.call_id] = self.numbers
            self.actor_of[event.call_id] = event.actor_id

    def began(self, worker: "Worker", run: Run) -> None:
        """It runs."""
        order = self.submitted.get(run.call.call_id)
        if order is None:
            return
        key = (run.caller, self.actor_of[run.call.call_id], worker.life)
        if order <= self.last.get(key, 0):
            raise Violation(f"I8: {run.call.call_id.hex()} of {run.caller} runs out of order")
        self.last[key] = order

    def resolved(self, client: "Client", name: ObjectId, value: Value) -> None:
        """An answer of an actor was accepted."""
        actor_id = self.actor_of.get(call_of(name))
        if actor_id is None or type(value) is not bytes or owner_of(name) != client.me:
            return
        key = (client.address, actor_id)
        life = decoded(value).life
        if life < self.lives.get(key, 0):
            raise Violation(f"I9: {client.address} accepts life {life} after {self.lives[key]}")
        self.lives[key] = life


class Memory:
    """I2: what anybody was told of an actor, the control store's journal still knows.

    An epoch is of one control store only.
    """

    def __init__(self) -> None:
        self.told: dict[ActorId, tuple[int, int]] = {}  # (life, state)
        self.epochs: dict[int, Address] = {}

    def heard(self, source: Address, message: Any) -> None:
        """A node hears from the control store."""
        if isinstance(message, NodeJoined):
            other = self.epochs.setdefault(message.epoch, source)
            if other != source:
                raise Violation(f"I2: {source} is in epoch {message.epoch}, as {other} was")
        views: tuple[ActorView, ...] = ()
        if isinstance(message, ActorChanged):
            views = (message.actor,)
        elif isinstance(message, View | ViewChanged):
            views = message.actors
        for view in views:
            if view.class_name:
                state = STATES[view.state]
                known = self.told.get(view.actor_id, (0, 0))
                self.told[view.actor_id] = max(known, (view.incarnation, state))

    def control_starts(self, tables: Mapping[str, Mapping[bytes, Record]], forgets: bool) -> None:
        """The journal was loaded."""
        actors = tables.get("actors", {})
        for actor_id, (life, state) in self.told.items():
            record = actors.get(actor_id)
            if not isinstance(record, ActorRecord):
                if not forgets:
                    raise Violation(f"I2: actor {actor_id.hex()} is forgotten")
            elif (record.view.incarnation, STATES[record.view.state]) < (life, state):
                raise Violation(f"I2: actor {actor_id.hex()} was told to be {life, state}")


class Output:
    """I10: each line that a job's workers print is shown to its driver once, or counted."""

    def __init__(self) -> None:
        self.wrote: dict[bytes, dict[bytes, None]] = {}  # driver → lines
        self.seen: dict[bytes, dict[bytes, None]] = {}
        self.lines = 0
        self.omitted: Counter[bytes] = Counter()

    def write(self, job: bytes, count: int) -> bytes:
        """What a worker of that job prints: lines that nobody has printed before."""
        lines = [b"%d" % number for number in range(self.lines, self.lines + count)]
        self.lines += count
        self.wrote.setdefault(job, {}).update(dict.fromkeys(lines))
        return b"".join(line + b"\n" for line in lines)

    def shown(self, driver: bytes, message: OutputWritten) -> None:
        """A driver prints that."""
        self.omitted[driver] += message.omitted
        seen = self.seen.setdefault(driver, {})
        for line in message.text.splitlines():
            if line in seen or line not in self.wrote[driver]:
                raise Violation(f"I10: {driver.hex()} shows {line!r}, twice or of another job")
            seen[line] = None

    def flushed(self, driver: bytes) -> None:
        """It was told that this is all."""
        wrote, seen = len(self.wrote.get(driver, {})), len(self.seen.get(driver, {}))
        if wrote != seen + self.omitted[driver]:
            story = f"{wrote} lines written, {seen} shown, {self.omitted[driver]} left out"
            raise Violation(f"I10: {driver.hex()} leaves with {story}")


class Checkers:
    """All of them, and those that need the whole simulation."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.values = Values()
        self.executions = Executions()
        self.actor_order = ActorOrder()
        self.memory = Memory()
        self.cancels = Cancels(simulation)
        self.output = Output()
        self.calls = 0

    def heard(self, shell: "Shell", source: Address, message: Any) -> None:
        """A machine hears that."""
        if shell.address[0] == "n" and source[0] == "s":
            self.memory.heard(source, message)
        if isinstance(message, WorkerDied) and any(
            one.worker == message.worker and one.number < message.known_from
            for one in shell.machine.tasks.leases.leases.values()
        ):
            self.executions.is_vague = True

    def told(self, client: "Client", event: Event) -> None:
        """A user's thread says that."""
        if isinstance(event, KillActor):
            self.simulation.has_lost_clients = True
        self.executions.told(event)
        self.actor_order.told(event)
        self.cancels.told(client, event)
        self.calls += isinstance(event, Submit | SubmitToActor)

    def resolved(self, client: "Client", name: ObjectId, value: Value) -> None:
        """A client was told what an object is."""
        self.values.resolved(client, name, value)
        self.actor_order.resolved(client, name, value)
        if isinstance(value, Failure):
            self.executions.failed(name, value)
            self.cancels.failed(name, value)
            if value.kind == "object_lost" and client.refs.find(name) is not None:
                self._may_be_lost(client, name, value.text)

    def _may_be_lost(self, client: "Client", name: ObjectId, why: str) -> None:
        """I7: an object is lost only with its owner, its node, or who passed it on."""
        worker = getattr(client.process, "worker", None)
        actor = None if worker is None else worker.machine.actor
        if actor is not None and not actor.is_made:
            return  # its maker may have let go of it, and of its arguments, before it began
        if name in client.found:
            return  # its last handle may go between the answer and our being counted
        if not self.simulation.has_lost_clients:
            raise Violation(f"I7: {name.hex()} is lost for {client.address}: {why}")

    def unreadable(self, client: "Client", name: ObjectId, value: Sealed) -> None:
        """A reader found another generation, or nothing."""
        self._may_be_lost(client, name, f"{value} is not there any more")

    def read(self, client: "Client", name: ObjectId, content: Content) -> None:
        """A value was looked into."""
        self.values.read(name, content)

    def began(self, worker: "Worker", run: Run) -> None:
        """A call begins: under a lease that its node counts, or as its actor's."""
        self.executions.began(worker.address, run)
        self.cancels.began(run)
        self.actor_order.began(worker, run)
        node = self.simulation.node
        if node.is_alive:
            holder = node.shell.machine.staff.by_lease.get(run.lease)
            if holder is None or holder.address != worker.address:
                raise Violation(f"I4: {worker.address} runs under lease {run.lease}, which is over")

    def actor_began(self, worker: "Worker", effect: BecomeActor) -> None:
        """A life begins."""

    def worker_ended(self, process: "WorkerProcess") -> None:
        """A worker's process is gone."""

    def control_starts(self, tables: Mapping[str, Mapping[bytes, Record]]) -> None:
        """A control store comes back."""
        self.memory.control_starts(tables, self.simulation.limits.dead_actors_max < 100)

    def turned(self, shell: "Shell") -> None:
        """A turn has ended: L3, nothing grows without bound."""
        links = len(shell.endpoint._links)
        if links > 60 + 4 * len(self.simulation.processes()):
            raise Violation(f"L3: {shell.address} keeps {links} links")
        if shell.address[0] == "c":
            self._is_counted(shell)

    # -- at the end

    def quiet(self) -> None:
        """Every program has ended and let go of everything: all tables are empty."""
        for process in self.simulation.processes():
            for shell in process.shells:
                if shell.address[0] == "c":
                    self._is_empty(shell)

    def _is_empty(self, shell: Any) -> None:
        machine = shell.machine
        objects = machine.references.objects
        handed = [ref for refs in getattr(shell.process, "handed", {}).values() for ref in refs]
        in_use = self._in_use()
        left = [one for one in objects.borrowed if one not in in_use]
        if not self.simulation.node.is_alive:
            return  # without its node a client has nobody to tell, and nothing to keep
        if machine.calls.over:
            raise Violation(f"L3: {shell.address} waits for cancelled {list(machine.calls.over)}")
        if machine.calls.pending:
            raise Violation(f"L1: {shell.address} still waits for {list(machine.calls.pending)}")
        still = {
            name.hex(): {slot: getattr(entry, slot) for slot in entry.__slots__}
            for name, entry in objects.owned.items()
            if name not in in_use
        }
        if still:
            raise Violation(f"I7: {shell.address} still owns {str(still)[:500]}")
        if handed or left:
            raise Violation(f"I7: {shell.address} still borrows {[one.hex() for one in left]}")

    def _in_use(self) -> dict[ObjectId, None]:
        """What actors keep in their state, what is inside it, and what those actors are made of."""
        clients = [
            shell
            for process in self.simulation.processes()
            for shell in process.shells
            if shell.address[0] == "c"
        ]
        in_use: dict[ObjectId, None] = {}
        following = [ref.object_id for shell in clients for ref in shell.kept]
        while following:
            name = following.pop()
            if name in in_use:
                continue
            in_use[name] = None
            for shell in clients:
                entry = shell.machine.references.objects.owned.get(name)
                if entry is not None:
                    following += entry.contained
                following += shell.machine.actors.holds.get(name, ())
        return in_use

    def _is_counted(self, shell: Any) -> None:
        """I7: whoever was told that it is counted, is."""
        for name, borrow in shell.machine.references.objects.borrowed.items():
            owner: Any = self.simulation.shells.get(owner_address(name))
            if not borrow.is_registered or owner is None or not owner.is_alive:
                continue
            if shell.is_leaving or owner.is_leaving:
                continue
            entry = owner.machine.references.objects.owned.get(name)
            if entry is None or shell.address not in entry.borrowers:
                raise Violation(f"I7: {name.hex()} is not counted for {shell.address} any more")

    def stuck_links(self) -> dict[tuple[Address, Address], tuple[int, int]]:
        """Links with something unacknowledged: where they stand."""
        stuck: dict[tuple[Address, Address], tuple[int, int]] = {}
        if not self.simulation.node.is_alive:
            return stuck  # only a node tells who is gone
        for process in self.simulation.processes():
            for shell in process.shells:
                links: Any = shell.endpoint.snapshot()["links"]
                for peer, one in links.items():
                    is_kept = shell.address[0] == "s" and not self._is_alive(peer)
                    if (one["in_flight"] or one["backlog"]) and not is_kept:
                        stuck[shell.address, peer] = (one["life"], one["acked"])
        return stuck

    def _is_alive(self, place: Address) -> bool:
        shell = self.simulation.shells.get(place)
        return shell is not None and shell.is_alive

    def links_move(self, before: Mapping[tuple[Address, Address], tuple[int, int]]) -> None:
        """L3: what was unacknowledged some seconds ago is not any more."""
        for (source, peer), place in self.stuck_links().items():
            if before.get((source, peer)) == place:
                raise Violation(
                    f"L3: {source} still talks to {peer} (alive: {self._is_alive(peer)}) at {place}"
                )

    def gone(self) -> None:
        """Every driver has left: I3 all is free, I7 no segment is left, no job's worker."""
        node = self.simulation.node
        if not node.is_alive:
            return
        machine = node.shell.machine
        if machine.resources.free != machine.resources.totals:
            raise Violation(f"I3: free {machine.resources.free} of {machine.resources.totals}")
        left = [one for one in machine.store.segments.table.values() if one.state != "warm"]
        if left:
            raise Violation(f"I7: segments are left: {left}")
        if machine.residents.actors or machine.clients:
            raise Violation(f"I7: {machine.snapshot()} after the last driver")
        for name, table in (
            ("watchers", machine.residents.watchers),
            ("questions", machine.residents.questions),
            ("askers", machine.residents.askers),
            ("demands", machine.scheduling.demands.table),
            ("wishes", machine.store.segments.wishes),
        ):
            if table:
                raise Violation(f"L3: the node's {name} are not empty: {table}")

    def shut_down(self) -> None:
        """The node has ended in order: its workers are gone, and it is shown alive no more."""
        node, control = self.simulation.node, self.simulation.control
        if not node.is_alive:
            return
        if node.workers:
            raise Violation(f"L2: workers outlive the end of their node: {list(node.workers)}")
        if control.is_alive and node.me in control.shell.machine.nodes.alive:
            raise Violation(f"I10: {node.address} has left and is shown alive")
