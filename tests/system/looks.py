"""What the system tests look at: processes, mappings, and how many calls run at once.

Everything here is seen from outside, by the kernel or by files; nothing knows fabric's insides.
Conditions are polled with a deadline that a loaded machine meets too. Workers import this as well,
so it imports little.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

WAIT_S = 30.0
"""What happens at all has happened after this long."""

POLL_S = 0.01

WORKER = "fabric:worker"


def wait_until(is_true: Callable[[], bool], what: str, patience_s: float = WAIT_S) -> None:
    """Poll until it is true; fail with what was waited for."""
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, f"it did not come about: {what}"
        time.sleep(POLL_S)


def is_running(pid: int) -> bool:
    """Whether that process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _children(pid: int) -> list[int]:
    """Asked of the kernel directly: looking at every process takes a core where there are many."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def worker_pids() -> set[int]:
    """The workers of this process's fabric: children of its node."""
    found: set[int] = set()
    for child in _children(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.update(pid for pid in _children(child) if _is_worker(pid))
    return found


def _is_worker(pid: int) -> bool:
    try:
        return _name(pid) == WORKER
    except (FileNotFoundError, ProcessLookupError):
        return False


class WorkerCount:
    """Counts workers while it is open; ``most`` is the largest number seen."""

    def __init__(self) -> None:
        self.most = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="worker-count")

    def __enter__(self) -> "WorkerCount":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, len(worker_pids()))
            if self._is_over.wait(0.1):
                return


def meet(place: str, company: int) -> int:
    """Wait until ``company`` calls are in here at once, or were; how many this call has seen.

    Who comes after the meeting only counts and goes, so that the numbers of all calls together
    say both that so many ran at once and that there were never more.
    """
    inside, met = Path(place, "inside"), Path(place, "met")
    inside.mkdir(exist_ok=True)
    mine = inside / uuid.uuid4().hex
    mine.touch()
    try:
        most = 0
        deadline = time.monotonic() + WAIT_S
        while True:
            most = max(most, len(list(inside.iterdir())))
            if most >= company:
                met.touch()
            if met.exists():
                return most
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {most} of {company} calls ran at once")
            time.sleep(POLL_S)
    finally:
        mine.unlink()


def wait_for_file(path: str) -> None:
    """In a task: go on when somebody has made that file."""
    wait_until(lambda: os.path.exists(path), f"the file {path}")


def mapping_of(address: int, pid: str | int = "self") -> tuple[str, str]:
    """The permissions and the path of the mapping that an address lies in."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, _, _, _, *path = line.split(maxsplit=5)
        first, last = (int(each, 16) for each in span.split("-"))
        if first <= address < last:
            return permissions, path[0] if path else ""
    return "", ""
