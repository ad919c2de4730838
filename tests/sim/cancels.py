"""What must hold of cancelled calls: only they are, they are at once, and what was not sent never
runs.

A checker like those in `checkers`, with the exception that interrupted code sees.
"""

from random import Random
from typing import TYPE_CHECKING, Any

from fabric.core.effects import Run
from fabric.core.events import Cancel, CancelSince, Event, Submit, SubmitToActor
from fabric.ids import INCARNATION_BYTES, CallId, ObjectId, call_of, owner_of
from fabric.protocol.values import Failure
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.refs import SimRef
    from tests.sim.shells import Client
    from tests.sim.simulation import Simulation


class Interrupted(Exception):
    """Raised inside code that is interrupted."""


class Cancels:
    """See the module."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.made: dict[CallId, None] = {}
        self.allowed: dict[CallId, None] = {}  # may end as cancelled
        self.unsent: dict[CallId, None] = {}  # cancelled before a worker had it

    def told(self, client: "Client", event: Event) -> None:
        """A call is made or cancelled."""
        if isinstance(event, Submit | SubmitToActor):
            self.made[event.call_id] = None
            # an argument may be what is cancelled, and an actor may end by one of its own
            has_cause = event.inputs or isinstance(event, SubmitToActor)
            if has_cause or event.timeout_s is not None:
                self.allowed[event.call_id] = None
        elif isinstance(event, Cancel):
            self.allowed[call_of(event.object_id)] = None
        elif isinstance(event, CancelSince):
            for call in self.made:
                number = int.from_bytes(call[INCARNATION_BYTES:], "big")
                if owner_of(call) == client.me and number >= event.number:
                    self.allowed[call] = None

    def answered(self, client: "Client", name: ObjectId, is_refused: bool) -> None:
        """The machine says that it has cancelled."""
        ref = client.refs.inflight.get(name)
        if not is_refused and owner_of(name) == client.me and ref is not None:
            raise Violation(f"L1: {name.hex()} is cancelled, and a get would wait")

    def failed(self, name: ObjectId, failure: Failure) -> None:
        """A call has failed."""
        call = call_of(name)
        if failure.kind != "cancelled" or call not in self.made:
            return
        if call not in self.allowed:
            raise Violation(f"nobody cancelled {name.hex()}: {failure}")
        if "before it was sent" in failure.text and call not in self.dependent():
            self.unsent[call] = None

    def dependent(self) -> dict[CallId, None]:
        """Calls that may have failed with the words of another's end."""
        return self.simulation.checkers.executions.dependent

    def began(self, run: Run) -> None:
        """A call runs."""
        if run.call.call_id in self.unsent:
            raise Violation(f"{run.call.call_id.hex()} runs, though it was cancelled before")

    def interrupted(self, run: Run) -> None:
        """A call's code is struck."""
        owner = self.simulation.shells.get(run.caller)
        if run.call.call_id not in self.allowed and owner is not None and owner.is_alive:
            raise Violation(f"{run.call.call_id.hex()} is interrupted, and nobody cancelled it")


def cancel(client: "Client", ref: "SimRef", random: Random) -> None:
    """Cancel what makes that object."""
    name, request = ref.object_id, client.refs.next_call()
    is_forced = random.random() < 0.3

    def answered(answer: Any) -> None:
        is_refused = isinstance(answer, Failure) or answer.is_forced != is_forced
        client.simulation.checkers.cancels.answered(client, name, is_refused)

    client.questions[request] = answered
    client.tell_client(Cancel(request, name, is_forced, random.random() < 0.7))
