"""The house rules that a machine can check: rings, sizes, names, lists that agree with folders.

Each rule reads the source as text or as a syntax tree; nothing of fabric is imported here, except
the command line's tree of commands. It judges form only: whether a name is a good one, or a comment
says why, a reader has to decide.
"""

import ast
import configparser
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.source import (
    CODE,
    PRODUCT,
    ROOT,
    files_of,
    is_in,
    module_of,
    names_of,
    product_imports,
    relative,
    tree_of,
)

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 500
README_LINES_MAX = 200
ARCHITECTURE_LINES_MAX = 300


def words(text: str) -> frozenset[str]:
    """The words of a list that is too long to quote each."""
    return frozenset(text.split())


LEAVES = ("fabric.ids", "fabric.config", "fabric.exceptions")
PUBLIC = ("fabric", "fabric.exceptions", "fabric.lib", "fabric.state", "fabric.util")
CLI_ALSO = ("fabric.config", "fabric.runtime.home")
"""What the command needs beyond the public names: where clusters live, and the table of limits."""

IMPURE = words(
    """
    zmq sqlite3 sqlite_utils os time datetime random secrets threading multiprocessing
    concurrent asyncio selectors select logging uuid socket subprocess signal pathlib tempfile
    shutil mmap io pickle cloudpickle psutil sys
    """
)
"""What pure code never imports (`random` and the like for a type, under TYPE_CHECKING, may be)."""

IMPURE_CALLS = frozenset(("hash", "id", "open", "print", "input"))

BANNED_WORDS = words(
    """
    manager controller handler handlers helper helpers util utils utility utilities common
    base mixin mixins vanilla data info impl
    """
)


# -- rings


def test_leaves_import_only_leaves() -> None:
    assert not names_of(
        [
            each
            for each in product_imports(*LEAVES)
            if is_in(each.module, "fabric") and not is_in(each.module, *LEAVES)
        ]
    )


def test_the_protocol_imports_ids_and_exceptions_only() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("fabric.protocol")
            if is_in(each.module, "fabric")
            and not is_in(each.module, "fabric.protocol", "fabric.ids", "fabric.exceptions")
        ]
    )


def test_the_core_imports_the_protocol_and_leaves_only() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("fabric.core")
            if is_in(each.module, "fabric")
            and not is_in(each.module, "fabric.core", "fabric.protocol", *LEAVES)
        ]
    )


def test_pure_code_imports_nothing_that_touches_the_world() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("fabric.core", "fabric.protocol")
            if each.module.split(".")[0] in IMPURE and not each.is_for_types
        ]
    )


def test_node_and_control_store_never_import_each_other() -> None:
    node, control = "fabric.core.node", "fabric.core.control"
    assert not names_of(
        [each for each in product_imports(node) if is_in(each.module, control)]
        + [each for each in product_imports(control) if is_in(each.module, node)]
    )


def test_the_library_imports_public_names_only() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("fabric.lib")
            if is_in(each.module, "fabric", "cli", "fabric_cli")
            and each.module not in PUBLIC
            and not is_in(each.module, "fabric.lib")
        ]
    )


def test_the_command_imports_public_names_only() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("cli")
            if is_in(each.module, "fabric") and each.module not in (*PUBLIC, *CLI_ALSO)
        ]
    )


def test_nothing_inside_imports_what_is_built_on_top() -> None:
    assert not names_of(
        [
            each
            for each in product_imports("fabric")
            if is_in(each.module, "fabric.lib", "cli", "fabric_cli", "tests", "bench")
            and not is_in(each.importer, "fabric.lib", "fabric.util")
        ]
    )


def test_siblings_of_the_command_are_imported_relatively() -> None:
    assert not [
        f"{relative(path)}:{node.lineno}"
        for path in files_of("cli")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom)
        and node.level == 0
        and is_in(node.module or "", "cli", "fabric_cli")
    ]


# -- purity


def _pure_files() -> list[Path]:
    return [
        path
        for path in files_of("fabric")
        if is_in(module_of(path), "fabric.core", "fabric.protocol")
    ]


def test_pure_code_depends_on_no_hash_no_identity_and_no_file() -> None:
    assert not [
        f"{relative(path)}:{node.lineno} calls {node.func.id}()"
        for path in _pure_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]


def _is_set_type(annotation: ast.expr) -> bool:
    return re.match(r"(frozenset|set|AbstractSet)\b", ast.unparse(annotation)) is not None


def _names_of_sets(tree: ast.Module) -> set[str]:
    """Variables and attributes that the file declares as sets, as they are written."""
    return {
        ast.unparse(node.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and _is_set_type(node.annotation)
    }


def _iterated(tree: ast.Module) -> Iterator[ast.expr]:
    """What loops and comprehensions run over, also behind list() and tuple()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension):
            over = node.iter
            while (
                isinstance(over, ast.Call)
                and isinstance(over.func, ast.Name)
                and over.func.id in ("list", "tuple", "enumerate")
                and over.args
            ):
                over = over.args[0]
            yield over


def sets_iterated(tree: ast.Module) -> list[int]:
    """Lines where a set decides an order."""
    declared = _names_of_sets(tree)
    return [
        each.lineno
        for each in _iterated(tree)
        if isinstance(each, ast.Set | ast.SetComp)
        or ast.unparse(each) in declared
        or (isinstance(each, ast.Call) and ast.unparse(each.func) in ("set", "frozenset"))
    ]


def test_pure_code_never_iterates_over_a_set() -> None:
    assert not [
        f"{relative(path)}:{line}"
        for path in _pure_files()
        for line in sets_iterated(tree_of(path))
    ]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("self.a: set[int] = set()\nfor x in self.a: pass", [2]),
        ("self.a: set[int] = set()\nfor x in sorted(self.a): pass", []),
        ("self.a: dict[int, int] = {}\nfor x in list(self.a): pass", []),
        ("[x for x in list({1, 2})]", [1]),
        ("for x in set(y): pass", [1]),
    ],
)
def test_a_set_that_decides_an_order_is_found(source: str, lines: list[int]) -> None:
    assert sets_iterated(ast.parse(source)) == lines


# -- sizes


def test_every_function_fits_on_a_page() -> None:
    assert not [
        f"{relative(path)}:{node.lineno} {node.name} has {lines} lines"
        for path in files_of(*CODE)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def test_every_module_can_be_read_in_one_sitting() -> None:
    sizes = {relative(path): len(path.read_text().splitlines()) for path in files_of(*CODE)}
    assert not {name: lines for name, lines in sizes.items() if lines > MODULE_LINES_MAX}


def test_every_module_says_its_place() -> None:
    assert not [
        relative(path)
        for path in files_of(*CODE)
        if path.read_text().strip() and not ast.get_docstring(tree_of(path))
    ]


# -- names


def test_each_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for path in files_of(*PRODUCT):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{relative(path)}:{node.lineno}")
    assert not {name: where for name, where in places.items() if len(where) > 1}


def words_of(name: str) -> list[str]:
    """The words of an identifier, snake or camel."""
    return re.findall(
        r"[a-z]+|[0-9]+|[A-Z]+(?![a-z])", re.sub(r"([A-Z][a-z]+)", r"_\1_", name).lower()
    )


def is_banned(name: str) -> bool:
    """Whether a name says what a thing is in the abstract instead of what it is here."""
    words = words_of(name)
    return bool(BANNED_WORDS.intersection(words)) or name == "process" or words[:1] == ["do"]


def test_no_class_function_or_module_has_an_empty_name() -> None:
    defined = [
        (f"{relative(path)}:{node.lineno}", node.name)
        for path in files_of(*CODE)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not (isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    ]
    modules = [
        (relative(path), path.stem)
        for path in files_of(*CODE)
        if relative(path) != "fabric/util.py"  # Ray's spelling
    ]
    assert not [f"{where}: {name}" for where, name in defined + modules if is_banned(name)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LeaseManager", True),
        ("on_data", True),
        ("do_send", True),
        ("HTTPHandler", True),
        ("database", False),
        ("Endpoint", False),
        ("informed", False),
        ("double", False),
    ],
)
def test_banned_words_are_found_as_words(name: str, expected: bool) -> None:
    assert is_banned(name) is expected


# -- lists that agree with folders


def test_the_packages_of_setup_cfg_are_the_folders() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    folders = {
        module_of(path).rsplit(".", 1)[0] for path in files_of(*PRODUCT) if path.stem != "__init__"
    }
    folders |= {module_of(path) for path in files_of(*PRODUCT) if path.stem == "__init__"}
    assert sorted(listed) == sorted(re.sub(r"^cli\b", "fabric_cli", folder) for folder in folders)


def test_every_package_has_its_init() -> None:
    folders = {path.parent for path in files_of(*PRODUCT)}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]


NAMED_FILE = re.compile(r"\b(?:fabric|cli|tests|bench|examples|docs)/[\w./-]*\w\.(?:py|md|txt)\b")


def test_each_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert not [name for name in NAMED_FILE.findall(text) if not (ROOT / name).is_file()]


def test_the_architecture_names_each_module() -> None:
    named = set(NAMED_FILE.findall((ROOT / "ARCHITECTURE.md").read_text()))
    modules = {relative(path) for path in files_of(*PRODUCT) if path.stem != "__init__"}
    assert not sorted(modules - named)


@pytest.mark.parametrize(
    ("name", "lines_max"),
    [("README.md", README_LINES_MAX), ("ARCHITECTURE.md", ARCHITECTURE_LINES_MAX)],
)
def test_the_front_pages_stay_short(name: str, lines_max: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= lines_max


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    """``fabric up`` and so on: every command that does something."""
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None and not below.hidden:
            yield from commands(below, (*path, name))


def test_every_command_is_in_the_documents() -> None:
    from cli.main import main

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    assert not [
        each
        for each in commands(main, ("fabric",))
        if not re.search(rf"\b{re.escape(each)}\b", text)
    ]


# -- loose ends

SKIPPED_FOLDERS = frozenset(("build", "dist", "__pycache__"))
WRITTEN = (".py", ".md", ".txt", ".cfg", ".toml", "")


@functools.cache
def written_files() -> tuple[Path, ...]:
    """Every text of the project, not what tools made beside it."""
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [
            name
            for name in below
            if name not in SKIPPED_FOLDERS
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
        ]
        found += [Path(folder, name) for name in names if Path(name).suffix in WRITTEN]
    return tuple(sorted(found))


def test_an_open_question_is_an_issue_and_not_a_comment() -> None:
    notes = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    assert not [
        f"{relative(path)}:{number}"
        for path in written_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if notes.search(line)
    ]


LINK = re.compile(r"\]\((?!\w+:)(?P<target>[^)#\s]+)")
CLIMB = re.compile(r"(?:\.\./)+[\w./-]*")


def test_links_between_the_documents_lead_to_files_of_the_project() -> None:
    broken = []
    for page in written_files():
        if page.suffix != ".md":
            continue
        for match in LINK.finditer(page.read_text()):
            target = (page.parent / match["target"]).resolve()
            if not (target.exists() and target.is_relative_to(ROOT)):
                broken.append(f"{relative(page)}: {match['target']}")
    assert not broken


def test_no_text_points_outside_of_the_project() -> None:
    tests = ROOT / "tests"  # they may try to climb out of a folder on purpose
    assert not [
        f"{relative(path)}: {climb}"
        for path in written_files()
        if not path.is_relative_to(tests)
        for climb in CLIMB.findall(path.read_text())
        if not (path.parent / climb).resolve().is_relative_to(ROOT)
    ]


def test_no_module_of_the_tests_is_named_like_a_test_of_another() -> None:
    names = Counter(path.name for path in files_of("tests") if path.stem.startswith("test_"))
    assert not [name for name, count in names.items() if count > 1]
