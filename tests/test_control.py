"""The control store's machine: actors, their lives, their names, and who watches them."""

import pytest
from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.control.actors import TRANSITIONS
from fabric.core.effects import Commit, Publish, Send
from fabric.core.machine import InvariantError
from fabric.ids import CallId, call_id, call_of
from fabric.protocol.cluster import EndJob, GetView, NodeHeartbeat, NodeJoined, ViewChanged
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorRefused,
    ActorStarted,
    AnyMessage,
    CreateActor,
    EndActor,
    GetNamedActor,
    JoinNode,
    NamedActor,
    PlaceActor,
    RunCalls,
    StopActor,
    WatchActor,
)
from fabric.protocol.records import EpochRecord, NodeRecord
from fabric.protocol.values import ActorView, Failure
from tests.control_words import (
    CLUSTER,
    COUNTER,
    CRASH,
    DRIVER,
    HALF_WAY,
    JOB,
    KILLED,
    N1,
    N2,
    NODE1,
    NODE2,
    actor_id,
    alive,
    failed,
    new_machine,
    news,
    node_view,
    published,
    record,
    rows,
    sends,
    spec,
    started,
    turn,
    view,
    with_actor,
    with_node,
)

# -- the first turn


def test_the_first_turn_commits_its_epoch_before_anything_is_said() -> None:
    machine = new_machine(epoch=7)
    assert machine.deadline() == 0.0
    assert machine.handle(NODE1, JoinNode(node_view()), 0.0) == []
    assert machine.tick(0.0) == [
        Commit(
            (
                ("meta", b"epoch", EpochRecord(CLUSTER, 7)),
                ("nodes", N1, NodeRecord(node_view())),
            )
        ),
        Send(NODE1, NodeJoined(7, CLUSTER)),
        Publish(ViewChanged(7, 1, nodes=(node_view(),))),
    ]


def test_without_a_word_it_says_nothing_and_asks_for_no_turn() -> None:
    machine = new_machine()
    assert turn(machine) == [Commit((("meta", b"epoch", EpochRecord(CLUSTER, 1)),))]
    assert turn(machine, now=100.0) == []
    assert machine.deadline() is None


# -- the life of an actor


def test_a_new_actor_is_reserved_placed_and_answered_in_one_turn() -> None:
    machine = with_node()
    assert turn(machine, (NODE1, CreateActor(COUNTER))) == [
        Commit((("actors", COUNTER.actor_id, record(COUNTER, view(COUNTER))),)),
        Send(NODE1, PlaceActor(1, COUNTER)),
        Send(NODE1, ActorChanged(view(COUNTER))),
        published(2, view(COUNTER)),
    ]


def test_an_actor_whose_constructor_returned_is_alive_for_everybody() -> None:
    machine = with_node()
    turn(machine, (NODE1, CreateActor(COUNTER)))
    assert turn(machine, (NODE1, started(COUNTER))) == [
        Commit((("actors", COUNTER.actor_id, record(COUNTER, alive())),)),
        published(3, alive()),
    ]


def test_an_actor_with_a_restart_left_gets_another_life_and_keeps_what_the_last_one_ran() -> None:
    again = spec(restarts_max=1)
    machine = with_actor(again)
    second = view(again, "restarting", 2, restarts=1, failure=CRASH, progress=HALF_WAY)
    assert turn(machine, (NODE1, failed(again))) == [
        Commit((("actors", again.actor_id, record(again, second)),)),
        Send(NODE1, PlaceActor(2, again)),
        published(4, second),
    ]
    back = alive(again, 2, restarts=1, failure=CRASH, progress=HALF_WAY)
    assert turn(machine, (NODE1, started(again, 2))) == [
        Commit((("actors", again.actor_id, record(again, back)),)),
        published(5, back),
    ]


def test_an_actor_without_a_restart_left_is_dead_of_its_workers_end() -> None:
    machine = with_actor()
    died = Failure("actor_died", f"the actor Counter died: {CRASH.text}")
    dead = alive(failure=died, progress=HALF_WAY)
    dead = replace(dead, state="dead")
    forgotten = replace(COUNTER, args=b"", inputs=())
    assert turn(machine, (NODE1, failed())) == [
        Commit((("actors", COUNTER.actor_id, record(forgotten, dead)),)),
        published(4, dead),
    ]


def test_a_constructor_that_raised_ends_the_actor_with_the_users_error() -> None:
    raised = Failure("task", "ValueError: no", b"pickled")
    again = spec(restarts_max=-1)
    machine = with_node()
    turn(machine, (NODE1, CreateActor(again)))
    no_more = failed(again, failure=raised, may_restart=False, progress=())
    assert news(turn(machine, (NODE1, no_more))) == [
        ViewChanged(1, 3, actors=(view(again, "dead", failure=raised),))
    ]


def test_restarts_without_end_wait_longer_after_each_short_life() -> None:
    endless = spec(restarts_max=-1)
    machine = with_actor(endless)
    waited = []
    now = 0.0
    for life in range(1, 13):
        effects = turn(machine, (NODE1, failed(endless, life)), now=now)
        fell = now
        while not any(isinstance(each, Send) for each in effects):
            due = machine.deadline()
            assert due is not None
            now = due
            effects = turn(machine, (NODE1, NodeHeartbeat(node_view())), now=now)
        waited.append(now - fell)
        turn(machine, (NODE1, started(endless, life + 1)), now=now)
    assert waited[0] == 0.0
    assert 0.0 < waited[1] <= Limits().actor_restart_s
    assert Limits().actor_restart_max_s / 2 <= waited[-1] <= Limits().actor_restart_max_s
    settled = now + Limits().actor_settled_s
    turn(machine, (NODE1, NodeHeartbeat(node_view())), now=settled)
    assert sends(turn(machine, (NODE1, failed(endless, 13)), now=settled))


def test_a_node_that_does_not_answer_is_told_again() -> None:
    machine = with_node(Limits(node_dead_s=1000.0))
    turn(machine, (NODE1, CreateActor(COUNTER)))
    due = Limits().actor_start_s
    assert sends(turn(machine, now=due)) == [Send(NODE1, PlaceActor(1, COUNTER))]
    turn(machine, (NODE1, started(COUNTER)), now=due)
    assert sends(turn(machine, now=2 * due)) == []


@pytest.mark.parametrize("word", [started(COUNTER, 1), failed(life=1)])
def test_words_about_an_old_life_change_nothing(word: ActorStarted | ActorFailed) -> None:
    again = spec(restarts_max=1)
    machine = with_actor(again)
    turn(machine, (NODE1, failed(again)))
    effects = turn(machine, (NODE1, word))
    assert rows(effects) == []
    assert news(effects) == []


def test_an_old_life_that_begins_too_late_is_told_to_end() -> None:
    machine = with_node()
    turn(machine, (NODE1, CreateActor(COUNTER)), (NODE1, EndActor(COUNTER.actor_id, KILLED, False)))
    over = Failure("actor_died", "this life of the actor is over")
    assert sends(turn(machine, (NODE1, started(COUNTER)))) == [
        Send(NODE1, StopActor(COUNTER.actor_id, 1, over))
    ]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (NODE1, started(COUNTER, 2)),
        (NODE1, failed(life=2)),
        (NODE1, started(COUNTER, 1, worker=0xB2)),
        (NODE2, failed()),
    ],
)
def test_a_word_that_cannot_be_true_raises_with_the_story(source: str, word: AnyMessage) -> None:
    machine = with_actor()
    turn(machine, (NODE2, JoinNode(node_view(N2))))
    with pytest.raises(InvariantError, match=r"created \(1\), placed \(1\), started \(1\)"):
        turn(machine, (source, word))  # type: ignore[arg-type]


def test_words_that_are_not_for_the_control_store_raise() -> None:
    machine = with_node()
    with pytest.raises(InvariantError, match="RunCalls"):
        turn(machine, (NODE1, RunCalls(1, 0, [])))
    with pytest.raises(InvariantError, match="c:"):
        turn(machine, ("c:" + DRIVER.hex(), GetView(b"")))  # type: ignore[arg-type]


def test_every_state_of_an_actor_can_be_left_except_death() -> None:
    states = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == {"new", "pending", "alive", "restarting", "dead"}
    assert {state for state, _ in TRANSITIONS} == states - {"dead"}
    assert all((state, "ended") in TRANSITIONS for state in states - {"dead", "new"})


# -- ending actors


def test_a_killed_actor_is_dead_at_once_and_its_node_is_told() -> None:
    named = spec(name="n", restarts_max=-1)
    machine = with_actor(named)
    dead = replace(alive(named, failure=KILLED), state="dead")
    assert turn(machine, (NODE1, EndActor(named.actor_id, KILLED, may_restart=False))) == [
        Commit((("actors", named.actor_id, record(replace(named, args=b"", inputs=()), dead)),)),
        Send(NODE1, StopActor(named.actor_id, 1, KILLED)),
        published(4, dead),
    ]
    assert turn(machine, (NODE1, failed(named, failure=KILLED))) == []


def test_an_actor_killed_with_restart_lives_on_until_its_node_has_ended_that_life() -> None:
    again = spec(restarts_max=1)
    machine = with_actor(again)
    kill = EndActor(again.actor_id, KILLED, may_restart=True)
    assert turn(machine, (NODE1, kill)) == [
        Commit((("actors", again.actor_id, record(again, alive(again), stopped=1)),)),
        Send(NODE1, StopActor(again.actor_id, 1, KILLED)),
        published(4, alive(again)),
    ]
    assert turn(machine, (NODE1, kill)) == []
    effects = turn(machine, (NODE1, failed(again, failure=KILLED)))
    assert sends(effects) == [Send(NODE1, PlaceActor(2, again))]


def test_an_end_that_overtakes_the_creation_wins() -> None:
    machine = with_node()
    turn(machine, (NODE1, EndActor(COUNTER.actor_id, KILLED, may_restart=False)))
    assert turn(machine, (NODE1, CreateActor(COUNTER))) == [
        Commit(()),
        Send(NODE1, ActorRefused(COUNTER.actor_id, KILLED)),
    ]


def test_dead_actors_are_remembered_up_to_a_limit() -> None:
    machine = with_node(Limits(dead_actors_max=2))
    tables: dict[bytes, object] = {}
    for number in range(1, 6):
        end = EndActor(actor_id(number), KILLED, may_restart=False)
        for _, key, row in rows(turn(machine, (NODE1, CreateActor(spec(number))), (NODE1, end))):
            tables[key] = row
    assert [key for key, row in tables.items() if row is not None] == [actor_id(4), actor_id(5)]
    assert list(machine.actors.dead) == [actor_id(4), actor_id(5)]


def test_who_dies_and_is_forgotten_in_the_same_turn_is_published() -> None:
    machine = with_actor(limits=Limits(dead_actors_max=0))
    dead = alive(state="dead", failure=KILLED)
    assert turn(machine, (NODE1, EndActor(COUNTER.actor_id, KILLED, may_restart=False))) == [
        Commit((("actors", COUNTER.actor_id, None),)),
        Send(NODE1, StopActor(COUNTER.actor_id, 1, KILLED)),
        published(4, dead),
    ]
    assert list(machine.actors.rows()) == []


# -- names


def test_a_name_belongs_to_one_living_actor_and_is_free_when_it_is_dead() -> None:
    first, second = spec(1, name="n"), spec(2, name="n")
    machine = with_actor(first)
    taken = Failure(
        "name_taken", "a living actor of class Counter has the name 'n' in namespace 'space'"
    )
    assert turn(machine, (NODE1, CreateActor(second))) == [
        Commit(()),
        Send(NODE1, ActorRefused(second.actor_id, taken)),
    ]
    turn(machine, (NODE1, EndActor(first.actor_id, KILLED, may_restart=False)))
    third = spec(3, name="n")
    assert Send(NODE1, PlaceActor(1, third)) in turn(machine, (NODE1, CreateActor(third)))
    assert sends(turn(machine, (NODE1, CreateActor(second)))) == [
        Send(NODE1, ActorRefused(second.actor_id, taken))
    ]


def test_the_same_name_in_another_namespace_is_another_name() -> None:
    elsewhere = spec(2, name="n", job=replace(JOB, namespace="other"))
    machine = with_actor(spec(1, name="n"))
    assert Send(NODE1, PlaceActor(1, elsewhere)) in turn(machine, (NODE1, CreateActor(elsewhere)))


def test_get_if_exists_is_answered_with_the_actor_there_is_also_when_asked_again() -> None:
    first = spec(1, name="n", get_if_exists=True)
    second = spec(2, name="n", get_if_exists=True)
    machine = with_node()
    assert Send(NODE1, ActorChanged(view(first))) in turn(machine, (NODE1, CreateActor(first)))
    offer = Send(NODE1, NamedActor(call_of(second.actor_id), replace(first, args=b"", inputs=())))
    assert turn(machine, (NODE1, CreateActor(second))) == [Commit(()), offer]
    turn(machine, (NODE1, EndActor(first.actor_id, KILLED, may_restart=False)))
    assert turn(machine, (NODE1, CreateActor(second))) == [Commit(()), offer]


def test_who_asks_for_a_name_gets_the_spec_without_the_arguments_or_nothing() -> None:
    named = spec(name="n")
    machine = with_actor(named)
    request = CallId(call_id(DRIVER, 9))
    known = replace(named, args=b"", inputs=())
    assert sends(turn(machine, (NODE1, GetNamedActor(request, "n", "space")))) == [
        Send(NODE1, NamedActor(request, known))
    ]
    assert sends(turn(machine, (NODE1, GetNamedActor(request, "m", "space")))) == [
        Send(NODE1, NamedActor(request, None))
    ]


# -- watching


def test_who_watches_hears_what_the_actor_is_at_the_end_of_the_turn() -> None:
    machine = with_node()
    turn(machine, (NODE1, CreateActor(COUNTER)))
    effects = turn(machine, (NODE1, WatchActor(COUNTER.actor_id)), (NODE1, started(COUNTER)))
    assert sends(effects) == [Send(NODE1, ActorChanged(alive()))]


def test_a_question_about_an_actor_not_made_yet_is_answered_when_it_is() -> None:
    machine = with_node()
    assert turn(machine, (NODE1, WatchActor(COUNTER.actor_id))) == []
    effects = turn(machine, (NODE1, CreateActor(COUNTER)))
    assert sends(effects).count(Send(NODE1, ActorChanged(view(COUNTER)))) == 1


def test_a_question_about_an_actor_never_made_is_answered_when_its_creator_ends() -> None:
    machine = with_node()
    turn(machine, (NODE1, WatchActor(COUNTER.actor_id)))
    gone = Failure("actor_died", "its creator has ended")
    never = ActorView(COUNTER.actor_id, "dead", 1, "", failure=gone)
    assert sends(turn(machine, (NODE1, EndJob(JOB.job, DRIVER)))) == [
        Send(NODE1, ActorChanged(never))
    ]
    assert sends(turn(machine, (NODE1, WatchActor(COUNTER.actor_id)))) == [
        Send(NODE1, ActorChanged(never))
    ]
