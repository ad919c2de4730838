"""Several drivers on one cluster: they share its workers, and none sees what another leaves.

The shares are asserted within bounds that a loaded machine keeps too.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.commands import run_command, run_json, run_program, start_program
from tests.system.looks import WORKER, wait_until

pytestmark = pytest.mark.system

CONTENDED_S = 5.0
SHARE_MIN = 0.35

ENDLESS = """
import collections, sys, time
import fabric

@fabric.task
def spin():
    begun = time.monotonic()
    while time.monotonic() < begun + 0.010:
        pass
    return begun

fabric.init(address="auto")
fabric.get([spin.remote() for _ in range(20)])
print("ready", flush=True)
sys.stdin.readline()
until = time.monotonic() + float(sys.argv[1])
refs = collections.deque(spin.remote() for _ in range(400))
begins = []
while time.monotonic() < until:
    begins.append(refs.popleft().get())
    refs.append(spin.remote())
print(sum(begun < until for begun in begins), flush=True)
fabric.shutdown()
"""

LEAVES_MUCH = """
import os, signal, sys, time
import fabric

@fabric.task
def endless(path):
    open(path, "w").close()
    time.sleep(600)

@fabric.actor
class Resident:
    def ping(self): return "here"

fabric.init(address="auto")
kept = fabric.put(bytes(3_000_000))
plain = Resident.options(name="plain", namespace="n").remote()
lasting = Resident.options(name="lasting", namespace="n", lifetime="detached").remote()
print(fabric.get([plain.ping.remote(), lasting.ping.remote()]))
running = endless.remote(sys.argv[1])
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
sys.stdout.flush()
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def cluster(nothing_left_behind: None) -> Iterator[int]:
    """A cluster of two CPUs; the pid of its node."""
    yield run_json("up", "--num-cpus", "2")["pid"]
    run_command("down")


def measured_shares(seconds: float) -> list[float]:
    """Two drivers ask without end for all workers at the same time; what each got of the calls."""
    drivers = [start_program(ENDLESS, str(seconds)) for _ in range(2)]
    try:
        for driver in drivers:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "ready\n"
        for driver in drivers:
            assert driver.stdin is not None
            driver.stdin.write("\n")
            driver.stdin.flush()
        counts = [int(driver.communicate(timeout=seconds + 30)[0]) for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    return [count / sum(counts) for count in counts]


def test_two_drivers_get_their_share_of_the_workers() -> None:
    shares = measured_shares(CONTENDED_S)
    assert min(shares) > SHARE_MIN, shares


def workers_of(node: int) -> int:
    return sum(child.name() == WORKER for child in psutil.Process(node).children())


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_driver_that_ends_leaves_only_what_is_detached(
    end: str, cluster: int, tmp_path: Path
) -> None:
    with start_program(LEAVES_MUCH, str(tmp_path / "running"), end) as driver:
        assert driver.communicate(timeout=40)[0] == "['here', 'here']\n"

    def states(kind: str) -> dict[str, str]:
        return {each.get("name", ""): each["state"] for each in run_json("status")[kind]}

    wait_until(lambda: states("jobs") == {"": "ended"}, "the end of the job")
    wait_until(
        lambda: states("actors") == {"plain": "dead", "lasting": "alive"}, "the end of its actor"
    )
    wait_until(
        lambda: run_json("status")["nodes"][0]["available"]["CPU"] == 2, "its lease's return"
    )
    finds = 'import fabric; print(fabric.get_actor("lasting", "n").ping.remote().get(timeout=20))'
    assert run_program("import fabric; fabric.init(address='auto');" + finds) == "here\n"
    # one for each CPU, and the detached actor's
    wait_until(lambda: workers_of(cluster) <= 3, "the end of the workers above that")
