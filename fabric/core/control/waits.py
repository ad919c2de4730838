"""Lives of actors that have no node yet, or whose node has not answered yet.

A part of the control store: when to look again, when to give up, when to say it once more. All of
it is made anew from the table of actors after a restart, so none of it is recorded.
"""

from fabric.core.machine import InvariantError
from fabric.ids import ActorId

_NEVER = float("inf")


class SeatWait:
    """One life that waits for a node: not looked for before, given up at."""

    def __init__(self, not_before: float, give_up_at: float) -> None:
        self.not_before = not_before
        self.give_up_at = give_up_at
        self.look_at = not_before


class Waits:
    """Those without a node, and those whose node has been told and has not answered."""

    def __init__(self) -> None:
        self.seats: dict[ActorId, SeatWait] = {}
        self.unanswered: dict[ActorId, float] = {}  # when to tell again, in that order

    def seek(self, actor_id: ActorId, not_before: float, give_up_at: float) -> None:
        """It needs a node."""
        self.forget(actor_id)
        self.seats[actor_id] = SeatWait(not_before, give_up_at)

    def due(self, now: float) -> list[ActorId]:
        """Those to look for a node for in this turn."""
        return [actor_id for actor_id, one in self.seats.items() if one.not_before <= now]

    def found_none(self, actor_id: ActorId, now: float) -> bool:
        """There is no node for it; true if that is final unless a node comes back."""
        wait = self.seats[actor_id]
        is_final = wait.give_up_at <= now
        wait.look_at = _NEVER if is_final else wait.give_up_at
        return is_final

    def told(self, actor_id: ActorId, again_at: float) -> None:
        """Its node has been told to begin it."""
        self.forget(actor_id)
        self.unanswered[actor_id] = again_at

    def overdue(self, now: float) -> list[ActorId]:
        """Those whose node has not answered in time."""
        late = []
        for actor_id, again_at in self.unanswered.items():
            if again_at > now:
                break
            late.append(actor_id)
        return late

    def forget(self, actor_id: ActorId) -> None:
        """It began, or never will."""
        self.seats.pop(actor_id, None)
        self.unanswered.pop(actor_id, None)

    def deadline(self) -> float | None:
        """When to look again."""
        looks = [one.look_at for one in self.seats.values() if one.look_at < _NEVER]
        looks += list(self.unanswered.values())[:1]
        return min(looks, default=None)

    def check(self) -> None:
        """Nobody both has a node and has none."""
        for actor_id in self.seats:
            if actor_id in self.unanswered:
                raise InvariantError(f"{actor_id.hex()} seeks a node and waits for its answer")
