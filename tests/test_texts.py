"""What texts tell people to do can be done: every verb, option and name in them exists.

Looked at is every string in `fabric` and `cli`, docstrings included; advices are strings there.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import fabric
from fabric import exceptions
from fabric.config import Limits
from fabric.exceptions import ADVICES, FAILURES, FabricError
from fabric.options import ACTOR_OPTIONS, METHOD_OPTIONS, TASK_OPTIONS
from tests.source import ROOT

ERRORS = [
    each
    for each in vars(exceptions).values()
    if isinstance(each, type) and issubclass(each, FabricError)
]
ENVIRONMENT = {"FABRIC_ADDRESS", "FABRIC_HOME", "FABRIC_MODE", "FABRIC_NODE", "FABRIC_STORE"}
"""Variables besides the limits; the last two are for what a node starts."""

PUBLIC = [getattr(fabric, name) for name in fabric.__all__]


def texts() -> Iterator[tuple[str, str]]:
    """Each string and where it is; what is filled into one is an ellipsis."""
    for folder in ("fabric", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            inner = {
                id(part)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for part in ast.walk(node)
                if part is not node
            }
            for node in ast.walk(tree):
                if id(node) in inner:
                    continue
                text = _text_of(node)
                if text:
                    place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                    yield place, " ".join(text.split())


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [_text_of(part) for part in node.values]
        return "".join(part or "…" for part in parts)
    return ""


TEXTS = list(texts())


def verbs() -> dict[str, click.Command]:
    from fabric_cli.main import main

    return {"": main, **main.commands}


def options_of(verb: click.Command) -> set[str]:
    return {name for option in verb.params for name in option.opts} | {"--help"}


def keywords() -> set[str]:
    """Every option of tasks, actors and methods, and every argument of what is public."""
    found = {*TASK_OPTIONS, *ACTOR_OPTIONS, *METHOD_OPTIONS}
    for each in PUBLIC:
        if callable(each) and not (isinstance(each, type) and issubclass(each, BaseException)):
            found |= set(inspect.signature(each).parameters)
    return found


def test_every_command_in_a_text_is_a_verb_with_those_options() -> None:
    known = verbs()
    wrong = []
    for place, text in TEXTS:
        for command in re.findall(r"`+fabric ((?:[a-z-]|--)[^`]*)`", text):
            verb = command.split()[0]
            name = "" if verb.startswith("-") else verb
            options = re.findall(r"--[a-z][a-z-]*", command)
            if name not in known or set(options) - options_of(known[name]):
                wrong.append(f"{place}: fabric {command}")
    assert wrong == []


def test_every_option_of_the_command_in_a_text_exists() -> None:
    known = {option for verb in verbs().values() for option in options_of(verb)}
    wrong = [
        f"{place}: {option}"
        for place, text in TEXTS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
        if option not in known
    ]
    assert wrong == []


def test_every_keyword_in_a_text_is_an_option_or_an_argument() -> None:
    known = keywords()
    wrong = [
        f"{place}: {name}="
        for place, text in TEXTS
        for quoted in re.findall(r"`([^`]+)`", text)
        for name in re.findall(r"(?<![\w.])([a-z_]+)=(?!=)", quoted)
        if name not in known
    ]
    assert wrong == []


def test_every_name_of_the_package_in_a_text_exists() -> None:
    wrong = []
    for place, text in TEXTS:
        for dotted in re.findall(r"`fabric\.([\w.]*\w)", text):
            first = dotted.split(".")[0]
            if not hasattr(fabric, first) and importlib.util.find_spec(f"fabric.{first}") is None:
                wrong.append(f"{place}: fabric.{dotted}")
    assert wrong == []


def test_every_variable_of_the_environment_in_a_text_is_read() -> None:
    known = ENVIRONMENT | {f"FABRIC_{field.name.upper()}" for field in dataclasses.fields(Limits)}
    wrong = [
        f"{place}: {name}"
        for place, text in TEXTS
        for name in re.findall(r"\bFABRIC_[A-Z_]*[A-Z]\b", text)
        if name not in known
    ]
    assert wrong == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.__name__)
def test_an_advice_is_one_or_two_sentences(error: type[FabricError]) -> None:
    assert re.fullmatch(r"[A-Z`].*[.]", error.advice)
    assert len(error.advice) <= 200


def test_an_advice_of_its_own_belongs_to_a_kind_of_failure() -> None:
    assert set(ADVICES) <= set(FAILURES)
    for kind, advice in ADVICES.items():
        assert advice != FAILURES[kind].advice


def test_a_text_that_names_what_is_missing_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        "`fabric doctor` tells.",
        "`fabric up --port 3`",
        "`f(runtime_env={})`",
        "`fabric.lib` and FABRIC_NOTHING",
    ):
        monkeypatch.setitem(globals(), "TEXTS", [("here", text)])
        failed = 0
        for test in (
            test_every_command_in_a_text_is_a_verb_with_those_options,
            test_every_option_of_the_command_in_a_text_exists,
            test_every_keyword_in_a_text_is_an_option_or_an_argument,
            test_every_name_of_the_package_in_a_text_exists,
            test_every_variable_of_the_environment_in_a_text_is_read,
        ):
            try:
                test()
            except AssertionError:
                failed += 1
        assert failed, text


def test_the_command_tells_its_version() -> None:
    told = CliRunner().invoke(verbs()[""], ["--version"])
    python = ".".join(map(str, sys.version_info[:2]))
    assert (told.exit_code, told.output.split()[:2]) == (0, ["fabric", fabric.__version__])
    assert f"(Python {python}." in told.output
