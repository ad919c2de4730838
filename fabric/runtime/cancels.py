"""Cancelling: what a user's thread says to the client's loop, and what it hears back.

The thread waits for one turn of its loop, so that after `cancel` a `get` raises at once. Which call
makes the object, and where it is, the machine knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fabric.core.events import Cancel, Put, Want
from fabric.protocol.values import Failure
from fabric.refs import ObjectRef

if TYPE_CHECKING:
    from fabric.runtime.client import Client


def cancel(client: Client, ref: ObjectRef[Any], is_forced: bool, is_recursive: bool) -> None:
    """Return when the call behind the ref is over, or its owner has been told."""
    client.check()
    request = client.next_call()
    answer = client.questions.expect(request)
    client.tell(Cancel(request, ref._id, is_forced, is_recursive))
    told = answer.wait(client.answer_s)
    if is_forced and not told.is_forced:
        raise ValueError(
            "force=True ends a worker, and an actor's worker has its state: cancel the call"
            " without force, or end the actor with fabric.kill"
        )
    if ref._value is None and ref._id.startswith(client.me):
        # no call makes it: an item of a map, whose chunk runs on for the others
        client.tell(Put(ref._id, Failure("cancelled", "it was cancelled, one among others")))
        client.tell(Want(ref._id))
