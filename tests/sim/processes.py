"""Processes of the model: drivers, workers and the node, and how they die.

Each is one or two shells around machines imported as they are shipped. A process that dies takes
its memory along; what it had said may still arrive, and its shared word is read by the node. The
control store is in `journals`.
"""

from functools import partial
from random import Random
from typing import Any

from fabric.core.effects import (
    BecomeActor,
    CreateSegment,
    DrainOutput,
    Effect,
    Exit,
    Interrupt,
    KillRunning,
    Learn,
    LetGo,
    MeasureMemory,
    RecycleSegment,
    Run,
    StartWorker,
    StopWorker,
    UnlinkSegment,
    WatchProcess,
    WriteSegment,
)
from fabric.core.events import (
    ActorMade,
    Ask,
    CallOverran,
    CallRan,
    CancelSince,
    OutputDrained,
    Register,
    SegmentRecycled,
    WorkerExited,
    WorkerWrote,
)
from fabric.core.node.node import NodeMachine
from fabric.core.worker import WorkerMachine
from fabric.ids import (
    Address,
    Incarnation,
    JobId,
    ObjectId,
    address,
    call_of,
    incarnation_of,
    object_id,
)
from fabric.protocol.messages import DefineJob, FlushOutput
from fabric.protocol.values import (
    UNIT,
    CallDone,
    Failure,
    JobSpec,
    Progress,
    Value,
)
from tests.sim import programs
from tests.sim.memory import measured
from tests.sim.refs import SimRef
from tests.sim.shells import Blocking, Client, Shell, Thread, write


class SimProcess:
    """One process: its shells share its life."""

    def __init__(self, simulation: Any, me: bytes) -> None:
        self.simulation = simulation
        self.world = simulation.world
        self.me = Incarnation(me)
        self.is_alive = True
        self.paused_until = 0.0
        self.offset_s = self.world.random.choice((0.0, 1000.0, 1e6))
        self.pid = simulation.next_pid()
        self.shells: list[Shell] = []
        self.watchers: list[Any] = []

    def crash(self) -> None:
        """It dies at once."""
        self.end(is_orderly=False)

    def end(self, *, is_orderly: bool) -> None:
        """It is gone."""
        if not self.is_alive:
            return
        self.is_alive = False
        name = type(self).__name__
        self.world.trace.note(self.world.now, name, self.me.hex()[:4], f"ENDS orderly={is_orderly}")
        for shell in self.shells:
            self.simulation.network.died(shell.address, is_orderly)
        for watcher in self.watchers:
            self.world.after(self.world.delay(1e-3), watcher)
        self.on_end(is_orderly)

    def on_end(self, is_orderly: bool) -> None:
        """What follows for others."""

    def pause(self, duration_s: float) -> None:
        """It stands still."""
        self.paused_until = self.world.now + duration_s


class DriverProcess(SimProcess):
    """A driver: a client and its program."""

    def __init__(self, simulation: Any, number: int) -> None:
        super().__init__(simulation, simulation.incarnation())
        draw = self.world.draw
        job = JobSpec(JobId(self.me), (), "", "default")
        self.client = Client(self, self.me, simulation.node.address, job, is_driver=True)
        seed = f"{self.world.seed} driver {number}"
        limits = simulation.limits
        self.program = programs.Driver(
            self.client, seed, draw.steps, draw.app_crash_p, draw.cpus, limits.workers_max
        )
        self.is_finished = False
        self.thread = Thread(self.client, self.program.run(), self._finished, process=self)
        self.world.after(0.0, self.thread.advance)

    def _finished(self, result: Any) -> None:
        self.is_finished = True

    def leave(self) -> None:
        """End in order, after all output has come."""
        if self.world.draw.output is None or not self.is_alive:
            self._leave(None)
            return
        request = self.client.refs.next_call()
        self.client.questions[request] = self._leave
        self.client.tell_client(Ask(request, FlushOutput(request)))

    def _leave(self, answer: Any) -> None:
        if isinstance(answer, FlushOutput):
            self.simulation.checkers.output.flushed(self.me)
        if self.is_alive:
            self.client.leave()
            self.world.after(1.0, partial(self.end, is_orderly=True))


class Worker(Shell):
    """A worker machine, the running call, and what of its refs waits to be taken."""

    def __init__(self, process: "WorkerProcess", node: Address) -> None:
        self.home = process
        self.writes: dict[ObjectId, Any] = {}
        self.handed: dict[bytes, list[SimRef]] = {}
        self.word: dict[tuple[bytes, int], tuple[int, bool]] = {}
        self.began_at = 0.0
        self.life = 0
        self.thread: Thread | None = None  # of the running call
        self.run: Run | None = None
        self.struck = b""  # the call that was last to be interrupted
        self.first_call = 0  # numbers from here on are of calls that the running one has made
        place = address("w", process.me)
        machine = WorkerMachine(place, node, process.simulation.limits, pid=process.pid)
        super().__init__(process, place, machine)

    def perform(self, effect: Effect) -> None:
        """What a worker's machine asks for."""
        if isinstance(effect, Run):
            self.world.after(self.world.delay(1e-5), self._begin, effect)
        elif isinstance(effect, BecomeActor):
            self.world.after(self.world.delay(1e-4), self._become, effect)
        elif isinstance(effect, Learn):
            # a worker has the first job that it hears of
            if isinstance(effect.message, DefineJob) and not self.home.job.job:
                self.home.job = effect.message.spec
        elif isinstance(effect, WriteSegment):
            self.writes.pop(effect.object_id)(effect)
        elif isinstance(effect, LetGo):
            for call in effect.call_ids:
                for ref in self.handed.pop(call, ()):
                    self.home.client.refs.drop(ref)
        elif isinstance(effect, Interrupt):
            self.struck = effect.call_id
            self.world.after(self.world.delay(1e-5), self._strike)
            if effect.is_recursive and self.home.has_client and self.run is not None:
                self.home.client.tell_client(CancelSince(self.first_call))
        elif isinstance(effect, Exit):
            self.world.after(self.world.delay(1e-3), self.home.leave)
        else:
            super().perform(effect)

    def _begin(self, run: Run) -> None:
        if not self._may_go(self._begin, run):
            return
        call = run.call
        caller = incarnation_of(run.caller)
        self.word[caller, run.lease] = (call.number, False)
        self.began_at = self.world.now
        self.simulation.checkers.began(self, run)
        self._print()
        self.home.need_client().depth = run.depth + 1
        client = self.home.client
        started = self.world.now
        program = programs.body(client, call.call_id, call.attempt, self.life, call.args)
        self.run, self.first_call = run, client.refs.numbers + 1

        def ended(outcomes: Any) -> None:
            self.thread = None
            self.word[caller, run.lease] = (call.number, True)
            has_refs = any(refs for _, refs in outcomes)
            self._register(lambda: self._answer(run, outcomes, [], started), has_refs)

        self.world.after(self.limits.window_s + 0.01, self._overran, run)
        self._start(program, ended)
        self._strike()

    def _strike(self) -> None:
        """Interrupt the code of the call that is to be, if it runs; once."""
        thread, run = self.thread, self.run
        if thread is None or run is None or run.call.call_id != self.struck or thread.is_struck:
            return
        if self._may_go(self._strike):
            thread.is_struck = True
            self.simulation.checkers.cancels.interrupted(run)
            thread.interrupt()

    def _print(self) -> None:
        """Some lines, as the node's process would tell them."""
        random = self.world.draw.output
        node = self.home.node.shell
        if random is None or not node.is_alive or random.random() < 0.3:
            return
        text = self.simulation.checkers.output.write(self.home.job.job, random.randint(1, 4))
        node.tell(WorkerWrote(self.home.me, random.random() < 0.5, "model", text))

    def _may_go(self, action: Any, *args: Any) -> bool:
        if self.is_alive and self.process.paused_until > self.world.now:
            self.world.at(self.process.paused_until, action, *args)
            return False
        return self.is_alive

    def _start(self, program: Any, ended: Any) -> None:
        client = self.home.client
        blocking = Blocking(self)
        thread = Thread(client, program, ended, writer=self, blocking=blocking, process=self.home)
        self.thread = thread
        thread.advance()

    def _overran(self, run: Run) -> None:
        if self.is_alive and self.machine.running is run:
            self.tell(CallOverran())

    def _register(self, then: Any, has_refs: bool = False) -> None:
        """Refs that outlive the call are counted by their owners before its answer leaves.

        Also those that only calls still need which it made. Of those in the answer that are our
        own, our client must have heard by then, too.
        """
        client = self.home.client
        has_borrowed, kept = client.refs.take_fresh()
        if not has_borrowed and not has_refs:
            then()
            return
        request = b"kept" + client.refs.next_call()
        client.questions[request] = lambda answer: then()
        client.tell_client(Register(request, tuple(kept)))

    def _answer(self, run: Run, outcomes: Any, values: list[Value], started: float) -> None:
        """Seal what is large, one after the other, then answer."""
        if not self.is_alive:
            return
        call = run.call
        for index in range(len(values), len(outcomes)):
            value = outcomes[index][0]
            if not isinstance(value, bytes) or len(value) <= self.limits.inline_bytes_max:
                values.append(value)
                continue
            name = object_id(call.call_id, index)

            def on_sealed(sealed: Value) -> None:
                values.append(sealed)
                self._answer(run, outcomes, values, started)

            write(self, programs.Write(name, call.attempt, value), on_sealed)
            return
        contained: tuple[tuple[ObjectId, ...], ...] = ()
        held = [ref for _, refs in outcomes for ref in refs]
        if held:
            contained = tuple(tuple(ref.object_id for ref in refs) for _, refs in outcomes)
            self.handed[call.call_id] = held
        duration_us = int((self.world.now - started) * 1e6)
        done = CallDone(call.call_id, call.attempt, tuple(values), duration_us, contained)
        self.tell(CallRan(done))

    def _become(self, effect: BecomeActor) -> None:
        if not self._may_go(self._become, effect):
            return
        spec = effect.spec
        self.life = effect.incarnation
        client = self.home.need_client()
        call = call_of(spec.actor_id)
        self.simulation.checkers.actor_began(self, effect)

        def ended(outcomes: Any) -> None:
            self.thread = None
            failure = next((one for one, _ in outcomes if isinstance(one, Failure)), None)
            self._register(lambda: self.tell(ActorMade(failure)))

        program = programs.body(client, call, 1, effect.incarnation, spec.args)
        self._start(program, ended)


class WorkerProcess(SimProcess):
    """A worker, and from its first call on a client."""

    def __init__(self, simulation: Any, me: bytes, node: "NodeProcess") -> None:
        super().__init__(simulation, me)
        self.node = node
        self.job = JobSpec(JobId(b""), (), "", "")
        self._client: Client | None = None
        self.worker = Worker(self, node.address)

    @property
    def has_client(self) -> bool:
        """It has needed one."""
        return self._client is not None

    @property
    def client(self) -> Client:
        """The one it needed."""
        assert self._client is not None
        return self._client

    def need_client(self) -> Client:
        """It begins when it is first needed."""
        if self._client is None:
            self._client = Client(self, self.me, self.node.address, self.job, is_driver=False)
        return self._client

    def leave(self) -> None:
        """It was told to end, and has said all."""
        if self._client is not None and self.is_alive:
            self._client.leave()
        self.world.after(0.05, self._leave)

    def _leave(self) -> None:
        self.end(is_orderly=True)

    def on_end(self, is_orderly: bool) -> None:
        """The node reads its shared word."""
        progress = tuple(
            Progress(Incarnation(caller), lease, number, finished)
            for (caller, lease), (number, finished) in self.worker.word.items()
        )
        exited = WorkerExited(
            self.me, 0 if is_orderly else None, None if is_orderly else 9, progress
        )
        self.simulation.checkers.worker_ended(self)
        at = self.world.now
        if is_orderly:
            at = self.simulation.network.quiet_at(self.worker.address, self.node.address)
        self.world.at(at + self.world.delay(1e-3), self.node.shell.tell, exited)
        self.node.workers.pop(self.me, None)


class Node(Shell):
    """A node machine and its hands."""

    def lose(self, peer: Address) -> None:
        """A control store comes back; what it may not have heard is still in the link."""
        if peer[0] != "s":
            super().lose(peer)

    def __init__(self, process: "NodeProcess", machine: NodeMachine, place: Address) -> None:
        self.home = process
        super().__init__(process, place, machine)

    def perform(self, effect: Effect) -> None:
        """What a node's machine asks for."""
        store = self.simulation.store
        if isinstance(effect, StartWorker):
            self.world.after(self.world.delay(2e-3), self.home.start, effect.worker)
        elif isinstance(effect, StopWorker):
            self.world.after(self.world.delay(1e-4), self.home.stop, effect.worker)
        elif isinstance(effect, KillRunning):
            self.world.after(self.world.delay(1e-4), self.home.kill_running, effect)
        elif isinstance(effect, CreateSegment):
            store.create(effect.segment, effect.nbytes)
        elif isinstance(effect, RecycleSegment):
            is_free = store.recycle(effect.segment, effect.generation)
            self.tell(SegmentRecycled(effect.segment, is_free))
        elif isinstance(effect, UnlinkSegment):
            store.unlink(effect.segment)
        elif isinstance(effect, MeasureMemory):
            self.tell(measured(self.home, effect.workers))
        elif isinstance(effect, DrainOutput):
            self.tell(OutputDrained(effect.request))
        elif isinstance(effect, WatchProcess):
            self.simulation.watch(effect.client, self)
        elif isinstance(effect, Exit):
            self.world.fault("node fenced")
            self.home.crash()
        else:
            super().perform(effect)


class NodeProcess(SimProcess):
    """The node, and the workers that die with it."""

    def __init__(self, simulation: Any, control: Address) -> None:
        super().__init__(simulation, simulation.incarnation())
        draw = self.world.draw
        self.address = address("n", self.me)
        self.workers: dict[Incarnation, WorkerProcess] = {}
        self.doomed: dict[Incarnation, None] = {}  # to be killed when they are born
        machine = NodeMachine(
            self.address,
            control,
            simulation.limits,
            Random(self.world.random.random()),
            resources={"CPU": draw.cpus * UNIT},
            store_prefix="fabric",
            store_bytes_max=draw.store_bytes_max,
            workers_kept=draw.random.choice((0, 1, draw.cpus)),
        )
        self.shell = Node(self, machine, self.address)

    def start(self, me: Incarnation) -> None:
        """A worker is born, or cannot be."""
        if not self.is_alive:
            return
        if me in self.doomed or self.world.chance(self.world.draw.drop_p / 10):
            self.world.fault("worker not born")
            self.shell.tell(WorkerExited(me, None, None, ()))
            return
        self.workers[me] = WorkerProcess(self.simulation, me, self)

    def kill_running(self, effect: KillRunning) -> None:
        """A worker is killed if its word says so."""
        worker = self.workers.get(effect.worker)
        word = worker.worker.word if worker is not None else {}
        is_running = any(
            lease == effect.lease and at == (effect.number, False)
            for (_, lease), at in word.items()
        )
        if worker is not None and is_running:
            self.world.fault("cancelled call killed")
            self.simulation.checkers.executions.killed(worker.worker.address)
            worker.crash()

    def stop(self, me: Incarnation) -> None:
        """It is killed."""
        worker = self.workers.get(me)
        if worker is not None:
            worker.crash()
        else:
            self.doomed[me] = None

    def on_end(self, is_orderly: bool) -> None:
        """Its workers die with it."""
        self.world.has_node = False
        for worker in list(self.workers.values()):
            worker.crash()
