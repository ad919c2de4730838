"""`fabric up`, `status` and `down` as users type them: a real cluster, which is gone afterwards."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabric.runtime.directories import host_directory
from fabric.runtime.ending import daemons, end_daemon
from fabric.runtime.home import running_clusters
from tests.commands import ROOT, fabric_command, run_command, run_json, run_program
from tests.system.looks import is_running, wait_until

pytestmark = pytest.mark.system

FAILURE_S = 5.0
"""A start that cannot succeed says so within this time."""

NAMES_AN_ACTOR = """
import fabric

@fabric.actor
class Tally:
    def __init__(self): self.n = 0
    def add(self): self.n += 1; return self.n

options = dict(name="tally", namespace="books", lifetime="detached", max_restarts=-1)
print(Tally.options(**options).remote().add.remote().get(timeout=20))
"""

FINDS_IT = """
import fabric
print(fabric.get_actor("tally", namespace="books").add.remote().get(timeout=20))
"""


@pytest.fixture(autouse=True)
def reached_by_auto(nothing_left_behind: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of these tests find the cluster; it takes no time of others to end one of theirs."""
    monkeypatch.setenv("FABRIC_ADDRESS", "auto")


@pytest.fixture
def cluster(reached_by_auto: None) -> Iterator[dict[str, Any]]:
    """A cluster of two CPUs; what `fabric up --json` said of it."""
    yield run_json("up", "--num-cpus", "2")
    run_command("down")


def leftovers() -> list[Path]:
    """What is in the runtime root."""
    return list(Path(os.environ["XDG_RUNTIME_DIR"]).iterdir())


def state_directory() -> Path:
    return Path(host_directory(), "default")


# -- up


def test_a_cluster_starts_is_seen_and_ends_without_a_trace() -> None:
    said = run_command("up", "--num-cpus", "2", "--resources", "disk=3")
    assert "2 CPU, 3 disk" in said.stdout
    assert "export FABRIC_ADDRESS=auto" in said.stdout
    snapshot = run_json("status")
    [node] = snapshot["nodes"]
    assert node["state"] == "alive"
    assert node["resources"] == node["available"] == {"CPU": 2.0, "disk": 3.0}
    assert snapshot["cluster"]["epoch"] == 1
    assert snapshot["actors"] == snapshot["jobs"] == []
    assert "default" in run_command("status").stdout
    pid = snapshot["cluster"]["pid"]
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert "has ended" in run_command("down").stdout
    assert not [each for each in family if is_running(each)]
    assert leftovers() == []
    assert not (state_directory() / "address.json").exists()


def test_what_runs_is_told_as_json_and_a_second_start_is_refused(cluster: dict[str, Any]) -> None:
    assert cluster["address"] == "auto"
    assert psutil.Process(cluster["pid"]).name() == "fabric:node"
    refused = run_command("up", status=1)
    assert f"runs on this machine already (pid {cluster['pid']})" in refused.stderr
    assert "fabric down" in refused.stderr
    assert run_json("up", status=1)["error"]["code"] == "FAB-604"
    assert run_json("status")["cluster"]["pid"] == cluster["pid"]


def test_a_start_that_fails_says_why_and_where_more_is() -> None:
    run_command("up")
    run_command("down")
    (state_directory() / "journal.db").write_bytes(b"this is no database, and never was" * 100)
    begun = time.monotonic()
    failed = run_command("up", status=1)
    assert time.monotonic() - begun < FAILURE_S
    assert "journal.db" in failed.stderr
    assert f"All of it is in {state_directory() / 'fabric.log'}" in failed.stderr
    assert len(failed.stderr.splitlines()) <= 25
    assert leftovers() == []
    run_command("status", status=1)


def test_a_setting_that_makes_no_sense_is_one_sentence() -> None:
    assert "num_cpus must be zero or more" in run_command("up", "--num-cpus", "-1", status=1).stderr
    assert run_json("up", "--num-cpus", "-1", status=1)["error"]["code"] == "FAB-101"
    assert run_command("up", "--resources", "disk", status=2).stdout == ""


def test_the_state_can_be_kept_elsewhere() -> None:
    elsewhere = Path(os.environ["FABRIC_HOME"]).parent / "deep" / "state"
    said = run_json("up", "--state-dir", str(elsewhere))
    assert said["state_directory"] == str(elsewhere)
    assert (elsewhere / "journal.db").exists()
    assert said["log"] == str(elsewhere / "fabric.log")
    assert not (state_directory() / "journal.db").exists()
    assert run_json("status")["cluster"]["pid"] == said["pid"]
    run_command("down")


def test_a_cluster_started_again_has_what_its_journal_has() -> None:
    run_command("up", "--num-cpus", "1")
    assert run_program(NAMES_AN_ACTOR) == "1\n"
    run_command("down")
    run_command("up", "--num-cpus", "1")
    snapshot = run_json("status")
    assert snapshot["cluster"]["epoch"] == 2
    [actor] = [each for each in snapshot["actors"] if each["name"] == "tally"]
    assert actor["class_name"] == "Tally"
    assert run_program(FINDS_IT) == "1\n"  # another life of it, from the class in the journal
    states = [one["state"] for one in run_json("status")["nodes"]]
    assert sorted(states) == ["alive", "dead"]  # its former node said that it left
    run_command("down")


def test_a_private_fabric_leaves_a_running_cluster_alone(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = leftovers()
    monkeypatch.delenv("FABRIC_ADDRESS")
    assert run_program("import fabric; print(fabric.put(7).get())") == "7\n"
    assert leftovers() == there
    assert run_json("status")["nodes"][0]["node_id"] == cluster["node_id"]


# -- in the foreground


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_cluster_in_the_foreground_ends_with_its_command(number: int, status: int) -> None:
    command = fabric_command("up", "--foreground", "--num-cpus", "1", "--json")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        assert any('"address": "auto"' in line for line in lines)
        pid = run_json("status")["cluster"]["pid"]
        process.send_signal(number)
        assert process.wait(30) == status
    wait_until(lambda: not is_running(pid), "the node's end")
    run_command("down")  # forgets what a killed command could not
    run_command("up", "--num-cpus", "1")  # sweeps what it left
    run_command("down")
    assert leftovers() == []


# -- status and down where nothing runs


def test_where_nothing_runs_status_is_one_sentence_and_down_is_content() -> None:
    nothing = run_command("status", status=1)
    assert nothing.stdout == ""
    assert nothing.stderr == "Error: No cluster runs on this machine.\n"
    assert run_json("status", status=1)["error"]["code"] == "FAB-601"
    for _ in range(2):
        assert run_json("down") == {"ended": []}
        assert run_command("down").stdout == "No cluster runs on this machine.\n"


def test_a_node_that_was_killed_does_not_run_and_can_be_started_again() -> None:
    pid = run_json("up", "--num-cpus", "1")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the node's end")
    wait_until(lambda: not run_lives(), "the end of the control store")
    run_command("status", status=1)
    again = run_json("up", "--num-cpus", "1")
    assert again["pid"] != pid
    assert run_json("status")["cluster"]["epoch"] == 2
    run_command("down")
    assert leftovers() == []


def run_lives() -> bool:
    """Whether any process still has the cluster's directories."""
    return bool(running_clusters())


def test_a_node_that_does_not_listen_is_killed_with_its_workers() -> None:
    pid = run_json("up", "--num-cpus", "1")["pid"]
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    os.kill(pid, signal.SIGSTOP)
    assert run_json("down")["ended"] == [{"name": "default", "pid": pid}]
    assert not [each for each in family if is_running(each)]
    assert leftovers() == []


def test_clusters_of_another_home_are_left_alone_unless_all_are_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids = set()
    for name in ("one", "two"):
        monkeypatch.setenv("FABRIC_HOME", str(Path(os.environ["XDG_RUNTIME_DIR"]).parent / name))
        pids.add(run_json("up", "--num-cpus", "1")["pid"])
    assert len(run_json("down")["ended"]) == 1
    [other] = [each for each in daemons() if pids.intersection(each.nodes)]
    end_daemon(other)  # what --all does with each, but others of this user may run beside this test
    assert leftovers() == []
