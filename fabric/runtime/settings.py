"""What the processes of one fabric are told when they start, as one JSON text through a descriptor.

Never in argv or the environment, which other users and children can read.
"""

import json
import os
from typing import Any

import msgspec

from fabric.config import Limits
from fabric.ids import Address
from fabric.protocol.values import UNIT

LOGS = "logs"
"""Within a runtime directory: what workers print."""


class FabricSettings(msgspec.Struct, frozen=True):
    """One machine's control store and node.

    ``driver_pid`` is 0 for a cluster that outlives its drivers; else everything ends with that
    process. ``journal_path`` is where the control store's database is; it is synced only for
    clusters. ``locks`` are the inherited descriptors of the two directories' locks.
    """

    cluster: str
    node: Address
    control: Address
    runtime_directory: str
    store_directory: str
    store_prefix: str
    store_bytes_max: int
    resources: dict[str, int]
    workers_kept: int
    journal_path: str
    is_synced: bool
    driver_pid: int
    limits: Limits
    address_path: str = ""
    locks: tuple[int, ...] = ()


class Place(msgspec.Struct, frozen=True):
    """Where a client belongs: which fabric, which node, which directories."""

    cluster: str
    node: Address
    control: Address
    runtime_directory: str
    store_directory: str


def resource_units(
    num_cpus: float | None, num_gpus: float | None, resources: dict[str, float] | None
) -> dict[str, int]:
    """A node's resources in units of 1/UNIT; CPUs are those this process may use unless told."""
    amounts = {"CPU": float(len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus)}
    if num_gpus:
        amounts["GPU"] = float(num_gpus)
    amounts.update(resources or {})
    return {name: round(amount * UNIT) for name, amount in amounts.items()}


def encode_settings(settings: FabricSettings) -> bytes:
    """As JSON."""
    return msgspec.json.encode(settings)


def decode_settings(text: bytes) -> FabricSettings:
    """From JSON."""
    return msgspec.json.decode(text, type=FabricSettings)


def read_settings(descriptor: int) -> FabricSettings:
    """Everything up to the end of that descriptor."""
    with os.fdopen(descriptor, "rb") as stream:
        return decode_settings(stream.read())


def write_atomically(path: str, content: dict[str, Any]) -> None:
    """A small JSON file that is there whole or not at all, readable by its owner only."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream)
    os.replace(temporary, path)
