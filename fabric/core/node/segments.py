"""The store's accounts: which segment holds what, what is warm, who waits for room.

A part of the node, which alone counts, creates, recycles and unlinks segments. It decides; the
machine turns the decisions into effects. Values are never seen here: writers and readers touch the
memory.
"""

from collections import deque
from dataclasses import dataclass

import msgspec

from fabric.config import Limits
from fabric.core.sizes import size_class
from fabric.ids import Address, ObjectId, brief
from fabric.protocol.values import Failure


@dataclass(slots=True)
class Segment:
    """One file of shared memory. States: writing, sealed, freeing, warm."""

    name: str
    nbytes: int
    generation: int
    state: str
    object_id: ObjectId
    attempt: int
    writer: Address
    since: float


@dataclass(slots=True)
class Wish:
    """An allocation asked for."""

    object_id: ObjectId
    attempt: int
    nbytes: int
    writer: Address
    until: float


@dataclass(slots=True)
class Room:
    """What an allocation came to: the segment, whether it is new, and what went to make room."""

    segment: Segment
    is_new: bool
    unlinked: list[str]


class Segments:
    """All segments of one node."""

    def __init__(self, prefix: str, bytes_max: int, limits: Limits) -> None:
        self.prefix = prefix
        self.bytes_max = bytes_max
        self.limits = limits
        self.table: dict[str, Segment] = {}
        self.by_object: dict[ObjectId, list[Segment]] = {}
        self.wishes: deque[Wish] = deque()
        self.bytes_total = 0
        self._serial = 0
        self._retry_at: float | None = None

    def allocate(self, wish: Wish, now: float) -> Room | None:
        """A segment for that object, or None while there is no room."""
        nbytes = size_class(wish.nbytes)
        warm = self._warm_of(nbytes)
        unlinked: list[str] = []
        if warm is None:
            unlinked = self._make_room(nbytes)
            if self.bytes_total + nbytes > self.bytes_max:
                return None
            self._serial += 1
            name = f"{self.prefix}-{self._serial}"
            segment = Segment(
                name, nbytes, 1, "writing", wish.object_id, wish.attempt, wish.writer, now
            )
            self.table[name] = segment
            self.bytes_total += nbytes
        else:
            segment = warm
            segment.state = "writing"
            segment.object_id, segment.attempt = wish.object_id, wish.attempt
            segment.writer, segment.since = wish.writer, now
        self.by_object.setdefault(wish.object_id, []).append(segment)
        return Room(segment, warm is None, unlinked)

    def seal(self, object_id: ObjectId, attempt: int) -> None:
        """It is written."""
        for segment in self.by_object.get(object_id, ()):
            if segment.attempt == attempt and segment.state == "writing":
                segment.state = "sealed"

    def free(
        self, object_id: ObjectId, now: float, below_attempt: int | None = None
    ) -> list[Segment]:
        """The object (or its attempts below that number) is gone: segments to be recycled."""
        held = self.by_object.get(object_id, [])
        gone = [one for one in held if below_attempt is None or one.attempt < below_attempt]
        kept = [one for one in held if one not in gone]
        if kept:
            self.by_object[object_id] = kept
        else:
            self.by_object.pop(object_id, None)
        for segment in gone:
            segment.state, segment.since = "freeing", now
        return gone

    def of_client(self, client: bytes) -> list[ObjectId]:
        """The objects of that owner, there or asked for."""
        known = dict.fromkeys([*self.by_object, *(wish.object_id for wish in self.wishes)])
        return [one for one in known if one.startswith(client)]

    def forget_wishes(self, object_id: ObjectId) -> list[Wish]:
        """Allocations of that object that were still waiting; they are not any more."""
        mine = [one for one in self.wishes if one.object_id == object_id]
        if mine:
            self.wishes = deque(one for one in self.wishes if one.object_id != object_id)
        return mine

    def recycled(self, name: str, is_free: bool, now: float) -> None:
        """A freed segment came back, or a reader still pins it."""
        segment = self.table.get(name)
        if segment is None or segment.state != "freeing":
            return
        if is_free:
            segment.generation += 1
            segment.state, segment.since = "warm", now
        else:
            due = now + self.limits.segment_retry_s
            self._retry_at = due if self._retry_at is None else min(self._retry_at, due)

    def drop(self, name: str) -> None:
        """A segment that could not be made is forgotten."""
        segment = self.table.get(name)
        if segment is None:
            return
        self._forget(name)
        held = [one for one in self.by_object.get(segment.object_id, []) if one is not segment]
        if held:
            self.by_object[segment.object_id] = held
        else:
            self.by_object.pop(segment.object_id, None)

    def pinned_to_retry(self, now: float) -> list[Segment]:
        """Freed segments whose pins are to be looked at again."""
        if self._retry_at is None or now < self._retry_at:
            return []
        self._retry_at = None
        return [segment for segment in self.table.values() if segment.state == "freeing"]

    def cooled(self, now: float) -> list[str]:
        """Warm segments nobody wanted for a while, forgotten now; their files are to go."""
        cold = [
            one.name
            for one in self.table.values()
            if one.state == "warm" and now >= one.since + self.limits.segment_warm_s
        ]
        for name in cold:
            self._forget(name)
        return cold

    def deadline(self) -> float | None:
        """When pins are looked at again, warm segments cool, or a wish fails."""
        dues = [
            one.since + self.limits.segment_warm_s
            for one in self.table.values()
            if one.state == "warm"
        ]
        dues += [wish.until for wish in self.wishes]
        if self._retry_at is not None:
            dues.append(self._retry_at)
        return min(dues, default=None)

    def full(self, wish: Wish) -> Failure:
        """Why there is no room, with numbers."""
        live = [one for one in self.table.values() if one.state in ("writing", "sealed")]
        pinned = [one for one in self.table.values() if one.state == "freeing"]
        free = self.bytes_max - sum(s.nbytes for s in live + pinned)
        figures = msgspec.msgpack.encode({"need": wish.nbytes, "free": free})
        if wish.nbytes > self.bytes_max:
            return Failure(
                "store_too_small",
                f"a value of {wish.nbytes:,} bytes is larger than the whole object store, which has"
                f" {self.bytes_max:,}",
                figures,
            )
        text = (
            f"the object store is full: {wish.nbytes:,} bytes needed, {self.bytes_max:,} in all,"
            f" {sum(s.nbytes for s in live):,} in objects"
            f" ({len(live)} of them), {sum(s.nbytes for s in pinned):,} in freed ones that readers"
            f" still map ({len(pinned)} of them)"
        )
        largest = sorted(live, key=lambda one: -one.nbytes)[:3]
        if largest:
            named = ", ".join(f"{brief('o', s.object_id)} {s.nbytes:,}" for s in largest)
            text += f"; the largest: {named}"
        return Failure("store_full", text, figures)

    def _warm_of(self, nbytes: int) -> Segment | None:
        best: Segment | None = None
        for segment in self.table.values():
            if segment.state == "warm" and segment.nbytes == nbytes:
                best = segment  # the last one freed has its pages in the caches
        return best

    def _make_room(self, nbytes: int) -> list[str]:
        warm = sorted(
            (one for one in self.table.values() if one.state == "warm"), key=lambda one: one.since
        )
        unlinked: list[str] = []
        for segment in warm:
            if self.bytes_total + nbytes <= self.bytes_max:
                break
            unlinked.append(segment.name)
            self._forget(segment.name)
        return unlinked

    def _forget(self, name: str) -> None:
        self.bytes_total -= self.table.pop(name).nbytes
