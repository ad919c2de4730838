"""Every record of the control store's journal, once: what must survive its process.

A record is an image of a table's row, written under ``(table, key)``; the newest image counts and
``None`` deletes it. Values of user code stay opaque bytes.
"""

import msgspec

from fabric.ids import FunctionId, Incarnation
from fabric.protocol.values import ActorSpec, ActorView, JobSpec, JobView, NodeView


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A row of one table."""


class EpochRecord(Record, frozen=True, array_like=True):
    """Table ``meta``, key ``epoch``. One larger at each start of the control store."""

    cluster: str
    epoch: int


class NodeRecord(Record, frozen=True, array_like=True):
    """Table ``nodes``, by node incarnation."""

    view: NodeView


class ActorRecord(Record, frozen=True, array_like=True):
    """Table ``actors``, by actor id. A name in it is taken while its actor is not dead.

    ``via`` is the node its creator speaks through; lives up to ``stopped`` have been told to end.
    """

    spec: ActorSpec
    view: ActorView
    via: Incarnation = Incarnation(b"")
    stopped: int = 0


class JobRecord(Record, frozen=True, array_like=True):
    """Table ``jobs``, by job id. ``via`` is the node its driver speaks through."""

    spec: JobSpec
    view: JobView
    via: Incarnation = Incarnation(b"")


class FunctionRecord(Record, frozen=True, array_like=True):
    """Table ``functions``, by hash."""

    function: FunctionId
    name: str
    pickled: bytes


TABLES: dict[str, type[Record]] = {
    "meta": EpochRecord,
    "nodes": NodeRecord,
    "actors": ActorRecord,
    "jobs": JobRecord,
    "functions": FunctionRecord,
}
