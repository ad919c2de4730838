"""Refs as a process of users' code has them: living objects, counted, shared, revived, dropped.

It tells the client's machine exactly what the runtime's refs tell it, in the same order: a small
value lives in its ref, a shared one is found by its id, a dying one is dropped. Threads, pickles
and weak references are left out.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from fabric.core.events import Await, Drop, Event, Hold, Input, Put, Want
from fabric.ids import CallId, ObjectId, call_id, object_id
from fabric.protocol.values import Sealed, Value


class Content(msgspec.Struct, array_like=True):
    """What a value of users' code is made of: which run made it, and the refs inside it."""

    made_by: bytes
    attempt: int
    index: int
    life: int
    refs: list[bytes]
    padding: bytes = b""


def encoded(content: Content) -> bytes:
    """The bytes of a value."""
    return msgspec.msgpack.encode(content)


def decoded(value: bytes) -> Content:
    """The value of those bytes."""
    return msgspec.msgpack.decode(value, type=Content)


class NoSlot:
    """Values that come late are put instead."""

    value: Value | None = None


class SimRef:
    """One object ref of one process."""

    def __init__(self, name: ObjectId, value: Value | None = None) -> None:
        self.object_id = name
        self.value = value
        self.count = 0
        self.is_tracked = False
        self.is_shared = False
        self.is_awaited = False
        self.is_actor = False
        self.contained: list[SimRef] = []
        self.waiters: list[Callable[[], None]] = []
        self.segment = ""  # pinned while the ref lives


class Teller(Protocol):
    """Who has a client machine."""

    me: bytes

    def tell_client(self, event: Event) -> None:
        """The machine hears that in its next turn."""

    def is_known(self, name: ObjectId) -> bool:
        """The machine has the value, and keeps it."""

    def unpin(self, segment: str) -> None:
        """A view of that segment is gone."""


class Refs:
    """All refs of one process."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self.shared: dict[ObjectId, SimRef] = {}
        self.inflight: dict[ObjectId, SimRef] = {}
        self.fresh: dict[ObjectId, None] = {}
        self.numbers = 0

    def next_call(self) -> CallId:
        """A call id that nobody has had."""
        self.numbers += 1
        return call_id(self.teller.me, self.numbers)

    # -- life and death

    def hold(self, ref: SimRef) -> SimRef:
        """One more variable names it."""
        ref.count += 1
        return ref

    def drop(self, ref: SimRef) -> None:
        """One variable less; the last one ends it unless it is still pending."""
        ref.count -= 1
        if ref.count < 0:
            raise AssertionError("a ref was dropped twice")
        self._end_if_gone(ref)

    def _end_if_gone(self, ref: SimRef) -> None:
        if ref.count > 0 or ref.object_id in self.inflight:
            return
        if ref.is_shared:
            if self.shared.get(ref.object_id) is ref:
                del self.shared[ref.object_id]
                self.teller.tell_client(Drop((ref.object_id,)))
        elif ref.is_tracked:
            self.teller.tell_client(Drop((ref.object_id,)))
        if ref.segment:
            self.teller.unpin(ref.segment)
            ref.segment = ""
        contained, ref.contained = ref.contained, []
        for inner in contained:
            self.drop(inner)

    def results(self, call: CallId, returns: int) -> list[SimRef]:
        """The refs of a call that is about to be told."""
        refs = [SimRef(object_id(call, index)) for index in range(returns)]
        for ref in refs:
            self.inflight[ref.object_id] = ref
        return refs

    def share(self, ref: SimRef) -> None:
        """It is pickled: found by its id from now on."""
        if ref.is_shared:
            return
        ref.is_shared = True
        self.shared[ref.object_id] = ref
        if ref.is_tracked:
            return
        if ref.value is None and ref.object_id.startswith(self.teller.me):
            # its value, once there, is not only the ref's: a borrower may ask in that very turn
            ref.is_tracked = True
            self.teller.tell_client(Hold(ref.object_id))
        elif ref.value is not None:
            ref.is_tracked = True
            inner = tuple(one.object_id for one in ref.contained)
            self.teller.tell_client(Put(ref.object_id, ref.value, inner))

    def revive(self, name: ObjectId) -> SimRef:
        """It came out of a pickle."""
        ref = self.shared.get(name)
        if ref is not None:
            return ref
        ref = SimRef(name)
        ref.is_shared = ref.is_tracked = True
        self.shared[name] = ref
        if not name.startswith(self.teller.me):
            self.fresh[name] = None
        self.teller.tell_client(Hold(name))
        return ref

    def token(self, name: ObjectId) -> SimRef:
        """The ref that counts the handles of an actor made here."""
        ref = SimRef(name, b"")
        ref.is_shared = ref.is_tracked = ref.is_actor = True
        self.shared[name] = ref
        return ref

    def take_fresh(self) -> tuple[bool, list[ObjectId]]:
        """Whether some came to life since the last call, and which of them live."""
        fresh, self.fresh = self.fresh, {}
        return bool(fresh), [one for one in fresh if one in self.shared]

    # -- values

    def find(self, name: ObjectId) -> SimRef | None:
        """The one that is pending or shared, if it lives."""
        return self.inflight.get(name) or self.shared.get(name)

    def expect(self, ref: SimRef) -> None:
        """See to it that it gets its value here."""
        if ref.object_id not in self.inflight and ref.value is None:
            self.inflight[ref.object_id] = ref
            self.teller.tell_client(Want(ref.object_id))

    def resolve(self, name: ObjectId, value: Value) -> None:
        """The machine has said what it is."""
        ref = self.find(name)
        if ref is None:
            return
        is_known = self.teller.is_known(name)
        ref.is_tracked = ref.is_tracked or is_known
        ref.value = value
        self.inflight.pop(name, None)
        is_mine = name.startswith(self.teller.me)
        if not is_known and (ref.is_awaited or ref.is_shared) and is_mine:
            ref.is_tracked = True
            self.teller.tell_client(Put(name, value))
        waiters, ref.waiters = ref.waiters, []
        for waiter in waiters:
            waiter()
        self._end_if_gone(ref)

    def input_of(self, ref: SimRef) -> Input:
        """A ref as an argument."""
        if type(ref.value) is bytes and not ref.is_tracked and not ref.contained:
            return ref.value
        ref.is_awaited = True
        if ref.value is None or ref.is_tracked:
            return Await(ref.object_id, NoSlot())
        if ref.contained:
            self.share(ref)
            return Await(ref.object_id, NoSlot())
        return ref.value

    def put_small(self, padding: int, inner: list[SimRef]) -> SimRef:
        """A small value, kept in its ref."""
        call = self.next_call()
        for ref in inner:
            self.share(ref)
        content = Content(call, 0, 0, 0, [one.object_id for one in inner], bytes(padding))
        ref = SimRef(object_id(call, 0), encoded(content))
        ref.contained = [self.hold(one) for one in inner]
        return ref

    def put_sealed(self, name: ObjectId, sealed: Value, inner: list[SimRef]) -> SimRef:
        """A value that was written to a segment."""
        ref = SimRef(name, sealed)
        ref.is_tracked = True
        if isinstance(sealed, Sealed):
            self.teller.tell_client(Put(name, sealed, tuple(one.object_id for one in inner)))
        return ref
