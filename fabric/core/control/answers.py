"""What clients were told about actors that were not made, and who asked about unknown ones.

A part of the control store. A creation refused, or answered with another actor, is remembered, so
that the same request repeated later gets the same answer although the name may be free by then. A
question about an actor that nobody knows stays open: its creator may not have had its arguments
ready. Nothing of it is recorded: after a restart nobody has seen an answer that he still asks for.
"""

from fabric.core.machine import InvariantError
from fabric.ids import ActorId, Address, Incarnation, owner_of
from fabric.protocol.messages import ActorStarted, StopActor
from fabric.protocol.values import ActorSpec, ActorView, Failure


class Answers:
    """The last creations that made nothing, the questions of this turn, and the open ones."""

    def __init__(self, kept_max: int) -> None:
        self.kept_max = kept_max
        self.given: dict[ActorId, Failure | ActorSpec] = {}  # refused, or that one instead
        self.asked: dict[tuple[ActorId, Address], None] = {}
        self.open: dict[tuple[ActorId, Address], None] = {}

    def give(self, actor_id: ActorId, answer: Failure | ActorSpec) -> Failure | ActorSpec:
        """That creation made nothing; the oldest answers beyond the limit are forgotten."""
        self.given[actor_id] = answer
        if len(self.given) > self.kept_max:
            del self.given[next(iter(self.given))]
        return answer

    def ask(self, actor_id: ActorId, asker: Address) -> None:
        """Somebody wants to know what it is, at the end of this turn."""
        self.asked[actor_id, asker] = None

    def take_asked(self) -> list[tuple[ActorId, Address]]:
        """The questions of this turn."""
        asked, self.asked = list(self.asked), {}
        return asked

    def leave_open(self, actor_id: ActorId, asker: Address) -> list[tuple[ActorId, Address]]:
        """Nobody knows it yet. The questions that wait no longer, where too many do."""
        self.open[actor_id, asker] = None
        excess = len(self.open) - self.kept_max
        oldest = list(self.open)[:excess] if excess > 0 else []
        for question in oldest:
            del self.open[question]
        return oldest

    def reopen(self, actor_id: ActorId) -> None:
        """It is known now: those who asked are answered in this turn."""
        self._reopen([one for one in self.open if one[0] == actor_id])

    def reopen_of(self, creator: Incarnation) -> None:
        """Its creator is gone: it will never be."""
        self._reopen([one for one in self.open if owner_of(one[0]) == creator])

    def forget_asker(self, asker: Address) -> None:
        """It is gone."""
        for question in [one for one in self.open if one[1] == asker]:
            del self.open[question]

    def check(self) -> None:
        """What is remembered is bounded."""
        if max(len(self.given), len(self.open)) > self.kept_max:
            raise InvariantError(f"{len(self.given)} answers, {len(self.open)} questions are kept")

    def _reopen(self, questions: list[tuple[ActorId, Address]]) -> None:
        for question in questions:
            del self.open[question]
            self.asked[question] = None


def never_made(actor_id: ActorId, failure: Failure) -> ActorView:
    """The view of an actor that is not and will not be."""
    return ActorView(actor_id, "dead", 1, "", failure=failure)


def end_of(started: ActorStarted) -> StopActor:
    """What a node is told of a life that begins or goes on although it is over."""
    over = Failure("actor_died", "this life of the actor is over")
    return StopActor(started.actor_id, started.incarnation, over)
