"""References across processes: two or three clients, each told by hand what the others say.

``ME`` owns, ``OTHER`` borrows from it, and ``INNER`` is the client inside a worker. A count that
goes too early is a lost value, one that stays is a leak: both show in whole lists of effects.
"""

from fabric.core.client.client import ClientMachine
from fabric.core.client.references import DEAD_MAX
from fabric.core.effects import Effect, Hangup, Reply, Resolve, Send
from fabric.core.events import Drained, Drop, Hold, PeerLost, Put, Register, Want
from fabric.ids import Address, Incarnation, ObjectId
from fabric.protocol.messages import (
    AddBorrower,
    BorrowerAdded,
    CallsDone,
    ClientDied,
    FreeObjects,
    ObjectReady,
    Release,
    Taken,
    WantObject,
)
from fabric.protocol.values import Failure
from tests.core_words import (
    INNER,
    ME,
    NODE,
    OTHER,
    RAISED,
    W1,
    c,
    done,
    hear,
    leased,
    me_of,
    new_client,
    o,
    runs,
    sealed,
    spec,
    submit,
    tell,
)

GONE = Failure("owner_died", f"the process {me_of(OTHER).hex()} that answers for it is gone")


def theirs(number: int) -> ObjectId:
    """An object of `OTHER`."""
    return o(number, client=OTHER)


def borrowing(*numbers: int) -> ClientMachine:
    """`ME`, registered as borrower of those objects of `OTHER`."""
    client = new_client()
    ids = tuple(map(theirs, numbers))
    tell(client, *map(Hold, ids), Register(b"ok", ids))
    hear(client, OTHER, BorrowerAdded(ids))
    return client


def pass_on(
    source: Address, effects: list[Effect], hearers: dict[Address, ClientMachine]
) -> list[tuple[Address, Effect]]:
    """Let the others hear, and the others the answers, until all is said; what else was asked."""
    waiting = [(source, effect) for effect in effects]
    rest: list[tuple[Address, Effect]] = []
    for speaker, effect in waiting:
        if isinstance(effect, Send) and effect.peer in hearers:
            heard = hear(hearers[effect.peer], speaker, effect.message)
            waiting += [(effect.peer, one) for one in heard]
        else:
            rest.append((speaker, effect))
    return rest


# -- owners


def test_an_owner_counts_borrowers_and_frees_after_the_last() -> None:
    owner = new_client()
    tell(owner, Put(o(1), sealed(1)))
    assert hear(owner, OTHER, AddBorrower((o(1),))) == [Send(OTHER, BorrowerAdded((o(1),)))]
    assert hear(owner, INNER, AddBorrower((o(1),))) == [Send(INNER, BorrowerAdded((o(1),)))]
    assert tell(owner, Drop((o(1),))) == []
    assert hear(owner, OTHER, Release((o(1),))) == []
    assert hear(owner, INNER, Release((o(1),))) == [Send(NODE, FreeObjects((o(1),)))]
    assert owner.references.objects.owned == {}


def test_a_second_release_of_the_same_borrower_does_no_harm() -> None:
    owner = new_client()
    tell(owner, Put(o(1), sealed(1)))
    hear(owner, OTHER, AddBorrower((o(1),)))
    hear(owner, OTHER, Release((o(1),)))
    assert hear(owner, OTHER, Release((o(1),))) == []
    assert tell(owner, Drop((o(1),))) == [Send(NODE, FreeObjects((o(1),)))]


def test_an_owner_tells_values_at_once_or_when_they_come() -> None:
    owner = new_client()
    leased(owner, W1)
    tell(owner, Put(o(9), b"there"), submit(1))
    assert hear(owner, OTHER, WantObject(o(9))) == [Send(OTHER, ObjectReady(o(9), b"there"))]
    hear(owner, OTHER, AddBorrower((o(1),)))
    assert hear(owner, OTHER, WantObject(o(1))) == []
    assert hear(owner, W1, CallsDone(1, [done(1)])) == [
        Resolve(o(1), b"v"),
        Send(OTHER, ObjectReady(o(1), b"v")),
    ]


def test_a_pending_result_that_only_a_borrower_needs_goes_with_the_borrower() -> None:
    owner = new_client()
    leased(owner, W1)
    tell(owner, submit(1))
    hear(owner, OTHER, AddBorrower((o(1),)))
    assert tell(owner, Drop((o(1),))) == []
    assert hear(owner, W1, CallsDone(1, [done(1, sealed(1))])) == [Resolve(o(1), sealed(1))]
    assert hear(owner, OTHER, Release((o(1),))) == [Send(NODE, FreeObjects((o(1),)))]


def test_a_pending_result_that_is_released_before_it_comes_is_freed_when_it_comes() -> None:
    owner = new_client()
    leased(owner, W1)
    tell(owner, submit(1))
    hear(owner, OTHER, AddBorrower((o(1),)))
    tell(owner, Drop((o(1),)))
    assert hear(owner, OTHER, Release((o(1),))) == []
    assert hear(owner, W1, CallsDone(1, [done(1, sealed(1))])) == [
        Resolve(o(1), sealed(1)),
        Send(NODE, FreeObjects((o(1),))),
    ]


def test_what_is_unknown_is_refused_after_the_process_had_time_to_tell_of_it() -> None:
    owner = new_client()
    assert hear(owner, OTHER, AddBorrower((o(1),))) == []
    assert owner.deadline() == 0.0
    assert tell(owner) == [Send(OTHER, BorrowerAdded((o(1),), unknown=(o(1),)))]
    assert owner.deadline() is None
    hear(owner, OTHER, WantObject(o(1)))
    lost = Failure("object_lost", "its owner knows nothing of that object any more")
    assert tell(owner) == [Send(OTHER, ObjectReady(o(1), lost))]


def test_a_value_that_is_shared_while_others_ask_for_it_is_found() -> None:
    owner = new_client()
    assert owner.handle(OTHER, AddBorrower((o(1),)), 0.0) == []
    assert tell(owner, Put(o(1), b"there")) == [Send(OTHER, BorrowerAdded((o(1),)))]


def test_a_value_that_came_in_the_turn_in_which_others_asked_for_it_is_found_in_the_next() -> None:
    owner = new_client()
    leased(owner, W1)
    tell(owner, submit(1))
    owner.handle(W1, CallsDone(1, [done(1)]), 0.0)
    assert hear(owner, OTHER, WantObject(o(1))) == []
    assert tell(owner, Put(o(1), b"v")) == [Send(OTHER, ObjectReady(o(1), b"v"))]


def test_a_dead_borrower_counts_no_more() -> None:
    owner = new_client()
    tell(owner, Put(o(1), sealed(1)))
    hear(owner, OTHER, AddBorrower((o(1),)))
    tell(owner, Drop((o(1),)))
    assert hear(owner, NODE, ClientDied(me_of(OTHER))) == [
        Hangup(OTHER),
        Send(NODE, FreeObjects((o(1),))),
    ]
    assert hear(owner, OTHER, AddBorrower((o(1),))) == []  # late words


def test_a_dead_client_is_not_told_a_value_it_waited_for() -> None:
    owner = new_client()
    leased(owner, W1)
    tell(owner, submit(1))
    hear(owner, OTHER, WantObject(o(1)))
    hear(owner, NODE, ClientDied(me_of(OTHER)))
    assert hear(owner, W1, CallsDone(1, [done(1)])) == [Resolve(o(1), b"v")]


# -- borrowers


def test_a_borrower_asks_once_for_a_value() -> None:
    client = new_client()
    assert tell(client, Hold(theirs(1)), Want(theirs(1))) == [Send(OTHER, WantObject(theirs(1)))]
    assert tell(client, Want(theirs(1))) == []
    assert hear(client, OTHER, ObjectReady(theirs(1), b"v")) == [Resolve(theirs(1), b"v")]
    assert tell(client, Want(theirs(1))) == [Resolve(theirs(1), b"v")]


def test_a_call_waits_for_the_value_of_a_borrowed_argument() -> None:
    client = borrowing(1)
    leased(client, W1)
    assert tell(client, submit(1, theirs(1))) == [Send(OTHER, WantObject(theirs(1)))]
    assert hear(client, OTHER, ObjectReady(theirs(1), sealed(4))) == [
        Resolve(theirs(1), sealed(4)),
        runs(W1, 1, spec(1, inputs=(sealed(4),))),
    ]


def test_a_borrower_releases_when_its_last_ref_and_its_last_call_are_gone() -> None:
    client = borrowing(1)
    leased(client, W1)
    tell(client, submit(1, nested=(theirs(1),)))
    assert tell(client, Drop((theirs(1),))) == []
    assert hear(client, W1, CallsDone(1, [done(1)])) == [
        Resolve(o(1), b"v"),
        Send(OTHER, Release((theirs(1),))),
    ]


def test_a_ref_that_is_dropped_while_it_is_being_registered_is_released_afterwards() -> None:
    client = new_client()
    tell(client, Hold(theirs(1)))
    assert tell(client, Register(b"ok", (theirs(1),))) == [Send(OTHER, AddBorrower((theirs(1),)))]
    assert tell(client, Drop((theirs(1),))) == []
    assert hear(client, OTHER, BorrowerAdded((theirs(1),))) == [
        Reply(b"ok", BorrowerAdded((theirs(1),))),
        Send(OTHER, Release((theirs(1),))),
    ]
    assert client.references.objects.borrowed == {}


def test_a_ref_that_comes_back_while_it_is_being_registered_is_registered_once() -> None:
    client = new_client()
    tell(client, Hold(theirs(1)), Register(b"one", (theirs(1),)), Drop((theirs(1),)))
    assert tell(client, Hold(theirs(1)), Register(b"two", (theirs(1),))) == []
    assert hear(client, OTHER, BorrowerAdded((theirs(1),))) == [
        Reply(b"one", BorrowerAdded((theirs(1),))),
        Reply(b"two", BorrowerAdded((theirs(1),))),
    ]
    assert tell(client, Drop((theirs(1),))) == [Send(OTHER, Release((theirs(1),)))]


def test_a_ref_that_was_never_registered_is_not_released() -> None:
    client = new_client()
    assert tell(client, Hold(theirs(1)), Drop((theirs(1),))) == []


def test_registering_what_is_ours_or_gone_or_done_needs_nobody() -> None:
    client = borrowing(1)
    everything = (o(5), theirs(1), theirs(2))
    assert tell(client, Register(b"ok", everything)) == [Reply(b"ok", BorrowerAdded(everything))]


def test_what_only_a_pending_call_borrows_is_registered_too() -> None:
    client = new_client()
    tell(client, Hold(theirs(1)), submit(1, nested=(theirs(1),)), Drop((theirs(1),)))
    assert tell(client, Register(b"ok", ())) == [Send(OTHER, AddBorrower((theirs(1),)))]
    # again while the owner has not answered: this one waits, too
    assert tell(client, Register(b"again", ())) == []
    assert hear(client, OTHER, BorrowerAdded((theirs(1),))) == [
        Reply(b"ok", BorrowerAdded(())),
        Reply(b"again", BorrowerAdded(())),
    ]
    assert tell(client, Register(b"done", ())) == [Reply(b"done", BorrowerAdded(()))]


def test_a_registration_with_two_owners_is_done_when_both_have_answered() -> None:
    client = new_client()
    mixed = (theirs(1), o(1, client=INNER), theirs(2))
    assert tell(client, *map(Hold, mixed), Register(b"ok", mixed)) == [
        Send(OTHER, AddBorrower((theirs(1), theirs(2)))),
        Send(INNER, AddBorrower((o(1, client=INNER),))),
    ]
    assert hear(client, OTHER, BorrowerAdded((theirs(1), theirs(2)))) == []
    assert hear(client, INNER, BorrowerAdded((o(1, client=INNER),))) == [
        Reply(b"ok", BorrowerAdded(mixed))
    ]


def test_a_ref_whose_object_is_gone_fails_who_waits_for_it() -> None:
    client = new_client()
    tell(client, Hold(theirs(1)), Register(b"ok", (theirs(1),)))
    lost = Failure("object_lost", "the object was freed before its ref arrived")
    added = BorrowerAdded((theirs(1),), unknown=(theirs(1),))
    assert hear(client, OTHER, added) == [
        Resolve(theirs(1), lost),
        Reply(b"ok", BorrowerAdded((theirs(1),))),
    ]


# -- owners that die


def test_objects_of_a_dead_owner_fail_who_waits_for_them() -> None:
    client = borrowing(1)
    leased(client, W1)
    tell(client, submit(1, theirs(1)))
    assert hear(client, NODE, ClientDied(me_of(OTHER))) == [
        Resolve(theirs(1), GONE),
        Hangup(OTHER),
        Resolve(o(1), GONE),
    ]
    assert tell(client, Drop((theirs(1),))) == []  # nobody is there to be told


def test_small_values_of_a_dead_owner_stay_and_sealed_ones_go() -> None:
    client = borrowing(1, 2)
    tell(client, Want(theirs(1)), Want(theirs(2)))
    hear(client, OTHER, ObjectReady(theirs(1), b"small"))
    hear(client, OTHER, ObjectReady(theirs(2), sealed(3)))
    assert tell(client, PeerLost(OTHER, "its process is gone")) == [Resolve(theirs(2), GONE)]
    assert tell(client, Want(theirs(1))) == [Resolve(theirs(1), b"small")]


def test_a_ref_of_an_owner_that_is_dead_already_fails_at_once() -> None:
    client = new_client()
    leased(client, W1)
    hear(client, NODE, ClientDied(me_of(OTHER)))
    assert tell(client, Hold(theirs(1)), Want(theirs(1))) == [Resolve(theirs(1), GONE)]
    assert tell(client, submit(1, theirs(2))) == [Resolve(theirs(2), GONE), Resolve(o(1), GONE)]
    register = Register(b"ok", (theirs(1),))
    assert tell(client, register) == [Reply(b"ok", BorrowerAdded((theirs(1),)))]


def test_a_registration_does_not_wait_for_a_dead_owner() -> None:
    client = new_client()
    tell(client, Hold(theirs(1)), Register(b"ok", (theirs(1),)))
    assert hear(client, NODE, ClientDied(me_of(OTHER))) == [
        Resolve(theirs(1), GONE),
        Reply(b"ok", BorrowerAdded((theirs(1),))),
        Hangup(OTHER),
    ]


# -- refs inside results and inside other values


def inner(number: int) -> ObjectId:
    """An object of the client inside `W1`."""
    return o(number, client=INNER)


def test_refs_inside_a_result_are_borrowed_before_the_worker_lets_go() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    answer = done(1, contained=((inner(1), inner(2)),))
    assert hear(client, W1, CallsDone(1, [answer])) == [
        Resolve(o(1), b"v"),
        Send(INNER, AddBorrower((inner(1), inner(2)))),
    ]
    assert hear(client, INNER, BorrowerAdded((inner(1), inner(2)))) == [Send(W1, Taken((c(1),)))]
    assert tell(client, Drop((o(1),))) == [
        Send(INNER, Release((inner(1),))),
        Send(INNER, Release((inner(2),))),
    ]


def test_a_result_that_nobody_needs_lets_go_of_what_is_inside_it() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1), Drop((o(1),)))
    answer = done(1, contained=((inner(1),),))
    assert hear(client, W1, CallsDone(1, [answer])) == [
        Resolve(o(1), b"v"),
        Send(W1, Taken((c(1),))),
    ]
    assert client.references.objects.borrowed == {}


def test_a_ref_of_ours_that_comes_back_inside_a_result_is_held_by_it() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, Put(o(9), sealed(9)), submit(1, nested=(o(9),)))
    answer = done(1, contained=((o(9),),))
    assert hear(client, W1, CallsDone(1, [answer])) == [
        Resolve(o(1), b"v"),
        Send(W1, Taken((c(1),))),
    ]
    assert tell(client, Drop((o(9),))) == []
    assert tell(client, Drop((o(1),))) == [Send(NODE, FreeObjects((o(9),)))]


def test_a_borrower_of_a_container_borrows_what_is_inside_before_it_can_go() -> None:
    client = borrowing(1)
    tell(client, Want(theirs(1)))
    assert hear(client, OTHER, ObjectReady(theirs(1), b"v", (inner(1),))) == [
        Resolve(theirs(1), b"v"),
        Send(INNER, AddBorrower((inner(1),))),
    ]
    assert tell(client, Drop((theirs(1),))) == []  # its owner must not let go of the inner one yet
    assert hear(client, INNER, BorrowerAdded((inner(1),))) == [
        Send(OTHER, Release((theirs(1),))),
        Send(INNER, Release((inner(1),))),
    ]


def test_containers_may_be_nested_as_deep_as_they_like() -> None:
    client = new_client()
    tell(client, Put(o(0), sealed(0)))
    tell(client, *(Put(o(n), b"v", (o(n - 1),)) for n in range(1, 5000)))
    tell(client, *(Drop((o(n),)) for n in range(4999)))
    assert tell(client, Drop((o(4999),))) == [Send(NODE, FreeObjects((o(0),)))]
    assert client.references.objects.owned == {}


def test_a_failed_call_lets_go_of_its_arguments() -> None:
    client = borrowing(1)
    leased(client, W1)
    tell(client, submit(1, nested=(theirs(1),)), Drop((theirs(1),)))
    assert hear(client, W1, CallsDone(1, [done(1, RAISED)])) == [
        Resolve(o(1), RAISED),
        Send(OTHER, Release((theirs(1),))),
    ]


# -- three at once


def test_a_ref_that_is_handed_on_and_on_lives_as_long_as_the_last_holder() -> None:
    owner, middle, last = new_client(ME), new_client(OTHER), new_client(INNER)
    everybody = {ME: owner, OTHER: middle, INNER: last}
    tell(owner, Put(o(1), sealed(1)))
    for place in (OTHER, INNER):  # each keeps it beyond the call that brought it
        effects = tell(everybody[place], Hold(o(1)), Register(b"ok", (o(1),)))
        assert pass_on(place, effects, everybody) == [(place, Reply(b"ok", BorrowerAdded((o(1),))))]
    assert pass_on(ME, tell(owner, Drop((o(1),))), everybody) == []
    assert pass_on(OTHER, tell(middle, Drop((o(1),))), everybody) == []
    assert pass_on(INNER, tell(last, Drop((o(1),))), everybody) == [
        (ME, Send(NODE, FreeObjects((o(1),))))
    ]


def test_a_container_whose_inner_ref_has_a_third_owner_frees_everything_in_the_end() -> None:
    owner, middle, last = new_client(ME), new_client(OTHER), new_client(INNER)
    everybody = {ME: owner, OTHER: middle, INNER: last}
    tell(owner, Put(o(1), sealed(1)))
    effects = tell(middle, Hold(o(1)), Put(theirs(1), b"[o1]", (o(1),)), Register(b"ok", (o(1),)))
    pass_on(OTHER, effects, everybody)
    effects = tell(last, Hold(theirs(1)), Register(b"ok", (theirs(1),)), Want(theirs(1)))
    assert pass_on(INNER, effects, everybody) == [
        (INNER, Reply(b"ok", BorrowerAdded((theirs(1),)))),
        (INNER, Resolve(theirs(1), b"[o1]")),
    ]
    pass_on(OTHER, tell(middle, Drop((o(1),)), Drop((theirs(1),))), everybody)
    assert pass_on(ME, tell(owner, Drop((o(1),))), everybody) == []
    assert pass_on(INNER, tell(last, Drop((theirs(1),))), everybody) == [
        (ME, Send(NODE, FreeObjects((o(1),))))
    ]
    for client in everybody.values():
        assert client.references.objects.owned == {}
        assert client.references.objects.borrowed == {}


def test_without_a_node_no_value_and_no_owner_is_waited_for() -> None:
    client = borrowing(1)
    tell(client, Want(theirs(1)), Hold(theirs(2)), Register(b"ok", (theirs(2),)), Hold(theirs(3)))
    lost = Failure("cluster", "the node is gone: killed")
    assert tell(client, PeerLost(NODE, "killed")) == [
        Resolve(theirs(1), lost),
        Reply(b"ok", BorrowerAdded((theirs(2),))),
    ]
    assert tell(client, Want(theirs(3))) == [Resolve(theirs(3), lost)]


def test_a_worker_that_is_gone_is_not_told_that_its_refs_were_taken() -> None:
    client = new_client()
    leased(client, W1)
    tell(client, submit(1))
    result = done(1, contained=((theirs(1),),))
    assert Send(OTHER, AddBorrower((theirs(1),))) in hear(client, W1, CallsDone(1, [result]))
    assert Hangup(W1) in tell(client, Drained(W1))
    assert hear(client, OTHER, BorrowerAdded((theirs(1),))) == []


def test_of_those_who_are_gone_only_the_latest_are_remembered() -> None:
    client = new_client()
    for number in range(DEAD_MAX + 5):
        hear(client, NODE, ClientDied(Incarnation(number.to_bytes(8, "big"))))
    assert not client.references.is_dead(ObjectId((4).to_bytes(8, "big") + bytes(8)))
    assert client.references.is_dead(ObjectId((5).to_bytes(8, "big") + bytes(8)))
    assert client.references.is_dead(ObjectId((DEAD_MAX + 4).to_bytes(8, "big") + bytes(8)))
