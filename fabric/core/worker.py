"""The worker's machine: the authority on what has started.

It queues calls by lease, runs one at a time in number order, answers in batches, hands back what it
has not started when its lease is recalled or its running call waits, and is an actor for life once
it was told so. It does not run user code, and it never looks into values: `Run` asks its process
to.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fabric.config import Limits
from fabric.core.allocations import Allocations
from fabric.core.effects import (
    BecomeActor,
    Effect,
    Exit,
    Hangup,
    Interrupt,
    Learn,
    LetGo,
    Run,
    Send,
)
from fabric.core.events import (
    SELF,
    ActorMade,
    CallBlocked,
    CallOverran,
    CallRan,
    CallResumed,
    Event,
    PeerLost,
    Quit,
)
from fabric.core.lives import ActorLife
from fabric.core.machine import InvariantError
from fabric.ids import Address, CallId, FunctionId, address, incarnation_of
from fabric.protocol.messages import (
    ActorFailed,
    ActorStarted,
    AnyMessage,
    CallsDone,
    CallsReturned,
    CancelCalls,
    ClientDied,
    DefineFunction,
    DefineJob,
    EndWorker,
    FunctionFound,
    GetFunction,
    KillCall,
    LeaseReturned,
    RecallLease,
    RunCalls,
    StartActor,
    Taken,
    WorkerBlocked,
    WorkerReady,
    WorkerResumed,
)
from fabric.protocol.values import CallDone, Failure

CANCELLED = Failure("cancelled", "it was cancelled before it began")

TINY_US = 100
"""A function whose last run took less is tiny: answers may wait for company while it runs."""


class WorkerMachine:
    """See the module. Peers are its node and clients that hold leases on it or call its actor."""

    def __init__(self, address: Address, node: Address, limits: Limits, pid: int = 0) -> None:
        self.address = address
        self.node = node
        self.limits = limits
        self.pid = pid
        self.queue: deque[Run] = deque()
        self.running: Run | None = None
        self.is_orphan = False  # the running call's caller is gone
        self.is_blocked = False
        self.actor: ActorLife | None = None
        self.ending: str | None = None
        self.closed_lease = 0  # leases up to this one are over
        self.recalled_lease: int | None = None  # over as soon as the running call ends
        self.idle_recall = 0  # over as soon as nothing of it is queued or runs
        self.finished: dict[Address, tuple[int, list[CallDone]]] = {}  # caller → (lease, answers)
        self.oldest_answer_at: float | None = None
        self.holder: tuple[int, Address] | None = None  # the newest lease and whose calls it had
        # caller → results with refs inside, until `Taken`
        self.handed: dict[Address, dict[CallId, None]] = {}
        self.durations_us: dict[FunctionId | str, int] = {}  # by function or an actor's method
        self.known: dict[FunctionId, str] = {}  # function → its name
        self.calls_run = 0
        self._is_new = True
        self._is_ended = False
        self._on: Mapping[type, Callable[[Address, Any, float], list[Effect]]] = {
            **Allocations(node).reactions(),
            RunCalls: self.on_run_calls,
            CallRan: self.on_call_ran,
            DefineFunction: self.on_define_function,
            DefineJob: self.on_define_job,
            CancelCalls: self.on_cancel_calls,
            Taken: self.on_taken,
            RecallLease: self.on_recall_lease,
            EndWorker: self.on_end_worker,
            StartActor: self.on_start_actor,
            FunctionFound: self.on_function_found,
            ActorMade: self.on_actor_made,
            CallBlocked: self.on_call_blocked,
            CallResumed: self.on_call_resumed,
            CallOverran: self.on_call_overran,
            Quit: self.on_quit,
            ClientDied: self.on_client_died,
            PeerLost: self.on_peer_lost,
        }

    def handle(self, source: Address, message: AnyMessage | Event, now: float) -> list[Effect]:
        """Hear one message or event."""
        react = self._on.get(type(message))
        return react(source, message, now) if react is not None else []

    def tick(self, now: float) -> list[Effect]:
        """Start the next call, and send answers that have waited long enough or must not wait."""
        effects: list[Effect] = []
        if self._is_new:
            self._is_new = False
            effects.append(Send(self.node, WorkerReady(self.pid)))
        following = self._next_run()
        if self.idle_recall and following is None and self.running is None:
            effects += self._end_idle_lease()
        if self.finished and self._answers_are_due(following, now):
            effects += self._answers()
        if following is not None:
            self.queue.popleft()
            self.running = following
            effects.append(following)
        elif self.ending is not None and self.running is None and not self._is_ended:
            if self.handed:  # refs that we alone keep, until whoever got them is counted
                return [*effects, *self._answers()]
            self._is_ended = True
            effects += [*self._answers(), Exit(self.ending)]
        return effects

    def deadline(self) -> float | None:
        """When waiting answers must leave."""
        if self.oldest_answer_at is None:
            return None
        return self.oldest_answer_at + self.limits.answer_delay_s

    def check(self) -> None:
        """The queue holds calls of open leases only, and a blocked task worker holds none."""
        if self.actor is None:
            for run in self.queue:
                if run.lease <= self.closed_lease:
                    raise InvariantError(
                        f"{self.address}: queued {run.call} of a lease that is over"
                    )
            if self.is_blocked and self.queue:
                raise InvariantError(f"{self.address}: blocked with {len(self.queue)} calls queued")
        if (self.oldest_answer_at is None) != (not self.finished):
            raise InvariantError(f"{self.address}: answers wait without a deadline")

    def snapshot(self) -> Mapping[str, object]:
        """What it is doing, as plain figures."""
        return {
            "queued": len(self.queue),
            "running": self.running.call.call_id if self.running else None,
            "is_blocked": self.is_blocked,
            "actor": self.actor.start.spec.actor_id if self.actor else None,
            "calls_run": self.calls_run,
        }

    # calls

    def on_run_calls(self, caller: Address, message: RunCalls, now: float) -> list[Effect]:
        """Calls under a lease: queue them, unless it is over or this worker takes none now."""
        lease = message.lease
        runs = [Run(caller, lease, message.depth, call) for call in message.calls]
        if self.actor is not None and lease == self.actor.start.lease and self.ending is None:
            for run in runs:
                self.queue.extend(self.actor.in_order(run))
            return []
        is_over = lease <= self.closed_lease or self.actor is not None or self.ending is not None
        if is_over or self.is_blocked:
            return self._return_calls(runs, is_over)
        self.holder = (lease, caller)
        self.queue.extend(runs)
        return []

    def on_call_ran(self, source: Address, message: CallRan, now: float) -> list[Effect]:
        """The running call ended: keep the answer for its caller, and let a recalled lease go."""
        run = self.running
        if run is None:
            raise InvariantError(f"{self.address}: {message.done.call_id!r} ended but nothing ran")
        self.running = None
        self.calls_run += 1
        done = message.done
        self.durations_us[run.call.method or run.call.function] = done.duration_us
        effects: list[Effect] = []
        if self.is_orphan:
            self.is_orphan = False
            if any(done.contained):
                effects.append(LetGo((done.call_id,)))
        else:
            self._answer(run, done, effects, now)
        if self.is_blocked:
            self.is_blocked = False
            effects.append(Send(self.node, WorkerResumed(run.lease)))
        if self.recalled_lease is not None:
            effects += [*self._answers(), Send(self.node, LeaseReturned(self.recalled_lease))]
            self.recalled_lease = None
        return effects

    def _answer(self, run: Run, done: CallDone, effects: list[Effect], now: float) -> None:
        """Keep the answer until it leaves; those of another lease leave at once."""
        entry = self.finished.get(run.caller)
        if entry is not None and entry[0] != run.lease:
            effects += self._answers()
            entry = None
        if entry is None:
            self.finished[run.caller] = (run.lease, [done])
        else:
            entry[1].append(done)
        if self.oldest_answer_at is None:
            self.oldest_answer_at = now
        if done.contained and any(done.contained):
            self.handed.setdefault(run.caller, {})[done.call_id] = None

    def on_cancel_calls(self, caller: Address, message: CancelCalls, now: float) -> list[Effect]:
        """Nobody waits for those calls any more: what has not started is answered as it is.

        What runs is interrupted; if it is to end by force, first goes back what waits behind it.
        """
        lease, effects = message.lease, list[Effect]()
        cancelled = dict.fromkeys(message.numbers)
        for run in list(self.queue):
            if run.caller == caller and run.lease == lease and run.call.number in cancelled:
                self.queue.remove(run)
                none = (CANCELLED,) * run.call.returns
                self._answer(
                    run, CallDone(run.call.call_id, run.call.attempt, none, 0), effects, now
                )
        running = self.running
        if running is None or running.caller != caller or running.lease != lease:
            return effects
        if running.call.number not in cancelled:
            return effects
        if not message.is_forced or self.actor is not None:
            return [*effects, Interrupt(running.call.call_id, message.is_recursive)]
        kill = Send(self.node, KillCall(lease, running.call.number))
        return [*effects, *self._hand_back(), *self._answers(), kill]

    def on_taken(self, caller: Address, message: Taken, now: float) -> list[Effect]:
        """The caller has registered for the refs in those results."""
        handed = self.handed.get(caller, {})
        for call_id in message.call_ids:
            handed.pop(call_id, None)
        if not handed:
            self.handed.pop(caller, None)
        return [LetGo(message.call_ids)]

    def on_define_function(
        self, source: Address, message: DefineFunction, now: float
    ) -> list[Effect]:
        """A function that calls of this client will name."""
        if message.function in self.known:
            return []
        self.known[message.function] = message.name
        return [Learn(message)]

    def on_define_job(self, source: Address, message: DefineJob, now: float) -> list[Effect]:
        """The job of the calls that follow."""
        return [Learn(message)]

    # trouble and leases

    def on_recall_lease(self, source: Address, message: RecallLease, now: float) -> list[Effect]:
        """The node wants the lease back: what has not started goes back to its client."""
        lease = message.lease
        if lease <= self.closed_lease or self.actor is not None:
            return []
        if message.only_if_idle:
            self.idle_recall = lease  # looked at when the turn ends, and whenever a call does
            return []
        self.closed_lease = lease
        effects = self._tell_holder(lease)
        if self.running is None:
            effects += [*self._answers(), Send(self.node, LeaseReturned(lease))]
        else:
            self.recalled_lease = lease
        return effects

    def _end_idle_lease(self) -> list[Effect]:
        """The node wants the lease that nothing is queued or runs under, if it is not over yet."""
        lease, self.idle_recall = self.idle_recall, 0
        if lease <= self.closed_lease:
            return []
        self.closed_lease = lease
        answers = self._answers()
        return [*answers, *self._tell_holder(lease), Send(self.node, LeaseReturned(lease))]

    def _tell_holder(self, lease: int) -> list[Effect]:
        """Hand back what has not started under a lease that is over, or only say that it is."""
        queued, self.queue = list(self.queue), deque()
        if queued:
            return self._return_calls(queued, is_over=True)
        if self.holder is None or self.holder[0] != lease:
            return []  # its holder learns it when calls of that lease come back
        return [Send(self.holder[1], CallsReturned(lease, (), is_lease_over=True))]

    def on_call_blocked(self, source: Address, message: CallBlocked, now: float) -> list[Effect]:
        """The running call waits for others: they may be queued behind it, so hand those back."""
        lease = self._open_lease()
        if lease is None or self.is_blocked:
            return []
        self.is_blocked = True
        effects = self._hand_back()
        return [*effects, *self._answers(), Send(self.node, WorkerBlocked(lease, self._name()))]

    def on_call_resumed(self, source: Address, message: CallResumed, now: float) -> list[Effect]:
        """The running call goes on."""
        lease = self._open_lease()
        if lease is None or not self.is_blocked:
            return []
        self.is_blocked = False
        return [Send(self.node, WorkerResumed(lease))]

    def on_call_overran(self, source: Address, message: CallOverran, now: float) -> list[Effect]:
        """The running call takes longer than the window: others may run what waits behind it."""
        return [*self._hand_back(), *self._answers()]

    def on_end_worker(self, source: Address, message: EndWorker, now: float) -> list[Effect]:
        """Finish what runs, give back what has not started, answer, exit."""
        self.ending = "ended by its node"
        queued, self.queue = list(self.queue), deque()
        return self._return_calls(queued, is_over=True)

    def on_client_died(self, source: Address, message: ClientDied, now: float) -> list[Effect]:
        """Nobody waits for that client's calls any more."""
        peer = address("c", message.client)
        self.queue = deque(run for run in self.queue if run.caller != peer)
        effects: list[Effect] = []
        if self.running is not None and self.running.caller == peer:
            self.is_orphan = True
            # who left in order may have meant it to go on, and an actor is not to be surprised
            if self.actor is None and not message.is_orderly:
                effects.append(Interrupt(self.running.call.call_id, is_recursive=True))
        if self.holder is not None and self.holder[1] == peer:
            self.holder = None
        if self.actor is not None:
            self.actor.forget(peer)
        self.finished.pop(peer, None)
        if not self.finished:
            self.oldest_answer_at = None
        handed = self.handed.pop(peer, None)
        if handed:
            effects.append(LetGo(tuple(handed)))
        return [*effects, Hangup(peer)]

    def on_peer_lost(self, source: Address, message: PeerLost, now: float) -> list[Effect]:
        """Without its node a worker is nobody's; a client that is lost wants nothing any more."""
        if message.peer == self.node:
            return [Exit(f"lost its node: {message.reason}")]
        return self.on_client_died(source, ClientDied(incarnation_of(message.peer)), now)

    # being an actor

    def on_start_actor(self, source: Address, message: StartActor, now: float) -> list[Effect]:
        """Become this actor: fetch its class if it is not known, then run the constructor."""
        if self.actor is not None:
            return []
        self.actor = ActorLife(message)
        learn = Learn(DefineJob(message.spec.job))
        if message.spec.function in self.known:
            return [learn, self._begin(self.actor)]
        return [learn, Send(self.node, GetFunction(message.spec.function))]

    def _begin(self, actor: ActorLife) -> Effect:
        actor.is_begun = True
        return BecomeActor(actor.start.incarnation, actor.start.spec)

    def on_function_found(
        self, source: Address, message: FunctionFound, now: float
    ) -> list[Effect]:
        """The actor's class has come."""
        actor = self.actor
        if actor is None or actor.is_begun or message.function != actor.start.spec.function:
            return []
        if not message.pickled:
            failure = Failure(
                "actor_died", f"the class {message.name or 'asked for'} was never defined"
            )
            return self.on_actor_made(SELF, ActorMade(failure), now)
        self.known[message.function] = message.name
        definition = DefineFunction(message.function, message.name, message.pickled)
        return [Learn(definition), self._begin(actor)]

    def on_actor_made(self, source: Address, message: ActorMade, now: float) -> list[Effect]:
        """The constructor is through: calls may run, or the actor is dead with its error.

        A dead one stays until its node has heard why and says `EndWorker`: an exit could be seen
        before the words that explain it.
        """
        if self.actor is None:
            raise InvariantError(f"{self.address}: an instance was made but it is no actor")
        start = self.actor.start
        actor_id, incarnation = start.spec.actor_id, start.incarnation
        if message.failure is not None:
            self.queue.clear()
            failed = ActorFailed(actor_id, incarnation, message.failure, may_restart=False)
            return [Send(self.node, failed)]
        self.actor.is_made = True
        return [Send(self.node, ActorStarted(actor_id, incarnation, self.address, start.lease))]

    def on_quit(self, source: Address, message: Quit, now: float) -> list[Effect]:
        """The actor's own code ends it; calls that wait fail with the actor.

        The call that asked for it ends with a `CallRan` as any other; then nothing more runs, and
        the node, having heard why, says `EndWorker`.
        """
        self.queue.clear()
        if self.actor is None:
            return []
        self.actor.is_made = False
        start = self.actor.start
        failed = ActorFailed(
            start.spec.actor_id, start.incarnation, message.failure, may_restart=False
        )
        return [Send(self.node, failed)]

    # parts of the above

    def _open_lease(self) -> int | None:
        """The lease of the call or constructor that runs."""
        if self.running is not None:
            return self.running.lease
        if self.actor is not None and not self.actor.is_made:
            return self.actor.start.lease
        return None

    def _name(self) -> str:
        """What runs, as people know it."""
        class_name = self.actor.start.spec.class_name if self.actor is not None else ""
        if self.running is None:
            return f"{class_name}.__init__"
        call = self.running.call
        return f"{class_name}.{call.method}" if call.method else self.known.get(call.function, "")

    def _next_run(self) -> Run | None:
        if self.running is not None or not self.queue:
            return None
        if self.actor is not None and not self.actor.is_made:
            return None
        return self.queue[0]

    def _answers_are_due(self, following: Run | None, now: float) -> bool:
        if following is None:
            return self.running is None or self._is_late(now)
        call = following.call
        is_tiny = self.durations_us.get(call.method or call.function, TINY_US) < TINY_US
        return not is_tiny or self._is_late(now)

    def _is_late(self, now: float) -> bool:
        due = self.deadline()
        return due is not None and now >= due

    def _answers(self) -> list[Effect]:
        finished, self.finished = self.finished, {}
        self.oldest_answer_at = None
        return [Send(caller, CallsDone(lease, done)) for caller, (lease, done) in finished.items()]

    def _hand_back(self) -> list[Effect]:
        """Give back what is queued, for other workers to run; an actor's calls have no other."""
        if self.actor is not None:
            return []
        queued, self.queue = list(self.queue), deque()
        return self._return_calls(queued, is_over=False)

    def _return_calls(self, runs: list[Run], is_over: bool) -> list[Effect]:
        numbers: dict[tuple[Address, int], list[int]] = {}
        for run in runs:
            numbers.setdefault((run.caller, run.lease), []).append(run.call.number)
        return [
            Send(caller, CallsReturned(lease, tuple(returned), is_over))
            for (caller, lease), returned in numbers.items()
        ]
