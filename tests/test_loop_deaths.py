"""The loop when peers are gone: lost, drained, stopped; with real processes that are killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.core.effects import Drain
from fabric.core.events import SELF, Drained, PeerLost
from fabric.ids import Address
from fabric.runtime.loop import START_GRACE_S
from tests.loop_party import C1, N1, PATIENCE_S, W1, Party, party
from tests.loop_peers import saying

__all__ = ["party"]


class Others:
    """Real processes with a loop each (`tests.loop_peers`)."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        kind, own, *rest = words
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.loop_peers", kind, self.directory, own, *rest],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        self.processes.append(process)
        return process

    def wait_until_listening(self) -> None:
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(PATIENCE_S)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def others(party: Party) -> Iterator[Others]:
    started = Others(party.directory)
    yield started
    started.end()


def test_a_peer_that_nobody_listens_for_is_lost_after_a_grace(party: Party) -> None:
    client, notes = party.join(C1)
    client.tell(saying(N1, 1))
    client.turn(0.0)
    client.turn(0.05)
    assert notes.heard == []
    party.skew_s = 2.1
    party.until(lambda: notes.heard)
    assert notes.heard == [(SELF, PeerLost(N1, "nobody listens at its address"))]


def test_a_peer_that_was_started_with_us_may_take_longer(party: Party) -> None:
    loop, notes = party.join(C1)
    loop.dial(N1, START_GRACE_S)
    party.skew_s = START_GRACE_S - 1
    for _ in range(3):
        loop.turn(0.0)
    assert notes.heard == []
    party.skew_s = START_GRACE_S + 1
    party.until(lambda: notes.heard)
    assert notes.heard == [(SELF, PeerLost(N1, "nobody listens at its address"))]


def test_draining_a_worker_that_was_never_reached_ends_at_once(party: Party) -> None:
    client, notes = party.join(C1)
    notes.says = [Drain(W1)]
    party.until(lambda: notes.heard)
    client.dial(W1)
    notes.says = [Drain(W1)]
    party.until(lambda: len(notes.heard) == 2)
    assert notes.heard == [(SELF, Drained(W1))] * 2


def test_draining_a_worker_that_does_not_die_ends_after_a_bound(party: Party) -> None:
    client, notes = party.join(C1)
    party.join(W1)
    client.tell(saying(W1, 1))
    party.until(lambda: notes.numbers() == [1])
    notes.says = [Drain(W1)]
    for _ in range(3):
        client.turn(0.0)
    assert notes.events() == []
    party.skew_s = 0.3
    party.until(notes.events)
    assert notes.events() == [Drained(W1)]


@pytest.mark.system
def test_everything_that_killed_workers_had_sent_is_heard_before_they_count_as_drained(
    party: Party, others: Others
) -> None:
    client, notes = party.join(C1)
    workers = [Address(f"w:{number:016x}") for number in range(20)]
    for worker in workers:
        others.start("worker", worker, "1000")
    others.wait_until_listening()
    for worker in workers:
        client.tell(saying(worker, 0))
    client.turn(0.0)
    for process in others.processes:  # the client hears nothing while they speak and die
        assert process.wait(PATIENCE_S * 3) == -signal.SIGKILL
    notes.says = [Drain(worker) for worker in workers]
    party.until(lambda: len(notes.events()) == len(workers))
    for worker in workers:
        assert sorted(notes.numbers(worker)) == list(range(1000))
        last_word = max(at for at, (source, _) in enumerate(notes.heard) if source == worker)
        assert notes.heard.index((SELF, Drained(worker))) > last_word


@pytest.mark.system
def test_a_killed_node_is_lost_at_once_and_after_its_last_words(
    party: Party, others: Others
) -> None:
    client, notes = party.join(C1)
    node = others.start("node", N1)
    others.wait_until_listening()
    for number in range(100):
        client.tell(saying(N1, number))
    party.until(lambda: len(notes.heard) == 100)
    node.kill()
    party.until(lambda: len(notes.heard) == 101)
    assert notes.heard[-1] == (SELF, PeerLost(N1, "its process is gone"))


@pytest.mark.system
def test_a_stopped_node_is_not_lost(party: Party, others: Others) -> None:
    client, notes = party.join(C1)
    node = others.start("node", N1)
    others.wait_until_listening()
    client.tell(saying(N1, 0))
    party.until(lambda: notes.numbers() == [0])
    node.send_signal(signal.SIGSTOP)
    client.tell(saying(N1, 1))
    for _ in range(3):
        party.skew_s += 3.0
        client.turn(0.01)
    assert notes.events() == []
    node.send_signal(signal.SIGCONT)
    party.until(lambda: notes.numbers() == [0, 1])
