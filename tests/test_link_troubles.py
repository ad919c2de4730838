"""A link alone, with everything going wrong at every step of a two-sided conversation.

Whatever is lost, repeated or overtaken: each word arrives once and in order; and a side that makes
its link anew is heard.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from fabric.config import Limits
from fabric.core.link import LinkForgotten
from fabric.protocol.frames import (
    HEADER,
    UNKNOWN,
    Hello,
    decode_hello,
    link_number,
)
from fabric.protocol.messages import PROTOCOL
from tests.wire import LIMITS, ONE, A, B, Wire, established, hello_frame

# -- resets at every step

SCRIPT = "a a . b . . a b . a . . b a . b"
"""Who speaks, and when one frame arrives."""

Fault = Callable[[Wire], None]


def lose_all(wire: Wire) -> None:
    wire.reset()


def lose_all_and_notice(wire: Wire) -> None:
    wire.reset()
    wire.repeat(wire.a)


def lose_all_and_both_notice(wire: Wire) -> None:
    wire.reset()
    wire.repeat(wire.a)
    wire.repeat(wire.b)


def notice_without_a_loss(wire: Wire) -> None:
    wire.repeat(wire.b)


def lose_one_direction(wire: Wire) -> None:
    wire.toward[A].clear()


def lose_the_other_direction(wire: Wire) -> None:
    wire.toward[B].clear()


def lose_the_next(wire: Wire) -> None:
    for frames in wire.toward.values():
        if frames:
            frames.popleft()


def repeat_all(wire: Wire) -> None:
    wire.duplicate()


FAULTS: tuple[Fault, ...] = (
    lose_all,
    lose_all_and_notice,
    lose_all_and_both_notice,
    notice_without_a_loss,
    lose_one_direction,
    lose_the_other_direction,
    lose_the_next,
    repeat_all,
)


def converse(wire: Wire, faults: dict[int, Fault]) -> int:
    """Run the script with these faults before these steps; the number of steps it took."""
    script = deque(SCRIPT.split())
    for step in range(2000):
        if step in faults:
            faults[step](wire)
        word = script.popleft() if script else "."
        if word == "." and not wire.step() and not script and step > max(faults, default=0):
            return step
        if word != ".":
            side = wire.a if word == "a" else wire.b
            wire.say(side, b"%s says %d" % (word.encode(), len(side.said)))
        for side, other in (wire.sides, wire.sides[::-1]):
            assert side.heard == other.said[: len(side.heard)]
    raise AssertionError(f"no end to it: {wire.log[-20:]}")


WINDOWS = {
    "wide": LIMITS,
    "one": ONE,
    "two": replace(LIMITS, link_frames_max=2),
    "ten bytes": replace(LIMITS, link_bytes_max=20),
}


def windows(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limits", [WINDOWS[name] for name in names], ids=names)


@windows(*WINDOWS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_at_any_step_loses_and_repeats_nothing(fault: Fault, limits: Limits) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        wire = Wire(limits)
        converse(wire, {at: fault})
        wire.check()


@windows("wide", "one")
@pytest.mark.parametrize("second", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("first", [lose_all, lose_all_and_notice, repeat_all])
def test_two_faults_at_any_steps_lose_and_repeat_nothing(
    first: Fault, second: Fault, limits: Limits
) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        steps = converse(Wire(limits), {at: first})
        for then in range(at + 1, steps + 1):
            wire = Wire(limits)
            converse(wire, {at: first, then: second})
            wire.check()


@windows("wide", "one")
def test_a_reset_before_every_step_of_the_first_exchanges_only_delays_them(limits: Limits) -> None:
    for until in range(12):
        wire = Wire(limits)
        converse(wire, dict.fromkeys(range(until), lose_all))
        wire.check()


@pytest.mark.parametrize("seed", range(300))
def test_random_troubles_lose_and_repeat_nothing(seed: int) -> None:
    chance = random.Random(seed)
    wire = Wire(*[tiny_limits(chance) for _ in range(2)])
    for _ in range(chance.randrange(20, 120)):
        trouble_once(wire, chance)
    for side in wire.sides:
        side.link.committed(side.commits, wire.now)
        wire.speak(side)
    wire.run()
    wire.check()


def tiny_limits(chance: random.Random) -> Limits:
    return replace(
        LIMITS,
        link_frames_max=chance.choice([1, 1, 2, 3, 10]),
        link_bytes_max=chance.choice([1, 1, 5, 30, 1000]),
    )


TROUBLES = (
    *("say", "say", "hear", "hear", "hear", "lose", "reset", "again"),
    *("swap", "commit", "wait", "repeat"),
)


def trouble_once(wire: Wire, chance: random.Random) -> None:
    """One random thing: a word, an arrival, a loss, a repetition, an overtaking, a commit, time."""
    side = chance.choice(wire.sides)
    frames = wire.toward[side.address]
    match chance.choice(TROUBLES):
        case "say":
            wire.say(side, chance.randbytes(chance.randrange(1, 9)))
        case "hear" if frames:
            if chance.random() < 0.3:
                side.commits += 1
                wire.hear(side, frames.popleft(), commit=side.commits)
            else:
                wire.deliver(side)
        case "lose" if frames:
            del frames[chance.randrange(len(frames))]
        case "reset":
            wire.reset()
        case "again" if frames:
            frames.insert(chance.randrange(len(frames)), chance.choice(frames))
        case "swap" if len(frames) > 1:
            frames.rotate(chance.randrange(len(frames)))
        case "commit":
            side.link.committed(chance.randint(0, side.commits), wire.now)
            wire.speak(side)
        case "wait":
            wire.now += chance.choice([0.1, 0.5, 1.0])
            wire.speak(side)
        case "repeat":
            wire.repeat(side)


# -- a link made anew


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("who", ["a", "b"])
@windows("wide", "one")
def test_a_peer_that_makes_its_link_anew_at_any_step_is_heard(
    limits: Limits, who: str, is_reset: bool
) -> None:
    for at in range(converse(Wire(limits), {}) + 1):
        wire = Wire(limits)
        say_until(wire, at)
        reborn, other = wire.sides if who == "a" else wire.sides[::-1]
        if is_reset:
            wire.reset()
        reborn.link = reborn.make_link()
        reborn.said, reborn.heard, other.heard = [], [], []
        for number in range(3):
            wire.say(reborn, b"anew %d" % number)
        wire.run()
        assert other.heard[-3:] == reborn.said  # words of the former life came before, if at all
        assert not [word for word in other.heard[:-3] if word.startswith(b"anew")]
        wire.say(other, b"welcome back")
        wire.run()
        assert reborn.heard[-1] == b"welcome back"
        assert len(dict.fromkeys(reborn.heard)) == len(reborn.heard)
        assert [side.link.deadline() for side in wire.sides] == [None, None]


def say_until(wire: Wire, step: int) -> None:
    """The script up to that step."""
    script = SCRIPT.split()
    for word in (*script, *("." * step))[:step]:
        if word == ".":
            wire.step()
        else:
            side = wire.a if word == "a" else wire.b
            wire.say(side, b"%s says %d" % (word.encode(), len(side.said)))


def test_frames_of_a_life_that_is_over_are_not_heard() -> None:
    wire = established()
    wire.say(wire.a, b"of the former life")
    late = wire.toward[B].popleft()
    wire.a.link = wire.a.make_link()
    wire.a.said[1:] = []
    wire.say(wire.a, b"of the new life")
    wire.run()
    wire.hear(wire.b, late)
    wire.run()
    assert wire.b.heard == [b"first", b"of the new life"]


def test_a_hello_of_a_life_that_is_over_changes_nothing() -> None:
    wire = Wire()
    wire.say(wire.a, b"of the former life")
    late = wire.toward[B][0]
    wire.run()
    wire.a.link = wire.a.make_link()
    wire.say(wire.a, b"of the new life")
    wire.run()
    before = wire.b.link.snapshot()
    wire.log.clear()
    wire.hear(wire.b, late)
    assert (wire.b.link.snapshot(), wire.log) == (before, [])


def test_what_a_former_life_of_the_peer_may_have_heard_is_not_said_to_the_next() -> None:
    wire = established()
    wire.say(wire.a, b"in flight")
    life = wire.a.link.life
    wire.hear(wire.a, hello_frame(B, A, Hello(PROTOCOL, "cluster", B, 9, life)))
    figures = wire.a.link.snapshot()
    names = ("life", "peer_life", "sent", "in_flight", "restarts")
    assert [figures[name] for name in names] == [life + 1, 9, 0, 0, 1]


def test_a_peer_born_again_that_answers_our_opening_hears_all_of_it() -> None:
    wire = Wire()
    wire.hear(wire.a, hello_frame(B, A, Hello(PROTOCOL, "cluster", B, 8)))
    wire.say(wire.a, b"one")
    wire.hear(wire.a, hello_frame(B, A, Hello(PROTOCOL, "cluster", B, 9, wire.a.link.life)))
    figures = wire.a.link.snapshot()
    names = ("life", "peer_life", "sent", "in_flight", "restarts")
    assert [figures[name] for name in names] == [1, 9, 1, 1, 0]


def test_who_speaks_to_an_earlier_life_of_ours_is_told_of_this_one() -> None:
    wire = established()
    wire.a.link = wire.a.make_link()
    wire.a.link.speak(wire.now)
    wire.hear(wire.a, hello_frame(B, A, Hello(PROTOCOL, "cluster", B, 1, 1, 1)))
    answer = decode_hello(wire.toward[B].popleft())
    assert (answer.life, answer.peer_life, answer.wants_answer) == (2, 0, True)
    assert wire.a.link.snapshot()["peer_life"] == 0


def test_an_opening_that_was_lost_is_said_again_when_the_peer_knows_no_such_link() -> None:
    wire = Wire()
    wire.say(wire.a, b"one")
    wire.toward[B].clear()
    unknown = HEADER.pack(UNKNOWN, link_number(A, B, wire.a.link.life), 0, 0)
    wire.hear(wire.a, unknown)
    wire.hear(wire.a, unknown)  # one of many that strayed: not opened for each
    assert wire.log == ["c HELLO 0 0", "c DATA 1 0", "c HELLO 1 0", "c DATA 1 0"]
    wire.run()
    wire.check()


def test_a_link_that_was_up_and_is_unknown_to_the_peer_is_over() -> None:
    wire = established()
    newest = wire.b.link.life + 3  # it made other links meanwhile
    with pytest.raises(LinkForgotten):
        wire.hear(wire.a, HEADER.pack(UNKNOWN, link_number(A, B, wire.a.link.life), newest, 0))
    wire.hear(wire.a, HEADER.pack(UNKNOWN, link_number(A, B, 77), 0, 0))  # of another life


def test_a_late_word_that_a_link_is_unknown_does_not_end_the_link_that_was_made_since() -> None:
    wire = established()
    before = wire.b.link.life - 1
    late = HEADER.pack(UNKNOWN, link_number(A, B, wire.a.link.life), before, 0)
    wire.hear(wire.a, late)
    wire.say(wire.a, b"goes on")
    wire.run()
    assert wire.b.heard[-1] == b"goes on"
    wire.check()
