"""The node's side of the object store: allocations asked for, granted, refused, freed.

The part of the node's machine that speaks about objects. `Segments` decides; this turns decisions
into messages and effects.
"""

from collections import deque
from collections.abc import Callable

from fabric.config import Limits
from fabric.core.effects import CreateSegment, Effect, RecycleSegment, Send, UnlinkSegment
from fabric.core.events import SegmentFailed, SegmentRecycled
from fabric.core.node.segments import Segment, Segments, Wish
from fabric.ids import Address, Incarnation, address, owner_of
from fabric.protocol.messages import (
    Allocate,
    Allocated,
    AllocationFailed,
    FreeObjects,
    SealObject,
)
from fabric.protocol.values import Failure


class Store:
    """See the module."""

    def __init__(
        self, prefix: str, bytes_max: int, limits: Limits, is_gone: Callable[[bytes], bool]
    ) -> None:
        self.segments = Segments(prefix, bytes_max, limits)
        self.limits = limits
        self.is_gone = is_gone

    def tick(self, now: float) -> list[Effect]:
        """Look at pins again, let cold segments go, serve or fail those who wait."""
        segments = self.segments
        effects: list[Effect] = [_recycle(one) for one in segments.pinned_to_retry(now)]
        effects += [UnlinkSegment(name) for name in segments.cooled(now)]
        while segments.wishes and segments.wishes[0].until <= now:
            wish = segments.wishes.popleft()
            failed = AllocationFailed(wish.object_id, wish.attempt, segments.full(wish))
            effects.append(Send(wish.writer, failed))
        return effects + self._serve(now)

    def on_allocate(self, writer: Address, message: Allocate, now: float) -> list[Effect]:
        """Room for an object; it waits a while if there is none."""
        effects: list[Effect] = [
            _recycle(one)
            for one in self.segments.free(message.object_id, now, below_attempt=message.attempt)
        ]
        if self.is_gone(owner_of(message.object_id)):
            gone = Failure("owner_died", "the client that the value was for is gone")
            return [
                *effects,
                Send(writer, AllocationFailed(message.object_id, message.attempt, gone)),
            ]
        until = now + self.limits.store_full_grace_s
        wish = Wish(message.object_id, message.attempt, message.nbytes, writer, until)
        if message.nbytes > self.segments.bytes_max:
            failed = AllocationFailed(wish.object_id, wish.attempt, self.segments.full(wish))
            return [*effects, Send(writer, failed)]
        self.segments.wishes.append(wish)
        return effects + self._serve(now)

    def on_seal_object(self, writer: Address, message: SealObject, now: float) -> list[Effect]:
        """It is written."""
        self.segments.seal(message.object_id, message.attempt)
        return []

    def on_free_objects(self, client: Address, message: FreeObjects, now: float) -> list[Effect]:
        """Their last references are gone; who still waits to write one waits in vain."""
        effects: list[Effect] = []
        for object_id in message.object_ids:
            effects += [_recycle(one) for one in self.segments.free(object_id, now)]
            for wish in self.segments.forget_wishes(object_id):
                gone = Failure("object_lost", "nobody needs the value any more")
                effects.append(Send(wish.writer, AllocationFailed(object_id, wish.attempt, gone)))
        return effects

    def on_segment_recycled(
        self, source: Address, message: SegmentRecycled, now: float
    ) -> list[Effect]:
        """A freed segment is warm, or still pinned."""
        self.segments.recycled(message.segment, message.is_free, now)
        return self._serve(now) if message.is_free else []

    def on_segment_failed(
        self, source: Address, message: SegmentFailed, now: float
    ) -> list[Effect]:
        """Others fill the file system. Who was to write there finds nothing, and knows why."""
        self.segments.drop(message.segment)
        return []

    def owner_died(self, client: Incarnation, now: float) -> list[Effect]:
        """A client is gone: its objects go, also those that others are writing."""
        gone = FreeObjects(tuple(self.segments.of_client(client)))
        return self.on_free_objects(address("c", client), gone, now)

    def writer_died(self, writer: Address) -> None:
        """It waits for nothing. What it was writing is its owner's to free, who knows if it counts.

        (Its last words to us may be unread here and heard there: sealed, and not to be lost.)
        """
        self.segments.wishes = deque(one for one in self.segments.wishes if one.writer != writer)

    def _serve(self, now: float) -> list[Effect]:
        """Grant what waits, first come first served."""
        effects: list[Effect] = []
        while self.segments.wishes:
            wish = self.segments.wishes[0]
            room = self.segments.allocate(wish, now)
            if room is None:
                break
            self.segments.wishes.popleft()
            segment = room.segment
            effects += [UnlinkSegment(name) for name in room.unlinked]
            if room.is_new:
                effects.append(CreateSegment(segment.name, segment.nbytes))
            granted = Allocated(
                wish.object_id, wish.attempt, segment.name, segment.generation, not room.is_new
            )
            effects.append(Send(wish.writer, granted))
        return effects


def _recycle(segment: Segment) -> RecycleSegment:
    return RecycleSegment(segment.name, segment.generation + 1)
