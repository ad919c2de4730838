"""The node's account of output: which driver sees which lines, and how many.

A part of the node. What a worker wrote goes to the driver of its job if that wants it, up to so
many lines and bytes a second and so many bytes that the driver has not printed yet; the rest is
counted, and the count is told. Everything is in the worker's log anyway, which is not kept here.
"""

from collections.abc import Callable

from fabric.config import Limits
from fabric.core.effects import DrainOutput, Effect, Send
from fabric.core.events import OutputDrained, WorkerWrote
from fabric.core.machine import InvariantError
from fabric.core.node.staff import Staff
from fabric.ids import Address, Incarnation, JobId, address, incarnation_of, owner_address, owner_of
from fabric.protocol.messages import FlushOutput, OutputShown, OutputWritten

SECOND_S = 1.0


class Viewer:
    """What one driver was sent."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.second_at = 0.0  # when the present second began
        self.lines = 0  # in it
        self.nbytes = 0  # in it
        self.unshown_bytes = 0
        self.omitted = 0  # lines that it has not been told of

    def take(self, text: bytes, now: float) -> bytes:
        """The lines at the beginning of the text that it is to see; the others are counted."""
        if now >= self.second_at + SECOND_S:
            self.second_at, self.lines, self.nbytes = now, 0, 0
        limits = self.limits
        lines_room = limits.output_lines_per_s_max - self.lines
        bytes_room = min(
            limits.output_bytes_per_s_max - self.nbytes,
            limits.output_bytes_max - self.unshown_bytes,
        )
        lines = text.count(b"\n")
        if lines > lines_room or len(text) > bytes_room:
            text = _first_lines(text, lines_room, bytes_room)
            kept = text.count(b"\n")
            self.omitted += lines - kept
            lines = kept
            # one that was left out ends the second's room: no later one may overtake it
            self.lines = limits.output_lines_per_s_max
        else:
            self.lines += lines
        self.nbytes += len(text)
        self.unshown_bytes += len(text)
        return text

    def due(self) -> float | None:
        """When it is to be told what it has not seen; None while it prints too slowly."""
        if not self.omitted or self.unshown_bytes >= self.limits.output_bytes_max:
            return None
        return self.second_at + SECOND_S

    def notice(self) -> OutputWritten:
        """How much it has not seen."""
        omitted, self.omitted = self.omitted, 0
        return OutputWritten(0, "", False, b"", omitted)


class Output:
    """See the module."""

    def __init__(self, limits: Limits, staff: Staff, wants: Callable[[bytes], bool]) -> None:
        self.limits = limits
        self.staff = staff
        self.wants = wants
        self.viewers: dict[Incarnation, Viewer] = {}

    def on_worker_wrote(self, source: Address, message: WorkerWrote, now: float) -> list[Effect]:
        """To the driver of its job, as far as there is room."""
        worker = self.staff.workers.get(message.worker)
        if worker is None or worker.job is None or not self.wants(worker.job):
            return []
        viewer = self.viewers.get(Incarnation(worker.job))
        if viewer is None:
            viewer = self.viewers[Incarnation(worker.job)] = Viewer(self.limits)
        text = viewer.take(message.text, now)
        if not text:
            return []
        omitted = 0
        if len(text) == len(message.text):  # else what is left out now comes after it
            omitted, viewer.omitted = viewer.omitted, 0
        written = OutputWritten(worker.pid, message.name, message.is_error, text, omitted)
        return [Send(address("c", worker.job), written)]

    def on_output_shown(self, client: Address, message: OutputShown, now: float) -> list[Effect]:
        """It has printed that much."""
        viewer = self.viewers.get(incarnation_of(client))
        if viewer is not None:
            viewer.unshown_bytes = max(0, viewer.unshown_bytes - message.nbytes)
        return []

    def on_flush_output(self, client: Address, message: FlushOutput, now: float) -> list[Effect]:
        """It is about to leave: first hear all that its workers have written."""
        job = JobId(incarnation_of(client))
        workers = [one.incarnation for one in self.staff.workers.values() if one.job == job]
        return [DrainOutput(message.request, tuple(workers))]

    def on_output_drained(
        self, source: Address, message: OutputDrained, now: float
    ) -> list[Effect]:
        """That is heard, and sent."""
        if not self.wants(owner_of(message.request)):
            return []
        client = owner_address(message.request)
        effects: list[Effect] = []
        viewer = self.viewers.get(owner_of(message.request))
        if viewer is not None and viewer.omitted:
            effects.append(Send(client, viewer.notice()))
        return [*effects, Send(client, FlushOutput(message.request))]

    def client_gone(self, client: Incarnation) -> None:
        """It sees nothing any more."""
        self.viewers.pop(client, None)

    def tick(self, now: float) -> list[Effect]:
        """Tell who has not seen everything, once a second."""
        effects: list[Effect] = []
        for client, viewer in self.viewers.items():
            due = viewer.due()
            if due is not None and now >= due:
                effects.append(Send(address("c", client), viewer.notice()))
        return effects

    def dues(self) -> list[float]:
        """When `tick` has something to say."""
        return [due for viewer in self.viewers.values() if (due := viewer.due()) is not None]

    def check(self) -> None:
        """Only drivers that want output have an account."""
        for client in self.viewers:
            if not self.wants(client):
                raise InvariantError(f"{client.hex()} has an account of output and wants none")


def _first_lines(text: bytes, lines: int, nbytes: int) -> bytes:
    """As many of the first lines as are allowed, and not more bytes than that."""
    end = 0
    for _ in range(lines):
        following = text.find(b"\n", end) + 1
        if not following or following > nbytes:
            break
        end = following
    return text[:end]
