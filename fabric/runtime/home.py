"""The clusters of this host: start one, find those that run, look at one, end it.

Shared by the command and by drivers that connect with ``address="auto"``. A cluster is a daemon
that outlives whoever started it. It has inherited the locks of its runtime and store directories,
so that it runs is known from the kernel and not from a file: ``address.json`` in the state
directory only says where it is. What the daemon does is not known here.
"""

import contextlib
import fcntl
import glob
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from fabric.config import Limits
from fabric.exceptions import AlreadyRunningError, ClusterError, ClusterNotFoundError, ConfigError
from fabric.ids import Address, address
from fabric.options import check_totals, resources_of
from fabric.protocol.cluster import View
from fabric.runtime.directories import (
    cluster_directory,
    fabric_home,
    hand_over,
    host_directory,
    is_lived_in,
    lock_of,
    private_directory,
    remove_if_orphan,
    remove_runtime_directory,
    runtime_directory,
    store_directory,
    sweep,
)
from fabric.runtime.launch import START_S, default_store_bytes, end_process, launch, tail_of
from fabric.runtime.settings import FabricSettings, resource_units

DEFAULT_CLUSTER = "default"
LOG = "fabric.log"
JOURNAL = "journal.db"
ADDRESS = "address.json"
START_LOCK = "start.lock"

GRACE_S = 5.0
"""On a cluster an impossible request waits this long for another node, unless told otherwise."""

ANSWER_S = 5.0
"""A node that runs has answered a question after this long."""

POLL_MS = 5


class RunningCluster(msgspec.Struct, frozen=True):
    """A cluster whose daemon lives on this host."""

    name: str
    node: Address
    control: Address
    pid: int
    runtime_directory: str
    store_directory: str
    state_directory: str
    started_at: float

    @property
    def log_path(self) -> str:
        """Where its daemons write what they have to say."""
        return os.path.join(self.state_directory, LOG)


# ---------------------------------------- find


def find_running() -> RunningCluster:
    """The cluster that `fabric up` started on this machine."""
    found = running_clusters()
    if not found:
        raise ClusterNotFoundError(f"No cluster runs on this machine (under {fabric_home()}).")
    if len(found) > 1:
        names = ", ".join(cluster.name for cluster in found)
        raise ClusterError(
            f"Several clusters run on this machine: {names}.",
            advice="End those you do not need with `fabric down`, or set FABRIC_HOME.",
        )
    return found[0]


def running_clusters() -> list[RunningCluster]:
    """Every cluster of this user on this host, under this ``FABRIC_HOME``, that runs."""
    pattern = os.path.join(glob.escape(host_directory()), "*", ADDRESS)
    return [cluster for path in sorted(glob.glob(pattern)) if (cluster := _read_address(path))]


def _read_address(path: str) -> RunningCluster | None:
    """What the file says, if somebody lives in the directory that it names."""
    try:
        with open(path) as stream:
            said: dict[str, Any] = json.load(stream)
    except FileNotFoundError:  # it ended meanwhile
        return None
    if not is_lived_in(said["runtime_directory"]):
        return None
    return RunningCluster(
        said["cluster"],
        Address(said["node"]),
        Address(said["control"]),
        said["pids"]["node"],
        said["runtime_directory"],
        said["store_directory"],
        said["state_directory"],
        said["started_at"],
    )


# ---------------------------------------- start


class StartedCluster(msgspec.Struct, frozen=True):
    """A cluster that has just become ready, and the first process of it."""

    cluster: RunningCluster
    process: subprocess.Popen[bytes]
    settings: FabricSettings

    def report(self) -> dict[str, Any]:
        """What `fabric up` tells of it, as plain values."""
        return {
            "cluster": self.cluster.name,
            "address": "auto",
            "pid": self.cluster.pid,
            "node_id": self.settings.node[2:],
            "resources": resources_of(tuple(self.settings.resources.items())),
            "store_bytes_max": self.settings.store_bytes_max,
            "state_directory": self.cluster.state_directory,
            "log": self.cluster.log_path,
        }


def start_cluster(
    limits: Limits,
    *,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    state_directory: str | None = None,
    driver_pid: int = 0,
) -> StartedCluster:
    """Start the cluster of this host and return when it is ready.

    What an earlier one under the same state directory had in its journal is there again. With a
    ``driver_pid`` it ends when that process does.
    """
    try:
        totals = check_totals(num_cpus, num_gpus, resources)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    units = resource_units(totals.pop("CPU", None), totals.pop("GPU", None), totals)
    home = cluster_directory(DEFAULT_CLUSTER)
    with _alone(home):
        running = _read_address(os.path.join(home, ADDRESS))
        if running is not None:
            raise AlreadyRunningError(
                f"Cluster {running.name!r} runs on this machine already (pid {running.pid}).",
                advice="`fabric status` shows it, `fabric down` ends it.",
            )
        state = home if state_directory is None else _state_directory(state_directory)
        sweep(state)
        with _directories(object_store_memory, state) as (runtime, store):
            settings = FabricSettings(
                cluster=DEFAULT_CLUSTER,
                node=address("n", os.urandom(8)),
                control=address("s", os.urandom(8)),
                runtime_directory=runtime,
                store_directory=store,
                store_prefix="o-",
                store_bytes_max=object_store_memory or default_store_bytes(),
                resources=units,
                workers_kept=max(1, -(-units.get("CPU", 0) // 10_000)),
                journal_path=os.path.join(state, JOURNAL),
                is_synced=True,
                driver_pid=driver_pid,
                limits=_limits_of_cluster(limits),
                address_path=os.path.join(home, ADDRESS),
                locks=(lock_of(runtime), lock_of(store)),
            )
            return _launch(settings)


def _limits_of_cluster(limits: Limits) -> Limits:
    if "FABRIC_UNSCHEDULABLE_GRACE_S" in os.environ:
        return limits
    return replace(limits, unschedulable_grace_s=GRACE_S)


def _state_directory(path: str) -> str:
    """A directory that the user named, made where it is missing."""
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return private_directory(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def _alone(home: str) -> Iterator[None]:
    """Nobody else starts a cluster there meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(os.path.join(home, START_LOCK), flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunningError(
            "Another `fabric up` is starting this cluster now.", advice="Wait for it."
        ) from None
    finally:
        os.close(lock)


@contextlib.contextmanager
def _directories(object_store_memory: int | None, state: str) -> Iterator[tuple[str, str]]:
    """The runtime and the store directory: the daemon's, or gone if it does not start."""
    made = [runtime_directory(DEFAULT_CLUSTER)]
    try:
        made.append(store_directory(DEFAULT_CLUSTER, object_store_memory or 0, state))
        yield made[0], made[1]
    except BaseException:
        for path in made:
            remove_runtime_directory(path)
        raise
    for path in made:
        hand_over(path)


def _launch(settings: FabricSettings) -> StartedCluster:
    """Exec the daemon and wait until it answers."""
    log_path = os.path.join(os.path.dirname(settings.journal_path), LOG)
    with contextlib.suppress(FileNotFoundError):  # the last life's, and one before it
        os.replace(log_path, log_path + ".1")
    _forget(settings.address_path)
    process = launch(settings, log_path, locks=settings.locks, is_daemon=True)
    try:
        return StartedCluster(_wait_ready(settings, process, log_path), process, settings)
    except BaseException:
        end_process(process)
        _forget(settings.address_path)
        raise


def _wait_ready(
    settings: FabricSettings, process: subprocess.Popen[bytes], log_path: str
) -> RunningCluster:
    """Wait for its address, then for the control store's first answer."""
    deadline = time.monotonic() + START_S
    with _watched(process.pid) as poll:
        while not os.path.exists(settings.address_path):
            if poll.poll(POLL_MS):
                raise _failed(f"ended with status {process.wait()} before it was ready", log_path)
            if time.monotonic() > deadline:
                raise _failed(f"was not ready within {START_S:g} s", log_path)
        cluster = _read_address(settings.address_path)
        try:
            if cluster is not None:
                view_of(cluster, settings.limits, max(ANSWER_S, deadline - time.monotonic()))
                return cluster
        except ClusterError as error:
            why = "has not answered" if process.poll() is None else "ended before it was ready"
            raise _failed(why, log_path) from error
    raise _failed("ended before it was ready", log_path)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[select.poll]:
    """A poll object that reports the end of a child that was not waited for."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        yield poll
    finally:
        os.close(descriptor)


def _failed(what: str, log_path: str) -> ClusterError:
    return ClusterError(
        f"The cluster {what}.{tail_of(log_path)}", advice="The lines above are its own last words."
    )


# ---------------------------------------- look


def view_of(cluster: RunningCluster, limits: Limits, patience_s: float = ANSWER_S) -> View:
    """The cluster view, from the control store by way of the node."""
    from fabric.runtime.visitor import visit

    return visit(cluster.name, cluster.node, cluster.runtime_directory, limits, patience_s)


def snapshot_of(cluster: RunningCluster, limits: Limits) -> dict[str, Any]:
    """What `fabric status` shows, as plain values: ids in hex, sizes in bytes."""
    view = view_of(cluster, limits)
    return {
        "cluster": {
            "name": cluster.name,
            "address": "auto",
            "pid": cluster.pid,
            "epoch": view.epoch,
            "started_at": cluster.started_at,
            "state_directory": cluster.state_directory,
            "log": cluster.log_path,
        },
        "nodes": [
            {
                "node_id": node.node.hex(),
                "state": node.state,
                "host": node.host,
                "pid": node.pid,
                "resources": resources_of(node.resources),
                "available": resources_of(node.available),
                "workers": node.workers,
                "store_bytes": node.store_bytes,
                "store_bytes_max": node.store_bytes_max,
            }
            for node in view.nodes
        ],
        "actors": [
            {
                "actor_id": actor.actor_id.hex(),
                "state": actor.state,
                "class_name": actor.class_name,
                "name": actor.name,
                "namespace": actor.namespace,
                "node_id": actor.node.hex(),
                "restarts": actor.restarts,
                "failure": actor.failure.text if actor.failure is not None else "",
            }
            for actor in view.actors
        ],
        "jobs": [
            {
                "job_id": job.job.hex(),
                "state": job.state,
                "pid": job.pid,
                "entrypoint": job.entrypoint,
            }
            for job in view.jobs
        ],
    }


# ---------------------------------------- end


def end_clusters(everywhere: bool = False) -> list[dict[str, Any]]:
    """End what runs on this host under this ``FABRIC_HOME``; all of this user's if ``everywhere``.

    Returns the name and pid of each when nothing of it is left, no process, socket or memory.
    """
    from fabric.runtime.ending import daemons, end_daemon

    mine = {cluster.runtime_directory for cluster in running_clusters()}
    ended = []
    for daemon in daemons():
        if everywhere or mine.intersection(daemon.directories):
            ended.append({"name": daemon.name, "pid": daemon.pid})
            end_daemon(daemon)
    for path in glob.glob(os.path.join(glob.escape(host_directory()), "*", ADDRESS)):
        if _read_address(path) is None:  # it died, and what it had is nobody's
            sweep(os.path.dirname(path))
            _forget(path)
    return ended


def stay_with(started: StartedCluster) -> int:
    """Wait for the end of a cluster, or end it when interrupted; its first process's status."""
    try:
        return started.process.wait()
    finally:
        end_process(started.process)
        cluster = started.cluster
        for path in (cluster.runtime_directory, cluster.store_directory):
            if os.path.isdir(path):
                remove_if_orphan(path)
        end_clusters()  # nothing is left to end, but an address to forget


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # there was none, or somebody was faster
        os.unlink(path)
