"""Words for tests of the control store: nodes, jobs and actors in one line each.

Builders of plain values with the defaults that most tests want, and `turn`, which hears messages
and returns the whole speech of that turn. What is right is said by the tests.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.control.control import ControlMachine
from fabric.core.effects import Commit, Effect, Publish, Send
from fabric.ids import (
    ActorId,
    Address,
    FunctionId,
    Incarnation,
    JobId,
    address,
    call_id,
    object_id,
)
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.messages import ActorFailed, ActorStarted, AnyMessage, CreateActor, JoinNode
from fabric.protocol.records import ActorRecord, Record
from fabric.protocol.values import (
    UNIT,
    ActorSpec,
    ActorView,
    Failure,
    JobSpec,
    JobView,
    NodeView,
    Progress,
    Shape,
)

Tables = dict[str, dict[bytes, Record]]
Said = tuple[Address, AnyMessage]

CLUSTER = "test"
LIMITS = Limits()
NOWHERE = b""
CRASH = Failure("worker_crashed", "its worker was ended by signal 9")
KILLED = Failure("actor_died", "it was killed")


def incarnation(number: int) -> Incarnation:
    """A readable incarnation."""
    return Incarnation(number.to_bytes(8, "big"))


N1, N2 = incarnation(0x11), incarnation(0x12)
NODE1, NODE2 = address("n", N1), address("n", N2)
DRIVER, OTHER_DRIVER, WORKER = incarnation(0xD1), incarnation(0xD2), incarnation(0xA1)
JOB = JobSpec(JobId(DRIVER), ("/src",), "/src", "space")
OTHER_JOB = JobSpec(JobId(OTHER_DRIVER), (), "/", "space")
CLASS = FunctionId(b"f" * 16)


def actor_id(number: int = 1, creator: bytes = DRIVER) -> ActorId:
    """The id of a client's ``number``-th actor."""
    return ActorId(object_id(call_id(creator, number), 0))


def shape(**amounts: float) -> Shape:
    """A shape: ``shape(CPU=1)``."""
    return Shape(tuple((name, round(amount * UNIT)) for name, amount in sorted(amounts.items())))


def spec(number: int = 1, creator: bytes = DRIVER, **changes: Any) -> ActorSpec:
    """An actor of class Counter, without resources or arguments."""
    plain = ActorSpec(
        actor_id(number, creator), CLASS, "Counter", JOB, Shape(()), b"args", (b"1",), ()
    )
    return replace(plain, **changes)


COUNTER = spec()


def view(of: ActorSpec, state: str = "pending", life: int = 1, **changes: Any) -> ActorView:
    """What everybody sees of it; on the first node unless told otherwise."""
    plain = ActorView(of.actor_id, state, life, "Counter", of.name, of.job.namespace, node=N1)
    return replace(plain, **changes)


def record(of: ActorSpec, seen: ActorView, via: bytes = N1, stopped: int = 0) -> ActorRecord:
    """Its row in the journal."""
    return ActorRecord(of, seen, Incarnation(via), stopped)


def node_view(node: Incarnation = N1, cpus: float = 4, free: float = 4, **changes: Any) -> NodeView:
    """A node with CPUs only."""
    has, available = (("CPU", round(cpus * UNIT)),), (("CPU", round(free * UNIT)),)
    return replace(NodeView(node, "alive", "box", 1, has, available), **changes)


def job_view(job: JobSpec = JOB, state: str = "running") -> JobView:
    """A job of a driver with pid 7."""
    return JobView(job.job, state, 7, "main.py")


def started(of: ActorSpec, life: int = 1, worker: int = 0xB1, lease: int = 5) -> ActorStarted:
    """Its constructor returned."""
    return ActorStarted(of.actor_id, life, address("w", incarnation(worker)), lease)


HALF_WAY = (Progress(DRIVER, 5, 3, False),)


def failed(of: ActorSpec = COUNTER, life: int = 1, **changes: Any) -> ActorFailed:
    """That life's worker died, three calls of the driver later."""
    plain = ActorFailed(of.actor_id, life, CRASH, may_restart=True, progress=HALF_WAY)
    return replace(plain, **changes)


def alive(of: ActorSpec = COUNTER, life: int = 1, **changes: Any) -> ActorView:
    """What everybody sees of it once it has `started`."""
    there = started(of)
    plain = view(of, "alive", life, worker=there.worker, lease=there.lease)
    return replace(plain, **changes)


def published(sequence: int, *actors: ActorView) -> Publish:
    """News of these actors."""
    return Publish(ViewChanged(1, sequence, actors=actors))


def new_machine(
    tables: Mapping[str, Mapping[bytes, Record]] | None = None,
    *,
    epoch: int = 1,
    limits: Limits = LIMITS,
    now: float = 0.0,
) -> ControlMachine:
    """A control store that has not had its first turn."""
    return ControlMachine(epoch, CLUSTER, tables or {}, limits, now, Random(1))


def turn(machine: ControlMachine, *said: Said, now: float = 0.0) -> list[Effect]:
    """Hear these, end the turn, check; all that it says."""
    for source, message in said:
        assert machine.handle(source, message, now) == []
    effects = machine.tick(now)
    machine.check()
    return effects


def with_node(limits: Limits = LIMITS) -> ControlMachine:
    """A control store that one node has joined; its next publication is number 2."""
    machine = new_machine(limits=limits)
    turn(machine, (NODE1, JoinNode(node_view())))
    return machine


def with_actor(of: ActorSpec = COUNTER, limits: Limits = LIMITS) -> ControlMachine:
    """A control store with a living actor; its next publication is number 4."""
    machine = with_node(limits)
    turn(machine, (NODE1, CreateActor(of)))
    turn(machine, (NODE1, started(of)))
    return machine


def sends(effects: list[Effect]) -> list[Effect]:
    """What is said to peers."""
    return [each for each in effects if isinstance(each, Send)]


def rows(effects: list[Effect]) -> list[tuple[str, bytes, Record | None]]:
    """What is committed."""
    return [row for each in effects if isinstance(each, Commit) for row in each.rows]


def news(effects: list[Effect]) -> list[ViewChanged]:
    """What is published."""
    return [each.message for each in effects if isinstance(each, Publish)]


def keep(tables: Tables, effects: list[Effect]) -> None:
    """Do what the journal would."""
    for table, key, row in rows(effects):
        if row is None:
            tables.setdefault(table, {}).pop(key, None)
        else:
            tables.setdefault(table, {})[key] = row
