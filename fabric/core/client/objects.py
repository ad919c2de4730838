"""The owner's table and the borrower's: who still needs which object.

A part of the client. Of the objects this client owns, only those are in the table that are sealed,
escaped, or waited for; a pending result that nobody else knows has no entry, and a resolved small
one lives in its ref. Methods return what is to be freed or released; the machine sends.
"""

from fabric.ids import Address, Incarnation, ObjectId, address
from fabric.protocol.values import Sealed, Value


class Owned:
    """An object this client answers for."""

    __slots__ = ("borrowers", "contained", "is_actor", "is_local", "pins", "value", "wanted_by")

    def __init__(self, is_local: bool) -> None:
        self.value: Value | None = None
        self.is_local = is_local  # a ref of it lives in this process
        self.pins = 0  # calls in flight, containers and answers on their way
        self.borrowers: dict[Address, None] = {}
        self.wanted_by: dict[Address, None] = {}
        self.contained: tuple[ObjectId, ...] = ()
        self.is_actor = False

    @property
    def is_needed(self) -> bool:
        """Somebody may still ask for it."""
        return self.is_local or self.pins > 0 or bool(self.borrowers)


class Borrow:
    """An object of another client that this one knows."""

    __slots__ = ("contained", "count", "is_registered", "is_wanted", "value")

    def __init__(self) -> None:
        self.value: Value | None = None
        self.count = 0  # a living ref, calls in flight, containers
        self.is_registered = False
        self.is_wanted = False  # the owner was asked for the value
        self.contained: tuple[ObjectId, ...] = ()


class Objects:
    """Both tables of one client."""

    def __init__(self, me: Incarnation) -> None:
        self.me = me
        self.owned: dict[ObjectId, Owned] = {}
        self.borrowed: dict[ObjectId, Borrow] = {}
        self.unregistered: dict[ObjectId, None] = {}  # borrowed, and not known to be counted

    def is_mine(self, object_id: ObjectId) -> bool:
        """This client is its owner."""
        return object_id.startswith(self.me)

    def entry(self, object_id: ObjectId) -> Owned:
        """The owner's entry, made now if nobody needed one so far."""
        entry = self.owned.get(object_id)
        if entry is None:
            entry = self.owned[object_id] = Owned(is_local=True)
        return entry

    def borrow(self, object_id: ObjectId) -> Borrow:
        """The borrower's entry, made now if this is its first use."""
        entry = self.borrowed.get(object_id)
        if entry is None:
            entry = self.borrowed[object_id] = Borrow()
            self.unregistered[object_id] = None
        return entry

    def hold(self, object_id: ObjectId) -> None:
        """Something of this client (a call, a container) needs the object; matched by `unhold`."""
        if self.is_mine(object_id):
            self.entry(object_id).pins += 1
        else:
            self.borrow(object_id).count += 1

    def unhold(self, object_id: ObjectId) -> bool:
        """It needs it no longer; true if nothing does and the object is to be forgotten."""
        if self.is_mine(object_id):
            entry = self.owned.get(object_id)
            if entry is None:
                return False
            entry.pins -= 1
            return not entry.is_needed
        borrow = self.borrowed.get(object_id)
        if borrow is None:
            return False
        borrow.count -= 1
        return borrow.count <= 0

    def revive(self, object_id: ObjectId) -> None:
        """A ref came to life in this process."""
        if self.is_mine(object_id):
            self.entry(object_id).is_local = True
        else:
            self.borrow(object_id).count += 1

    def drop(self, object_id: ObjectId, is_pending: bool) -> bool:
        """The last ref in this process died; true if the object is to be forgotten now."""
        if not self.is_mine(object_id):
            return self.unhold(object_id)
        entry = self.owned.get(object_id)
        if entry is None:
            if is_pending:  # remember that its value, once there, is nobody's
                self.owned[object_id] = Owned(is_local=False)
            return False
        entry.is_local = False
        return not entry.is_needed and not is_pending

    def release(self, object_id: ObjectId, borrower: Address) -> bool:
        """A borrower let go; true if the object is to be forgotten."""
        entry = self.owned.get(object_id)
        if entry is None:
            return False
        entry.borrowers.pop(borrower, None)
        entry.wanted_by.pop(borrower, None)
        return not entry.is_needed

    def borrower_died(self, client: Incarnation) -> list[ObjectId]:
        """A client is gone: the objects that only it still needed."""
        borrower = address("c", client)
        gone: list[ObjectId] = []
        for object_id, entry in self.owned.items():
            entry.wanted_by.pop(borrower, None)
            if borrower in entry.borrowers:
                del entry.borrowers[borrower]
                if not entry.is_needed:
                    gone.append(object_id)
        return gone

    def owner_died(self, client: Incarnation) -> list[ObjectId]:
        """A client is gone: the objects of it that are known here and lose their value.

        A small value that has come is ours; a sealed one went with its owner.
        """
        lost: list[ObjectId] = []
        for object_id, borrow in self.borrowed.items():
            if object_id.startswith(client):
                borrow.is_registered = False  # nobody is there to be told of a release
                if borrow.value is None or type(borrow.value) is Sealed:
                    borrow.value = None
                    lost.append(object_id)
        return lost
