"""Refs that are known by their id: pickled here, or come to life here from a pickle.

A part of the client. There is one Python object per id and process; the owner's and the borrower's
tables hear `Hold` when one comes to life and `Drop` when it dies. Refs that were never pickled are
not here and cost nothing; who else holds a ref is not known here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fabric.core.events import Drop, Hold, Put, Register
from fabric.ids import ObjectId
from fabric.refs import ObjectRef

if TYPE_CHECKING:
    from fabric.runtime.client import Client

Ref = ObjectRef[Any]


class Watch(weakref.ref[Ref]):
    """Sees a shared ref die. Its callback runs after the ref can no longer be found."""

    __slots__ = ("object_id",)

    object_id: ObjectId


class SharedRefs:
    """See the module."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._watches: dict[ObjectId, Watch] = {}
        self._pinned: dict[ObjectId, Ref] = {}
        self._fresh: list[Watch] = []  # of other owners, come to life since last asked
        # re-entered when the garbage collector ends a shared ref in the middle of these methods
        self._lock = threading.RLock()

    def share(self, ref: Ref) -> None:
        """The ref is being pickled: it is found by its id now, and the machine answers for it."""
        with self._lock:
            if ref._is_shared:
                return
            self._watch(ref)
            ref._is_shared = True
        value = ref._value  # after saying that it is shared: see `fabric.refs`
        if ref._is_tracked:
            return
        if value is None and ref._id.startswith(self._client.me):
            # its value, once there, is not only the ref's: a borrower may ask in that very turn
            ref._is_tracked = True
            self._client.tell(Hold(ref._id))
        elif value is not None:
            ref._is_tracked = True
            self._client.tell(Put(ref._id, value, tuple(one._id for one in ref._contained)))

    def revive(self, object_id: ObjectId) -> Ref:
        """The ref of an id that came out of a pickle: the living one, else a new one."""
        with self._lock:
            ref = self.find(object_id)
            if ref is not None:
                return ref
            # a dead one whose callback waits for the lock: its `Drop` must come before the `Hold`
            if self._watches.pop(object_id, None) is not None:
                self._client.tell(Drop((object_id,)))
            ref = ObjectRef[Any](self._client, object_id)
            ref._is_shared = ref._is_tracked = True
            watch = self._watch(ref)
            if not object_id.startswith(self._client.me):
                self._fresh.append(watch)
            self._client.tell(Hold(object_id))
            return ref

    def take_fresh(self) -> tuple[bool, list[ObjectId]]:
        """Whether refs of other owners came to life since this was last asked; which still live."""
        if not self._fresh:
            return False, []
        with self._lock:
            fresh, self._fresh = self._fresh, []
            return True, [watch.object_id for watch in fresh if watch() is not None]

    def register(self, object_ids: Sequence[ObjectId], timeout_s: float) -> None:
        """Wait until their owners count us; of one that is gone already, the value then says so."""
        client = self._client
        request = b"kept" + client.next_call()
        answer = client.questions.expect(request)
        client.tell(Register(request, tuple(object_ids)))
        answer.wait(timeout_s)

    def find(self, object_id: ObjectId) -> Ref | None:
        """The living ref of that id, if it is shared."""
        watch = self._watches.get(object_id)
        return None if watch is None else watch()

    def new_token(self, object_id: ObjectId) -> Ref:
        """The ref by which the handles of an actor made here are counted. It has no value."""
        ref = ObjectRef[Any](self._client, object_id, b"")
        ref._is_tracked = ref._is_shared = True
        with self._lock:
            self._watch(ref)
        return ref

    def pin(self, ref: Ref) -> None:
        """Keep a ref that was pickled where nobody counts."""
        self._pinned[ref._id] = ref

    def _watch(self, ref: Ref) -> Watch:
        watch = Watch(ref, self._on_gone)
        watch.object_id = ref._id
        self._watches[ref._id] = watch
        return watch

    def _on_gone(self, watch: weakref.ref[Ref]) -> None:
        # A lock in what a destructor calls, where other refs need none, because `revive` must not
        # come between. It is held for a few lines that wait for nothing, and may be re-entered.
        object_id: ObjectId = watch.object_id  # type: ignore[attr-defined]
        with self._lock:
            if self._watches.get(object_id) is watch:
                del self._watches[object_id]
                self._client.tell(Drop((object_id,)))
