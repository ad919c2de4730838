"""Whom a driver shares the machine with: a cluster it dies in, other users, poor surroundings."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fabric
from fabric.runtime.directories import host_directory
from fabric.runtime.home import ADDRESS, running_clusters
from tests.commands import run_command, run_json, start_program
from tests.leaks import runtime_entries, shared_memory
from tests.system.looks import WAIT_S, wait_until
from tests.system.work import add

pytestmark = pytest.mark.system

QUEUES = """
import time, fabric
@fabric.task
def rest(): time.sleep(600)
@fabric.task
def nothing(): pass
@fabric.actor
class Tally:
    def __init__(self): self.n = 0
    def add(self): self.n += 1; return self.n
detached = Tally.options(name="tally", namespace="books", lifetime="detached").remote()
fabric.get(detached.add.remote())
large = [fabric.put(bytes(5_000_000)) for _ in range(4)]
refs = [rest.remote() for _ in range(2)] + [nothing.remote() for _ in range(100_000)]
fabric.wait(refs, timeout=0.5)
print("ready", flush=True)
time.sleep(600)
"""

HELLO = """
import fabric
@fabric.task
def double(x): return 2 * x
print(fabric.get([double.remote(21), double.remote(fabric.put(bytes(200_000)))])[0])
"""


def run_hello(**changed: str | None) -> str:
    """What a small program prints in that environment; a None leaves the variable out."""
    environment: dict[str, str] = {**os.environ, "PYTHONPATH": os.getcwd()}
    for name, value in changed.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    done = subprocess.run(
        [sys.executable, "-c", HELLO], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------- a driver that is killed in a cluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FABRIC_ADDRESS", "auto")
    run_json("up", "--num-cpus", "2")
    yield
    run_command("down")


def _node() -> dict[str, Any]:
    node: dict[str, Any] = run_json("status")["nodes"][0]
    return node


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_gives_everything_back_to_its_cluster_but_detached_actors() -> None:
    with start_program(QUEUES) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        assert _node()["available"]["CPU"] == 0
        driver.kill()
    wait_until(lambda: _node()["available"] == _node()["resources"], "its CPUs are free")
    with fabric.init():
        assert add.remote(1).get(WAIT_S) == 2
        kept = [fabric.put(bytes(5_000_000)) for _ in range(4)]
        assert len(fabric.get(kept)) == 4
        detached = fabric.get_actor("tally", namespace="books")
        assert detached.add.remote().get(WAIT_S) == 2
        fabric.kill(detached)


RACES = """
import sys, fabric
@fabric.actor
class Tally:
    def add(self): return 1
fabric.init()
print("ready", flush=True)
sys.stdin.readline()
try:
    tally = Tally.options(name="tally", namespace="books").remote()
    print("made", fabric.get(tally.add.remote()), flush=True)
except fabric.exceptions.NameTakenError:
    print("taken", flush=True)
sys.stdin.readline()
"""


@pytest.mark.usefixtures("cluster")
def test_of_two_drivers_that_make_an_actor_of_one_name_at_once_one_does() -> None:
    with start_program(RACES) as one, start_program(RACES) as other:
        programs = (one, other)
        for program in programs:
            assert _line_of(program) == "ready\n"
        for program in programs:
            _enter(program)
        assert sorted(map(_line_of, programs)) == ["made 1\n", "taken\n"]
        for program in programs:
            _enter(program)


def _line_of(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def _enter(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def test_a_process_that_has_got_the_number_of_a_dead_node_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FABRIC_ADDRESS", "auto")
    pid = run_json("up", "--num-cpus", "1")["pid"]
    told = Path(host_directory(), "default", ADDRESS)
    written = told.read_bytes()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not running_clusters(), "the end of the control store")
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            told.write_bytes(written.replace(str(pid).encode(), str(innocent.pid).encode()))
            assert run_json("down") == {"ended": []}
            run_command("status", status=1)
            assert innocent.poll() is None
        finally:
            innocent.kill()


# ---------------------------------------- other users


def test_another_user_can_neither_list_nor_reach_a_fabric() -> None:
    if os.geteuid() != 0 or shutil.which("su") is None:
        pytest.skip("only root can become somebody else")
    with fabric.init(num_cpus=1):
        ref = fabric.put(bytes(1_000_000))
        places = [*runtime_entries(Path(os.environ["XDG_RUNTIME_DIR"])), *shared_memory()]
        assert len(places) >= 2
        for place in places:
            assert (place.stat().st_mode & 0o777, place.stat().st_uid) == (0o700, 0)
        sockets = [one for place in places for one in place.iterdir() if one.is_socket()]
        assert sockets
        os.chmod(os.environ["XDG_RUNTIME_DIR"], 0o711)  # so that it is the fabric's own doing
        os.chmod(Path(os.environ["XDG_RUNTIME_DIR"]).parent, 0o711)
        for place in places:
            assert "Permission denied" in _as_nobody(f"ls {place}")
        for one in sockets:
            assert "Permission denied" in _as_nobody(f"cat < {one}")
        assert len(ref.get()) == 1_000_000


def _as_nobody(command: str) -> str:
    """What nobody's shell says of a command that has to fail."""
    words = ["su", "nobody", "-s", "/bin/sh", "-c", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_nothing_of_a_fabric_is_told_on_command_lines() -> None:
    with fabric.init(num_cpus=1, namespace="whispered") as context:
        add.remote(1).get(WAIT_S)
        lines = [
            entry.read_bytes()
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if _is_of(entry.parent, os.environ["XDG_RUNTIME_DIR"])
        ]
        assert lines
        assert not [one for one in lines if b"whispered" in one or context.cluster.encode() in one]


def _is_of(process: Path, runtime_root: str) -> bool:
    try:
        environment = (process / "environ").read_bytes()
    except OSError:  # it has ended
        return False
    return f"XDG_RUNTIME_DIR={runtime_root}".encode() in environment.split(b"\0")


# ---------------------------------------- poor surroundings


def test_a_home_that_cannot_be_written_is_no_obstacle_to_a_private_fabric(tmp_path: Path) -> None:
    nowhere = tmp_path / "a file"
    nowhere.touch()
    assert run_hello(FABRIC_HOME=None, HOME=str(nowhere / "home")) == "42\n"


def test_a_long_temporary_directory_is_passed_over(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    assert run_hello(TMPDIR=str(deep), XDG_RUNTIME_DIR=str(deep)) == "42\n"


def test_a_name_of_the_machine_that_nobody_knows_is_not_asked_for(tmp_path: Path) -> None:
    assert hello_apart(tmp_path, "--uts", "hostname nobody.knows.invalid") == ("42\n", "")


def test_without_shared_memory_the_store_is_a_directory(tmp_path: Path) -> None:
    assert hello_apart(tmp_path, "--mount", "mount -t tmpfs -o ro none /dev/shm") == ("42\n", "")


def hello_apart(place: Path, what: str, spoil: str) -> tuple[str, str]:
    """What the small program says where that part of the machine is its own, and spoilt."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can have a part of the machine of its own")
    script = place / "hello.py"
    script.write_text(HELLO)
    done = subprocess.run(
        ["unshare", what, "/bin/sh", "-c", f"{spoil} && exec {sys.executable} {script}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    if done.stderr.startswith(("unshare:", "hostname:", "mount:")):
        pytest.skip(f"this machine does not allow it: {done.stderr.strip()}")
    return done.stdout, done.stderr
