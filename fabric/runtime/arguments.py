"""Arguments of a call as they travel: small ones pickled, large ones put, refs filled in or
awaited.

A part of the client. A ref among the arguments becomes its value where the ref holds it; else the
machine fills it in. Refs inside other values stay refs. How a value is pickled is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fabric.core.events import Await, Input
from fabric.exceptions import SessionEndedError
from fabric.images import Dumped
from fabric.protocol.values import Value
from fabric.refs import ObjectRef
from fabric.serialization import dump, dump_arguments

if TYPE_CHECKING:
    from fabric.runtime.client import Client

Ref = ObjectRef[Any]


class NoSlot:
    """Where the machine may look for a late value: there is none, late values are put instead."""

    value: Value | None = None


NO_SLOT = NoSlot()


def pack(
    client: Client, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Dumped, tuple[Input, ...], list[Any]]:
    """The pickle, the inputs, and the refs that the caller holds until the machine was told."""
    dumped, refs = dump_arguments(args, kwargs, _is_ref)
    if dumped.nbytes > client.limits.inline_bytes_max:
        args, kwargs = _lighten(client, args, kwargs)
        dumped, refs = dump_arguments(args, kwargs, _is_ref)
    if not refs:
        return dumped, (), refs
    return dumped, tuple(_input(client, ref) for ref in refs), refs  # type: ignore[arg-type]


def _lighten(
    client: Client, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with those that are large themselves as refs of a put."""

    def light(value: Any) -> Any:
        if _is_ref(value):
            return value
        dumped = dump(value)
        is_small = dumped.nbytes <= client.limits.inline_bytes_max // 2
        return value if is_small else client.put_dumped(dumped)

    return tuple(map(light, args)), {name: light(value) for name, value in kwargs.items()}


def _input(client: Client, ref: Ref) -> Input:
    if ref._client is not client:
        ref._client.check()
        raise SessionEndedError("A ref of another session was passed as an argument.")
    value = ref._value
    if type(value) is bytes and not ref._is_tracked and not ref._contained:
        return value
    ref._is_awaited = True  # first say so, then look again: see `fabric.refs`
    value = ref._value
    if value is None or ref._is_tracked:
        return Await(ref._id, NO_SLOT)
    if ref._contained:  # the machine has to keep what is inside it
        client.shared.share(ref)
        return Await(ref._id, NO_SLOT)
    return value


def _is_ref(value: object) -> bool:
    return isinstance(value, ObjectRef)
