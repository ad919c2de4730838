"""The driver's way to a fabric: start a private one and end it, or find the one of this machine.

A private fabric is one exec of `fabric.runtime.boot` in a session of its own. Its settings travel
through a pipe, what it says on stderr goes to a file in the runtime directory, and both
directories are the driver's and go with it. What runs in those processes is not known here.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import fabric
from fabric.config import Limits
from fabric.exceptions import ClusterError, ClusterNotFoundError, ConfigError
from fabric.ids import Address, Incarnation, JobId, address
from fabric.protocol.values import JobSpec
from fabric.runtime.client import Client, Place
from fabric.runtime.directories import (
    fabric_home,
    remove_runtime_directory,
    runtime_directory,
    store_directory,
    sweep,
)
from fabric.runtime.settings import FabricSettings, encode_settings, resource_units

START_S = 30.0
"""A private fabric that has not welcomed its driver after this long has failed."""

END_S = 3.0
"""The daemons get this long to end by themselves."""

LOG_LINES = 20
FAILED_LOG = "failed-start.log"
"""In `fabric_home`: what the last private fabric said that did not start."""

MEMORY_SHARE = 0.3
SHARED_MEMORY_SHARE = 0.8
STORE_BYTES_MIN = 64 * 1024 * 1024
CGROUP_LIMIT = "/sys/fs/cgroup/memory.max"

BOOT = "import sys; sys.path.insert(0, {!r}); from fabric.runtime.boot import main; main()"
"""Not ``-m``: that puts the working directory, whatever it contains, before everything else."""


class PrivateFabric:
    """The processes and directories of a fabric that belongs to this driver."""

    def __init__(self, settings: FabricSettings) -> None:
        self.settings = settings
        self.log_path = os.path.join(settings.runtime_directory, "boot.log")
        self.process = launch(settings, self.log_path)

    @property
    def place(self) -> Place:
        """Where a client of it belongs."""
        settings = self.settings
        return Place(
            settings.cluster,
            settings.node,
            settings.control,
            settings.runtime_directory,
            settings.store_directory,
        )

    def check(self) -> None:
        """Raise what its first process said if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise ClusterError(
                f"The private fabric ended with status {status} before it was ready."
                f"{self.last_words()}",
                advice="The lines above are its own last words.",
            )

    def last_words(self) -> str:
        """The end of its log. The log is kept, though the directory it is in goes away."""
        kept = os.path.join(fabric_home(), FAILED_LOG)
        shutil.copyfile(self.log_path, kept)
        return tail_of(kept)

    def end(self) -> None:
        """End every process of it and remove its directories."""
        end_process(self.process)
        remove_runtime_directory(self.settings.runtime_directory)
        remove_runtime_directory(self.settings.store_directory)


def start_private(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    object_store_memory: int | None,
    limits: Limits,
) -> PrivateFabric:
    """Start a control store and a node for this driver alone."""
    sweep()
    cluster = "private-" + os.urandom(4).hex()
    store_bytes = object_store_memory or default_store_bytes()
    runtime = runtime_directory(cluster)
    store: str | None = None
    try:
        store = store_directory(cluster, 0 if object_store_memory is None else store_bytes)
        units = resource_units(num_cpus, num_gpus, resources)
        settings = FabricSettings(
            cluster=cluster,
            node=address("n", os.urandom(8)),
            control=address("s", os.urandom(8)),
            runtime_directory=runtime,
            store_directory=store,
            store_prefix="o-",
            store_bytes_max=store_bytes,
            resources=units,
            workers_kept=max(1, -(-units.get("CPU", 0) // 10_000)),
            journal_path=os.path.join(runtime, "journal.db"),
            is_synced=False,
            driver_pid=os.getpid(),
            limits=limits,
        )
        return PrivateFabric(settings)
    except BaseException:
        remove_runtime_directory(runtime)
        if store is not None:
            remove_runtime_directory(store)
        raise


def launch(settings: FabricSettings, log_path: str) -> subprocess.Popen[bytes]:
    """Exec the first process of a fabric, in a session of its own, with these settings."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(fabric.__file__)))
    reader, writer = os.pipe()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT.format(home), str(reader)],
            stdin=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(reader,),
            start_new_session=True,
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
        os.close(log)
    with os.fdopen(writer, "wb") as pipe:
        try:
            pipe.write(encode_settings(settings))
        except BrokenPipeError:  # it ended before it read; whoever waits for it says why
            return process
    return process


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; after `END_S`, make it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            kill_session(process.pid)
            process.wait()


def kill_session(pid: int) -> None:
    """Kill what is left of the session that the process leads."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended meanwhile
        return


def tail_of(path: str) -> str:
    """The last lines of a log, and where all of it is; for an error's text."""
    with open(path, errors="replace") as log:
        lines = log.read().splitlines()[-LOG_LINES:]
    return "".join(f"\n  {line}" for line in lines) + f"\nAll of it is in {path}."


def default_store_bytes() -> int:
    """The smaller of a share of this machine's (or cgroup's) memory and of free shared memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if os.path.exists(CGROUP_LIMIT):
        with open(CGROUP_LIMIT) as limit:
            text = limit.read().strip()
        memory = min(memory, int(text)) if text.isdigit() else memory
    nbytes = int(memory * MEMORY_SHARE)
    if os.path.isdir("/dev/shm"):
        free = os.statvfs("/dev/shm")
        nbytes = min(nbytes, int(free.f_bavail * free.f_frsize * SHARED_MEMORY_SHARE))
    return max(nbytes, STORE_BYTES_MIN)


# ---------------------------------------- clusters that run here


def find_running() -> Place:
    """The cluster that `fabric up` started on this machine."""
    found = running_clusters()
    if not found:
        raise ClusterNotFoundError(f"No cluster runs on this machine (under {fabric_home()}).")
    if len(found) > 1:
        names = ", ".join(place.cluster for place in found)
        raise ClusterError(
            f"Several clusters run on this machine: {names}.",
            advice="End those you do not need with `fabric down`, or set FABRIC_HOME.",
        )
    return found[0]


def running_clusters() -> list[Place]:
    """Every cluster of this user on this host whose node lives."""
    host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename).lstrip(".") or "localhost"
    pattern = os.path.join(glob.escape(fabric_home()), host, "*", "address.json")
    return [place for path in sorted(glob.glob(pattern)) if (place := _read_address(path))]


def _read_address(path: str) -> Place | None:
    try:
        with open(path) as stream:
            said: dict[str, Any] = json.load(stream)
    except FileNotFoundError:  # it ended meanwhile
        return None
    if not os.path.exists(f"/proc/{said['pids']['node']}"):
        return None
    return Place(
        said["cluster"],
        Address(said["node"]),
        Address(said["control"]),
        said["runtime_directory"],
        said["store_directory"],
    )


# ---------------------------------------- the driver


def new_driver(place: Place, namespace: str | None, limits: Limits) -> Client:
    """The client of a driver, not yet started."""
    incarnation = Incarnation(os.urandom(8))
    job = JobSpec(
        JobId(incarnation),
        tuple(os.path.abspath(one) for one in sys.path),
        os.getcwd(),
        namespace or incarnation.hex(),
    )
    entrypoint = " ".join(sys.argv)[:1000]
    return Client(incarnation, place, job, limits, is_driver=True, entrypoint=entrypoint)


def connect(client: Client, private: PrivateFabric | None) -> None:
    """Start the client and wait for its node's welcome."""
    client.start()
    deadline = time.monotonic() + START_S
    while not client.registered.wait(0.1):
        if private is not None:
            private.check()
        client.check()
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The node has not answered within {START_S:g} s."
                + ("" if private is None else private.last_words())
            )


def place_of(where: str) -> Place | None:
    """What an address means: None for a private fabric."""
    if where in ("", "local", "private"):
        return None
    if where == "auto":
        return find_running()
    raise ConfigError(
        f"The address {where!r} is none that this version knows.",
        advice='Give "auto" for the cluster of this machine, or nothing for a private one.',
    )
