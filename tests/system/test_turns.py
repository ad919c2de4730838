"""Threads that wait run the client's loop themselves, and hand it back whole, also if disturbed."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

import fabric
from fabric.runtime import client as clients
from tests.system.work import same

pytestmark = pytest.mark.system

ROUNDS = 150


@pytest.fixture(autouse=True)
def a_fabric() -> Iterator[None]:
    # the runner's own handler, for its time limits, would keep the main thread from the loop
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with fabric.init(num_cpus=2):
            yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_many_threads_that_submit_and_wait_at_once_all_get_their_own_values() -> None:
    wrong: list[tuple[int, int]] = []

    def go_round(offset: int) -> None:
        for number in range(offset, offset + ROUNDS):
            got = same.remote(number).get(timeout=30)
            if got != number:
                wrong.append((number, got))

    threads = [threading.Thread(target=go_round, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    go_round(-1000)
    for thread in threads:
        thread.join(60)
    assert (wrong, [thread.is_alive() for thread in threads]) == ([], [False] * 4)


def test_what_is_submitted_after_a_wait_runs_though_nobody_waits_for_it() -> None:
    assert same.remote(1).get() == 1  # the loop is free now, and nobody asks for it
    ref = same.remote(2)
    deadline = time.monotonic() + 10
    while ref._value is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert ref.get() == 2


def test_an_interrupt_ends_the_wait_and_leaves_the_fabric_as_it_was() -> None:
    main = threading.main_thread().ident
    assert main is not None
    drawn = random.Random(7)
    interrupted = 0
    for number in range(ROUNDS):
        timer = threading.Timer(drawn.uniform(0, 0.001), signal.pthread_kill, (main, signal.SIGINT))
        ref = same.remote(number)
        try:
            timer.start()
            ref.get()
            timer.join()
            time.sleep(0.01)  # it may strike only here
        except KeyboardInterrupt:
            interrupted += 1
            timer.join()
        assert ref.get() == number
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert interrupted == ROUNDS


def test_a_program_with_handlers_of_its_own_leaves_the_turns_to_the_loop_thread() -> None:
    client = clients.current_client()
    runners: set[int] = set()
    resolve = client.waits.notify

    def note(ref: fabric.ObjectRef[object]) -> None:
        runners.add(threading.get_ident())
        resolve(ref)

    client.waits.notify = note  # type: ignore[method-assign]

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    for number in range(20):
        assert same.remote(number).get() == number
    assert runners == {client.turns._thread.ident}
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    for number in range(20):
        assert same.remote(number).get() == number
    assert threading.get_ident() in runners


def test_an_end_of_the_session_ends_the_waits_of_other_threads() -> None:
    raised: list[type] = []

    def wait() -> None:
        try:
            never.get()
        except fabric.exceptions.SessionEndedError as error:
            raised.append(type(error))

    never = clients.current_client().promise()
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    same.remote(os.getpid()).get()
    fabric.shutdown()
    for thread in threads:
        thread.join(10)
    assert raised == [fabric.exceptions.SessionEndedError] * 3
