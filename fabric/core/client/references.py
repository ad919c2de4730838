"""References across processes: borrowing, releasing, wanting and forgetting.

The part of the client's machine that speaks to other clients. A borrower registers with the owner
itself, and its release follows on the same link; whoever hands a ref over keeps its own count until
the receiver is registered. Nothing here knows of leases or actors: what is forgotten, and what
waits for a value, is told to the machine through two callbacks.
"""

from collections.abc import Callable

from fabric.core.client.calls import Calls
from fabric.core.client.objects import Objects
from fabric.core.effects import Effect, Reply, Resolve, Send
from fabric.core.events import Drop, Hold, Register, Want
from fabric.core.machine import InvariantError
from fabric.ids import (
    Address,
    Incarnation,
    ObjectId,
    call_of,
    incarnation_of,
    owner_address,
    owner_of,
)
from fabric.protocol.messages import (
    AddBorrower,
    BorrowerAdded,
    FreeObjects,
    ObjectReady,
    Release,
    WantObject,
)
from fabric.protocol.values import Failure, Sealed, Value

DEAD_MAX = 10_000
"""Clients remembered as gone: workers come and go for as long as a driver runs."""

DOUBT_TURNS = 2
"""For how many turns an object that others ask for may be unknown before it counts as gone."""


class Barrier:
    """What follows when some refs are registered with their owners; it holds them until then."""

    __slots__ = ("effects", "remaining", "unholds")

    def __init__(self, effects: list[Effect], unholds: tuple[ObjectId, ...]) -> None:
        self.effects = effects
        self.unholds = list(unholds)
        self.remaining = 0


class References:
    """See the module."""

    def __init__(
        self,
        me: Incarnation,
        node: Address,
        calls: Calls,
        handles_gone: Callable[[ObjectId], list[Effect]],
        wake: Callable[[ObjectId, Value], list[Effect]],
    ) -> None:
        self.objects = Objects(me)
        self.node = node
        self.calls = calls
        self._handles_gone = handles_gone
        self._wake = wake
        self._barriers: dict[ObjectId, list[Barrier]] = {}  # ref being registered → who waits
        self._to_free: list[ObjectId] = []
        self._dead: dict[Incarnation, None] = {}  # clients that are gone, the latest
        self._lost: Failure | None = None  # the node is gone, which tells who else is
        # asked for objects we do not know (yet), and for how many turns
        self._doubtful: list[tuple[Address, AddBorrower | WantObject, int]] = []

    def tick(self) -> list[Effect]:
        """What the node can free, and answers about objects that stayed unknown."""
        effects: list[Effect] = []
        if self._doubtful:
            doubtful, self._doubtful = self._doubtful, []
            for borrower, message, turns in doubtful:
                effects += self._answer(borrower, message, turns + 1)
        if self._to_free:
            freed, self._to_free = self._to_free, []
            effects.append(Send(self.node, FreeObjects(tuple(freed))))
        return effects

    @property
    def is_in_doubt(self) -> bool:
        """Another turn is needed at once."""
        return bool(self._doubtful)

    def check(self) -> None:
        """No count is negative, and nothing stays that nobody needs."""
        for object_id, entry in self.objects.owned.items():
            if entry.pins < 0:
                raise InvariantError(f"{object_id!r} has {entry.pins} pins")
            if not entry.is_needed and not self._is_pending(object_id):
                raise InvariantError(f"{object_id!r} is in the owner's table but nobody needs it")
        for object_id, borrow in self.objects.borrowed.items():
            if borrow.count <= 0:
                raise InvariantError(f"{object_id!r} is borrowed {borrow.count} times")

    # values

    def value_of(self, object_id: ObjectId) -> Value | None:
        """The value if this client knows it."""
        if self.objects.is_mine(object_id):
            entry = self.objects.owned.get(object_id)
            return entry.value if entry is not None else None
        borrow = self.objects.borrowed.get(object_id)
        return borrow.value if borrow is not None else None

    def knows(self, object_id: ObjectId) -> bool:
        """Whether there is an entry with its value; most objects never have one."""
        if object_id not in self.objects.owned and object_id not in self.objects.borrowed:
            return False
        return self.value_of(object_id) is not None

    def resolve(
        self,
        object_id: ObjectId,
        value: Value,
        contained: tuple[ObjectId, ...] = (),
    ) -> list[Effect]:
        """A result of a call of ours is there.

        A small one that only its ref knows of needs no entry: the ref holds it.
        """
        is_small = not contained and type(value) is not Sealed
        if is_small and object_id not in self.objects.owned:
            return [Resolve(object_id, value)]
        self.objects.entry(object_id)
        return [Resolve(object_id, value), *self._keep(object_id, value, contained)]

    def put(
        self, object_id: ObjectId, value: Value, contained: tuple[ObjectId, ...]
    ) -> list[Effect]:
        """The user's process says what an object of ours is."""
        entry = self.objects.entry(object_id)
        return self._keep(object_id, value, contained) if entry.value is None else []

    def _keep(
        self, object_id: ObjectId, value: Value, contained: tuple[ObjectId, ...]
    ) -> list[Effect]:
        entry = self.objects.owned[object_id]
        entry.value = value
        entry.contained = contained
        for inner in contained:
            self.hold(inner)
        effects: list[Effect] = [
            Send(borrower, ObjectReady(object_id, value, contained)) for borrower in entry.wanted_by
        ]
        entry.wanted_by = {}
        effects += self._wake(object_id, value)
        if not entry.is_needed:
            effects += self.forget(object_id)
        return effects

    def received(
        self, object_id: ObjectId, value: Value, contained: tuple[ObjectId, ...]
    ) -> list[Effect]:
        """The owner told us a value; what is inside it is borrowed before the outer one can go."""
        borrow = self.objects.borrowed.get(object_id)
        if borrow is None or borrow.value is not None:
            return []
        borrow.value = value
        borrow.contained = contained
        effects: list[Effect] = [Resolve(object_id, value)]
        if contained:
            borrow.count += 1
            for inner in contained:
                self.hold(inner)
            effects += self.register(contained, [], (object_id,))
        return [*effects, *self._wake(object_id, value)]

    def want(self, object_id: ObjectId) -> list[Effect]:
        """Ask the owner for a value, once; of our own objects the value comes by itself."""
        if self.objects.is_mine(object_id):
            return []
        borrow = self.objects.borrow(object_id)
        if owner_of(object_id) in self._dead and borrow.value is None:
            return self.received(object_id, _owner_died(owner_of(object_id)), ())
        if self._lost is not None and borrow.value is None:
            return self.received(object_id, self._lost, ())
        if borrow.is_wanted or borrow.value is not None:
            return []
        borrow.is_wanted = True
        return [Send(owner_address(object_id), WantObject(object_id))]

    # counting

    def hold(self, object_id: ObjectId) -> None:
        """A call, a container or an answer on its way needs the object; matched by `unhold`."""
        self.objects.hold(object_id)

    def hold_handle(self, object_id: ObjectId) -> None:
        """An actor is made here: its first handle lives, and all handles are counted here."""
        self.objects.entry(object_id).is_actor = True

    def is_needed(self, object_id: ObjectId) -> bool:
        """Something here, or a borrower, still needs it."""
        if self.objects.is_mine(object_id):
            entry = self.objects.owned.get(object_id)
            return entry is not None and entry.is_needed
        return object_id in self.objects.borrowed

    def is_dead(self, object_id: ObjectId) -> bool:
        """Its owner is gone."""
        return owner_of(object_id) in self._dead

    def unhold(self, object_id: ObjectId) -> list[Effect]:
        """It needs it no longer."""
        if not self.objects.unhold(object_id) or self._is_pending(object_id):
            return []
        return self.forget(object_id)

    def forget(self, object_id: ObjectId) -> list[Effect]:
        """Nobody needs it: free its copies, and let go of what it contains."""
        effects: list[Effect] = []
        going = [object_id]  # not by recursion: containers may be nested as deep as they like
        for one in going:
            for inner in self._forget_one(one, effects):
                if self.objects.unhold(inner) and not self._is_pending(inner):
                    going.append(inner)
        return effects

    def _forget_one(self, object_id: ObjectId, effects: list[Effect]) -> tuple[ObjectId, ...]:
        """The same for one object; what it contains is left to the caller."""
        if not self.objects.is_mine(object_id):
            borrow = self.objects.borrowed.pop(object_id)
            self.objects.unregistered.pop(object_id, None)
            effects += self._handles_gone(object_id)
            if borrow.is_registered:
                effects.append(Send(owner_address(object_id), Release((object_id,))))
            return borrow.contained
        entry = self.objects.owned.pop(object_id)
        if entry.is_actor:
            effects += self._handles_gone(object_id)
        if type(entry.value) is Sealed:
            self._to_free.append(object_id)
        return entry.contained

    def free_attempts(self, object_id: ObjectId) -> None:
        """An attempt died that may have sealed this: the node frees what it finds."""
        self._to_free.append(object_id)

    def register(
        self,
        object_ids: tuple[ObjectId, ...],
        then: list[Effect],
        unholds: tuple[ObjectId, ...] = (),
    ) -> list[Effect]:
        """Become a borrower of those that are others'; ``then`` follows when every owner knows."""
        barrier = Barrier(then, unholds)
        by_owner: dict[Address, list[ObjectId]] = {}
        for object_id in dict.fromkeys(object_ids):
            borrow = self.objects.borrowed.get(object_id)  # none: ours, or let go meanwhile
            if borrow is None or borrow.is_registered or owner_of(object_id) in self._dead:
                continue
            self.hold(object_id)
            barrier.unholds.append(object_id)
            barrier.remaining += 1
            waiting = self._barriers.setdefault(object_id, [])
            if not waiting:
                by_owner.setdefault(owner_address(object_id), []).append(object_id)
            waiting.append(barrier)
        effects: list[Effect] = [
            Send(one, AddBorrower(tuple(ids))) for one, ids in by_owner.items()
        ]
        if barrier.remaining == 0:
            effects += self._pass(barrier)
        return effects

    def worker_gone(self, worker: Address) -> None:
        """It is not told any more that its refs were taken: a new link would begin."""
        for barrier in [one for waiting in self._barriers.values() for one in waiting]:
            barrier.effects = [
                one for one in barrier.effects if type(one) is not Send or one.peer != worker
            ]

    def _pass(self, barrier: Barrier) -> list[Effect]:
        effects = list(barrier.effects)
        for object_id in barrier.unholds:
            effects += self.unhold(object_id)
        return effects

    def _registered(self, object_id: ObjectId) -> list[Effect]:
        effects: list[Effect] = []
        for barrier in self._barriers.pop(object_id, []):
            barrier.remaining -= 1
            if barrier.remaining == 0:
                effects += self._pass(barrier)
        return effects

    def _is_pending(self, object_id: ObjectId) -> bool:
        return call_of(object_id) in self.calls.pending

    # what user threads say

    def on_drop(self, source: Address, message: Drop, now: float) -> list[Effect]:
        """The last refs to these in this process are gone."""
        effects: list[Effect] = []
        for object_id in message.object_ids:
            if self.objects.drop(object_id, self._is_pending(object_id)):
                effects += self.forget(object_id)
        return effects

    def on_hold(self, source: Address, message: Hold, now: float) -> list[Effect]:
        """A ref was unpickled here."""
        self.objects.revive(message.object_id)
        return []

    def on_want(self, source: Address, message: Want, now: float) -> list[Effect]:
        """A thread waits for a borrowed object."""
        value = self.value_of(message.object_id)
        if value is not None:
            return [Resolve(message.object_id, value)]
        return self.want(message.object_id)

    def on_register(self, source: Address, message: Register, now: float) -> list[Effect]:
        """The running call keeps these: their owners must know before its answer leaves.

        So must those of what is borrowed for calls that it made and does not wait for.
        """
        reply = Reply(message.request, BorrowerAdded(message.object_ids))
        return self.register((*message.object_ids, *self.objects.unregistered), [reply])

    # what other clients say

    def on_add_borrower(self, borrower: Address, message: AddBorrower, now: float) -> list[Effect]:
        """Somebody holds these refs of ours from now on."""
        return self._answer(borrower, message, 0)

    def on_want_object(self, borrower: Address, message: WantObject, now: float) -> list[Effect]:
        """Somebody waits for an object of ours."""
        return self._answer(borrower, message, 0)

    def _answer(
        self, borrower: Address, message: AddBorrower | WantObject, turns: int
    ) -> list[Effect]:
        """An object that only its ref knew may be asked for before we hear that it is shared.

        This process said so before its name left, but what it says is heard after what others say
        in the same turn, and if the value came in that turn, it says so in the next.
        """
        if incarnation_of(borrower) in self._dead:
            return []
        ids = message.object_ids if isinstance(message, AddBorrower) else (message.object_id,)
        unknown = tuple(
            one for one in ids if one not in self.objects.owned and not self._is_pending(one)
        )
        if unknown and turns < DOUBT_TURNS:
            self._doubtful.append((borrower, message, turns))
            return []
        if isinstance(message, WantObject):
            return self._tell_value(borrower, message.object_id, is_known=not unknown)
        for object_id in ids:
            if object_id not in unknown:
                self.objects.entry(object_id).borrowers[borrower] = None
        return [Send(borrower, BorrowerAdded(ids, unknown))]

    def _tell_value(self, borrower: Address, object_id: ObjectId, is_known: bool) -> list[Effect]:
        if not is_known:
            lost = Failure("object_lost", "its owner knows nothing of that object any more")
            return [Send(borrower, ObjectReady(object_id, lost))]
        entry = self.objects.entry(object_id)
        if entry.value is not None:
            return [Send(borrower, ObjectReady(object_id, entry.value, entry.contained))]
        entry.wanted_by[borrower] = None
        return []

    def on_borrower_added(self, owner: Address, message: BorrowerAdded, now: float) -> list[Effect]:
        """An owner has counted us, or knows nothing of that object any more."""
        effects: list[Effect] = []
        for object_id in message.object_ids:
            borrow = self.objects.borrowed.get(object_id)
            if object_id in message.unknown:
                lost = Failure("object_lost", "the object was freed before its ref arrived")
                effects += self.received(object_id, lost, ())
            elif borrow is not None:
                borrow.is_registered = True
                self.objects.unregistered.pop(object_id, None)
            effects += self._registered(object_id)
        return effects

    def on_release(self, borrower: Address, message: Release, now: float) -> list[Effect]:
        """Somebody holds these no longer."""
        effects: list[Effect] = []
        for object_id in message.object_ids:
            if self.objects.release(object_id, borrower) and not self._is_pending(object_id):
                effects += self.forget(object_id)
        return effects

    def client_died(self, client: Incarnation) -> list[Effect]:
        """A borrower is gone, or an owner: its objects without a value never get one."""
        effects: list[Effect] = []
        self._dead[client] = None
        if len(self._dead) > DEAD_MAX:  # of one forgotten here, its line says that it is lost
            del self._dead[next(iter(self._dead))]
        for object_id in self.objects.borrower_died(client):
            if not self._is_pending(object_id):
                effects += self.forget(object_id)
        for object_id in self.objects.owner_died(client):
            effects += self.received(object_id, _owner_died(client), ())
        for object_id in [one for one in self._barriers if one.startswith(client)]:
            effects += self._registered(object_id)
        return effects

    def node_lost(self, failure: Failure) -> list[Effect]:
        """Nobody will tell us which owners are gone: what has not come is not waited for."""
        self._lost = failure
        effects: list[Effect] = []
        for object_id in [one for one, it in self.objects.borrowed.items() if it.is_wanted]:
            effects += self.received(object_id, failure, ())
        for object_id in list(self._barriers):
            effects += self._registered(object_id)
        return effects


def _owner_died(owner: Incarnation) -> Failure:
    return Failure("owner_died", f"the process {owner.hex()} that answers for it is gone")
