"""The real machines, wired together: what one says, the other hears, in order and at once.

Nothing is lost and nothing is late, so a transcript shows what is said and why, not what links or
processes do. Processes are played as far as it takes: workers are there when they are started, and
segments are what the store believes. What calls do is told by the journey.
"""

from collections import deque
from random import Random
from typing import Any

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.control.control import ControlMachine
from fabric.core.effects import (
    Commit,
    CreateSegment,
    Drain,
    Effect,
    Hangup,
    Learn,
    Publish,
    RecycleSegment,
    Send,
    StartWorker,
    StopWorker,
    WatchProcess,
)
from fabric.core.events import (
    SELF,
    ActorMade,
    CallRan,
    Drained,
    Event,
    SegmentRecycled,
    WorkerExited,
)
from fabric.core.machine import Machine
from fabric.core.node.node import NodeMachine
from fabric.core.worker import WorkerMachine
from fabric.ids import Address, Incarnation, JobId, ObjectId, address, incarnation_of
from fabric.protocol.cluster import NodeJoined, RegisterJob, View, ViewChanged
from fabric.protocol.messages import DefineFunction, DefineJob, JoinNode, PutFunction
from fabric.protocol.values import CallDone, Failure, JobSpec, Progress, Value
from tests.transcripts.words import Names, Spelling

LIMITS = Limits(node_heartbeat_s=1e6, node_dead_s=1e7)

NOT_SHOWN = (Commit, Learn, Hangup, WatchProcess, Publish, RecycleSegment, CreateSegment)
"""Effects that a transcript leaves out."""

NOT_TOLD = (DefineJob, DefineFunction, JoinNode, NodeJoined, RegisterJob, PutFunction, View)
"""Messages that it leaves out: introductions."""

NOT_NEWS = (Drained, SegmentRecycled)
"""Events that it leaves out: they follow from an effect that is there."""


class Wires:
    """One node named A with its control store, and what joins them."""

    def __init__(self, cpus: int = 2) -> None:
        self.names = Names()
        self.spelling = Spelling(self.names)
        self.lines: list[str] = []
        self.now = 0.0
        self.machines: dict[Address, Machine] = {}
        self.exits: dict[Address, Any] = {}
        self._inboxes: dict[Address, deque[tuple[Address, Any]]] = {}
        self._workers = 0
        self.control = self._add(
            "control",
            address("s", b"control!"),
            ControlMachine(1, "demo", {}, LIMITS, 0.0, Random(1)),
        )
        node = NodeMachine(
            address("n", b"node-A--"),
            self.control,
            LIMITS,
            Random(1),
            resources={"CPU": cpus * 10_000},
            store_prefix="S",
            store_bytes_max=1 << 30,
            workers_kept=cpus,
        )
        self.node = self._add("A", node.address, node)
        self.settle()
        self.lines.clear()

    def _add(self, name: str, place: Address, machine: Machine) -> Address:
        self.names.of[place[2:]] = name
        self.machines[place] = machine
        self._inboxes[place] = deque()
        self._perform(place, machine.tick(self.now))
        return place

    # who takes part

    def driver(self, name: str = "driver") -> Address:
        """A driver with a job of its own."""
        me = Incarnation(name.encode().ljust(8, b"-")[:8])
        return self._client(name, me, JobSpec(JobId(me), (), "", ""), is_driver=True)

    def client_of(self, worker: Address, job: Address) -> Address:
        """The client inside a worker, which submits for that driver's job."""
        me = incarnation_of(worker)
        spec = JobSpec(JobId(incarnation_of(job)), (), "", "")
        return self._client(self.names.of[me.hex()], me, spec, is_driver=False)

    def _client(self, name: str, me: Incarnation, job: JobSpec, *, is_driver: bool) -> Address:
        place = address("c", me)
        machine = ClientMachine(place, self.node, job, LIMITS, is_driver=is_driver)
        return self._add(name, place, machine)

    def worker(self, number: int) -> Address:
        """The n-th worker of the node."""
        name = f"A.w{number}"
        return next(one for one in self.machines if one[0] == "w" and self.names.place(one) == name)

    # what happens

    def tell(self, place: Address, event: Event) -> None:
        """Something in that process; then everything that follows from it."""
        self._hear(place, SELF, event)
        self.settle()

    def ran(
        self,
        worker: Address,
        *values: Value,
        contained: tuple[tuple[ObjectId, ...], ...] = (),
    ) -> None:
        """The call that runs there ends with these values."""
        run = self.machines[worker].running  # type: ignore[attr-defined]
        done = CallDone(run.call.call_id, run.call.attempt, values, 1000, contained)
        self.tell(worker, CallRan(done))

    def made(self, worker: Address, failure: Failure | None = None) -> None:
        """The actor's constructor there returned."""
        self.tell(worker, ActorMade(failure))

    def kill(self, worker: Address, *progress: Progress) -> None:
        """Its process is gone, and what it had not been told."""
        del self.machines[worker], self._inboxes[worker]
        client = address("c", incarnation_of(worker))
        if client in self.machines:
            del self.machines[client], self._inboxes[client]
        gone = WorkerExited(incarnation_of(worker), None, 9, progress)
        self.tell(self.node, gone)

    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds
        for place, machine in list(self.machines.items()):
            self._perform(place, machine.tick(self.now))
        self.settle()

    def settle(self) -> None:
        """Until nobody has anything to say."""
        while busy := [place for place, inbox in self._inboxes.items() if inbox]:
            for place in busy:
                if place in self._inboxes:
                    self._turn(place)
        for machine in self.machines.values():
            machine.check()

    def text(self) -> str:
        """The transcript."""
        return "\n".join(self.lines) + "\n"

    def note(self, sentence: str) -> None:
        """What the reader should know here."""
        self.lines += ["", f"# {sentence}"] if self.lines else [f"# {sentence}"]

    # how it happens

    def _hear(self, place: Address, source: Address, message: Any) -> None:
        self._inboxes[place].append((source, message))

    def _turn(self, place: Address) -> None:
        machine, inbox = self.machines[place], self._inboxes[place]
        effects: list[Effect] = []
        for _ in range(len(inbox)):
            source, message = inbox.popleft()
            self._write(place, source, message)
            effects += machine.handle(source, message, self.now)
        effects += machine.tick(self.now)
        self._perform(place, effects)

    def _write(self, place: Address, source: Address, message: Any) -> None:
        if isinstance(message, (*NOT_TOLD, *NOT_NEWS)):
            return
        name = self.names.place(place)
        if source != SELF:
            arrow = f"{self.names.place(source):<7} -> {name}"
        else:
            arrow = f"{'':<7} :: {name}"
        self.lines.append(f"{arrow:<19} {self.spelling.line(message)}")

    def _perform(self, place: Address, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if effect.peer in self._inboxes:
                    self._hear(effect.peer, place, effect.message)
                continue
            if isinstance(effect, StartWorker):
                self._workers += 1
                self.names.of[effect.worker.hex()] = f"A.w{self._workers}"
            if not isinstance(effect, NOT_SHOWN):
                arrow = f"{self.names.place(place):<7} :>"
                self.lines.append(f"{arrow:<19} {self.spelling.line(effect)}")
            self._perform_locally(place, effect)

    def _perform_locally(self, place: Address, effect: Effect) -> None:
        match effect:
            case StartWorker(worker):
                there = WorkerMachine(address("w", worker), place, LIMITS)
                self._add(self.names.of[worker.hex()], there.address, there)
            case StopWorker(worker):
                self._inboxes.pop(address("w", worker), None)
                self.machines.pop(address("w", worker), None)
                self._hear(place, SELF, WorkerExited(worker, None, 9, ()))
            case Drain(peer):
                self._hear(place, SELF, Drained(peer))
            case RecycleSegment(segment, _):
                self._hear(place, SELF, SegmentRecycled(segment, is_free=True))
            case Publish(ViewChanged() as news):
                self._hear(self.node, place, news)
