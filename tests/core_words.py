"""Names and short forms that the tests of clients, workers and nodes share.

One driver ``ME`` at one node with workers ``W1`` and ``W2``; its calls are ``c(1)``, their results
``o(1)``. Nothing is tested here.
"""

from random import Random
from typing import Any

from fabric.config import Limits
from fabric.core.client.client import ClientMachine
from fabric.core.effects import Effect, Run, Send
from fabric.core.events import SELF, Await, DefineLocally, Submit, SubmitToActor, WorkerExited
from fabric.core.machine import Machine
from fabric.core.node.node import NodeMachine
from fabric.core.worker import WorkerMachine
from fabric.ids import (
    ActorId,
    Address,
    CallId,
    FunctionId,
    Incarnation,
    JobId,
    ObjectId,
    address,
    call_id,
    incarnation_of,
    object_id,
)
from fabric.protocol.messages import (
    CallsDone,
    DefineFunction,
    DefineJob,
    LeaseGranted,
    RegisterClient,
    RequestLease,
    RunCalls,
    WorkerReady,
)
from fabric.protocol.values import (
    ActorSpec,
    Call,
    CallDone,
    Failure,
    JobSpec,
    Progress,
    Sealed,
    Shape,
    Value,
)

ME = address("c", b"driver-1")
OTHER = address("c", b"driver-2")
NODE = address("n", b"node-one")
CONTROL = address("s", b"control-")
W1, W2, W3, W4 = (address("w", f"worker-{one}".encode()) for one in (1, 2, 3, 4))
LOOK_AT = 1e9
"""When a node of tests looks at its memory."""

INNER = address("c", b"worker-1")
"""The client inside `W1`."""

JOB = JobId(incarnation_of(ME))
SPEC = JobSpec(JOB, (), "", "")
F = FunctionId(b"function-of-test")
G = FunctionId(b"another-function")
CPU = Shape((("CPU", 10_000),))
HALF = Shape((("CPU", 5_000),))
NO_CPU = Shape(())
CRASHED = Failure("worker_crashed", "its worker was ended by signal 9")
RAISED = Failure("task", "raised on purpose")


def c(number: int, client: Address = ME) -> CallId:
    """A call of that client."""
    return call_id(incarnation_of(client), number)


def o(number: int, index: int = 0, client: Address = ME) -> ObjectId:
    """A result of a call of that client."""
    return object_id(c(number, client), index)


def a(number: int, client: Address = ME) -> ActorId:
    """An actor made by that client."""
    return ActorId(o(number, 0, client))


def me_of(place: Address) -> Incarnation:
    """The incarnation of a machine."""
    return incarnation_of(place)


def sealed(number: int, nbytes: int = 1_000_000) -> Sealed:
    """A value in the store."""
    return Sealed(f"S-{number}", 1, nbytes, incarnation_of(NODE))


class Ref:
    """What a machine sees of a ref: where its value will be."""

    def __init__(self, value: Value | None = None) -> None:
        self.value = value


# events


def submit(
    number: int,
    *waits_for: ObjectId,
    nested: tuple[ObjectId, ...] = (),
    returns: int = 1,
    retries: int = 3,
    shape: Shape = CPU,
    function: FunctionId = F,
    client: Address = ME,
) -> Submit:
    """A task is called, with these results of others as arguments."""
    inputs = tuple(Await(one, Ref()) for one in waits_for)
    call = c(number, client)
    return Submit(call, function, shape, b"args", inputs, nested, returns, retries)


def ask(
    number: int,
    actor: ActorId,
    *waits_for: ObjectId,
    retries: int = 0,
    client: Address = ME,
) -> SubmitToActor:
    """An actor's method is called."""
    inputs = tuple(Await(one, Ref()) for one in waits_for)
    return SubmitToActor(c(number, client), actor, "add", b"args", inputs, (), 1, retries)


def define(function: FunctionId = F) -> DefineLocally:
    """The function is known."""
    return DefineLocally(function, "f", b"pickled")


# what travels


def spec(
    number: int,
    at: int = 0,
    *,
    attempt: int = 1,
    inputs: tuple[Value, ...] = (),
    nested: tuple[ObjectId, ...] = (),
    returns: int = 1,
    function: FunctionId = F,
    client: Address = ME,
) -> Call:
    """The call spec of a task, under its number within the lease."""
    call = c(number, client)
    return Call(call, attempt, at, function, "", b"args", inputs, nested, returns)


def method(number: int, at: int = 0, *, attempt: int = 1, client: Address = ME) -> Call:
    """The call spec of an actor's method."""
    call = c(number, client)
    return Call(call, attempt, at, FunctionId(b""), "add", b"args", (), (), 1)


def done(
    number: int,
    *values: Value,
    attempt: int = 1,
    us: int = 1000,
    contained: tuple[tuple[ObjectId, ...], ...] = (),
    client: Address = ME,
) -> CallDone:
    """An answer; ``b"v"`` unless told otherwise."""
    return CallDone(c(number, client), attempt, values or (b"v",), us, contained)


def run(number: int, at: int = 0, lease: int = 1, caller: Address = ME) -> Run:
    """What a worker asks its process for."""
    return Run(caller, lease, 0, spec(number, at, client=caller))


def actor_spec(number: int, *, client: Address = ME, **options: Any) -> ActorSpec:
    """How to make an actor."""
    job = JobSpec(JobId(incarnation_of(client)), (), "", "")
    values: dict[str, Any] = {"inputs": (), "nested": (), "shape": NO_CPU, **options}
    return ActorSpec(
        actor_id=a(number, client),
        function=G,
        class_name="Counter",
        job=job,
        args=b"args",
        **values,
    )


# machines


def hear(machine: Machine, source: Address, message: Any, now: float = 0.0) -> list[Effect]:
    """A turn of one message."""
    return [*machine.handle(source, message, now), *_ticked(machine, now)]


def tell(machine: Machine, *events: Any, now: float = 0.0) -> list[Effect]:
    """A turn of some events."""
    effects = [effect for event in events for effect in machine.handle(SELF, event, now)]
    return [*effects, *_ticked(machine, now)]


def _ticked(machine: Machine, now: float) -> list[Effect]:
    effects = machine.tick(now)
    machine.check()
    return effects


def new_client(place: Address = ME, **limits: Any) -> ClientMachine:
    """A client that has said hello and knows the functions."""
    is_driver = place in (ME, OTHER)
    job = JobSpec(JobId(incarnation_of(place)), (), "", "")
    client = ClientMachine(place, NODE, job, Limits(**limits), is_driver=is_driver)
    tell(client, define(F), define(G))
    return client


def introduced(client: ClientMachine, *workers: Address) -> None:
    """These workers have heard of the job and the function."""
    for worker in workers:
        client.introduced[worker] = {FunctionId(b""): None, F: None, G: None}


def leased(
    client: ClientMachine, *workers: Address, shape: Shape = CPU, may_retry: bool = True
) -> None:
    """It has these workers under leases 1, 2, …, idle, and `F` is measured at a millisecond."""
    introduced(client, *workers)
    queue = client.tasks.leases.queue_for(shape, may_retry)
    client.calls.measured(F, 0.001)
    for number, worker in enumerate(workers, 1):
        queue.asked = number
        assert hear(client, NODE, LeaseGranted(queue.shape_id, number, worker)) == []


def new_worker(place: Address = W1, **limits: Any) -> WorkerMachine:
    """A worker that has said that it is ready."""
    worker = WorkerMachine(place, NODE, Limits(**limits))
    tell(worker)
    return worker


def new_node(*, cpus: int = 2, workers: int = 0, **limits: Any) -> NodeMachine:
    """A node that has joined, and ``workers`` idle ones named `W1`, `W2`, …

    It does not look at its memory unless a test wants it to.
    """
    names = [Incarnation(f"worker-{number}".encode()) for number in range(1, 10)]
    node = NodeMachine(
        NODE,
        CONTROL,
        Limits(**limits),
        _Listed(names),
        resources={"CPU": cpus * 10_000},
        store_prefix="S",
        store_bytes_max=1 << 20,
        workers_kept=workers,
    )
    node.memory.look_at = LOOK_AT
    tell(node)
    for name in names[:workers]:
        hear(node, address("w", name), WorkerReady(1))
    return node


class _Listed(Random):
    """Draws the incarnations of workers from a list."""

    def __init__(self, names: list[Incarnation]) -> None:
        super().__init__(0)
        self._names = list(names)

    def randbytes(self, n: int) -> bytes:
        return self._names.pop(0)


def requested(
    wanted: int,
    shape: Shape = CPU,
    depth: int = 0,
    shape_id: int = 0,
    client: Address = ME,
    may_retry: bool = True,
) -> RequestLease:
    """A client's word about what it wants."""
    job = JobId(incarnation_of(client))
    return RequestLease(shape_id, shape, wanted, depth, job, may_retry)


def runs(worker: Address, lease: int, *calls: Call) -> Send:
    """These calls go to that worker."""
    return Send(worker, RunCalls(lease, 0, list(calls)))


def answers(client: Address, lease: int, *calls: CallDone) -> Send:
    """These answers go to that client."""
    return Send(client, CallsDone(lease, list(calls)))


def introductions(worker: Address) -> list[Effect]:
    """What a worker is told first."""
    return [
        Send(worker, DefineJob(SPEC)),
        Send(worker, DefineFunction(F, "f", b"pickled")),
    ]


def answered(client: ClientMachine, lease: int, *numbers: int) -> list[Effect]:
    """Those calls come back from `W1` under that lease."""
    return hear(client, W1, CallsDone(lease, [done(n) for n in numbers]))


def registered(node: NodeMachine, *clients: Address) -> NodeMachine:
    """These drivers (or clients inside workers) are known to the node."""
    for client in clients:
        is_driver = client in (ME, OTHER)
        job = JobSpec(JobId(me_of(client if is_driver else ME)), (), "", "")
        hear(node, client, RegisterClient(9, is_driver, job, ""))
    return node


def ready(workers: int = 2, *, cpus: int = 2, **limits: Any) -> NodeMachine:
    """A node with idle workers and the driver `ME`."""
    return registered(new_node(cpus=cpus, workers=workers, **limits), ME)


def killed(worker: Address, *progress: Progress) -> WorkerExited:
    """The kernel ended it."""
    return WorkerExited(me_of(worker), None, 9, progress)


def granted(lease: int, worker: Address, client: Address = ME, shape_id: int = 0) -> Send:
    """The lease goes to that client."""
    return Send(client, LeaseGranted(shape_id, lease, worker))
