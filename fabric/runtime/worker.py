"""The worker's process: its main thread hears, runs user code, and speaks between calls.

While a call runs the loop belongs to nobody. When it has run for `watchdog_after_s` a watchdog
thread takes the loop until the call ends: answers leave, recalls and new calls are heard, and what
is queued behind a call that takes too long is handed back. The main thread asks for the loop by an
eventfd. The watchdog sleeps while the worker is idle. What is run next, and for whom, the machine
decides.
"""

import math
import os
import sys
import threading
import time
from typing import Any

import msgspec

from fabric.config import Limits
from fabric.context import Interrupted, running
from fabric.core.effects import (
    BecomeActor,
    Effect,
    Exit,
    Interrupt,
    Learn,
    LetGo,
    Run,
    WriteSegment,
)
from fabric.core.endpoint import Endpoint
from fabric.core.events import (
    ActorMade,
    CallBlocked,
    CallOverran,
    CallRan,
    CallResumed,
    CancelSince,
    Quit,
    SegmentWritten,
    WantSegment,
)
from fabric.core.sizes import segment_bytes
from fabric.core.worker import CANCELLED, WorkerMachine
from fabric.ids import Address, CallId, Incarnation, ObjectId, address, incarnation_of, object_id
from fabric.images import Dumped
from fabric.protocol.values import Call, CallDone, Failure, JobSpec, Sealed, Value
from fabric.runtime import client as clients
from fabric.runtime import sockets
from fabric.runtime.execution import EXITED, Execution, Outcome
from fabric.runtime.interrupts import Interrupts
from fabric.runtime.loop import Loop
from fabric.runtime.poke import Poke
from fabric.runtime.segments import SegmentMoved, SegmentWriter, segment_path, store_full
from fabric.runtime.settings import Place
from fabric.runtime.words import Word
from fabric.runtime.zygote import WorkerLaunch

LISTEN_S = 0.001
"""Between tiny calls the sockets are looked at this often."""

AWAKE_S = 1.0
"""The watchdog sleeps once the worker has been idle for this long."""

REGISTER_S = 10.0
"""Owners of refs that a call keeps get this long to count them."""


class WorkerShell:
    """The shell of one worker."""

    def __init__(self, launch: WorkerLaunch) -> None:
        self.launch = launch
        self.limits: Limits = launch.limits
        self.me: Incarnation = launch.incarnation
        self.store_directory = launch.environment["FABRIC_STORE"]
        self.machine = WorkerMachine(
            address("w", self.me), launch.node, launch.limits, pid=os.getpid()
        )
        self.word = Word(launch.words_path, launch.slot)
        self.execution = Execution(launch.node, self.store_directory, self.word.name)
        self.writer = SegmentWriter()
        self.context = sockets.new_context()
        self.loop = Loop(
            Endpoint(
                self.machine.address, self.machine, cluster=launch.cluster, limits=self.limits
            ),
            self.context,
            launch.runtime_directory,
            clock=time.monotonic,
            perform=self._perform,
        )
        self.loop.dial(launch.node)
        self.is_over = False
        self._next: Run | BecomeActor | None = None
        self._room: WriteSegment | None = None
        self._handed: dict[CallId, list[Any]] = {}  # refs inside results, until they are taken
        self._garbage: list[Any] = []
        self._heard_at = self._ended_at = 0.0
        self._caller, self._caller_id = Address(""), Incarnation(b"")  # of the last call
        self._client: clients.Client | None = None
        self._first_call = 0  # numbers from here on are of calls that the running one has made
        self.interrupts = Interrupts()
        self.watchdog = Watchdog(self)
        clients.use_in_worker(self._new_client)

    def run(self) -> None:
        """Hear, run, speak, until told to end."""
        self.interrupts.install()
        self.watchdog.start()
        self.watchdog.loop_lock.acquire()
        while not self.is_over:
            if self._next is None:
                self._garbage.clear()
                self.loop.turn(math.inf)
                self._heard_at = time.monotonic()
            else:
                task, self._next = self._next, None
                self._perform_task(task)
        self.watchdog.loop_lock.release()  # not if that raised: the lock may be lent then
        client = clients.client_or_none()
        if client is not None:
            client.close()
        self.loop.close(0.5)
        self.context.destroy(linger=500)
        if self.execution.exit is not None:
            raise self.execution.exit

    def _perform_task(self, task: Run | BecomeActor) -> None:
        event = self._make_actor(task) if isinstance(task, BecomeActor) else self._run_call(task)
        is_last = self.execution.exit is not None or self.execution.has_exited
        if event is not None and not is_last and self._ended_at - self._heard_at < LISTEN_S:
            self.loop.speak(event)
            return
        if event is not None:
            self.loop.tell(event)
        if self.execution.has_exited:
            self.loop.tell(Quit(EXITED))  # in the same turn: no other call of it may start
        if self.execution.exit is not None:
            self.is_over = True
            self.loop.tell(
                CallOverran()
            )  # what was answered leaves, what has not started goes back
        self.loop.turn(0.0)
        self._heard_at = time.monotonic()

    def _make_actor(self, effect: BecomeActor) -> ActorMade | None:
        self.watchdog.lend_loop()
        failure = self.execution.make_actor(effect)
        self._register_kept()
        self.watchdog.take_loop()
        self._ended_at = time.monotonic()
        return None if self.execution.exit is not None else ActorMade(failure)

    def _run_call(self, run: Run) -> CallRan | None:
        call = run.call
        if run.caller != self._caller:
            self._caller, self._caller_id = run.caller, incarnation_of(run.caller)
        client = clients.client_or_none()
        if client is not None:
            client.depth = run.depth + 1
            self._first_call = client.next_number()
        started = self.watchdog.lend_loop()
        self.word.start(self._caller_id, run.lease, call.number, started)
        outcomes = self._run_user_code(run)
        if (
            self.execution.exit is not None
        ):  # like a crash: the shared word says that it was running
            self.watchdog.take_loop()
            return None
        self.word.finish()
        self._ended_at = ended = time.monotonic()
        contained: tuple[tuple[ObjectId, ...], ...] = ()
        if clients.client_or_none() is not None:
            contained = self._hand_over(call.call_id, outcomes)
            self._register_kept(has_refs=bool(contained))
        self.execution.result = None
        self.watchdog.take_loop()
        if len(outcomes) == 1:
            values: tuple[Value, ...] = (self._value(call, 0, outcomes[0]),)
        else:
            values = tuple(self._value(call, index, one) for index, one in enumerate(outcomes))
        duration_us = int((ended - started) * 1e6)
        return CallRan(CallDone(call.call_id, call.attempt, values, duration_us, contained))

    def _run_user_code(self, run: Run) -> list[Outcome]:
        """The part of a call that may be interrupted, at any of its instructions."""
        try:
            self.interrupts.enter(run.call.call_id)
            try:
                return self.execution.run(run)
            finally:
                self.interrupts.leave()
        except Interrupted:  # where nothing of the user's was there to catch it
            return [CANCELLED] * run.call.returns

    def _hand_over(
        self, call_id: CallId, outcomes: list[Outcome]
    ) -> tuple[tuple[ObjectId, ...], ...]:
        """The refs inside each result; they are held here until the caller has taken them."""
        contained = tuple(tuple(one.refs) if type(one) is Dumped else () for one in outcomes)
        if not any(contained):
            return ()
        self._handed[call_id] = _living_refs(contained)
        return contained

    def _value(self, call: Call, index: int, outcome: Outcome) -> Value:
        """As it travels: inline, or sealed in the store first."""
        if isinstance(outcome, Failure):
            return outcome
        if outcome.nbytes <= self.limits.inline_bytes_max:
            return outcome.packed()
        name, attempt = object_id(call.call_id, index), call.attempt
        nbytes = segment_bytes(len(outcome.pickled), [each.nbytes for each in outcome.buffers])
        self._room = None
        self.loop.tell(WantSegment(name, attempt, nbytes))
        while self._room is None and not self.is_over:
            self.loop.turn(math.inf)
        room: WriteSegment | None = self._room
        if room is None:
            text = f"{running.task} was ended with its worker before its result was written"
            return Failure("worker_crashed", text)
        if room.failure is not None:
            text = f"for a result of {running.task}: {room.failure.text}"
            return msgspec.structs.replace(room.failure, text=text)
        path = segment_path(self.store_directory, room.segment)
        try:
            self.writer.trim()
            self.writer.write(path, room.generation, outcome, room.is_warm)
        except (OSError, SegmentMoved) as error:  # no room, for the node that makes it or for us
            what = f"a result of {running.task}"
            return store_full(self.store_directory, what, nbytes, str(error))
        self.loop.tell(SegmentWritten(name, attempt))
        return Sealed(room.segment, room.generation, nbytes, incarnation_of(self.launch.node))

    def _register_kept(self, has_refs: bool = False) -> None:
        """Refs that outlive the call are counted by their owners before its answer leaves.

        Also those that only calls still need which it made and has not waited for. Of refs in the
        answer that are our own, our client must have heard by then, too: whoever gets the answer
        asks it, and the two loops of this process do not wait for each other.
        """
        client = clients.client_or_none()
        if client is None:
            return
        has_borrowed, kept = client.shared.take_fresh()
        if has_borrowed or has_refs:
            client.shared.register(kept, REGISTER_S)

    def _new_client(self) -> clients.Client:
        job = self.execution.job
        if job is None:
            raise RuntimeError("a worker has no client before its first job")
        with self.interrupts.shielded():
            if self._client is None:  # else an interrupt came just after it was made
                self._client = new_worker_client(
                    self.launch, job, self.store_directory, self.watchdog
                )
                self._client.start()
        return self._client

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Run() | BecomeActor():
                self._next = effect
            case WriteSegment():
                self._room = effect
            case Learn(message):
                self.execution.learn(message)
            case LetGo(call_ids):
                # what ends here may be anything, so it ends on the main thread, between calls
                self._garbage += [self._handed.pop(CallId(one), None) for one in call_ids]
            case Interrupt(call_id, is_recursive):
                self.interrupts.interrupt(call_id)
                client = clients.client_or_none()
                if is_recursive and client is not None:
                    client.tell(CancelSince(self._first_call))
            case Exit(reason):
                self._end(reason)
            case _:
                raise TypeError(f"a worker cannot perform {effect!r}")

    def _end(self, reason: str) -> None:
        self.is_over = True
        if threading.current_thread() is not threading.main_thread():
            # user code runs on and would keep an orphan alive: nobody is left to answer
            sys.stderr.write(f"worker ends under its call: {reason}\n")
            sys.stderr.flush()
            os._exit(1)


class Watchdog:
    """Who runs the loop: the main thread between calls, the watchdog while one runs for long."""

    def __init__(self, worker: WorkerShell) -> None:
        self.worker = worker
        self.limits = worker.limits
        self.loop_lock = threading.Lock()
        self._wanted = Poke()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._is_napping = False
        self._started_at = 0.0  # of the running call; 0 between calls
        self._ended_at = 0.0
        self._told_overrun_of = 0.0
        self._has_stood_in = False  # since the main thread last had the loop
        worker.loop.watch(self._wanted.fd, self._wanted.down)

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="fabric-watchdog", daemon=True).start()

    def lend_loop(self) -> float:
        """Main thread: a call starts, now."""
        self._started_at = started = time.monotonic()
        self.loop_lock.release()
        if self._is_napping:
            self._is_napping = False
            self._bell.release()
        return started

    def take_loop(self) -> None:
        """Main thread: the call has ended, or has something to say."""
        self._started_at = 0.0
        if not self.loop_lock.acquire(blocking=False):
            self._wanted.up()
            self.loop_lock.acquire()
        if self._has_stood_in:
            self._has_stood_in = False
            self.worker.loop.take()

    # a thread of the running call that waits in `get`

    def on_blocked(self, timeout: float | None) -> None:
        """The call has waited for a while: its share may be lent out."""
        self._tell(CallBlocked())

    def on_resumed(self) -> None:
        """It goes on."""
        self._tell(CallResumed())

    def _tell(self, event: CallBlocked | CallResumed) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        with self.worker.interrupts.shielded():
            started = self._started_at
            self.take_loop()
            self.worker.loop.tell(event)
            self.worker.loop.turn(0.0)
            self.loop_lock.release()
            self._started_at = started

    # the watchdog's own thread

    def _watch(self) -> None:
        while True:
            if self._is_idle():
                self._is_napping = True
                # a call that started meanwhile did not see the flag, and needs no bell
                if self._started_at:
                    self._is_napping = False
                else:
                    self._bell.acquire()
                    self._ended_at = time.monotonic()  # that call may be over by now
                continue
            time.sleep(self.limits.watchdog_after_s)
            started = self._started_at
            if started and time.monotonic() - started >= self.limits.watchdog_after_s:
                self._stand_in(started)

    def _is_idle(self) -> bool:
        if self._started_at:
            self._ended_at = time.monotonic()
            return False
        return time.monotonic() - self._ended_at > AWAKE_S

    def _stand_in(self, started: float) -> None:
        """Run the loop for as long as that call runs."""
        if not self.loop_lock.acquire(blocking=False):
            return
        try:
            loop = self.worker.loop
            loop.take()
            self._has_stood_in = True
            while self._started_at == started:
                overran_at = started + self.limits.window_s
                now = time.monotonic()
                if self._told_overrun_of != started and now >= overran_at:
                    self._told_overrun_of = started
                    loop.tell(CallOverran())
                is_told = self._told_overrun_of == started
                loop.turn(math.inf if is_told else max(0.0, overran_at - now))
        finally:
            self.loop_lock.release()


def new_worker_client(
    launch: WorkerLaunch, job: JobSpec, store_directory: str, blocking: Watchdog
) -> clients.Client:
    """The client of this worker, for what its calls submit."""
    place = Place(
        launch.cluster, launch.node, Address(""), launch.runtime_directory, store_directory
    )
    client = clients.Client(
        launch.incarnation, place, job, launch.limits, is_driver=False, blocking=blocking
    )
    client.depth = running.depth + 1
    return client


def _living_refs(contained: tuple[tuple[ObjectId, ...], ...]) -> list[Any]:
    client = clients.client_or_none()
    if client is None:
        return []
    return [client.shared.revive(one) for ids in contained for one in ids]


def main(launch: WorkerLaunch) -> None:
    """Be a worker until told to end."""
    WorkerShell(launch).run()
