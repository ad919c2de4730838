"""The loop: frames, threads and descriptors around an endpoint, with real sockets."""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
import zmq

from fabric.core.effects import Commit, Hangup, Publish, Send
from fabric.core.events import SELF, Leave, Want
from fabric.exceptions import ConfigError, FabricError, ForkedProcessError
from fabric.ids import Address, FunctionId, ObjectId
from fabric.protocol.cluster import ViewChanged
from fabric.protocol.messages import FunctionFound
from fabric.runtime import sockets
from fabric.runtime.loop import Loop
from fabric.runtime.poke import Poke
from tests.loop_party import C1, C2, N1, PATIENCE_S, S1, W1, Party, party, wait_for
from tests.loop_peers import Notes, asking, endpoint_of, saying

__all__ = ["party"]


def cut_connections_to(path: str) -> None:
    """Break this process's connections to a socket file, with whatever is under way on them."""
    for name in os.listdir("/proc/self/fd"):
        with ExitStack() as stack:
            stack.enter_context(suppress(OSError))  # closed since, or no connected socket
            found = stack.enter_context(socket.socket(fileno=os.dup(int(name))))
            if found.family == socket.AF_UNIX and found.getpeername() == path:
                found.shutdown(socket.SHUT_RDWR)


def is_poked(loop: Loop) -> bool:
    """Whether somebody raised the eventfd that wakes the loop."""
    poke = getattr(loop._wake, "__self__", None)
    assert isinstance(poke, Poke)
    return bool(select.select([poke.fd], [], [], 0)[0])


# -- who talks to whom


def test_a_client_dials_its_node_and_both_are_heard(party: Party) -> None:
    client, client_notes = party.join(C1)
    _, node_notes = party.join(N1)
    client.dial(N1)
    client.tell(saying(N1, 1))
    client.tell(saying(N1, 2))
    party.until(lambda: len(client_notes.heard) == 2)
    assert node_notes.heard == [(C1, asking(1)), (C1, asking(2))]
    assert client_notes.heard == [
        (N1, FunctionFound(FunctionId((1).to_bytes(16, "big")), "", b"")),
        (N1, FunctionFound(FunctionId((2).to_bytes(16, "big")), "", b"")),
    ]


@pytest.mark.parametrize(("own", "peer"), [(C1, N1), (C1, W1), (C1, C2), (W1, N1), (N1, S1)])
def test_speaking_to_a_peer_dials_it_where_our_kind_may(
    party: Party, own: Address, peer: Address
) -> None:
    loop, notes = party.join(own)
    party.join(peer)
    loop.tell(saying(peer, 7))
    party.until(lambda: notes.numbers() == [7])


@pytest.mark.parametrize(("own", "peer"), [(N1, C1), (N1, W1), (W1, C1), (S1, N1)])
def test_who_may_not_dial_is_heard_when_the_peer_has_dialed(
    party: Party, own: Address, peer: Address
) -> None:
    loop, notes = party.join(own)
    dialer, dialer_notes = party.join(peer)
    loop.tell(saying(peer, 1))
    loop.turn(0.0)
    assert dialer_notes.heard == []
    dialer.dial(own)
    dialer.tell(saying(own, 2))
    party.until(lambda: dialer_notes.numbers() and 1 in notes.numbers() and 2 in notes.numbers())
    assert sorted(dialer_notes.numbers()) == [1, 2]


def test_what_is_said_before_the_peer_listens_arrives_when_it_does(party: Party) -> None:
    client, client_notes = party.join(C1)
    for number in range(3):
        client.tell(saying(N1, number))
        client.turn(0.0)
    _, node_notes = party.join(N1)
    party.until(lambda: len(client_notes.heard) == 3)
    assert node_notes.numbers() == [0, 1, 2]


def test_two_clients_that_dial_each_other_at_once_hear_everything_once(party: Party) -> None:
    one, one_notes = party.join(C1)
    two, two_notes = party.join(C2)
    for number in range(5):
        one.tell(saying(C2, number))
        two.tell(saying(C1, number + 100))
    party.until(lambda: len(one_notes.heard) == 10 and len(two_notes.heard) == 10)
    assert [n for n in two_notes.numbers() if n < 100] == [0, 1, 2, 3, 4]
    assert sorted(one_notes.numbers()) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]


def test_more_frames_than_one_turn_hears_are_all_heard(party: Party) -> None:
    client, client_notes = party.join(C1)
    _, node_notes = party.join(N1)
    for number in range(2500):
        client.tell(saying(N1, number))
        client.turn(0.0)
    party.until(lambda: len(client_notes.heard) == 2500)
    assert node_notes.numbers() == list(range(2500))


def test_strangers_and_messages_of_many_frames_are_not_heard(party: Party) -> None:
    _, node_notes = party.join(N1)
    client, client_notes = party.join(C1)
    context = zmq.Context()
    nobody, chatterbox = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    chatterbox.routing_id = b"c:00000000000000c9"
    for dealer in (nobody, chatterbox):
        dealer.linger = 0
        dealer.connect("ipc://" + sockets.file_of(party.directory, N1))
        dealer.send_multipart([b"x", C1.encode(), b"y"])
        dealer.send(b"garbage")
    client.tell(saying(N1, 1))
    party.until(lambda: client_notes.numbers() == [1])
    assert node_notes.numbers() == [1]
    assert node_notes.events() == []
    context.destroy()


def test_a_line_that_was_cut_is_mended_and_nothing_is_lost_or_heard_twice(party: Party) -> None:
    client, client_notes = party.join(C1)
    _, node_notes = party.join(N1)
    client.tell(saying(N1, 0))
    party.until(lambda: client_notes.numbers() == [0])
    for number in range(1, 50):
        client.tell(saying(N1, number))
        client.turn(0.0)
        if number % 10 == 0:
            cut_connections_to(sockets.file_of(party.directory, N1))
        party.loops[1].turn(0.001)
    party.until(lambda: len(client_notes.heard) >= 50)
    assert node_notes.numbers() == list(range(50))
    assert client_notes.events() == []


def test_a_hangup_lets_out_what_was_said_before_it(party: Party) -> None:
    client, client_notes = party.join(C1)
    _, worker_notes = party.join(W1)
    client_notes.says = [Send(W1, asking(3)), Hangup(W1)]
    party.until(lambda: worker_notes.numbers() == [3])
    client.tell(saying(W1, 4))  # and the line can be made anew
    party.until(lambda: 4 in client_notes.numbers())
    assert worker_notes.numbers() == [3, 4]


def test_what_the_control_store_publishes_is_told_to_subscribers(party: Party) -> None:
    _, store_notes = party.join(S1, publishes=True)
    node, node_notes = party.join(N1)
    node.subscribe(S1)
    sequence = iter(range(1_000_000))

    def publish_again() -> bool:  # who subscribes hears from some later moment on
        store_notes.says = [Publish(ViewChanged(1, next(sequence)))]
        return len(node_notes.heard) >= 3

    party.until(publish_again)
    sources, changes = zip(*node_notes.heard, strict=True)
    assert set(sources) == {S1}
    first = changes[0].sequence
    assert changes == tuple(ViewChanged(1, first + i) for i in range(len(changes)))


def test_what_follows_a_commit_is_said_when_it_is_durable(party: Party) -> None:
    node, node_notes = party.join(N1)
    client, client_notes = party.join(C1)
    client.tell(saying(N1, 1))
    party.until(lambda: client_notes.numbers() == [1])
    commit = Commit(())
    node_notes.says = [commit, Send(C1, asking(2))]
    node.turn(0.0)
    assert party.performed == [commit]
    for _ in range(5):
        client.turn(0.01)
        node.turn(0.0)
    assert client_notes.numbers() == [1]
    node.committed(1)
    party.until(lambda: client_notes.numbers() == [1, 2])


def test_a_frame_that_nobody_may_hear_is_an_error_and_not_a_broken_line(party: Party) -> None:
    machine = Notes()
    loop = Loop(
        endpoint_of(C1, machine),
        party.context,
        party.directory,
        clock=party.clock,
        perform=party.performed.append,
        frame_bytes_max=1000,
    )
    party.loops.append(loop)
    machine.says = [Send(N1, FunctionFound(FunctionId(b""), "", bytes(2000)))]
    with pytest.raises(FabricError, match="larger than any machine hears"):
        loop.turn(0.0)


# -- threads, descriptors, time


def test_another_thread_wakes_a_loop_that_sleeps(party: Party) -> None:
    loop, notes = party.join(C1)
    loop.turn(0.0)
    event = Want(ObjectId(b"o"))

    def tell() -> None:
        wait_for(lambda: loop._sleep is not None)
        loop.tell_soon(event)

    teller = threading.Thread(target=tell)
    teller.start()
    began_at = time.monotonic()
    while not notes.heard:
        loop.turn(PATIENCE_S)
    assert time.monotonic() - began_at < PATIENCE_S / 2
    teller.join()
    assert notes.heard == [(SELF, event)]


def test_a_wake_before_the_sleep_is_not_lost(party: Party) -> None:
    loop, _ = party.join(N1)
    loop.turn(0.0)
    loop.wake()
    began_at = time.monotonic()
    loop.turn(PATIENCE_S)
    assert time.monotonic() - began_at < PATIENCE_S / 2
    assert not is_poked(loop)


def test_a_loop_that_is_awake_is_not_poked(party: Party) -> None:
    loop, notes = party.join(C1)
    loop.tell_soon(Leave())
    assert not is_poked(loop)
    loop.turn(PATIENCE_S)
    assert notes.heard == [(SELF, Leave())]


def test_events_of_many_threads_are_each_heard_once_and_in_order(party: Party) -> None:
    loop, notes = party.join(C1)
    each = 3000

    def tell(letter: bytes) -> None:
        for number in range(each):
            loop.tell_soon(Want(ObjectId(letter + number.to_bytes(4, "big"))))

    tellers = [threading.Thread(target=tell, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for teller in tellers:
        teller.start()
    give_up_at = time.monotonic() + PATIENCE_S
    while len(notes.heard) < 3 * each:
        assert time.monotonic() < give_up_at
        loop.turn(PATIENCE_S)
    for teller in tellers:
        teller.join()
    said = [event.object_id for _, event in notes.heard if isinstance(event, Want)]
    for letter in (b"a", b"b", b"c"):
        assert [o for o in said if o[:1] == letter] == [
            letter + number.to_bytes(4, "big") for number in range(each)
        ]


def test_a_watched_descriptor_is_called_until_it_is_unwatched(party: Party) -> None:
    loop, _ = party.join(N1)
    ours, theirs = socket.socketpair()
    with ExitStack() as stack:
        stack.enter_context(ours)
        stack.enter_context(theirs)
        read: list[bytes] = []
        loop.watch(ours.fileno(), lambda: read.append(ours.recv(100)))
        theirs.send(b"one")
        loop.turn(PATIENCE_S)
        assert read == [b"one"]
        loop.unwatch(ours.fileno())
        theirs.send(b"two")
        loop.turn(0.0)
        assert read == [b"one"]


def test_a_call_that_unwatches_another_readable_descriptor_prevents_its_call(party: Party) -> None:
    loop, _ = party.join(N1)
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def call(own: int) -> Callable[[], None]:
        def first_wins() -> None:
            called.append(own)
            loop.unwatch(pairs[1 - own][0].fileno())

        return first_wins

    for own in range(2):
        loop.watch(pairs[own][0].fileno(), call(own))
        pairs[own][1].send(b"x")
    loop.turn(PATIENCE_S)
    assert len(called) == 1
    loop.unwatch(pairs[called[0]][0].fileno())
    for pair in pairs:
        pair[0].close()
        pair[1].close()


def test_an_idle_loop_sleeps_until_the_deadline(party: Party) -> None:
    loop, notes = party.join(N1)
    loop.turn(0.0)
    notes.ticks.clear()
    due = notes.due = party.clock() + 0.05
    loop.turn(PATIENCE_S)
    assert len(notes.ticks) == 1
    assert notes.ticks[0] >= due


def test_only_the_thread_that_took_the_loop_may_run_it(party: Party) -> None:
    loop, _ = party.join(W1)
    loop.turn(0.0)
    raised: list[BaseException] = []

    def turn() -> None:
        try:
            loop.turn(0.0)
        except AssertionError as error:
            raised.append(error)
            loop.take()
            loop.turn(0.0)

    other = threading.Thread(target=turn)
    other.start()
    other.join()
    assert [type(error) for error in raised] == [AssertionError]
    with pytest.raises(AssertionError, match="another thread"):
        loop.turn(0.0)
    loop.take()


def test_a_forked_child_may_not_use_the_loop_and_never_wakes_it(party: Party) -> None:
    loop, _ = party.join(C1)
    loop.turn(0.0)
    loop._sleep = []
    pid = os.fork()
    if pid == 0:
        loop.tell_soon(Leave())
        try:
            loop.turn(0.0)
        except ForkedProcessError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    loop._sleep = None
    assert not is_poked(loop)


def test_an_old_libzmq_is_refused() -> None:
    sockets.check_libzmq((4, 3, 4))
    with pytest.raises(ConfigError, match=r"libzmq 4\.3\.3 is too old: fabric needs 4\.3\.4"):
        sockets.check_libzmq((4, 3, 3))


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        sockets.file_of("/tmp/" + "x" * 100, N1)


def test_a_closed_loop_leaves_no_socket_file_and_can_still_be_told(party: Party) -> None:
    loop, _ = party.join(C1)
    loop.dial(N1)
    loop.turn(0.0)
    path = sockets.file_of(party.directory, C1)
    assert os.path.exists(path)
    loop.close(0.0)
    assert not os.path.exists(path)
    loop.tell_soon(Leave())
