"""Room for a large value: what a client or a worker says to its node before and after writing one.

A part of both machines. The process wants a segment, the node's store grants one or says why not,
the process writes and seals. Nothing is remembered here: the store counts, and the process knows
what it has to write.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fabric.core.effects import Effect, Send, WriteSegment
from fabric.core.events import SegmentWritten, WantSegment
from fabric.ids import Address
from fabric.protocol.messages import Allocate, Allocated, AllocationFailed, SealObject


class Allocations:
    """See the module."""

    def __init__(self, node: Address) -> None:
        self.node = node

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
        return [Send(self.node, Allocate(message.object_id, message.attempt, message.nbytes))]

    def on_segment_written(
        self, source: Address, message: SegmentWritten, now: float
    ) -> list[Effect]:
        """It is in shared memory now."""
        return [Send(self.node, SealObject(message.object_id, message.attempt))]

    def on_allocated(self, source: Address, message: Allocated, now: float) -> list[Effect]:
        """There is room for it."""
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
        return [WriteSegment(message.object_id, message.attempt, "", 0, False, message.failure)]
