"""Options of tasks, actors and methods, and the checks of arguments at the caller."""

import inspect
from typing import Any

import pytest

from fabric.options import (
    ACTOR_OPTIONS,
    TASK_OPTIONS,
    check_options,
    check_totals,
    shape_of,
    with_defaults,
)
from fabric.protocol.values import Shape
from fabric.tasks import argument_check


def test_an_unknown_option_is_a_type_error_with_the_closest_match() -> None:
    with pytest.raises(
        TypeError, match=r"the task f has no option 'num_cpu': did you mean 'num_cpus'"
    ):
        check_options("the task f", TASK_OPTIONS, {"num_cpu": 1})


def test_an_option_that_is_like_no_other_gets_the_whole_table() -> None:
    with pytest.raises(TypeError, match="there are num_cpus, num_gpus"):
        check_options("the task f", TASK_OPTIONS, {"zzz": 1})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_cpus", -1, ValueError),
        ("num_cpus", "1", TypeError),
        ("num_cpus", True, TypeError),
        ("num_gpus", 1.5, ValueError),
        ("resources", {"CPU": 1}, ValueError),
        ("resources", ["a"], TypeError),
        ("num_returns", -1, ValueError),
        ("num_returns", 1.5, TypeError),
        ("num_returns", 70_000, ValueError),
        ("max_retries", -2, ValueError),
        ("name", "", ValueError),
        ("name", 3, TypeError),
    ],
)
def test_a_bad_value_is_refused(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        check_options("the task f", TASK_OPTIONS, {name: value})


def test_a_lifetime_is_detached_or_nothing() -> None:
    assert check_options("A", ACTOR_OPTIONS, {"lifetime": "detached"}) == {"lifetime": "detached"}
    with pytest.raises(ValueError, match="lifetime"):
        check_options("A", ACTOR_OPTIONS, {"lifetime": "long"})


def test_a_shape_has_whole_units_in_the_order_of_names_and_no_zeros() -> None:
    given = check_options(
        "f", TASK_OPTIONS, {"num_cpus": 0.5, "resources": {"disk": 2, "arm": 0}, "memory": 1.9}
    )
    shape = shape_of(with_defaults(TASK_OPTIONS, given))
    assert shape == Shape((("CPU", 5_000), ("disk", 20_000), ("memory", 10_000)))


def test_a_task_takes_one_cpu_and_an_actor_none_unless_told() -> None:
    assert shape_of(with_defaults(TASK_OPTIONS, {})) == Shape((("CPU", 10_000),))
    assert shape_of(with_defaults(ACTOR_OPTIONS, {})) == Shape(())


def test_totals_of_a_machine_are_checked_too() -> None:
    assert check_totals(2, None, {"disk": 1}) == {"CPU": 2.0, "disk": 1.0}
    with pytest.raises(ValueError, match="num_cpus"):
        check_totals(None, None, {"CPU": 2})
    with pytest.raises(TypeError, match="num_gpus"):
        check_totals(None, 0.5, None)


def plain(a: int, b: int = 2) -> None: ...
def positional_only(a: int, b: int = 1, /, c: int = 2) -> None: ...
def keyword_only(a: int, *, b: int, c: int = 1) -> None: ...
def anything(*args: int, **kwargs: int) -> None: ...
def everything(a: int, /, b: int, *rest: int, c: int, d: int = 1, **more: int) -> None: ...


SENTINEL = object()


def with_sentinel(a: object = SENTINEL) -> None: ...


FUNCTIONS = [plain, positional_only, keyword_only, anything, everything, with_sentinel]
CALLS: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((1,), {"b": 2}),
    ((1,), {"b": 2, "c": 3}),
    ((1,), {"a": 2}),
    ((), {"a": 1, "b": 2, "c": 3}),
    ((1, 2, 3), {"c": 1}),
    ((1,), {"z": 2}),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_compiled_check_agrees_with_the_signature(
    function: Any, call: tuple[tuple[int, ...], dict[str, int]]
) -> None:
    args, kwargs = call
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=function.__name__):
            argument_check(function)(*args, **kwargs)
    else:
        argument_check(function)(*args, **kwargs)


def test_a_function_that_tells_no_signature_is_not_checked() -> None:
    argument_check(min)(1, 2, 3, four=4)
