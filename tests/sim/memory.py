"""How much memory the model's node finds in use: all of it for a while, when the seed says so."""

from typing import TYPE_CHECKING

from fabric.core.events import MemoryMeasured, WorkerMemory
from fabric.ids import Incarnation

if TYPE_CHECKING:
    from tests.sim.processes import NodeProcess


def measured(node: "NodeProcess", workers: tuple[Incarnation, ...]) -> MemoryMeasured:
    """Each of these uses the same."""
    found = []
    for one in workers:
        if one in node.workers:
            worker = node.workers[one].worker
            is_busy = any(not finished for _, finished in worker.word.values())
            found.append(WorkerMemory(one, 10, worker.began_at if is_busy else 0.0))
    is_short = node.world.now < node.world.short_until
    return MemoryMeasured(100 if is_short else 10, 100, tuple(found))
