"""A distributed compute fabric for Python: the public names, and nothing else.

Names are imported when they are first used, so that ``import fabric`` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fabric import exceptions
    from fabric.actors import ActorHandle, actor, get_actor, kill, method, spawn
    from fabric.api import (
        Context,
        RuntimeContext,
        as_completed,
        available_resources,
        cancel,
        cluster_resources,
        exit_actor,
        get,
        get_runtime_context,
        init,
        is_initialized,
        nodes,
        put,
        shutdown,
        wait,
    )
    from fabric.progress_bar import progress
    from fabric.refs import ObjectRef, arg
    from fabric.tasks import remote, task

_PLACES = {
    "fabric.actors": ("ActorHandle", "actor", "get_actor", "kill", "method", "spawn"),
    "fabric.api": (
        "Context",
        "RuntimeContext",
        "as_completed",
        "available_resources",
        "cancel",
        "cluster_resources",
        "exit_actor",
        "get",
        "get_runtime_context",
        "init",
        "is_initialized",
        "nodes",
        "put",
        "shutdown",
        "wait",
    ),
    "fabric.progress_bar": ("progress",),
    "fabric.refs": ("ObjectRef", "arg"),
    "fabric.tasks": ("remote", "task"),
}
"""Module → the public names in it."""

__all__ = [
    "ActorHandle",
    "Context",
    "ObjectRef",
    "RuntimeContext",
    "actor",
    "arg",
    "as_completed",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "exit_actor",
    "get",
    "get_actor",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "progress",
    "put",
    "remote",
    "shutdown",
    "spawn",
    "task",
    "wait",
]


def __getattr__(name: str) -> Any:
    import importlib

    from fabric.interrupts import Held

    if name == "exceptions":
        return importlib.import_module("fabric.exceptions")
    for module, names in _PLACES.items():
        if name in names:
            with Held():  # Python may lose an interrupt in an import, and modules of C crash of it
                found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module 'fabric' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
