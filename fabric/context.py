"""What runs in this process right now: written by the worker around each call, read by user code.

In a driver it stays as it is. A worker runs one call at a time (or one actor's calls, which share
all of this but the call), so plain attributes are enough. Nothing here asks another process.
"""

from fabric.ids import ActorId, CallId


class Running:
    """The call that this process runs, if it is a worker's."""

    __slots__ = (
        "actor_id",
        "attempt",
        "call_id",
        "class_name",
        "depth",
        "node",
        "restarts",
        "task",
    )

    def __init__(self) -> None:
        self.call_id: CallId | None = None
        self.task = ""  # the task's or method's name
        self.attempt = 0
        self.node = ""  # the node's address
        self.depth = -1  # -1 in a driver, 0 in a call that a driver made
        self.actor_id: ActorId | None = None
        self.class_name = ""
        self.restarts = 0


running = Running()
"""The one of this process."""


class ActorExit(BaseException):
    """Raised by `fabric.exit_actor`: no `Exception`, so that no handler of errors swallows it."""


class Interrupted(KeyboardInterrupt):
    """Raised inside a call that is cancelled while it runs, as Ctrl-C would be."""
