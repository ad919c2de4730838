"""Room for a large value: what a client or a worker says to its node before and after writing one.

A part of both machines. The process wants a segment, the node's store grants one or says why not,
the process writes and seals. The store counts, the process knows what it has to write; here it is
only known who waits, for the case that the node is lost.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fabric.core.effects import Effect, Send, WriteSegment
from fabric.core.events import SegmentWritten, WantSegment
from fabric.ids import Address, ObjectId
from fabric.protocol.messages import Allocate, Allocated, AllocationFailed, SealObject
from fabric.protocol.values import Failure


class Allocations:
    """See the module."""

    def __init__(self, node: Address) -> None:
        self.node = node
        self.waiting: dict[tuple[ObjectId, int], None] = {}  # object, attempt
        self.lost: Failure | None = None

    def reactions(self) -> Mapping[type, Callable[[Address, Any, float], list[Effect]]]:
        """What the machine hears for this part."""
        return {
            WantSegment: self.on_want_segment,
            SegmentWritten: self.on_segment_written,
            Allocated: self.on_allocated,
            AllocationFailed: self.on_allocation_failed,
        }

    def on_want_segment(self, source: Address, message: WantSegment, now: float) -> list[Effect]:
        """A value is too large to travel."""
        if self.lost is not None:
            return [_no_room(message.object_id, message.attempt, self.lost)]
        self.waiting[message.object_id, message.attempt] = None
        return [Send(self.node, Allocate(message.object_id, message.attempt, message.nbytes))]

    def on_segment_written(
        self, source: Address, message: SegmentWritten, now: float
    ) -> list[Effect]:
        """It is in shared memory now."""
        return [Send(self.node, SealObject(message.object_id, message.attempt))]

    def on_allocated(self, source: Address, message: Allocated, now: float) -> list[Effect]:
        """There is room for it."""
        self.waiting.pop((message.object_id, message.attempt), None)
        return [
            WriteSegment(
                message.object_id,
                message.attempt,
                message.segment,
                message.generation,
                message.is_warm,
            )
        ]

    def on_allocation_failed(
        self, source: Address, message: AllocationFailed, now: float
    ) -> list[Effect]:
        """There is none; the failure takes the value's place."""
        self.waiting.pop((message.object_id, message.attempt), None)
        return [_no_room(message.object_id, message.attempt, message.failure)]

    def node_lost(self, failure: Failure) -> list[Effect]:
        """Nobody will answer those who wait."""
        self.lost = failure
        waiting, self.waiting = self.waiting, {}
        return [_no_room(object_id, attempt, failure) for object_id, attempt in waiting]


def _no_room(object_id: ObjectId, attempt: int, failure: Failure) -> WriteSegment:
    return WriteSegment(object_id, attempt, "", 0, False, failure)
