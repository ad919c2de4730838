"""What may be asked of a task, an actor or a method, and what such a wish becomes.

One table per kind of thing: the name of the option, its default, and the check that turns what
the user wrote into what is kept. A name that is not in the table is a `TypeError` with the
closest match, a value of the wrong type a `TypeError`, one that makes no sense a `ValueError`.
Nothing here knows how options are carried out.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fabric.config import Limits
from fabric.protocol.values import UNIT, Shape

Check = Callable[[str, Any], Any]

RETURNS_MAX = 65_535
"""Results are numbered by two bytes of an object id."""


def _amount(name: str, value: Any) -> float:
    """A number of zero or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value < 1e9:
        raise ValueError(f"{name} must be zero or more, not {value}")
    return float(value)


def _gpus(name: str, value: Any) -> float:
    """A share of one GPU, or whole GPUs."""
    amount = _amount(name, value)
    if amount > 1 and amount != int(amount):
        raise ValueError(f"{name} above 1 must be whole, not {value}")
    return amount


def _resources(name: str, value: Any) -> dict[str, float]:
    """Names of resources and their amounts, without those that have options of their own."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict of names and amounts, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} must be named by strings, not {key!r}")
        if key.upper() in ("CPU", "GPU", "MEMORY"):
            raise ValueError(f"{key!r} is asked for by num_cpus, num_gpus or memory, not by {name}")
    return {key: _amount(f"{name}[{key!r}]", amount) for key, amount in value.items()}


def _bytes_or_none(name: str, value: Any) -> int | None:
    """A number of bytes, rounded down; None asks for nothing."""
    return None if value is None else int(_amount(name, value))


def _whole(name: str, value: Any, least: int) -> int:
    """A whole number that is not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def _seconds_or_none(name: str, value: Any) -> float | None:
    """Some time; None is without end."""
    if value is None:
        return None
    seconds = _amount(name, value)
    if seconds == 0:
        raise ValueError(f"{name} must be more than zero")
    return seconds


def _repeats(name: str, value: Any) -> int:
    """How often something may be tried again; -1 means without end."""
    return _whole(name, value, -1)


def _positive(name: str, value: Any) -> int:
    """One or more."""
    return _whole(name, value, 1)


def _returns(name: str, value: Any) -> int:
    """How many results a call has."""
    if value is None:
        return 1
    if _whole(name, value, 0) > RETURNS_MAX:
        raise ValueError(f"{name} must be at most {RETURNS_MAX}, not {value}")
    return int(value)


def _flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _text_or_none(name: str, value: Any) -> str | None:
    """A name, or None."""
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, str):
        raise ValueError(f"{name} must not be empty")
    raise TypeError(f"{name} must be a string, not {type(value).__name__}")


def _lifetime(name: str, value: Any) -> str | None:
    """None, or ``"detached"``."""
    if value not in (None, "detached"):
        raise ValueError(f'{name} must be None or "detached", not {value!r}')
    return value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Option:
    """One line of a table."""

    default: Any
    check: Check


_RESOURCE_OPTIONS = {
    "num_gpus": Option(0.0, _gpus),
    "resources": Option({}, _resources),
    "memory": Option(None, _bytes_or_none),
}

TASK_OPTIONS: dict[str, Option] = {
    "num_cpus": Option(1.0, _amount),
    **_RESOURCE_OPTIONS,
    "num_returns": Option(1, _returns),
    "max_retries": Option(Limits.__dataclass_fields__["max_retries_default"].default, _repeats),
    "timeout_s": Option(None, _seconds_or_none),
    "name": Option(None, _text_or_none),
}

ACTOR_OPTIONS: dict[str, Option] = {
    "num_cpus": Option(0.0, _amount),
    **_RESOURCE_OPTIONS,
    "max_restarts": Option(0, _repeats),
    "max_task_retries": Option(0, _repeats),
    "max_concurrency": Option(1, _positive),
    "name": Option(None, _text_or_none),
    "namespace": Option(None, _text_or_none),
    "lifetime": Option(None, _lifetime),
    "get_if_exists": Option(False, _flag),
}

METHOD_OPTIONS: dict[str, Option] = {
    "num_returns": Option(1, _returns),
    "max_task_retries": Option(None, _repeats),
    "name": Option(None, _text_or_none),
}


def unknown_name(what: str, name: str, known: Mapping[str, object]) -> TypeError:
    """The error for a name that is not in a table: with the closest match, or the whole table."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
    return TypeError(f"{what} has no option {name!r}: {hint}")


def check_options(
    what: str, table: Mapping[str, Option], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What was given, checked and in its kept form; what was not given is not in the answer."""
    checked = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            raise unknown_name(what, name, table)
        checked[name] = option.check(name, value)
    return checked


def with_defaults(table: Mapping[str, Option], checked: Mapping[str, Any]) -> dict[str, Any]:
    """The whole table, with what was given in place of its defaults."""
    return {name: checked.get(name, option.default) for name, option in table.items()}


_SHAPES: dict[Shape, Shape] = {}
"""One object for equal shapes: a client compares a call's with the last one's by identity."""


def shape_of(options: Mapping[str, Any]) -> Shape:
    """The resources that a full set of options asks for; amounts of zero are left out."""
    amounts = {
        "CPU": options["num_cpus"],
        "GPU": options["num_gpus"],
        "memory": options["memory"] or 0,
        **options["resources"],
    }
    units = ((name, round(amount * UNIT)) for name, amount in amounts.items())
    shape = Shape(tuple(sorted((name, unit) for name, unit in units if unit)))
    return _SHAPES.setdefault(shape, shape)


def resources_of(amounts: tuple[tuple[str, int], ...]) -> dict[str, float]:
    """Amounts as they travel, as users read them."""
    return {name: unit / UNIT for name, unit in amounts}


_LABEL = re.compile(r"[\w.:/-]+\Z")


def check_totals(num_cpus: Any, num_gpus: Any, resources: Any) -> dict[str, float]:
    """What `init` was told that this machine has; what was left out is not in the answer."""
    totals = dict(_resources("resources", {} if resources is None else resources))
    for name in totals:
        if not _LABEL.match(name):
            raise ValueError(f"a resource is named by letters, digits and _.:/-, not {name!r}")
    if num_cpus is not None:
        totals["CPU"] = _amount("num_cpus", num_cpus)
    if num_gpus is not None:
        totals["GPU"] = float(_whole("num_gpus", num_gpus, 0))
    return totals
