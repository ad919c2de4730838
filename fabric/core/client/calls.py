"""The calls a client has submitted and not yet seen answered.

A part: it keeps what is in flight and who waits for which object, and answers with plain values.
The machine sends.
"""

import msgspec

from fabric.core.events import Await, Input
from fabric.ids import ActorId, CallId, FunctionId, ObjectId
from fabric.protocol.values import Call, Failure, Value

DURATION_MEMORY = 0.3
"""Weight of the newest run in a function's measured duration."""


class PendingCall(msgspec.Struct, eq=False, gc=False):
    """One call of this client, from submission to its last attempt's answer.

    A struct because there may be a million of them: made in a tenth of a microsecond, and never
    looked at by the garbage collector, which is right because nothing in it leads back to it.
    """

    call_id: CallId
    function: FunctionId
    method: str
    args: bytes
    inputs: tuple[Input, ...]
    nested: tuple[ObjectId, ...]
    returns: int
    retries: int
    """Left after crashes; -1 has no end."""
    queue_key: int = 0
    depth: int = 0
    actor_id: ActorId | None = None
    holds: tuple[ObjectId, ...] = ()
    attempt: int = 1
    number: int = -1
    """Within its lease or, for actors, within this caller."""
    lease: int = 0
    """0 while it is not at a worker."""
    missing: int = 0
    """Inputs still without a value."""
    failure: Failure | None = None
    """Of an input."""
    queued_s: float = 0.0
    """What it takes of its worker's window, by the clock and in bytes."""
    queued_bytes: int = 0
    may_have_sealed: bool = False
    """An attempt was lost after it may have left something in the store."""
    is_over: bool = False
    """It was cancelled: its results are said, whatever a worker still does with it."""

    def spec(self) -> Call:
        """The call spec of its present attempt, all inputs being values."""
        return Call(
            self.call_id,
            self.attempt,
            self.number,
            self.function,
            self.method,
            self.args,
            self.inputs,  # type: ignore[arg-type]  # every Await has been filled in
            self.nested,
            self.returns,
        )

    @property
    def nbytes(self) -> int:
        """About what it weighs on the wire."""
        return len(self.args) + sum(len(one) for one in self.inputs if type(one) is bytes)

    def fill(self, object_id: ObjectId, value: Value) -> bool:
        """Put a value in place of a missing input; true when that was the last one."""
        inputs = list(self.inputs)
        for index, one in enumerate(inputs):
            if type(one) is Await and one.object_id == object_id:
                inputs[index] = value
                self.missing -= 1
                if type(value) is Failure and self.failure is None:
                    self.failure = value
        self.inputs = tuple(inputs)
        return self.missing == 0

    def charge(self) -> bool:
        """Use up a retry for a crash; false when none is left."""
        self.may_have_sealed = True
        if self.retries == 0:
            return False
        if self.retries > 0:
            self.retries -= 1
        self.attempt += 1
        return True

    def charge_nothing(self) -> None:
        """The attempt is lost by no fault of the call's: another follows, and no retry is used."""
        self.may_have_sealed = True
        self.attempt += 1


class Calls:
    """The table of pending calls, the dependents of unresolved objects, and measured durations."""

    def __init__(self) -> None:
        self.pending: dict[CallId, PendingCall] = {}
        self.over: dict[CallId, PendingCall] = {}  # cancelled, and not answered by their workers
        self.dependents: dict[ObjectId, list[PendingCall]] = {}
        self.durations: dict[FunctionId, float] = {}  # function → seconds, smoothed

    def add(self, call: PendingCall, waits_for: list[ObjectId]) -> None:
        """A new call, and the objects it has to wait for."""
        self.pending[call.call_id] = call
        call.missing = 0
        for object_id in waits_for:
            waiting = self.dependents.setdefault(object_id, [])
            if not waiting or waiting[-1] is not call:
                waiting.append(call)
            call.missing += 1

    def resolved(self, object_id: ObjectId, value: Value) -> list[PendingCall]:
        """The calls that were waiting for that object only."""
        waiting = self.dependents.pop(object_id, None)
        if not waiting:
            return []
        return [call for call in waiting if call.fill(object_id, value)]

    def measured(self, function: FunctionId, duration_s: float) -> None:
        """An attempt took that long."""
        known = self.durations.get(function)
        if known is None:
            self.durations[function] = duration_s
        else:
            self.durations[function] = known + DURATION_MEMORY * (duration_s - known)
