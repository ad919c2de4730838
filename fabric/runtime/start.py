"""The driver's way to a fabric: start a private one and end it, or find the one of this machine.

A private fabric is one exec of `fabric.runtime.boot` in a session of its own. Its settings travel
through a pipe, what it says on stderr goes to a file in the runtime directory, and both
directories are the driver's and go with it. What runs in those processes is not known here.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable

from fabric.config import Limits
from fabric.exceptions import ClusterError, ConfigError
from fabric.ids import Incarnation, JobId, address
from fabric.protocol.values import JobSpec
from fabric.runtime.client import Client
from fabric.runtime.directories import (
    PRIVATE,
    fabric_home,
    hand_over,
    lock_of,
    remove_runtime_directory,
    runtime_directory,
    store_directory,
    sweep,
)
from fabric.runtime.home import find_running
from fabric.runtime.launch import (
    LOOK_S,
    START_S,
    default_store_bytes,
    end_process,
    launch,
    tail_of,
)
from fabric.runtime.settings import FabricSettings, Place, resource_units

FAILED_LOG = "failed-start.log"
"""In `fabric_home`: what the last private fabric said that did not start."""


class PrivateFabric:
    """The processes and directories of a fabric that belongs to this driver."""

    def __init__(self, settings: FabricSettings) -> None:
        self.settings = settings
        self.log_path = os.path.join(settings.runtime_directory, "boot.log")
        self.is_in_a_hurry = False
        self.process = launch(settings, self.log_path, locks=settings.locks)

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
        try:
            shutil.copyfile(self.log_path, kept)
        except FileNotFoundError:  # it was ended in order, and has tidied up
            return ""
        return tail_of(kept)

    def hurry(self) -> None:
        """Whoever waits for its end waits no longer; it goes on ending by itself."""
        self.is_in_a_hurry = True

    def end(self) -> None:
        """End every process of it and remove its directories."""
        directories = (self.settings.runtime_directory, self.settings.store_directory)
        is_over = end_process(self.process, lambda: self.is_in_a_hurry)
        for path in directories:
            if is_over:
                remove_runtime_directory(path)  # what is left: its node may have been killed
            else:
                hand_over(path)

    def disown(self) -> None:
        """In a fork of the driver: it is no child of this process."""
        self.process.returncode = 0


def start_private(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    object_store_memory: int | None,
    limits: Limits,
) -> PrivateFabric:
    """Start a control store and a node for this driver alone."""
    sweep()
    cluster = PRIVATE + os.urandom(4).hex()
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
            locks=(lock_of(runtime), lock_of(store)),
        )
        return PrivateFabric(settings)
    except BaseException:
        remove_runtime_directory(runtime)
        if store is not None:
            remove_runtime_directory(store)
        raise


# ---------------------------------------- the driver


def new_driver(
    place: Place, namespace: str | None, limits: Limits, *, wants_output: bool = True
) -> Client:
    """The client of a driver, not yet started."""
    incarnation = Incarnation(os.urandom(8))
    job = new_job(incarnation, namespace)
    entrypoint = " ".join(sys.argv)[:1000]
    return Client(
        incarnation,
        place,
        job,
        limits,
        is_driver=True,
        entrypoint=entrypoint,
        wants_output=wants_output,
    )


def connect(
    client: Client, private: PrivateFabric | None, check_interrupt: Callable[[], None]
) -> None:
    """Start the client and wait for its node's welcome."""
    client.start()
    deadline = time.monotonic() + START_S
    while not client.registered.wait(LOOK_S):
        check_interrupt()
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
        found = find_running()
        return Place(
            found.name,
            found.node,
            found.control,
            found.runtime_directory,
            found.store_directory,
        )
    raise ConfigError(
        f"The address {where!r} is none that this version knows.",
        advice='Give "auto" for the cluster of this machine, or nothing for a private one.',
    )


def new_job(driver: Incarnation, namespace: str | None) -> JobSpec:
    """What workers have to know of this driver's program."""
    return JobSpec(
        JobId(driver),
        tuple(os.path.abspath(one) for one in sys.path),
        os.getcwd(),
        namespace or driver.hex(),
    )
