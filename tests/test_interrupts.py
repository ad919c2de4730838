"""The directed signal: it strikes user code of the call that is meant, or nothing."""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from fabric.context import Interrupted
from fabric.ids import CallId
from fabric.runtime.interrupts import SIGNAL, Interrupts
from tests.core_words import c

PATIENCE_S = 30.0


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = signal.getsignal(SIGNAL)
    made = Interrupts()
    made.install()
    yield made
    signal.signal(SIGNAL, before)


def from_elsewhere(interrupts: Interrupts, call: CallId) -> None:
    """Another thread interrupts that call, and has done so."""
    thread = threading.Thread(target=interrupts.interrupt, args=(call,))
    thread.start()
    thread.join()


def test_a_system_call_of_the_call_is_broken(interrupts: Interrupts) -> None:
    timer = threading.Timer(0.05, interrupts.interrupt, args=(c(1),))
    timer.start()
    interrupts.enter(c(1))
    with pytest.raises(KeyboardInterrupt):
        time.sleep(PATIENCE_S)
    timer.join()


def test_a_word_that_came_before_its_call_began_is_heard_when_it_does(
    interrupts: Interrupts,
) -> None:
    from_elsewhere(interrupts, c(1))
    with pytest.raises(Interrupted):
        interrupts.enter(c(1))


def test_another_call_is_not_struck_and_neither_is_what_comes_after_the_call(
    interrupts: Interrupts,
) -> None:
    interrupts.enter(c(1))
    from_elsewhere(interrupts, c(2))
    interrupts.leave()
    from_elsewhere(interrupts, c(1))
    interrupts.enter(c(3))
    interrupts.leave()


def test_a_call_is_struck_once(interrupts: Interrupts) -> None:
    interrupts.enter(c(1))
    with pytest.raises(Interrupted):
        from_elsewhere(interrupts, c(1))
    from_elsewhere(interrupts, c(1))
    interrupts.leave()


def test_what_is_shielded_is_struck_when_it_is_done(interrupts: Interrupts) -> None:
    steps = []

    def shielded() -> None:
        with interrupts.shielded():
            steps.append("begun")
            from_elsewhere(interrupts, c(1))
            steps.append("done")

    interrupts.enter(c(1))
    with pytest.raises(Interrupted):
        shielded()
    assert steps == ["begun", "done"]


def test_at_any_instant_only_the_call_that_is_meant_is_struck(interrupts: Interrupts) -> None:
    """Calls follow each other as fast as they can while another thread interrupts some of them."""
    current = [c(0)]
    is_over = threading.Event()
    draw = random.Random(17)

    def strike() -> None:
        while not is_over.is_set():
            interrupts.interrupt(current[0])
            time.sleep(draw.random() * 1e-4)

    striker = threading.Thread(target=strike)
    striker.start()
    struck = number = 0
    deadline = time.monotonic() + PATIENCE_S
    try:
        while (number < 20_000 or struck < 20) and time.monotonic() < deadline:
            number += 1
            call = c(number)
            try:
                interrupts.enter(call)
                try:
                    current[0] = call
                    sum(range(number % 50))
                finally:
                    interrupts.leave()
            except Interrupted:
                struck += 1
            # what is not user code: an exception here would end the test
            with contextlib.suppress(KeyError):
                current[0] = c(number)
                {}["nothing"]
    finally:
        is_over.set()
        striker.join()
    assert struck >= 20
