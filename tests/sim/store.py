"""Shared memory in the model: files with a generation, pins of readers, locks of writers.

What is counted, freed and recycled the node's machine decides; here a lock is refused where a pin
is, as the kernel does it, and the pins of dead processes are dropped.
"""

from typing import TYPE_CHECKING

from fabric.core.effects import WriteSegment
from fabric.protocol.values import Sealed
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.processes import SimProcess


class SegmentFile:
    """One file."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.generation = 1
        self.content = b""
        self.is_readable = False
        self.writer: SimProcess | None = None
        self.pins: list[SimProcess] = []


class StoreFiles:
    """The files of one node."""

    def __init__(self) -> None:
        self.files: dict[str, SegmentFile] = {}

    def create(self, name: str, nbytes: int) -> None:
        """A new file."""
        if name in self.files:
            raise Violation(f"segment {name} is made twice")
        self.files[name] = SegmentFile(nbytes)

    def recycle(self, name: str, generation: int) -> bool:
        """The exclusive lock, unless somebody reads or writes."""
        file = self.files.get(name)
        if file is None:
            raise Violation(f"segment {name} is recycled and is not there")
        file.pins = [one for one in file.pins if one.is_alive]
        if file.pins or (file.writer is not None and file.writer.is_alive):
            return False
        file.generation = generation
        file.is_readable = False
        file.content = b""
        return True

    def unlink(self, name: str) -> None:
        """It is gone."""
        file = self.files.pop(name, None)
        if file is None:
            raise Violation(f"segment {name} is removed and is not there")
        if any(one.is_alive for one in file.pins):
            raise Violation(f"segment {name} is removed under a reader")

    def pin(self, sealed: Sealed, process: "SimProcess") -> bool:
        """The shared lock, if it still holds that value."""
        file = self.files.get(sealed.segment)
        if file is None or file.generation != sealed.generation or not file.is_readable:
            return False
        file.pins.append(process)
        return True

    def unpin(self, name: str, process: "SimProcess") -> None:
        """A view is gone."""
        file = self.files.get(name)
        if file is not None and process in file.pins:
            file.pins.remove(process)

    def begin_write(self, room: WriteSegment, process: "SimProcess") -> None:
        """The writer's lock."""
        file = self.files.get(room.segment)
        if file is not None and file.generation == room.generation:
            if file.writer is not None and file.writer.is_alive:
                raise Violation(f"segment {room.segment} has two writers")
            file.writer = process

    def end_write(self, room: WriteSegment, content: bytes, process: "SimProcess") -> bool:
        """Written and sealed; false if it was taken away before."""
        file = self.files.get(room.segment)
        if file is None or file.generation != room.generation or file.writer is not process:
            return False
        if len(content) > file.nbytes:
            raise Violation(f"segment {room.segment} is too small for {len(content)} bytes")
        file.content = content
        file.is_readable = True
        file.writer = None
        return True
