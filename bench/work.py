"""What the peers are asked to run: as little as possible, and importable in every worker."""

from typing import Any


def nothing() -> None:
    """A call without argument and result."""


def same(value: int) -> int:
    """A call with both."""
    return value


def successor(value: int) -> int:
    """A link of a chain."""
    return value + 1


def first_of(values: Any) -> Any:
    """Touches one element of something large."""
    return values[0]


class Counter:
    """The smallest actor with a state."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, step: int) -> int:
        self.count += step
        return self.count
