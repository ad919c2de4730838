"""Mistakes on purpose: each is a small change to a machine or a link that some seed must notice.

A simulator that finds none of them is decoration. Each mutant names the seed that finds it; the
same seed passes without it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fabric.core.client.actors import Actors
from fabric.core.client.calls import PendingCall
from fabric.core.client.cancels import Cancels
from fabric.core.client.client import ClientMachine
from fabric.core.client.objects import Objects
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.core.control.control import ControlMachine
from fabric.core.effects import Commit, Interrupt, Resolve, Send
from fabric.core.endpoint import Endpoint
from fabric.core.link import Link
from fabric.core.node.demands import Demands
from fabric.core.node.scheduling import Scheduling
from fabric.core.worker import WorkerMachine
from fabric.protocol.frames import HEADER_BYTES
from fabric.protocol.messages import LeaseReturned

Change = tuple[type, str, Any]


def link_hears_repeated_frames() -> Change:
    """No dedup of frames."""

    def on_numbered(self: Any, seq: int, frame: bytes, now: float) -> memoryview | None:
        if seq <= self._received:
            return memoryview(frame)[HEADER_BYTES:]
        heard: memoryview | None = original(self, seq, frame, now)
        return heard

    original: Any = Link._on_numbered
    return Link, "_on_numbered", on_numbered


def link_repeats_nothing() -> Change:
    """What was said is forgotten before it is acknowledged."""

    def resend(self: Any, frames: list[bytes]) -> None:
        self._resend_from = 0

    return Link, "_resend", resend


def speaks_before_durable() -> Change:
    """Commit after send."""

    def hold(self: Any, effects: list[Any]) -> tuple[list[Any], int]:
        self._commits += sum(isinstance(one, Commit) for one in effects)
        return effects, 0

    return Endpoint, "_hold", hold


def decides_before_drained() -> Change:
    """`WorkerDied` is acted on before its link is heard out."""

    def on_worker_died(self: Any, source: Any, message: Any, now: float) -> list[Any]:
        original(self.tasks, source, message, now)
        drained = type("Early", (), {"peer": message.worker})
        return list(self.on_drained(source, drained, now))

    original: Any = Tasks.on_worker_died
    made: Any = ClientMachine.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        from fabric.protocol.messages import WorkerDied

        self._on = {
            **self._on,
            WorkerDied: lambda *given: on_worker_died(self, *given),
        }

    return ClientMachine, "__init__", init


def worker_runs_recalled_calls() -> Change:
    """A recall is honoured by the client only."""

    def on_recall_lease(self: Any, source: Any, message: Any, now: float) -> list[Any]:
        return [Send(self.node, LeaseReturned(message.lease))]

    return WorkerMachine, "on_recall_lease", on_recall_lease


def charges_what_never_started() -> Change:
    """After a crash all calls at the worker are charged."""

    def on_worker_died(self: Any, source: Any, message: Any, now: float) -> list[Any]:
        effects = original(self, source, message, now)
        for lease in self.leases.leases.values():
            if lease.death is not None:
                lease.death.reached = None
        return list(effects)

    original: Any = Tasks.on_worker_died
    return Tasks, "on_worker_died", on_worker_died


def failed_arguments_use_a_number() -> Change:
    """The number within an actor's caller is given before it is known that the call is sent."""

    def send_ready(self: Any, channel: Any, effects: list[Any]) -> None:
        head = channel.queue[0] if channel.queue else None
        if head is not None and not head.missing and head.failure is not None:
            channel.next_number += 1
        original(self, channel, effects)

    original: Any = Actors._send_ready
    return Actors, "_send_ready", send_ready


def share_returns_twice() -> Change:
    """A lease's share is given back twice."""

    def vacate(self: Any, worker: Any) -> None:
        if worker.uses_resources:
            self.resources.give_back(worker.shape)
        original(self, worker)

    original: Any = Scheduling.vacate
    return Scheduling, "vacate", vacate


def releases_are_ignored() -> Change:
    """A borrower that lets go still counts."""
    return Objects, "release", lambda self, object_id, borrower: False


def repeats_keep_their_attempt() -> Change:
    """A call that is run again does so under the same attempt."""

    def charge(self: Any) -> bool:
        before = self.attempt
        is_left = bool(original(self))
        self.attempt = before
        return is_left

    original: Any = PendingCall.charge
    return PendingCall, "charge", charge


def interrupts_whatever_runs() -> Change:
    """A cancel strikes the running call, whichever it is."""

    def on_cancel_calls(self: Any, caller: Any, message: Any, now: float) -> list[Any]:
        running = self.running
        effects = list(original(self, caller, message, now))
        if running is not None and not any(type(one) is Interrupt for one in effects):
            effects.append(Interrupt(running.call.call_id, False))
        return effects

    original: Any = WorkerMachine.on_cancel_calls
    return WorkerMachine, "on_cancel_calls", on_cancel_calls


def cancels_without_telling() -> Change:
    """Who waits for what was cancelled is not told."""

    def end(self: Any, call: Any, *given: Any) -> list[Any]:
        effects = original(self, call, *given)
        return [one for one in effects if type(one) is not Resolve]

    original: Any = Cancels._end
    return Cancels, "_end", end


def cancelled_calls_hold_for_ever() -> Change:
    """What a cancelled call was given is never let go."""

    def gone(self: Any, call: Any, *, may_have_sealed: bool) -> list[Any]:
        call.holds = ()
        return list(original(self, call, may_have_sealed=may_have_sealed))

    original: Any = Cancels.gone
    return Cancels, "gone", gone


def release_before_add_borrower() -> Change:
    """Whoever hands a ref over lets go of it before the owner has heard of who got it."""

    def register(self: Any, object_ids: Any, then: list[Any], unholds: Any = ()) -> list[Any]:
        return [*then, *original(self, object_ids, [], unholds)]

    original: Any = References.register
    return References, "register", register


def epoch_is_not_kept() -> Change:
    """The epoch is not made durable: the next control store takes the same one."""

    def speech(self: Any, now: float) -> list[Any]:
        self._is_new = False
        return list(original(self, now))

    original: Any = ControlMachine._speech
    return ControlMachine, "_speech", speech


def acknowledgements_are_ignored() -> Change:
    """What was heard and acknowledged stays in flight."""
    return Link, "_on_ack", lambda self, ack: None


def later_requests_are_ignored() -> Change:
    """A client's first word on how many workers it wants is its last."""

    def state(self: Any, client: Any, request: Any, now: float) -> Any:
        known = self.table.get((client, request.shape_id))
        return known if known is not None else original(self, client, request, now)

    original: Any = Demands.state
    return Demands, "state", state


def refs_of_unfinished_calls_are_not_counted() -> Change:
    """A call's answer leaves while calls that it made borrow what only its caller kept."""

    def on_register(self: Any, source: Any, message: Any, now: float) -> list[Any]:
        self.objects.unregistered.clear()
        return list(original(self, source, message, now))

    original: Any = References.on_register
    return References, "on_register", on_register


MUTANTS: tuple[tuple[Callable[[], Change], int, str], ...] = (
    (link_hears_repeated_frames, 5, "I6: attempt 1 of .* runs again"),
    (link_repeats_nothing, 16, "L1: "),
    (speaks_before_durable, 2, "I2: "),
    (decides_before_drained, 43, "drain: "),
    (worker_runs_recalled_calls, 0, "I4: "),
    (charges_what_never_started, 1, "I6: .* was charged for an attempt that never began"),
    (failed_arguments_use_a_number, 63, "L1: "),
    (share_returns_twice, 0, "a machine.s own invariant: CPU: .* free, .* leased"),
    (releases_are_ignored, 0, "I7: .* still owns"),
    (repeats_keep_their_attempt, 1, "I6: attempt 1 of .* runs again"),
    (release_before_add_borrower, 0, "I7: .* is lost for"),
    (epoch_is_not_kept, 2, "I2: .* is in epoch"),
    (acknowledgements_are_ignored, 5, "L3: .* still talks to"),
    (later_requests_are_ignored, 0, "L1: "),
    (refs_of_unfinished_calls_are_not_counted, 307, "I7: .* is lost for"),
    (interrupts_whatever_runs, 170, ".* is interrupted, and nobody cancelled it"),
    (cancels_without_telling, 1, "L1: .* is cancelled, and a get would wait"),
    (cancelled_calls_hold_for_ever, 9, "I7: .* still owns"),
)
"""Each with a seed that finds it, and the invariant that says so."""


@contextmanager
def planted(mutant: Callable[[], Change]) -> Iterator[None]:
    """The mistake is made in here."""
    place, name, changed = mutant()
    original = place.__dict__[name]
    setattr(place, name, changed)
    try:
        yield
    finally:
        setattr(place, name, original)
