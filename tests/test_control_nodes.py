"""The control store's machine: where actors go, nodes that die, and its own restarts."""

from random import Random

import pytest
from msgspec.structs import replace

from fabric.config import Limits
from fabric.core.control.control import ControlMachine
from fabric.core.control.placement import Candidate, choose_node, misfit_text
from fabric.core.effects import Commit, Effect, Hangup, Publish, Send
from fabric.core.events import SELF, PeerLost
from fabric.ids import Incarnation
from fabric.protocol.cluster import (
    EndJob,
    GetView,
    LeaveNode,
    NodeFenced,
    NodeHeartbeat,
    NodeJoined,
    RegisterJob,
    ViewChanged,
)
from fabric.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorStarted,
    AnyMessage,
    CreateActor,
    EndActor,
    GetFunction,
    JoinNode,
    PlaceActor,
    PutFunction,
    StopActor,
    WatchActor,
)
from fabric.protocol.records import EpochRecord, NodeRecord
from fabric.protocol.values import ActorSpec, ActorView, Failure
from tests.control_words import (
    CLUSTER,
    COUNTER,
    CRASH,
    DRIVER,
    JOB,
    KILLED,
    LIMITS,
    N1,
    N2,
    NODE1,
    NODE2,
    NOWHERE,
    OTHER_DRIVER,
    WORKER,
    Tables,
    actor_id,
    alive,
    failed,
    incarnation,
    job_view,
    keep,
    new_machine,
    news,
    node_view,
    published,
    record,
    rows,
    sends,
    shape,
    spec,
    started,
    turn,
    view,
    with_actor,
    with_node,
)

# -- where it goes


def test_an_actor_that_no_node_can_ever_run_is_dead_with_the_numbers() -> None:
    machine = with_node()
    greedy = spec(shape=shape(CPU=8, GPU=0.5))
    text = (
        "no node can run the actor Counter: it needs CPU 8, GPU 0.5; the best node has CPU 4, GPU 0"
    )
    dead = view(greedy, "dead", node=NOWHERE, failure=Failure("unschedulable", text))
    effects = turn(machine, (NODE1, CreateActor(greedy)))
    assert effects == [
        Commit((("actors", greedy.actor_id, record(replace(greedy, args=b"", inputs=()), dead)),)),
        Send(NODE1, ActorChanged(dead)),
        published(2, dead),
    ]


def test_an_actor_that_no_node_can_run_yet_waits_for_the_grace() -> None:
    machine = with_node(Limits(unschedulable_grace_s=3.0, node_dead_s=1000.0))
    large = spec(shape=shape(CPU=8))
    assert sends(turn(machine, (NODE1, CreateActor(large)))) == [
        Send(NODE1, ActorChanged(view(large, node=NOWHERE)))
    ]
    grown = node_view(N2, cpus=8, free=8)
    effects = turn(machine, (NODE2, JoinNode(grown)), now=2.0)
    assert Send(NODE2, PlaceActor(1, large)) in effects
    larger = spec(2, shape=shape(CPU=9))
    turn(machine, (NODE1, CreateActor(larger)), now=2.0)
    assert machine.waits.deadline() == 5.0
    assert [each.state for each in news(turn(machine, now=5.0))[0].actors] == ["dead"]


def test_actors_sent_between_two_heartbeats_are_spread() -> None:
    machine = with_node()
    turn(machine, (NODE2, JoinNode(node_view(N2))))
    effects = turn(machine, *[(NODE1, CreateActor(spec(number))) for number in range(1, 5)])
    placed = [
        each.peer
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, PlaceActor)
    ]
    assert placed == [NODE1, NODE2, NODE1, NODE2]


def candidate(node: int, cpus: float, free: float, load: int = 0, **more: float) -> Candidate:
    totals = dict(shape(CPU=cpus, **more).amounts)
    return Candidate(incarnation(node), totals, {**totals, **dict(shape(CPU=free).amounts)}, load)


@pytest.mark.parametrize(
    ("asked", "candidates", "chosen"),
    [
        ({}, [], None),
        ({}, [candidate(1, 4, 1), candidate(2, 4, 3)], 2),
        ({}, [candidate(1, 4, 4, load=2), candidate(2, 4, 4, load=1)], 2),
        ({}, [candidate(1, 4, 4), candidate(2, 8, 8)], 1),
        ({"CPU": 2}, [candidate(1, 4, 4), candidate(2, 16, 12)], 2),
        ({"CPU": 2}, [candidate(1, 1, 1), candidate(2, 2, 0)], 2),
        ({"CPU": 2}, [candidate(1, 1, 1)], None),
        ({"GPU": 1}, [candidate(1, 64, 64), candidate(2, 1, 0, GPU=1)], 2),
        ({"disk": 0}, [candidate(1, 0, 0)], 1),
    ],
)
def test_placement_takes_the_node_with_the_most_room_left(
    asked: dict[str, float], candidates: list[Candidate], chosen: int | None
) -> None:
    expected = None if chosen is None else incarnation(chosen)
    assert choose_node(shape(**asked), candidates) == expected


def test_a_misfit_says_what_is_asked_and_what_the_best_node_has() -> None:
    asked = shape(CPU=4, GPU=1)
    small, large = candidate(1, 8, 8).totals, candidate(2, 2, 2, GPU=4).totals
    needs = "no node can run the actor A: it needs CPU 4, GPU 1"
    assert misfit_text("A", asked, []) == f"{needs}; there is no node"
    assert misfit_text("A", asked, [small, large]) == f"{needs}; the best node has CPU 2, GPU 4"


# -- nodes that die


def two_nodes(of: ActorSpec) -> ControlMachine:
    """An actor of the first node's driver lives on the second; the next publication is number 5."""
    machine = with_node()
    turn(machine, (NODE1, CreateActor(of)))
    turn(machine, (NODE1, failed(of, failure=CRASH)), (NODE2, JoinNode(node_view(N2))))
    turn(machine, (NODE2, started(of, 2)))
    return machine


def test_any_word_of_a_node_proves_that_it_lives() -> None:
    machine = with_node()
    turn(machine, (NODE1, GetView(b"")), now=4.0)
    assert turn(machine, (NODE1, NodeHeartbeat(node_view())), now=8.0)
    assert machine.nodes.deadline() == 8.0 + LIMITS.node_dead_s


def test_a_silent_node_is_dead_and_its_actors_live_on_elsewhere() -> None:
    again = spec(restarts_max=2, is_detached=True)
    machine = with_actor(again)
    turn(machine, (NODE2, JoinNode(node_view(N2))))
    turn(machine, (NODE2, NodeHeartbeat(node_view(N2))), now=4.0)
    gone = node_view(available=(), state="dead")
    lost = Failure("actor_unavailable", f"its node {N1.hex()} on box was silent for 5 s")
    unseen = view(again, "restarting", 3, node=N2, restarts=1, failure=lost)
    assert turn(machine, now=5.0) == [
        Commit(
            (
                ("nodes", N1, NodeRecord(gone)),
                ("actors", again.actor_id, record(again, unseen)),
            )
        ),
        Send(NODE2, PlaceActor(3, again)),
        Publish(ViewChanged(1, 6, (gone,), (unseen,))),
    ]


def test_what_only_the_dead_nodes_clients_answered_for_ends() -> None:
    theirs = spec(restarts_max=-1)
    machine = with_node()
    turn(machine, (NODE2, JoinNode(node_view(N2, cpus=8, free=8))))
    turn(machine, (NODE1, RegisterJob(job_view(), JOB)), (NODE1, CreateActor(theirs)))
    on_two = spec(2, restarts_max=-1, shape=shape(CPU=6))
    turn(machine, (NODE1, CreateActor(on_two)))
    turn(machine, (NODE2, NodeHeartbeat(node_view(N2, cpus=8, free=8))), now=4.0)
    effects = turn(machine, (SELF, PeerLost(NODE1, "its process is gone")), now=4.0)  # type: ignore[arg-type]
    orphaned = Failure(
        "actor_died",
        f"its creator was lost with node {N1.hex()} on box, which was lost: its process is gone",
    )
    assert sends(effects) == [Send(NODE2, StopActor(on_two.actor_id, 1, orphaned))]
    assert list(machine.actors.living) == []
    assert [each.state for each in machine.jobs.views()] == ["ended"]


def test_an_actor_whose_node_died_before_it_was_alive_is_placed_again_for_free() -> None:
    lasting = spec(is_detached=True)
    machine = with_node()
    turn(machine, (NODE1, CreateActor(lasting)))
    turn(machine, (NODE2, JoinNode(node_view(N2))), now=4.0)
    effects = turn(machine, now=5.0)
    assert sends(effects) == [Send(NODE2, PlaceActor(2, lasting))]
    assert news(effects)[0].actors == (view(lasting, life=2, node=N2),)


def test_a_dead_node_that_speaks_is_fenced_whatever_it_says_and_cannot_come_back() -> None:
    machine = with_node()
    turn(machine, now=LIMITS.node_dead_s)
    for word in (NodeHeartbeat(node_view()), CreateActor(COUNTER), JoinNode(node_view())):
        assert turn(machine, (NODE1, word), now=6.0) == [Commit(()), Send(NODE1, NodeFenced())]
    assert machine.actors.get(COUNTER.actor_id) is None


def test_a_stranger_that_did_not_join_is_fenced() -> None:
    machine = with_node()
    assert sends(turn(machine, (NODE2, NodeHeartbeat(node_view(N2))))) == [
        Send(NODE2, NodeFenced())
    ]


def test_the_link_of_a_dead_node_is_given_up_in_the_end() -> None:
    machine = with_node()
    turn(machine, now=5.0)
    due = machine.deadline()
    assert due == 5.0 + 10 * LIMITS.node_dead_s
    assert turn(machine, now=due) == [Hangup(NODE1)]
    assert machine.deadline() is None


def test_a_control_store_that_was_held_up_itself_does_not_take_it_for_silence() -> None:
    machine = with_node()
    late = LIMITS.node_dead_s + 20.0
    assert news(turn(machine, now=late)) == [ViewChanged(1, 2)]
    assert machine.nodes.deadline() == late + LIMITS.node_heartbeat_s
    assert news(turn(machine, now=late + 1.0))[0].nodes[0].state == "dead"


def test_dead_nodes_are_remembered_up_to_a_limit() -> None:
    machine = with_node(Limits(dead_nodes_max=1))
    turn(machine, (NODE2, JoinNode(node_view(N2))), now=1.0)
    turn(machine, now=5.0)
    assert ("nodes", N1, None) in rows(turn(machine, now=6.0))
    assert list(machine.nodes.dead) == [N2]


# -- its own restarts


def tables_of(*turns: list[Effect]) -> Tables:
    """What the journal has after these turns."""
    tables: Tables = {}
    for effects in turns:
        keep(tables, effects)
    return tables


def restarted(of: ActorSpec, seen: ActorView, stopped: int = 0) -> ControlMachine:
    """A control store in its second epoch that knows one node and one actor."""
    return new_machine(
        {
            "meta": {b"epoch": EpochRecord(CLUSTER, 1)},
            "nodes": {N1: NodeRecord(node_view())},
            "actors": {of.actor_id: record(of, seen, stopped=stopped)},
        },
        epoch=2,
        now=100.0,
    )


def test_after_a_restart_every_node_gets_its_full_time() -> None:
    machine = restarted(COUNTER, alive())
    assert turn(machine, now=100.0) == [Commit((("meta", b"epoch", EpochRecord(CLUSTER, 2)),))]
    assert machine.deadline() == 105.0
    assert turn(machine, now=104.9) == []
    assert news(turn(machine, now=105.0))[0].nodes[0].state == "dead"


def test_after_a_restart_a_living_actor_goes_on_where_its_node_says_that_it_lives() -> None:
    machine = restarted(COUNTER, alive())
    effects = turn(machine, (NODE1, JoinNode(node_view(), (started(COUNTER),))), now=100.0)
    assert sends(effects) == [Send(NODE1, NodeJoined(2, CLUSTER))]
    assert news(effects) == [ViewChanged(2, 1)]
    assert machine.tables.view(b"").actors == (alive(),)


def test_after_a_restart_an_actor_that_its_node_lost_has_had_an_end_that_nobody_saw() -> None:
    again = spec(restarts_max=1)
    machine = restarted(again, alive(again))
    effects = turn(machine, (NODE1, JoinNode(node_view())), now=100.0)
    assert sends(effects) == [
        Send(NODE1, NodeJoined(2, CLUSTER)),
        Send(NODE1, PlaceActor(3, again)),
    ]
    assert turn(machine, (NODE1, JoinNode(node_view())), now=100.0) == [
        Commit(()),
        Send(NODE1, NodeJoined(2, CLUSTER)),
    ]


def test_after_a_restart_nodes_are_told_again_what_to_begin_and_what_to_end() -> None:
    machine = restarted(COUNTER, view(COUNTER))
    effects = turn(machine, (NODE1, JoinNode(node_view())), now=100.0)
    assert sends(effects)[1:] == [Send(NODE1, PlaceActor(1, COUNTER))]
    again = spec(restarts_max=1)
    machine = restarted(again, alive(again), stopped=1)
    effects = turn(machine, (NODE1, JoinNode(node_view(), (started(again),))), now=100.0)
    told = Failure("actor_died", "it was told to end")
    assert sends(effects)[1:] == [Send(NODE1, StopActor(again.actor_id, 1, told))]


def test_after_a_restart_a_life_that_is_over_or_unknown_is_told_to_end() -> None:
    machine = restarted(COUNTER, alive(state="dead"))
    there = (started(COUNTER), started(spec(2)))
    effects = turn(machine, (NODE1, JoinNode(node_view(), there)), now=100.0)
    over = Failure("actor_died", "this life of the actor is over")
    assert sends(effects)[1:] == [
        Send(NODE1, StopActor(COUNTER.actor_id, 1, over)),
        Send(NODE1, StopActor(actor_id(2), 1, over)),
    ]


def test_a_life_that_the_journal_lost_is_taken_from_the_node_that_has_it() -> None:
    again = spec(restarts_max=3)
    machine = restarted(again, alive(again))
    there = (started(again, 4, worker=0xB4),)
    effects = turn(machine, (NODE1, JoinNode(node_view(), there)), now=100.0)
    assert news(effects)[0].actors == (alive(again, 4, worker="w:00000000000000b4"),)


def test_an_actor_that_waited_for_a_node_waits_on_after_a_restart() -> None:
    machine = restarted(COUNTER, view(COUNTER, node=NOWHERE))
    turn(machine, now=100.0)
    effects = turn(machine, (NODE1, JoinNode(node_view())), now=101.0)
    assert Send(NODE1, PlaceActor(1, COUNTER)) in effects


# -- everything at once


class Crowd:
    """Nodes and clients that say anything at any time, drawn from a seed; and a journal."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.tables: Tables = {}
        self.epoch = 0
        self.now = 0.0
        self.nodes = [NODE1]
        self.orders: list[tuple[object, PlaceActor | StopActor]] = []  # heard by nodes
        self.lives: dict[tuple[object, object], ActorStarted] = {}  # (node, actor) -> life there
        self.trace: list[Effect] = []
        self.restart()

    def restart(self) -> None:
        """The control store dies and comes back; what nodes had heard is theirs to tell."""
        self.epoch += 1
        self.orders.clear()
        limits = Limits(dead_actors_max=3, ended_jobs_max=1, dead_nodes_max=2, answers_kept_max=3)
        self.machine = new_machine(self.tables, epoch=self.epoch, limits=limits, now=self.now)
        for node in list(self.nodes):
            there = [one for (where, _), one in self.lives.items() if where == node]
            listed = tuple(one for one in there if self.random.random() < 0.8)
            self.turn((node, JoinNode(node_view(_of(node)), listed)))

    def turn(self, *said: tuple[object, AnyMessage]) -> None:
        """One turn; the journal is the image of the tables after each."""
        effects = turn(self.machine, *said, now=self.now)  # type: ignore[arg-type]
        self.trace += effects
        keep(self.tables, effects)
        actors = {row.actor_id: row.record() for row in self.machine.actors.rows()}
        assert self.tables.get("actors", {}) == actors
        for each in effects:
            if isinstance(each, Send) and isinstance(each.message, PlaceActor | StopActor):
                self.orders.append((each.peer, each.message))
            if isinstance(each, Send) and isinstance(each.message, NodeFenced):
                self.nodes = [node for node in self.nodes if node != each.peer]
        if any(isinstance(each, Send | Publish) for each in effects):
            assert isinstance(effects[0], Commit)

    def answer(self) -> tuple[object, AnyMessage] | None:
        """A node does what it was told, or its worker dies on it."""
        if not self.orders:
            return None
        node, order = self.orders.pop(0)
        if isinstance(order, StopActor):
            failure, life, of = order.failure, order.incarnation, order.actor_id
            self.lives.pop((node, of), None)
            return node, ActorFailed(of, life, failure, True)
        life, of = order.incarnation, order.spec.actor_id
        if self.random.random() < 0.7:
            lease = self.random.randrange(1, 1000)
            worker = started(COUNTER, worker=lease).worker
            self.lives[node, of] = ActorStarted(of, life, worker, lease)
            return node, self.lives[node, of]
        return node, ActorFailed(of, life, CRASH, self.random.random() < 0.9)

    def request(self) -> tuple[object, AnyMessage]:
        """A client asks for anything."""
        pick = self.random.choice
        client = pick([DRIVER, OTHER_DRIVER, WORKER])
        of = spec(
            self.random.randrange(1, 9),
            client,
            name=pick(["", "a", "b"]),
            is_detached=pick([True, False]),
            restarts_max=pick([0, 1, -1]),
            get_if_exists=pick([True, False]),
            shape=shape(CPU=pick([0, 1, 3, 9])),
        )
        words: list[AnyMessage] = [
            CreateActor(of),
            CreateActor(of),
            EndActor(of.actor_id, KILLED, pick([True, False])),
            WatchActor(of.actor_id),
            GetView(b"x"),
            RegisterJob(job_view(), JOB),
            PutFunction(COUNTER.function, "Counter", b"pickled"),
            GetFunction(COUNTER.function),
            NodeHeartbeat(node_view()),
        ]
        if self.random.random() < 0.05:
            words = [EndJob(JOB.job, client)]
        return pick(self.nodes or [NODE1]), pick(words)

    def step(self) -> None:
        """Some words, some of them twice, some time."""
        said = [self.answer() or self.request(), self.request()]
        said += [each for each in said if isinstance(each[1], CreateActor | EndActor | EndJob)]
        words = [(node, _by(node, word)) for node, word in said]
        self.now += self.random.choice([0.0, 0.01, 1.0])
        alive_nodes = [node for node in self.nodes if self.random.random() < 0.95]
        beats = [(node, NodeHeartbeat(node_view(_of(node)))) for node in alive_nodes]
        self.turn(*beats, *words)
        chance = self.random.random()
        if chance < 0.03:
            self.restart()
        elif chance < 0.06:
            node = f"n:{len(self.trace) + 0x1000:016x}"
            self.nodes.append(node)  # type: ignore[arg-type]
            self.turn((node, JoinNode(node_view(_of(node)))))
        elif chance < 0.08 and len(self.nodes) > 1:
            self.turn((SELF, PeerLost(self.nodes.pop(0), "gone")))  # type: ignore[arg-type]


def _of(node: object) -> Incarnation:
    return Incarnation(bytes.fromhex(str(node)[2:]))


def _by(node: object, word: AnyMessage) -> AnyMessage:
    return NodeHeartbeat(node_view(_of(node))) if isinstance(word, NodeHeartbeat) else word


@pytest.mark.sim
@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_said_the_tables_stay_sound_and_the_journal_is_their_image(seed: int) -> None:
    crowd = Crowd(seed)
    for _ in range(120):
        crowd.step()
    again = Crowd(seed)
    for _ in range(120):
        again.step()
    assert crowd.trace == again.trace


def test_a_node_that_leaves_is_dead_at_once() -> None:
    machine = with_actor()
    gone = node_view(available=(), state="dead")
    effects = turn(machine, (NODE1, LeaveNode()))
    assert rows(effects)[0] == ("nodes", N1, NodeRecord(gone))
    assert [one.nodes for one in news(effects)] == [(gone,)]
    assert machine.snapshot()["nodes"] == 0
