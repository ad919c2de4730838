"""A flag that wakes a loop: an eventfd that any thread may raise and one loop watches.

It carries nothing; what there is to hear stands elsewhere (a deque, usually) before the flag goes
up. The descriptor lives as long as somebody can reach the flag, so a late `up` cannot hit a
descriptor that the process has given to somebody else since.
"""

import os


class Poke:
    """An eventfd. `up` takes no lock, logs and imports nothing, so `__del__` may call it."""

    __slots__ = ("_close", "_write", "fd")

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # kept here because a module's globals may be gone when the interpreter ends
        self._write = os.eventfd_write
        self._close = os.close

    def up(self) -> None:
        """Wake who watches. Any thread."""
        self._write(self.fd, 1)

    def down(self) -> None:
        """Take the flag down, before looking for what it announced."""
        os.eventfd_read(self.fd)

    def __del__(self) -> None:
        self._close(self.fd)
