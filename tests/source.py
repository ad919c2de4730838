"""The project's own source, as its tidy tests read it: files, modules, imports.

Everything is found by name and syntax tree; nothing is imported, so that a module that cannot be
imported is read like any other. It knows where things stand and no rule about them.
"""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("fabric", "cli", "tests", "bench", "examples")
PRODUCT = ("fabric", "cli")


@dataclass(frozen=True)
class Import:
    """One module named by an import statement."""

    importer: str
    module: str
    line: int
    is_for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"


def files_of(*folders: str) -> list[Path]:
    """The Python files of these top-level folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file of the project."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_in(module: str, *packages: str) -> bool:
    """Whether a module is one of these or inside one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(), str(path))


def relative(path: Path) -> str:
    """A path as people write it."""
    return path.relative_to(ROOT).as_posix()


def _lines_for_types(tree: ast.Module) -> set[int]:
    """Lines under ``if TYPE_CHECKING:``."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                lines.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return lines


def imports_of(path: Path) -> Iterator[Import]:
    """Every module the file imports, wherever in it; ``from p import m`` may name p.m."""
    tree, importer = tree_of(path), module_of(path)
    for_types = _lines_for_types(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno, node.lineno in for_types)
        elif isinstance(node, ast.ImportFrom):
            source = _imported_from(path, node)
            for alias in node.names:
                module = f"{source}.{alias.name}"
                name = module if _is_module(module) else source
                yield Import(importer, name, node.lineno, node.lineno in for_types)


def _imported_from(path: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    folder = path.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    parts = [*folder.relative_to(ROOT).parts, *([node.module] if node.module else [])]
    return ".".join(parts)


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def product_imports(*packages: str) -> list[Import]:
    """The imports of every module in these packages."""
    return [
        each
        for path in files_of(*PRODUCT)
        if is_in(module_of(path), *packages)
        for each in imports_of(path)
    ]


def names_of(found: list[Import]) -> list[str]:
    """The findings, as a failing test shows them."""
    return [str(each) for each in found]
