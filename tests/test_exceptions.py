"""The tree of errors: drawn, coded, advised, and able to travel."""

import pickle
import re

import pytest

from fabric import exceptions
from fabric.exceptions import FAILURES, FabricError, GetTimeoutError, NameTakenError, TaskError

ERRORS = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and issubclass(each, FabricError)
]


def test_the_docstring_draws_every_error_with_its_code() -> None:
    drawn = dict(re.findall(r"(\w+)(?: \(.*?\))? +(FAB-\d+)", exceptions.__doc__ or ""))
    assert drawn == {each.__name__: each.code for each in ERRORS}


def test_each_code_is_of_one_error() -> None:
    assert len({each.code for each in ERRORS}) == len(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.__name__)
def test_an_error_says_cause_advice_and_code_and_can_be_pickled(error: type[FabricError]) -> None:
    made = error("It is broken.", advice="Mend it.")
    assert str(made) == f"It is broken.\nMend it. [{error.code}]"
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again)) == (error, str(made))
    assert error("It is broken.").advice


def test_errors_are_also_what_users_already_catch() -> None:
    assert issubclass(GetTimeoutError, TimeoutError)
    assert issubclass(NameTakenError, ValueError)


def test_the_constructor_of_a_dual_type_does_not_call_the_users() -> None:
    class Odd(ValueError):
        def __init__(self, left: int, right: int) -> None:
            super().__init__(left, right)

    dual = type("Dual", (TaskError, Odd), {})
    assert dual("It raised.").text == "It raised."


def test_every_kind_of_failure_is_an_error_of_the_tree() -> None:
    assert set(FAILURES.values()) <= set(ERRORS)
