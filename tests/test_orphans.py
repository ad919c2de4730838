"""What a killed node has left is killed, and nothing else is."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from fabric.runtime.orphans import NODE_MARK, Origin, kill_orphans, origin_of

MARK = "n:of-this-test"
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sleepers, with a mark or without."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(mark: str = "", own_session: bool = False) -> subprocess.Popen[bytes]:
        environment = {NODE_MARK: mark} if mark else {}
        process = subprocess.Popen(SLEEP, env=environment, start_new_session=own_session)
        started.append(process)
        return process

    yield begin
    for one in started:
        one.kill()
        one.wait()


def origin(node: int) -> Origin:
    found = origin_of(node, MARK)
    assert found is not None
    return found


def test_those_with_the_mark_are_killed_and_all_others_live(start: Start) -> None:
    older = start(MARK)
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # the kernel tells ages in ticks
    node = start()
    found = origin(node.pid)
    marked, far, spared = start(MARK), start(MARK, own_session=True), start(MARK)
    others = [older, spared, node, start(), start(MARK + "2"), start(own_session=True)]
    kill_orphans(found, (spared.pid,))
    assert [one.wait(10) for one in (marked, far)] == [-9, -9]
    assert [one.poll() for one in others] == [None] * len(others)


def test_a_session_that_is_not_the_nodes_means_nothing(start: Start) -> None:
    node = start(own_session=True)
    assert origin(node.pid).session is None  # we are not in it: its number is not held
    assert origin(os.getpid()).session in (None, os.getpid())


def test_without_a_mark_or_a_node_nothing_is_killed(start: Start) -> None:
    node = start()
    assert origin_of(node.pid, "") is None
    node.kill()
    node.wait()
    assert origin_of(node.pid, MARK) is None
