"""Progress of many refs: a bar in a terminal, plain lines in a pipe.

It passes the refs on as they become ready, so ``for ref in fabric.progress(refs)`` is the whole
use. Nothing is printed when nobody asked for progress.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from fabric.api import as_completed
from fabric.protocol.values import Failure
from fabric.refs import ObjectRef

T = TypeVar("T")

LINE_EVERY_S = 5.0
"""In a pipe a line is written this often, and one at the end."""


def progress(
    refs: Iterable[ObjectRef[T]], *, description: str = "tasks", file: TextIO | None = None
) -> Iterator[ObjectRef[T]]:
    """The refs in the order in which they become ready; a bar on stderr shows how many are."""
    stream = sys.stderr if file is None else file
    listed = list(refs)
    if stream.isatty():
        return _with_bar(listed, description, stream)
    return _with_lines(listed, description, stream)


def _with_bar(refs: list[ObjectRef[T]], description: str, stream: TextIO) -> Iterator[ObjectRef[T]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}", style="red"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        row = bar.add_task(description, total=len(refs), failed="")
        failed = 0
        for ref in as_completed(refs):
            failed += type(ref._value) is Failure
            bar.update(row, advance=1, failed=f"{failed} failed" if failed else "")
            yield ref


def _with_lines(
    refs: list[ObjectRef[T]], description: str, stream: TextIO
) -> Iterator[ObjectRef[T]]:
    failed = 0
    written_at = time.monotonic()
    for done, ref in enumerate(as_completed(refs), start=1):
        failed += type(ref._value) is Failure
        now = time.monotonic()
        if now - written_at >= LINE_EVERY_S or done == len(refs):
            written_at = now
            print(progress_line(description, done, len(refs), failed), file=stream, flush=True)
        yield ref


def progress_line(description: str, done: int, total: int, failed: int) -> str:
    """``tasks: 70/100, 3 failed``."""
    return f"{description}: {done}/{total}" + (f", {failed} failed" if failed else "")
