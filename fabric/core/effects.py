"""What a machine may ask of the runtime: few things, all plain.

A machine returns effects in the order in which they are to happen. Only the shell performs them;
the simulator performs them too, in its own world.
"""

import msgspec

from fabric.ids import Address, CallId, Incarnation, ObjectId
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.messages import AnyMessage, DefineFunction, DefineJob, OutputWritten
from fabric.protocol.records import Record
from fabric.protocol.values import ActorSpec, Call, Failure, Value


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Send(Effect, frozen=True, gc=False):
    """Say that to that peer; all of a turn to one peer is one frame."""

    peer: Address
    message: AnyMessage


class Hangup(Effect, frozen=True, gc=False):
    """Nothing more is to be said to or heard from that peer: close the link and forget it."""

    peer: Address


class Transmit(Effect, frozen=True, gc=False):
    """Endpoint to shell only: these bytes to that peer, as they are."""

    peer: Address
    frame: bytes


# client


class Resolve(Effect, frozen=True, gc=False):
    """An object has its value: wake who waits for it."""

    object_id: ObjectId
    value: Value


class Reply(Effect, frozen=True, gc=False):
    """A request of a user's thread has its answer."""

    request: bytes
    message: AnyMessage | Failure


class Drain(Effect, frozen=True, gc=False):
    """The worker behind that peer is dead: hear what it still said, then report `Drained`."""

    peer: Address


class ShowOutput(Effect, frozen=True, gc=False):
    """Print what that node's workers wrote; `OutputPrinted` reports."""

    node: Address
    message: OutputWritten


# worker


class Run(Effect, frozen=True, gc=False):
    """Run that call now; `CallRan` reports its end. ``caller`` is who sent it."""

    caller: Address
    lease: int
    depth: int
    call: Call


class Interrupt(Effect, frozen=True, gc=False):
    """Stop that call if its user code runs (and, recursively, what it has called); `CallRan` tells.

    It must strike nothing else: no other call, and nothing of the process's own.
    """

    call_id: CallId
    is_recursive: bool


class Learn(Effect, frozen=True, gc=False):
    """A job's environment or a function that calls to come will need."""

    message: DefineJob | DefineFunction


class BecomeActor(Effect, frozen=True, gc=False):
    """Make the actor's instance now; `ActorMade` reports."""

    incarnation: int
    spec: ActorSpec


class WriteSegment(Effect, frozen=True, gc=False):
    """The segment asked for is there (or ``failure`` says why not): write the waiting value."""

    object_id: ObjectId
    attempt: int
    segment: str
    generation: int
    is_warm: bool
    failure: Failure | None = None


class LetGo(Effect, frozen=True, gc=False):
    """The refs held for those results are registered elsewhere: drop them."""

    call_ids: tuple[bytes, ...]


class Exit(Effect, frozen=True, gc=False):
    """End this process, after what was said has left."""

    reason: str


# node


class StartWorker(Effect, frozen=True, gc=False):
    """Fork a worker of that incarnation; `WorkerExited` reports its end, also if it never began."""

    worker: Incarnation


class StopWorker(Effect, frozen=True, gc=False):
    """Kill that worker's process."""

    worker: Incarnation


class KillRunning(Effect, frozen=True, gc=False):
    """Kill that worker's process if its shared word says that it runs that very call."""

    worker: Incarnation
    lease: int
    number: int


class DrainOutput(Effect, frozen=True, gc=False):
    """Tell what those workers have written before this (`WorkerWrote`), then `OutputDrained`."""

    request: CallId
    workers: tuple[Incarnation, ...]


class MeasureMemory(Effect, frozen=True, gc=False):
    """Tell how much memory is used (`MemoryMeasured`), and by these workers how much of it."""

    workers: tuple[Incarnation, ...] = ()


class WatchProcess(Effect, frozen=True, gc=False):
    """Tell when that process ends (`ProcessEnded`), by pidfd."""

    client: Incarnation
    pid: int


class CreateSegment(Effect, frozen=True, gc=False):
    """Make an empty segment file of that size."""

    segment: str
    nbytes: int


class RecycleSegment(Effect, frozen=True, gc=False):
    """Take the segment's exclusive lock without waiting; `SegmentRecycled` tells if it came."""

    segment: str
    generation: int


class UnlinkSegment(Effect, frozen=True, gc=False):
    """Remove the segment file."""

    segment: str


# control store


class Commit(Effect, frozen=True, gc=False):
    """Make these ``(table, key, record or None)`` durable; the turn's sends wait for it."""

    rows: tuple[tuple[str, bytes, Record | None], ...]


class Publish(Effect, frozen=True, gc=False):
    """Say that to all who subscribed, after the turn's commit."""

    message: ViewChanged
