"""Every message, once: what clients, workers, nodes and the control store say to each other.

A message is an array-like msgspec struct with its name as tag; its docstring begins with who says
it to whom. What travels inside is in `fabric.protocol.values`. Values of user code are opaque bytes
in here, never looked into and never unpickled by a daemon. `docs/protocol.md` is generated from
both files; changing them changes `PROTOCOL` (a test insists).
"""

from fabric.ids import ActorId, Address, CallId, FunctionId, Incarnation, JobId, ObjectId
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeFenced,
    NodeHeartbeat,
    NodeJoined,
    RegisterJob,
    View,
    ViewChanged,
)
from fabric.protocol.values import (
    ActorSpec,
    ActorView,
    Call,
    CallDone,
    Crash,
    Failure,
    JobSpec,
    Message,
    NodeView,
    Progress,
    Shape,
    Value,
)

PROTOCOL = 5
"""The wire integer: two processes talk only if theirs are equal."""


# ---------------------------------------------------------------------------- clients to their node


class RegisterClient(Message, frozen=True, array_like=True, tag="register_client", gc=False):
    """client -> node. Here I am; a driver also starts its job."""

    pid: int
    is_driver: bool
    job: JobSpec
    entrypoint: str
    wants_output: bool = False


class ClientRegistered(Message, frozen=True, array_like=True, tag="client_registered", gc=False):
    """node -> client. Welcome; these are the node and its totals."""

    node: Incarnation
    resources: tuple[tuple[str, int], ...]
    store_prefix: str


class UnregisterClient(Message, frozen=True, array_like=True, tag="unregister_client", gc=False):
    """client -> node. I end in order: my leases return, my objects go, my job is over."""


class RequestLease(Message, frozen=True, array_like=True, tag="request_lease", gc=False):
    """client -> node. I want ``wanted`` workers of this shape in all; the latest word counts."""

    shape_id: int
    shape: Shape
    wanted: int
    depth: int
    job: JobId
    may_retry: bool = True


class LeaseGranted(Message, frozen=True, array_like=True, tag="lease_granted", gc=False):
    """node -> client. This worker is yours until you return it or it says that the lease ended."""

    shape_id: int
    lease: int
    worker: Address


class Unschedulable(Message, frozen=True, array_like=True, tag="unschedulable", gc=False):
    """node -> client. No node can ever run that shape, or all workers wait; its calls fail."""

    shape_id: int
    failure: Failure


class ReturnLease(Message, frozen=True, array_like=True, tag="return_lease", gc=False):
    """client -> node. I need that worker no longer; nothing of mine is left there."""

    lease: int


class WorkerDied(Message, frozen=True, array_like=True, tag="worker_died", gc=False):
    """node -> client that leased it. How far each lease came; some below ``known_from`` lack."""

    worker: Address
    progress: tuple[Progress, ...]
    known_from: int
    crash: Crash


class ClientDied(Message, frozen=True, array_like=True, tag="client_died", gc=False):
    """node -> everybody. It is gone, with its borrows and objects; in order, or it crashed."""

    client: Incarnation
    is_orderly: bool = False


class OutputWritten(Message, frozen=True, array_like=True, tag="output_written", gc=False):
    """node -> driver. A worker of yours wrote these lines; so many before them are left out."""

    pid: int
    name: str
    is_error: bool
    text: bytes
    omitted: int = 0


class OutputShown(Message, frozen=True, array_like=True, tag="output_shown", gc=False):
    """driver -> node. So many bytes more of that are printed: there is room for others."""

    nbytes: int


class FlushOutput(Message, frozen=True, array_like=True, tag="flush_output", gc=False):
    """driver -> node -> driver. I am about to leave: send what is written, and this behind it."""

    request: CallId


# -------------------------------------------------------------------------- calls, client to worker


class DefineJob(Message, frozen=True, array_like=True, tag="define_job", gc=False):
    """client -> worker. The job of the calls that follow; once a link."""

    spec: JobSpec


class DefineFunction(Message, frozen=True, array_like=True, tag="define_function", gc=False):
    """client -> worker. The pickled function of calls that follow; once a link."""

    function: FunctionId
    name: str
    pickled: bytes


class RunCalls(Message, frozen=True, array_like=True, tag="run_calls", gc=False):
    """client -> worker. Run these in number order under that lease; answers come in `CallsDone`."""

    lease: int
    depth: int
    calls: list[Call]


class CallsDone(Message, frozen=True, array_like=True, tag="calls_done", gc=False):
    """worker -> client. These attempts ended."""

    lease: int
    calls: list[CallDone]


class CallsReturned(Message, frozen=True, array_like=True, tag="calls_returned", gc=False):
    """worker -> client. These numbers never started and will not; the lease may have ended."""

    lease: int
    numbers: tuple[int, ...]
    is_lease_over: bool


class CancelCalls(Message, frozen=True, array_like=True, tag="cancel_calls", gc=False):
    """client -> worker. Skip those; stop the one that runs, by force with you. All are answered."""

    lease: int
    numbers: tuple[int, ...]
    is_forced: bool
    is_recursive: bool


class Taken(Message, frozen=True, array_like=True, tag="taken", gc=False):
    """client -> worker. The refs contained in those results are registered: let go of yours."""

    call_ids: tuple[CallId, ...]


class KillCall(Message, frozen=True, array_like=True, tag="kill_call", gc=False):
    """client or worker -> node. End the worker of that lease if it still runs that very number."""

    lease: int
    number: int


# --------------------------------------------------------------------------- workers and their node


class WorkerReady(Message, frozen=True, array_like=True, tag="worker_ready", gc=False):
    """worker -> node. I can run calls."""

    pid: int


class RecallLease(Message, frozen=True, array_like=True, tag="recall_lease", gc=False):
    """node -> worker. End that lease: now if idle; else after the running call, or not at all."""

    lease: int
    only_if_idle: bool


class LeaseReturned(Message, frozen=True, array_like=True, tag="lease_returned", gc=False):
    """worker -> node. That lease is over and nothing of it runs."""

    lease: int


class WorkerBlocked(Message, frozen=True, array_like=True, tag="worker_blocked", gc=False):
    """worker -> node. My call, a run of ``name``, waits for others: lend its resources out."""

    lease: int
    name: str


class WorkerResumed(Message, frozen=True, array_like=True, tag="worker_resumed", gc=False):
    """worker -> node. My call goes on, and takes its resources back at once."""

    lease: int


class EndWorker(Message, frozen=True, array_like=True, tag="end_worker", gc=False):
    """node -> worker. Finish what runs, answer, and exit."""


# ------------------------------------------------------------------------------------------ objects


class Allocate(Message, frozen=True, array_like=True, tag="allocate", gc=False):
    """client or worker -> node. A segment for that object; ``attempt`` replaces older ones."""

    object_id: ObjectId
    attempt: int
    nbytes: int


class Allocated(Message, frozen=True, array_like=True, tag="allocated", gc=False):
    """node -> client or worker. Write there and seal; ``is_warm`` pages were touched before."""

    object_id: ObjectId
    attempt: int
    segment: str
    generation: int
    is_warm: bool


class AllocationFailed(Message, frozen=True, array_like=True, tag="allocation_failed", gc=False):
    """node -> client or worker. The store is full and stayed so."""

    object_id: ObjectId
    attempt: int
    failure: Failure


class SealObject(Message, frozen=True, array_like=True, tag="seal_object", gc=False):
    """client or worker -> node. That segment is written; its owner answers for it from now on."""

    object_id: ObjectId
    attempt: int


class FreeObjects(Message, frozen=True, array_like=True, tag="free_objects", gc=False):
    """client -> node. The last reference to these is gone, every attempt's segment with it."""

    object_ids: tuple[ObjectId, ...]


# --------------------------------------------------------------------- references, client to client


class AddBorrower(Message, frozen=True, array_like=True, tag="add_borrower", gc=False):
    """client -> owner. I hold these refs of yours until I release them."""

    object_ids: tuple[ObjectId, ...]


class BorrowerAdded(Message, frozen=True, array_like=True, tag="borrower_added", gc=False):
    """owner -> client. You are counted; ``unknown`` ones were gone already."""

    object_ids: tuple[ObjectId, ...]
    unknown: tuple[ObjectId, ...] = ()


class Release(Message, frozen=True, array_like=True, tag="release", gc=False):
    """borrower -> owner. I hold these no longer."""

    object_ids: tuple[ObjectId, ...]


class WantObject(Message, frozen=True, array_like=True, tag="want_object", gc=False):
    """borrower -> owner. Tell me that object's value as soon as there is one."""

    object_id: ObjectId


class CancelObject(Message, frozen=True, array_like=True, tag="cancel_object", gc=False):
    """borrower -> owner. Cancel the call that is to make this object, if it has not ended."""

    object_id: ObjectId
    is_forced: bool
    is_recursive: bool


class ObjectReady(Message, frozen=True, array_like=True, tag="object_ready", gc=False):
    """owner -> borrower. This is its value."""

    object_id: ObjectId
    value: Value
    contained: tuple[ObjectId, ...] = ()


# ------------------------------------------------------------------------------------------- actors


class CreateActor(Message, frozen=True, array_like=True, tag="create_actor", gc=False):
    """client -> node -> control store. Reserve its name, place it, keep it alive by its policy.
    One answer comes: `ActorChanged` if it was made, `ActorRefused` if it cannot be. Where
    ``get_if_exists`` is set and the name is taken, nothing is made and the answer is `NamedActor`
    with the call id of this actor's id as ``request``: the client uses the actor it names instead.
    """

    spec: ActorSpec


class ActorRefused(Message, frozen=True, array_like=True, tag="actor_refused", gc=False):
    """control store -> node -> client. That actor cannot be (its name is taken, say)."""

    actor_id: ActorId
    failure: Failure


class WatchActor(Message, frozen=True, array_like=True, tag="watch_actor", gc=False):
    """client -> node, node -> control store. Tell me what it is and what becomes of it."""

    actor_id: ActorId


class ActorChanged(Message, frozen=True, array_like=True, tag="actor_changed", gc=False):
    """control store -> node -> client. This is the actor now."""

    actor: ActorView


class EndActor(Message, frozen=True, array_like=True, tag="end_actor", gc=False):
    """client -> node -> control store. Killed, or its last handle is gone."""

    actor_id: ActorId
    failure: Failure
    may_restart: bool


class GetNamedActor(Message, frozen=True, array_like=True, tag="get_named_actor", gc=False):
    """client -> node -> control store. Who has that name? ``request`` is the client's call id."""

    request: CallId
    name: str
    namespace: str


class NamedActor(Message, frozen=True, array_like=True, tag="named_actor", gc=False):
    """control store -> node -> client. That one, without the constructor's arguments, or nobody.
    `CreateActor` may have this answer, too."""

    request: CallId
    spec: ActorSpec | None


class PlaceActor(Message, frozen=True, array_like=True, tag="place_actor", gc=False):
    """control store -> node. Lease a worker for life and start that life of the actor there."""

    incarnation: int
    spec: ActorSpec


class StartActor(Message, frozen=True, array_like=True, tag="start_actor", gc=False):
    """node -> worker. You are this actor from now on, under that lease."""

    incarnation: int
    lease: int
    spec: ActorSpec


class ActorStarted(Message, frozen=True, array_like=True, tag="actor_started", gc=False):
    """worker -> node -> control store. Its constructor returned."""

    actor_id: ActorId
    incarnation: int
    worker: Address
    lease: int


class ActorFailed(Message, frozen=True, array_like=True, tag="actor_failed", gc=False):
    """node -> control store. That life is over: constructor raised, worker died, or ended."""

    actor_id: ActorId
    incarnation: int
    failure: Failure
    may_restart: bool
    progress: tuple[Progress, ...] = ()


class StopActor(Message, frozen=True, array_like=True, tag="stop_actor", gc=False):
    """control store -> node. End that life now."""

    actor_id: ActorId
    incarnation: int
    failure: Failure


# ---------------------------------------------------------------------------------------- functions


class PutFunction(Message, frozen=True, array_like=True, tag="put_function", gc=False):
    """client -> node -> control store. Keep that pickled function or class under its hash."""

    function: FunctionId
    name: str
    pickled: bytes


class GetFunction(Message, frozen=True, array_like=True, tag="get_function", gc=False):
    """client or worker -> node -> control store. What is behind that hash?"""

    function: FunctionId


class FunctionFound(Message, frozen=True, array_like=True, tag="function_found", gc=False):
    """control store -> node -> client or worker. This is; empty if nobody put it."""

    function: FunctionId
    name: str
    pickled: bytes


# -------------------------------------------------------------------------- nodes and control store


class JoinNode(Message, frozen=True, array_like=True, tag="join_node", gc=False):
    """node -> control store. Count me in, and these actors that live on me."""

    view: NodeView
    actors: tuple[ActorStarted, ...] = ()


AnyMessage = (
    RegisterClient | ClientRegistered | UnregisterClient | RequestLease | LeaseGranted
    | Unschedulable | ReturnLease | WorkerDied | ClientDied | OutputWritten | OutputShown
    | DefineJob | DefineFunction | RunCalls | CallsDone | CallsReturned | CancelCalls | Taken
    | KillCall | WorkerReady | RecallLease | LeaseReturned | WorkerBlocked | WorkerResumed
    | EndWorker | Allocate | Allocated | AllocationFailed | SealObject | FreeObjects | AddBorrower
    | BorrowerAdded | Release | WantObject | CancelObject | ObjectReady | CreateActor | ActorRefused
    | WatchActor | ActorChanged | EndActor | GetNamedActor | NamedActor | PlaceActor | StartActor
    | ActorStarted | ActorFailed | StopActor | PutFunction | GetFunction | FunctionFound
    | FlushOutput | GetView | View | ViewChanged | JoinNode | NodeJoined | NodeHeartbeat | LeaveNode
    | NodeFenced | RegisterJob | EndJob
)  # fmt: skip
"""The closed set of messages; a frame's body is a list of them."""
