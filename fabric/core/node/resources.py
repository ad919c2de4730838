"""What a node has and what is free: arithmetic on shapes, in whole units of 1/UNIT.

A part of the node. Free amounts may go below zero while a call that waited for others goes on
before its share came back: it oversubscribes, it does not wait.
"""

from collections.abc import Mapping

from fabric.protocol.values import UNIT, Shape

CPU = "CPU"


class Resources:
    """Totals and what is free of them."""

    def __init__(self, totals: Mapping[str, int]) -> None:
        self.totals = dict(totals)
        self.free = dict(totals)

    def fits(self, shape: Shape) -> bool:
        """There is room for it now."""
        return all(self.free.get(name, 0) >= amount for name, amount in shape.amounts)

    def could_fit(self, shape: Shape) -> bool:
        """There would be room for it if nothing else ran."""
        return all(self.totals.get(name, 0) >= amount for name, amount in shape.amounts)

    def take(self, shape: Shape) -> None:
        """Use it up."""
        for name, amount in shape.amounts:
            self.free[name] = self.free.get(name, 0) - amount

    def give_back(self, shape: Shape) -> None:
        """It is free again."""
        for name, amount in shape.amounts:
            self.free[name] = self.free.get(name, 0) + amount


def cpus(shape: Shape) -> int:
    """The CPU units of a shape."""
    return dict(shape.amounts).get(CPU, 0)


def amounts_text(amounts: Mapping[str, int]) -> str:
    """Amounts as people write them: ``CPU 2, GPU 0.5``."""
    return ", ".join(f"{name} {amount / UNIT:g}" for name, amount in amounts.items()) or "nothing"
