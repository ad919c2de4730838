"""The node's store: which segment holds what, what is warm, who waits for room, what is freed."""

import msgspec

from fabric.config import Limits
from fabric.core.effects import CreateSegment, RecycleSegment, Send, UnlinkSegment
from fabric.core.events import SELF, SegmentRecycled
from fabric.core.node.store import Store
from fabric.core.sizes import size_class
from fabric.protocol.messages import (
    Allocate,
    Allocated,
    AllocationFailed,
    FreeObjects,
    SealObject,
)
from fabric.protocol.values import Failure
from tests.core_words import ME, OTHER, W1, W2, me_of, o

PAGE = 4096


def new_store(pages: int = 4, gone: tuple[bytes, ...] = (), **limits: float) -> Store:
    """A store of that many pages; ``gone`` clients have ended."""
    return Store("S", pages * PAGE, Limits(**limits), gone.__contains__)  # type: ignore[arg-type]


def allocated(store: Store, number: int, pages: int = 1, attempt: int = 1) -> None:
    """An object has its segment, and it is written."""
    store.on_allocate(W1, Allocate(o(number), attempt, pages * PAGE), 0.0)
    store.on_seal_object(W1, SealObject(o(number), attempt), 0.0)


def states(store: Store) -> dict[str, str]:
    """Every segment's state."""
    return {one.name: one.state for one in store.segments.table.values()}


def test_an_object_gets_a_segment_of_its_class() -> None:
    store = new_store()
    assert store.on_allocate(W1, Allocate(o(1), 1, 10), 0.0) == [
        CreateSegment("S-1", size_class(10)),
        Send(W1, Allocated(o(1), 1, "S-1", 1, is_warm=False)),
    ]
    assert states(store) == {"S-1": "writing"}
    assert store.on_seal_object(W1, SealObject(o(1), 1), 0.0) == []
    assert states(store) == {"S-1": "sealed"}
    assert store.segments.bytes_total == PAGE


def test_a_freed_segment_is_recycled_under_its_next_generation_and_used_again_warm() -> None:
    store = new_store()
    allocated(store, 1)
    assert store.on_free_objects(ME, FreeObjects((o(1),)), 0.0) == [RecycleSegment("S-1", 2)]
    assert store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 0.0) == []
    assert store.on_allocate(W2, Allocate(o(2), 1, 10), 0.0) == [
        Send(W2, Allocated(o(2), 1, "S-1", 2, is_warm=True))
    ]


def test_a_segment_of_another_class_is_not_used() -> None:
    store = new_store(8)
    allocated(store, 1)
    store.on_free_objects(ME, FreeObjects((o(1),)), 0.0)
    store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 0.0)
    assert store.on_allocate(W1, Allocate(o(2), 1, 2 * PAGE), 0.0)[0] == CreateSegment(
        "S-2", 2 * PAGE
    )


def test_a_pinned_segment_is_looked_at_again() -> None:
    store = new_store(segment_retry_s=0.5)
    allocated(store, 1)
    store.on_free_objects(ME, FreeObjects((o(1),)), 1.0)
    assert store.on_segment_recycled(SELF, SegmentRecycled("S-1", False), 1.0) == []
    assert store.segments.deadline() == 1.5
    assert store.tick(1.4) == []
    assert store.tick(1.5) == [RecycleSegment("S-1", 2)]
    store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 1.5)
    assert states(store) == {"S-1": "warm"}


def test_a_warm_segment_that_nobody_wants_goes() -> None:
    store = new_store(segment_warm_s=5.0)
    allocated(store, 1)
    store.on_free_objects(ME, FreeObjects((o(1),)), 0.0)
    store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 1.0)
    assert store.segments.deadline() == 6.0
    assert store.tick(6.0) == [UnlinkSegment("S-1")]
    assert store.segments.bytes_total == 0
    assert store.segments.deadline() is None


def test_warm_segments_make_room_for_others() -> None:
    store = new_store(2)
    allocated(store, 1)
    store.on_free_objects(ME, FreeObjects((o(1),)), 0.0)
    store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 0.0)
    assert store.on_allocate(W1, Allocate(o(2), 1, 2 * PAGE), 0.0) == [
        UnlinkSegment("S-1"),
        CreateSegment("S-2", 2 * PAGE),
        Send(W1, Allocated(o(2), 1, "S-2", 1, is_warm=False)),
    ]


def test_who_finds_no_room_waits_for_it() -> None:
    store = new_store(1)
    allocated(store, 1)
    assert store.on_allocate(W2, Allocate(o(2), 1, PAGE), 0.0) == []
    store.on_free_objects(ME, FreeObjects((o(1),)), 1.0)
    assert store.on_segment_recycled(SELF, SegmentRecycled("S-1", True), 1.0) == [
        Send(W2, Allocated(o(2), 1, "S-1", 2, is_warm=True))
    ]


def test_who_waits_in_vain_is_told_what_is_there() -> None:
    store = new_store(1, store_full_grace_s=3.0)
    allocated(store, 1)
    store.on_allocate(W2, Allocate(o(2), 1, PAGE), 0.0)
    assert store.segments.deadline() == 3.0
    text = (
        "the object store is full: 4,096 bytes needed, 4,096 in all, 4,096 in objects (1 of them), "
        "0 in freed ones that readers still map (0 of them); the largest: o:64726976-1 4,096"
    )
    figures = msgspec.msgpack.encode({"need": PAGE, "free": 0})
    full = Failure("store_full", text, figures)
    assert store.tick(3.0) == [Send(W2, AllocationFailed(o(2), 1, full))]


def test_behind_one_who_gave_up_others_may_find_room() -> None:
    store = new_store(2, store_full_grace_s=3.0)
    allocated(store, 1)
    store.on_allocate(W1, Allocate(o(2), 1, 2 * PAGE), 0.0)
    store.on_allocate(W2, Allocate(o(3), 1, PAGE), 1.0)
    effects = store.tick(3.0)
    assert [type(one) for one in effects] == [Send, CreateSegment, Send]
    assert effects[2] == Send(W2, Allocated(o(3), 1, "S-2", 1, is_warm=False))


def test_what_is_larger_than_the_store_fails_at_once() -> None:
    text = "a value of 8,192 bytes is larger than the whole object store, which has 4,096"
    figures = msgspec.msgpack.encode({"need": 2 * PAGE, "free": PAGE})
    assert new_store(1).on_allocate(W1, Allocate(o(1), 1, 2 * PAGE), 0.0) == [
        Send(W1, AllocationFailed(o(1), 1, Failure("store_too_small", text, figures)))
    ]


def test_a_newer_attempt_replaces_the_older_ones() -> None:
    store = new_store()
    allocated(store, 1, attempt=1)
    assert store.on_allocate(W2, Allocate(o(1), 2, PAGE), 0.0) == [
        RecycleSegment("S-1", 2),
        CreateSegment("S-2", PAGE),
        Send(W2, Allocated(o(1), 2, "S-2", 1, is_warm=False)),
    ]
    store.on_seal_object(W1, SealObject(o(1), 1), 0.0)  # late words of the dead attempt
    assert states(store) == {"S-1": "freeing", "S-2": "writing"}


def test_freeing_twice_does_no_harm() -> None:
    store = new_store()
    allocated(store, 1)
    store.on_free_objects(ME, FreeObjects((o(1),)), 0.0)
    assert store.on_free_objects(ME, FreeObjects((o(1), o(2))), 0.0) == []


def test_who_waits_to_write_what_nobody_needs_waits_no_longer() -> None:
    store = new_store(1)
    allocated(store, 1)
    store.on_allocate(W2, Allocate(o(2), 1, PAGE), 0.0)
    gone = Failure("object_lost", "nobody needs the value any more")
    assert store.on_free_objects(ME, FreeObjects((o(2),)), 0.0) == [
        Send(W2, AllocationFailed(o(2), 1, gone))
    ]
    assert not store.segments.wishes


def test_with_a_client_its_objects_go_also_those_that_others_write() -> None:
    store = new_store()
    allocated(store, 1)
    store.on_allocate(W1, Allocate(o(2), 1, PAGE), 0.0)
    store.on_allocate(W1, Allocate(o(1, client=OTHER), 1, PAGE), 0.0)
    assert store.owner_died(me_of(ME), 0.0) == [
        RecycleSegment("S-1", 2),
        RecycleSegment("S-2", 2),
    ]
    assert states(store) == {"S-1": "freeing", "S-2": "freeing", "S-3": "writing"}


def test_a_dead_writer_waits_for_nothing_and_what_it_wrote_is_its_owners() -> None:
    store = new_store(2)
    allocated(store, 1)
    store.on_allocate(W1, Allocate(o(2), 1, PAGE), 0.0)
    store.on_allocate(W1, Allocate(o(3), 1, PAGE), 0.0)
    store.writer_died(W1)
    assert not store.segments.wishes
    assert states(store) == {"S-1": "sealed", "S-2": "writing"}


def test_a_value_for_a_client_that_is_gone_gets_no_room() -> None:
    store = new_store(gone=(me_of(ME),))
    gone = Failure("owner_died", "the client that the value was for is gone")
    assert store.on_allocate(W1, Allocate(o(1), 1, PAGE), 0.0) == [
        Send(W1, AllocationFailed(o(1), 1, gone))
    ]


def test_accounts_balance_through_a_life_of_segments() -> None:
    store = new_store(64, segment_warm_s=1.0)
    for number in range(1, 20):
        allocated(store, number, pages=1 + number % 3)
    store.on_free_objects(ME, FreeObjects(tuple(o(n) for n in range(1, 20, 2))), 0.0)
    for name, state in states(store).items():
        if state == "freeing":
            store.on_segment_recycled(SELF, SegmentRecycled(name, True), 0.0)
    store.tick(1.0)
    table = store.segments.table.values()
    assert {one.state for one in table} == {"sealed"}
    assert store.segments.bytes_total == sum(one.nbytes for one in table)
