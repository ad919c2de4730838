"""The simulator's own tests: seeds that must pass, mistakes that must be found, one history."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from fabric.protocol.messages import AnyMessage
from tests.sim.faults import Outcome, run_seed
from tests.sim.mutants import MUTANTS, Change, planted

SEEDS = 100

FAULTS = (
    "cancelled call killed",
    "control crash",
    "driver crash",
    "drop",
    "duplicate",
    "memory shortage",
    "node crash",
    "pause",
    "poison call",
    "publication lost",
    "reorder",
    "reset",
    "worker crash",
    "worker-client crash",
)

NEVER_SAID: frozenset[str] = frozenset()
"""Messages that the model has no use for."""

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def suite() -> list[Outcome]:
    return [run_seed(seed) for seed in range(SEEDS)]


def test_every_seed_keeps_every_promise(suite: list[Outcome]) -> None:
    assert not [(one.seed, one.error) for one in suite if one.error]


def test_every_kind_of_fault_and_of_message_occurs(suite: list[Outcome]) -> None:
    counts: Counter[str] = Counter()
    for one in suite:
        counts += one.counts
    expected = [f"fault {name}" for name in FAULTS]
    names = [one.__name__ for one in AnyMessage.__args__]
    expected += [f"message {name}" for name in names if name not in NEVER_SAID]
    assert not [name for name in expected if not counts[name]]


def test_the_same_seed_is_the_same_history_under_another_hash_seed() -> None:
    code = "from tests.sim.faults import run_seed; print(*[run_seed(s).digest for s in (3, 8, 21)])"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("mutant", "seed", "invariant"), MUTANTS, ids=[one.__name__ for one, _, _ in MUTANTS]
)
def test_a_mistake_made_on_purpose_is_found_by_what_it_breaks(
    mutant: Callable[[], Change], seed: int, invariant: str
) -> None:
    assert not run_seed(seed).error
    with planted(mutant):
        assert re.match(invariant, run_seed(seed).error)
