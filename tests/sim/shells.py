"""The shell around one endpoint, and the threads of users' code that speak to a client.

A shell hears what has arrived, tells what has happened, ends the turn and performs the effects in
order, as the runtime's loop does. What processes are made of, and how they die, is in `processes`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fabric.core.client.client import ClientMachine
from fabric.core.effects import (
    Drain,
    Effect,
    Hangup,
    Reply,
    Resolve,
    ShowOutput,
    Transmit,
    WriteSegment,
)
from fabric.core.endpoint import Endpoint
from fabric.core.events import (
    Ask,
    CallBlocked,
    CallResumed,
    Drained,
    Event,
    Leave,
    OutputPrinted,
    PeerLost,
    Register,
    SegmentWritten,
    WantSegment,
)
from fabric.core.machine import Machine, WordError
from fabric.ids import Address, FunctionId, ObjectId, address, incarnation_of
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.values import Failure, JobSpec, Sealed, Value
from tests.sim import programs
from tests.sim.cancels import Interrupted
from tests.sim.refs import Refs, SimRef, decoded
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.processes import SimProcess

ANSWER_S = 60.0
"""A user's thread that asked for room waits this long."""

SPINS_MAX = 300
"""Turns in a row that a machine asked for and that came to nothing."""


class Witness:
    """Stands before a machine and tells what it hears."""

    def __init__(self, machine: Machine, shell: "Shell") -> None:
        self._machine = machine
        self._shell = shell
        self.tick = machine.tick
        self.deadline = machine.deadline
        self.check = machine.check
        self.snapshot = machine.snapshot

    def handle(self, source: Address, message: Any, now: float) -> list[Effect]:
        """Note it, then let the machine hear it."""
        shell = self._shell
        shell.world.counts[f"message {type(message).__name__}"] += 1
        shell.world.trace.note(shell.world.now, source, shell.address, message)
        shell.simulation.checkers.heard(shell, source, message)
        try:
            return self._machine.handle(source, message, now)
        except WordError as error:  # nobody lies here
            raise Violation(str(error)) from error


class Shell:
    """See the module."""

    def __init__(self, process: "SimProcess", place: Address, machine: Machine) -> None:
        simulation = process.simulation
        self.simulation = simulation
        self.world = simulation.world
        self.network = simulation.network
        self.process = process
        self.address = place
        self.machine: Any = machine
        self.limits = simulation.limits
        self.endpoint = Endpoint(
            place, Witness(machine, self), cluster="sim", limits=simulation.limits
        )
        self._inbox: deque[tuple[Address, bytes]] = deque()
        self._news: deque[tuple[ViewChanged, Address]] = deque()
        self._told: deque[Event] = deque()
        self._durable: deque[int] = deque()
        self._turn_at: float | None = None
        self._spins = 0
        process.shells.append(self)
        simulation.shells[place] = self
        self.wake()

    @property
    def is_alive(self) -> bool:
        """Its process lives."""
        return self.process.is_alive

    # -- what arrives

    def hear(self, source: Address, frame: bytes) -> None:
        """A frame."""
        self._inbox.append((source, frame))
        self.wake()

    def hear_published(self, message: ViewChanged, source: Address) -> None:
        """News of the control store."""
        self._news.append((message, source))
        self.wake()

    def tell(self, event: Event) -> None:
        """Something in this process."""
        self._told.append(event)
        self.wake()

    def committed(self, number: int) -> None:
        """The journal has written that."""
        self._durable.append(number)
        self.wake()

    def lose(self, peer: Address) -> None:
        """Nobody will ever listen there again."""
        self.endpoint.forget(peer)
        self.tell(PeerLost(peer, "its process is gone"))

    def reconnected(self, peer: Address) -> None:
        """The line is up again."""
        if self.is_alive:
            for effect in self.endpoint.retransmit(peer, self._clock()):
                self._perform(effect)

    # -- the turn

    def _clock(self) -> float:
        now: float = self.world.now + self.process.offset_s
        return now

    def wake(self) -> None:
        """A turn is due."""
        self._turn_by(self.world.now + self.world.delay(self.world.draw.turn_s))

    def _turn_by(self, time: float) -> None:
        if self._turn_at is None or time < self._turn_at:
            self._turn_at = time
            self.world.at(time, self._turn, time)

    def _turn(self, planned_for: float) -> None:
        if planned_for != self._turn_at or not self.is_alive:
            return
        if self.process.paused_until > self.world.now:
            self._turn_at = self.process.paused_until
            self.world.at(self._turn_at, self._turn, self._turn_at)
            return
        self._turn_at = None
        is_idle = not (self._inbox or self._told or self._news or self._durable)
        now, endpoint = self._clock(), self.endpoint
        inbox, self._inbox = self._inbox, deque()
        for source, frame in inbox:
            self.world.trace.heard(self.world.now, source, self.address, frame)
            endpoint.hear(source, frame, now)
        while self._news:
            message, source = self._news.popleft()
            endpoint.tell_published(message, source, now)
        told, self._told = self._told, deque()
        for event in told:
            endpoint.tell(event, now)
        effects: list[Effect] = []
        while self._durable:
            effects += endpoint.committed(self._durable.popleft(), now)
        effects += endpoint.turn(now)
        for effect in effects:
            if self.is_alive:
                self._perform(effect)
        if self.is_alive:
            endpoint.check()
            self.simulation.checkers.turned(self)
            self._plan_next(is_idle and not effects)

    def _plan_next(self, is_spin: bool) -> None:
        deadline = self.endpoint.deadline()
        self._spins = self._spins + 1 if is_spin else 0
        if self._spins > SPINS_MAX:
            raise Violation(f"L3: {self.address} turns in vain, with a deadline at {deadline}")
        if deadline is not None:
            self._turn_by(max(deadline - self.process.offset_s, self.world.now + 1e-5))

    def _perform(self, effect: Effect) -> None:
        kind = type(effect)
        if kind is Transmit:
            self.network.say(self.address, effect.peer, effect.frame)  # type: ignore[attr-defined]
        elif kind is Hangup:
            self.network.hangup(self.address, effect.peer)  # type: ignore[attr-defined]
        else:
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """What only this kind of process does."""
        raise NotImplementedError(f"{self.address} cannot perform {effect!r}")


class Client(Shell):
    """A client machine with the refs and threads of its process."""

    def __init__(
        self, process: "SimProcess", me: bytes, node: Address, job: JobSpec, is_driver: bool
    ) -> None:
        self.me = me
        self.job = job
        self.depth = 0
        self.kept: list[SimRef] = []
        self.found: dict[ObjectId, None] = {}  # actors looked up by name: perhaps too late
        self.refs = Refs(self)
        self.questions: dict[bytes, Callable[[Any], None]] = {}
        self.writes: dict[ObjectId, Callable[[WriteSegment], None]] = {}
        self.is_leaving = False
        self._defined: dict[FunctionId, bool] = {}
        limits = process.simulation.limits
        place = address("c", me)
        machine = ClientMachine(
            place,
            node,
            job,
            limits,
            is_driver=is_driver,
            pid=process.pid,
            entrypoint="sim",
            wants_output=is_driver and process.world.draw.output is not None,
        )
        super().__init__(process, place, machine)

    def tell_client(self, event: Event) -> None:
        """The machine hears that in its next turn."""
        self.simulation.checkers.told(self, event)
        self.tell(event)

    def leave(self) -> None:
        """It ends in order."""
        self.is_leaving = True
        self.tell(Leave())

    def is_known(self, name: ObjectId) -> bool:
        """The machine has the value, and keeps it."""
        return self.machine.references.value_of(name) is not None

    def unpin(self, segment: str) -> None:
        """A view is gone."""
        self.simulation.store.unpin(segment, self.process)

    def define(self, function: FunctionId, is_shared: bool) -> None:
        """Make it known to the machine, once."""
        if function not in self._defined:
            self._defined[function] = is_shared
            self.tell_client(programs.definition(function, is_shared))

    def perform(self, effect: Effect) -> None:
        """What a client's machine asks for."""
        if isinstance(effect, Resolve):
            self.simulation.checkers.resolved(self, effect.object_id, effect.value)
            self.refs.resolve(effect.object_id, effect.value)
        elif isinstance(effect, Reply):
            question = self.questions.pop(effect.request, None)
            if question is not None:
                question(effect.message)
        elif isinstance(effect, WriteSegment):
            waiting = self.writes.pop(effect.object_id, None)
            if waiting is not None:
                waiting(effect)
        elif isinstance(effect, ShowOutput):
            self.simulation.checkers.output.shown(self.me, effect.message)
            printed = OutputPrinted(effect.node, len(effect.message.text))
            self.world.after(self.world.draw.output.random() * 0.1, self.tell, printed)
        elif isinstance(effect, Drain):
            at = self.network.quiet_at(effect.peer, self.address)
            self.world.at(at, self.world.after, 0.0, self.tell, Drained(effect.peer))
        else:
            super().perform(effect)


class Blocking:
    """What a worker hears of its call's waits."""

    def __init__(self, worker: Shell) -> None:
        self.worker = worker

    def on_blocked(self) -> None:
        """It has waited for a while."""
        self.worker.tell(CallBlocked())

    def on_resumed(self) -> None:
        """It waits no longer."""
        self.worker.tell(CallResumed())


class Thread:
    """A thread of users' code: one program, run to its end."""

    def __init__(
        self,
        client: Client,
        program: programs.Program,
        ended: Callable[[Any], None],
        *,
        writer: Any = None,
        blocking: Blocking | None = None,
        process: "SimProcess",
    ) -> None:
        self.client = client
        self.process = process
        self.world = process.simulation.world
        self.program = program
        self.ended = ended
        self.writer = writer or client
        self.blocking = blocking
        self.waiting_for: dict[ObjectId, None] = {}
        self.held: list[SimRef] = []  # while it waits for them
        self.is_blocked = False
        self.is_struck = False  # its code was interrupted, which happens once
        self._waits = 0

    def interrupt(self) -> None:
        """Its code is struck where it waits or sleeps."""
        self._waits += 1
        self.waiting_for = {}
        if self.is_blocked and self.blocking is not None:
            self.is_blocked = False
            self.blocking.on_resumed()
        held, self.held = self.held, []
        for ref in held:
            self.client.refs.drop(ref)
        self._go_on(lambda: self.program.throw(Interrupted()))

    def advance(self, answer: Any = None, wait: int | None = None) -> None:
        """Run until it waits."""
        if not self.process.is_alive or (wait is not None and wait != self._waits):
            return
        if self.process.paused_until > self.world.now:
            self.world.at(self.process.paused_until, self.advance, answer, self._waits)
            return
        self._go_on(lambda: self.program.send(answer))

    def _go_on(self, resume: Callable[[], Any]) -> None:
        self._waits += 1
        try:
            step = resume()
        except StopIteration as end:
            self.ended(end.value)
            return
        if isinstance(step, programs.Sleep):
            self.world.after(step.duration_s, self.advance, None, self._waits)
        elif isinstance(step, programs.Get):
            self._get(step.refs)
        elif isinstance(step, programs.Write):
            write(self.writer, step, self.advance)
        elif isinstance(step, programs.Ask):
            self.client.questions[step.request] = self.advance_soon
            self.client.tell_client(Ask(step.request, step.make))
        elif isinstance(step, programs.Count):
            self.client.questions[step.request] = self.advance_soon
            self.client.tell_client(Register(step.request, step.object_ids))
        else:
            self.world.fault("poison call")
            self.process.crash()

    def advance_soon(self, answer: Any) -> None:
        """Threads wake a little later than the loop that woke them."""
        self.world.after(self.world.delay(self.world.draw.turn_s), self.advance, answer)

    def _get(self, refs: list[SimRef]) -> None:
        self._waits += 1
        wait = self._waits
        held = self.held = [self.client.refs.hold(one) for one in refs]
        pending = {one.object_id: one for one in held if one.value is None}
        self.waiting_for = dict.fromkeys(pending)

        def resolved(ref: SimRef) -> None:
            if wait != self._waits:
                return
            self.waiting_for.pop(ref.object_id, None)
            if not self.waiting_for:
                self.advance_soon_with(held)

        if not pending:
            self.advance_soon_with(held)
            return
        for ref in pending.values():
            ref.waiters.append(partial(resolved, ref))
            self.client.refs.expect(ref)
        if self.blocking is not None:
            after_s = self.client.limits.blocked_after_s
            self.world.after(after_s, self._look_blocked, self._waits)

    def _look_blocked(self, wait: int) -> None:
        if wait == self._waits and self.waiting_for and self.blocking and self.process.is_alive:
            self.is_blocked = True
            self.blocking.on_blocked()

    def advance_soon_with(self, held: list[SimRef]) -> None:
        """The wait is over: read, then go on."""
        delay_s = self.world.delay(self.world.draw.turn_s)
        self.world.after(delay_s, self._read_all, held, self._waits)

    def _read_all(self, held: list[SimRef], wait: int) -> None:
        if not self.process.is_alive or wait != self._waits:
            return
        if self.process.paused_until > self.world.now:
            self.world.at(self.process.paused_until, self._read_all, held, wait)
            return
        self.held = []
        if self.is_blocked and self.blocking is not None:
            self.is_blocked = False
            self.blocking.on_resumed()
        inner = [one for ref in held for one in read(self.client, ref)]
        for ref in held:
            self.client.refs.drop(ref)
        self.advance(inner)


def read(client: Client, ref: SimRef) -> list[SimRef]:
    """Look into a value: refs inside it come to life."""
    value = ref.value
    if isinstance(value, Sealed):
        store = client.simulation.store
        if not ref.segment and store.pin(value, client.process):
            ref.segment = value.segment
        if not ref.segment:
            client.simulation.checkers.unreadable(client, ref.object_id, value)
            return []
        value = store.files[value.segment].content
    if type(value) is not bytes or not value:
        return []
    content = decoded(value)
    client.simulation.checkers.read(client, ref.object_id, content)
    return [client.refs.hold(client.refs.revive(ObjectId(one))) for one in content.refs]


def write(shell: Any, step: programs.Write, done: Callable[[Value], None]) -> None:
    """Put a large value into the store; ``done`` hears its name, or why not."""

    def on_room(room: WriteSegment) -> None:
        if room.failure is not None:
            done(room.failure)
            return
        shell.simulation.store.begin_write(room, shell.process)
        shell.world.after(shell.world.delay(1e-4), on_written, room)

    def on_written(room: WriteSegment) -> None:
        if not shell.is_alive:
            return
        if not shell.simulation.store.end_write(room, step.content, shell.process):
            done(Failure("object_lost", "its segment was taken away"))
            return
        shell.tell(SegmentWritten(step.object_id, step.attempt))
        node = incarnation_of(shell.simulation.node.address)
        done(Sealed(room.segment, room.generation, len(step.content), node))

    def give_up() -> None:
        if shell.is_alive and shell.writes.pop(step.object_id, None) is not None:
            done(Failure("cluster", "nobody answers"))

    shell.writes[step.object_id] = on_room
    if shell.address[0] == "c":  # a worker without its node ends anyway
        shell.world.after(ANSWER_S, give_up)
    shell.tell(WantSegment(step.object_id, step.attempt, len(step.content)))
