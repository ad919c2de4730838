"""The control store as a process, with a node that only talks: epochs, kills, a full disk."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from fabric.config import Limits
from fabric.core.effects import Send
from fabric.core.endpoint import Endpoint
from fabric.ids import FunctionId, address
from fabric.protocol.cluster import GetView, NodeJoined, View, ViewChanged
from fabric.protocol.messages import (
    ActorChanged,
    AnyMessage,
    CreateActor,
    FunctionFound,
    GetFunction,
    JoinNode,
    PlaceActor,
    PutFunction,
)
from fabric.runtime import sockets
from fabric.runtime.loop import Loop, publisher_name
from fabric.runtime.settings import FabricSettings, encode_settings
from tests.control_words import CLUSTER, COUNTER, N1, NODE1, alive, node_view, started, view
from tests.loop_peers import Notes

pytestmark = pytest.mark.system

PATIENCE_S = 20.0
RANDOM = Random(7)


def settings_in(directory: Path) -> FabricSettings:
    """A control store with an address of its own, and the directory's journal."""
    return FabricSettings(
        cluster=CLUSTER,
        node=NODE1,
        control=address("s", RANDOM.randbytes(8)),
        runtime_directory=str(directory),
        store_directory=str(directory),
        store_prefix="o-",
        store_bytes_max=0,
        resources={},
        workers_kept=0,
        journal_path=str(directory / "journal.db"),
        is_synced=True,
        driver_pid=0,
        limits=Limits(),
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """The test's own runtime directory: short, because it is in the names of sockets."""
    path = Path(os.environ["XDG_RUNTIME_DIR"], "c")
    path.mkdir()
    yield path
    shutil.rmtree(path)


class Child:
    """The process, and what it said when it ended."""

    def __init__(self, settings: FabricSettings, *arguments: str) -> None:
        self.settings = settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.control_child", *arguments],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(encode_settings(settings))
        self.process.stdin.close()

    def end(self) -> int:
        """Told to end; its status."""
        self.process.terminate()
        return self.ended()[0]

    def ended(self) -> tuple[int, str]:
        """Its status and its last words."""
        assert self.process.stderr is not None
        words = self.process.stderr.read().decode()
        self.process.stderr.close()
        return self.process.wait(PATIENCE_S), words


class Node:
    """A node that says what the test tells it to."""

    def __init__(self, settings: FabricSettings) -> None:
        self.control = settings.control
        self.notes = Notes()
        self.context = sockets.new_context()
        endpoint = Endpoint(NODE1, self.notes, cluster=CLUSTER, limits=settings.limits)
        self.loop = Loop(
            endpoint,
            self.context,
            settings.runtime_directory,
            clock=time.monotonic,
            perform=print,
        )
        self.loop.dial(settings.control)
        self.loop.subscribe(settings.control, publisher_name(settings.control))

    def say(self, *words: AnyMessage) -> None:
        """In its next turn."""
        self.notes.says += [Send(self.control, word) for word in words]

    def hear(self, kind: type[AnyMessage], where: Callable[..., bool] = lambda _: True) -> object:
        """Turn until such a message has come."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for _, message in self.notes.heard:
                if isinstance(message, kind) and where(message):
                    return message
            assert time.monotonic() < deadline, f"no {kind.__name__} in {self.notes.heard}"
            self.loop.turn(0.05)

    def close(self) -> None:
        self.loop.close(0.0)
        self.context.term()


@pytest.fixture
def control(directory: Path) -> Iterator[Child]:
    child = Child(settings_in(directory))
    yield child
    assert child.end() == 0


def test_a_node_joins_and_hears_answers_and_news(control: Child) -> None:
    node = Node(control.settings)
    node.say(JoinNode(node_view()))
    assert node.hear(NodeJoined) == NodeJoined(1, CLUSTER)
    node.say(CreateActor(COUNTER))
    assert node.hear(PlaceActor) == PlaceActor(1, COUNTER)
    assert node.hear(ActorChanged) == ActorChanged(view(COUNTER))
    node.say(started(COUNTER), GetView(b"r"))
    assert node.hear(View, lambda one: one.actors == (alive(),))
    node.hear(ViewChanged)  # from the beat at the latest: publications are hints
    node.close()


def test_after_a_kill_everything_that_was_acknowledged_is_there_under_a_new_epoch(
    directory: Path,
) -> None:
    first = Child(settings_in(directory))
    node = Node(first.settings)
    function = FunctionId(b"h" * 16)
    node.say(JoinNode(node_view()), PutFunction(function, "f", b"pickled"), CreateActor(COUNTER))
    node.hear(ActorChanged)
    first.process.kill()
    first.ended()
    node.close()
    second = Child(settings_in(directory))
    again = Node(second.settings)
    again.say(JoinNode(node_view()), GetFunction(function), GetView(b"r"))
    assert again.hear(NodeJoined) == NodeJoined(2, CLUSTER)
    assert again.hear(FunctionFound) == FunctionFound(function, "f", b"pickled")
    assert again.hear(PlaceActor) == PlaceActor(1, COUNTER)
    seen = again.hear(View)
    assert isinstance(seen, View)
    assert (seen.epoch, seen.actors) == (2, (view(COUNTER),))
    again.close()
    assert second.end() == 0


def test_a_journal_that_cannot_be_written_ends_the_control_store_with_the_reason(
    directory: Path,
) -> None:
    child = Child(settings_in(directory), "200000")
    node = Node(child.settings)
    node.say(JoinNode(node_view()))
    node.hear(NodeJoined)
    node.say(PutFunction(FunctionId(b"h" * 16), "f", bytes(1_000_000)))
    node.say(GetFunction(FunctionId(b"h" * 16)))
    deadline = time.monotonic() + PATIENCE_S
    while child.process.poll() is None:
        assert time.monotonic() < deadline
        node.loop.turn(0.05)
    status, words = child.ended()
    assert status == 1
    assert "the control store ends:" in words
    assert "journal.db cannot" in words
    assert not [each for _, each in node.notes.heard if isinstance(each, FunctionFound)]
    node.close()


def test_a_second_control_store_on_the_same_journal_names_the_first(
    control: Child, directory: Path
) -> None:
    node = Node(control.settings)
    node.say(JoinNode(node_view(N1)))
    node.hear(NodeJoined)
    node.close()
    status, words = Child(settings_in(directory)).ended()
    assert status == 1
    assert f"The control store pid {control.process.pid} since" in words
