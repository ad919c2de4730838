"""Whatever well-formed message comes from whomever: a machine answers or ignores it, and lives.

Numbers are huge or negative, ids belong to others or to nobody, and everything is said twice and in
any order. What is not well-formed never reaches a machine: see `test_endpoint_troubles`.
"""

from collections.abc import Callable
from random import Random
from typing import Any, get_args

import msgspec
import pytest

from fabric.config import Limits
from fabric.core.control.control import ControlMachine
from fabric.core.machine import Machine, WordError
from fabric.ids import Address
from fabric.protocol.messages import AnyMessage, JoinNode, Message
from fabric.protocol.values import NodeView
from tests.core_words import (
    CONTROL,
    CPU,
    INNER,
    ME,
    NODE,
    OTHER,
    W1,
    W2,
    F,
    a,
    ask,
    c,
    leased,
    me_of,
    new_client,
    new_worker,
    o,
    ready,
    requested,
    submit,
    tell,
)
from tests.core_words import hear as heard

ALL: tuple[type[Message], ...] = get_args(AnyMessage)
PEERS = (ME, OTHER, INNER, W1, W2, NODE, CONTROL)
NUMBERS = (-(2**63), -1, 0, 1, 2, 7, 2**31, 2**63 - 1)
IDS = (b"", b"x", *map(me_of, PEERS), c(1), c(2), o(1), o(2), a(5), a(5, OTHER), F, b"z" * 40)
TEXTS = ("", "f", "alive", "dead", "pending", "restarting", "CPU", "x" * 2000, "\0\udc00"[:1])
DEPTH_MAX = 3
USUAL = {"client": (NODE, W1), "worker": (NODE, ME), "node": (CONTROL, ME, W1), "control": (NODE,)}
"""Who says what a machine listens to."""


def value(random: Random, kind: msgspec.inspect.Type, depth: int = 0) -> Any:
    """Something of that type, odd more often than not."""
    info = msgspec.inspect
    many = 0 if depth > DEPTH_MAX else random.choice((0, 1, 1, 3))
    match kind:
        case info.BoolType():
            return random.random() < 0.5
        case info.IntType():
            return random.choice(NUMBERS)
        case info.FloatType():
            return random.choice((-1.0, 0.0, 1e300))
        case info.StrType():
            return random.choice((*TEXTS, *PEERS))
        case info.BytesType():
            return random.choice(IDS)
        case info.NoneType():
            return None
        case info.UnionType(types=types):
            return value(random, random.choice(types), depth)
        case info.ListType(item_type=item):
            return [value(random, item, depth + 1) for _ in range(many)]
        case info.VarTupleType(item_type=item):
            return tuple(value(random, item, depth + 1) for _ in range(many))
        case info.TupleType(item_types=types):
            return tuple(value(random, one, depth + 1) for one in types)
        case info.StructType(cls=cls, fields=fields):
            return cls(**{one.name: value(random, one.type, depth + 1) for one in fields})
    raise TypeError(f"{kind!r} in a message: teach the test")


def client() -> Machine:
    """One with calls at a worker, waiting ones, and an actor."""
    made = new_client()
    leased(made, W1)
    tell(made, submit(1), submit(2, o(1)), ask(3, a(5, OTHER)))
    return made


def worker() -> Machine:
    """One that nobody has leased yet."""
    return new_worker()


def node() -> Machine:
    """One with a lease granted."""
    made = ready(2)
    made.scheduling.random = Random(1)
    heard(made, ME, requested(1))
    return made


def control() -> Machine:
    """One with a node."""
    made = ControlMachine(1, "c", {}, Limits(), 0.0, Random(1))
    here = NodeView(me_of(NODE), "alive", "host", 1, CPU.amounts, CPU.amounts)
    heard(made, NODE, JoinNode(here))
    return made


MACHINES: tuple[Callable[[], Machine], ...] = (client, worker, node, control)


def survives(machine: Machine, said: list[tuple[Address, Message]]) -> None:
    """It hears all of that, and may refuse."""
    for source, message in said:
        try:
            machine.handle(source, message, 1.0)
        except WordError:
            continue  # the endpoint ends the link of whoever said it
        machine.tick(1.0)
        machine.snapshot()


def source_of(random: Random, make: Callable[[], Machine]) -> Address:
    """Anybody, and more often than not somebody who is listened to."""
    return random.choice((*PEERS, *(USUAL[make.__name__] * len(PEERS))))


@pytest.mark.parametrize("kind", ALL, ids=[one.__name__ for one in ALL])
@pytest.mark.parametrize("make", MACHINES, ids=[one.__name__ for one in MACHINES])
def test_a_machine_survives_it(make: Callable[[], Machine], kind: type[Message]) -> None:
    random = Random(f"{make.__name__} {kind.__name__}")
    about = msgspec.inspect.type_info(kind)
    for _ in range(30):
        said = [(source_of(random, make), value(random, about)) for _ in range(3)]
        survives(make(), [*said, *said, said[0]])


@pytest.mark.parametrize("make", MACHINES, ids=[one.__name__ for one in MACHINES])
def test_a_machine_survives_any_of_them_in_any_order(make: Callable[[], Machine]) -> None:
    random = Random(make.__name__)
    infos = [msgspec.inspect.type_info(kind) for kind in ALL]
    for _ in range(60):
        said = [(source_of(random, make), value(random, random.choice(infos))) for _ in range(40)]
        survives(make(), said)
