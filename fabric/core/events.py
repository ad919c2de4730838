"""What a machine hears from its own process: user threads, the kernel, shared memory.

Messages come from other processes (`fabric.protocol.messages`); events never travel. A machine gets
both through `handle`, events with the source `SELF`.
"""

from typing import Protocol

import msgspec

from fabric.ids import ActorId, Address, CallId, FunctionId, Incarnation, ObjectId
from fabric.protocol.messages import AnyMessage
from fabric.protocol.values import ActorSpec, CallDone, Failure, Progress, Shape, Value

SELF = Address("self")
"""The source of events."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of all events."""


# client: what the user's threads say


class Slot(Protocol):
    """Where a ref of this process keeps its value; written by the loop thread only."""

    value: Value | None


class Await(Event, frozen=True, gc=False):
    """An argument that is a ref without a value at hand; the machine fills it in.

    The object may resolve (and be forgotten by the machine) between the user thread's look and the
    machine's, so the machine looks into ``slot`` itself first.
    """

    object_id: ObjectId
    slot: Slot


Input = Value | Await
"""A top-level ref argument: its value where the ref holds it, else who to wait for."""


class Submit(Event, frozen=True, gc=False):
    """A task was called. ``nested`` are refs inside ``args``; ``retries`` count crashes."""

    call_id: CallId
    function: FunctionId
    shape: Shape
    args: bytes
    inputs: tuple[Input, ...]
    nested: tuple[ObjectId, ...]
    returns: int
    retries: int
    depth: int = 0
    timeout_s: float | None = None


class SubmitToActor(Event, frozen=True, gc=False):
    """An actor's method was called. ``retries`` is ``max_task_retries``, -1 without end."""

    call_id: CallId
    actor_id: ActorId
    method: str
    args: bytes
    inputs: tuple[Input, ...]
    nested: tuple[ObjectId, ...]
    returns: int
    retries: int = 0


class Cancel(Event, frozen=True, gc=False):
    """The user wants that object no longer; `Reply(request, Cancelled)` when its call is over.

    What has a value is left alone. Another owner's object is over when that owner has heard of it.
    """

    request: bytes
    object_id: ObjectId
    is_forced: bool
    is_recursive: bool


class CancelSince(Event, frozen=True, gc=False):
    """The running call is cancelled, and with it the calls numbered from ``number`` on: its own."""

    number: int


class DefineLocally(Event, frozen=True, gc=False):
    """A function or class that calls will name. ``is_shared`` puts it into the control store."""

    function: FunctionId
    name: str
    pickled: bytes
    is_shared: bool = False


class MakeActor(Event, frozen=True, gc=False):
    """An actor was created; ``spec.inputs`` is empty, ``inputs`` has what to fill in."""

    spec: ActorSpec
    inputs: tuple[Input, ...]


class KillActor(Event, frozen=True, gc=False):
    """The user ends an actor that may be anybody's."""

    actor_id: ActorId
    failure: Failure
    may_restart: bool


class Put(Event, frozen=True, gc=False):
    """A value was put, or a resolved small object escapes: the owner's table answers for it now.

    The shell also tells it when a ref that was pickled while pending resolves with an inline value.
    """

    object_id: ObjectId
    value: Value
    contained: tuple[ObjectId, ...] = ()


class Hold(Event, frozen=True, gc=False):
    """A ref came to life in this process; one per object, matched by one `Drop`."""

    object_id: ObjectId


class Drop(Event, frozen=True, gc=False):
    """The last Python reference to these refs is gone."""

    object_ids: tuple[ObjectId, ...]


class Want(Event, frozen=True, gc=False):
    """Somebody waits for an object of another owner."""

    object_id: ObjectId


class Register(Event, frozen=True, gc=False):
    """Register as borrower of these now; `Reply(request, BorrowerAdded)` when every owner knows.

    A worker does it for refs its call keeps, before its answer leaves.
    """

    request: bytes
    object_ids: tuple[ObjectId, ...]


class Ask(Event, frozen=True, gc=False):
    """Send that to the node; the answer with the same ``request`` or key comes as `Reply`."""

    request: bytes
    message: AnyMessage


class WantSegment(Event, frozen=True, gc=False):
    """A large value waits to be written; `WriteSegment` is the answer."""

    object_id: ObjectId
    attempt: int
    nbytes: int


class SegmentWritten(Event, frozen=True, gc=False):
    """It is written and sealed."""

    object_id: ObjectId
    attempt: int


class Leave(Event, frozen=True, gc=False):
    """The client ends in order."""


class Drained(Event, frozen=True, gc=False):
    """All that a dead worker had said has been heard."""

    peer: Address


class OutputPrinted(Event, frozen=True, gc=False):
    """So many bytes of output that came from that node have been shown."""

    node: Address
    nbytes: int


# worker: what its main thread says


class CallRan(Event, frozen=True, gc=False):
    """The running call ended."""

    done: CallDone


class ActorMade(Event, frozen=True, gc=False):
    """The constructor returned, or raised this."""

    failure: Failure | None


class CallBlocked(Event, frozen=True, gc=False):
    """The running call has waited for other calls for a while."""


class CallResumed(Event, frozen=True, gc=False):
    """It waits no longer."""


class CallOverran(Event, frozen=True, gc=False):
    """The running call has used up the window's budget: hand back what is queued behind it."""


class Quit(Event, frozen=True, gc=False):
    """The running code asked for this worker's end (`exit_actor`)."""

    failure: Failure


# node: what the kernel says


class WorkerExited(Event, frozen=True, gc=False):
    """A worker's process is gone, with its shared word and the last lines of its log."""

    worker: Incarnation
    exit_code: int | None
    signal: int | None
    progress: tuple[Progress, ...]
    log_tail: str = ""
    known_from: int = 0
    """Leases below it may be missing in ``progress``."""
    pid: int = 0
    rss: int = 0
    """At its largest, in bytes."""
    memory_limit: int = 0
    """Not 0 if the kernel ended it because these bytes were used up."""
    reason: str = ""
    """Why it never began."""


class WorkerMemory(msgspec.Struct, frozen=True, gc=False):
    """What ending a worker would give back, and since when its call runs (0 if none does)."""

    worker: Incarnation
    rss: int
    started_at: float


class MemoryMeasured(Event, frozen=True, gc=False):
    """What `MeasureMemory` found: bytes in use where it is tightest, of how many (0: no limit)."""

    used: int
    limit: int
    workers: tuple[WorkerMemory, ...] = ()


class SegmentFailed(Event, frozen=True, gc=False):
    """`CreateSegment` could not: the file system is full."""

    segment: str


class WorkerWrote(Event, frozen=True, gc=False):
    """A worker's process wrote these whole lines, running what has that name."""

    worker: Incarnation
    is_error: bool
    name: str
    text: bytes


class OutputDrained(Event, frozen=True, gc=False):
    """`DrainOutput` is done, and all it found was told before."""

    request: CallId


class ProcessEnded(Event, frozen=True, gc=False):
    """A watched client's process is gone."""

    client: Incarnation


class ShutDown(Event, frozen=True, gc=False):
    """This node is to end: its workers finish what runs, and no more are started."""


class SegmentRecycled(Event, frozen=True, gc=False):
    """`RecycleSegment` got the lock and wrote the new generation, or was refused by a pin."""

    segment: str
    is_free: bool


class ControlMoved(Event, frozen=True, gc=False):
    """The control store was started again, elsewhere.

    ``unsaid`` is what the one before may not have made durable: unacknowledged by its link.
    """

    control: Address
    unsaid: tuple[AnyMessage, ...] = ()


# every process


class PeerLost(Event, frozen=True, gc=False):
    """The link to that peer is over for good: it is gone, or refused us."""

    peer: Address
    reason: str
