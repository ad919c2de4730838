"""Why an object has no value yet: the reasons that a wait can have, and which one it is.

A part of the client that changes nothing. A test puts a call into every one of these and ends the
wait, so that none can last for ever unseen. Threads that wait look while the machine goes on, so
an answer may be a turn old.
"""

from fabric.core.client.actors import Actors
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.ids import ObjectId, call_of

REASONS: dict[str, str] = {
    "argument": "waits for its arguments",
    "worker": "waits for a worker",
    "queued": "is at its worker, behind others",
    "running": "is at its worker",
    "resting": "is tried again when there is more memory",
    "last_words": "its worker has died, and what it said is being heard",
    "actor_start": "its actor is not there yet",
    "actor_order": "an earlier call of its actor waits for arguments",
    "actor_window": "its actor has as many calls as it is sent at a time",
    "owner": "a value of another process",
    "promise": "an item of a map",
}
"""Name → what is said of the call, or of the object where no call here makes it."""


def reason_of(
    calls: Calls, tasks: Tasks, actors: Actors, references: References, object_id: ObjectId
) -> str:
    """The name of the reason, for an object that has no value."""
    if not references.objects.is_mine(object_id):
        return "owner"
    call = calls.pending.get(call_of(object_id))
    if call is None:
        return "promise"
    if call.missing:
        return "argument"
    return _of_task(tasks, call) if call.actor_id is None else _of_actor(actors, call)


def _of_task(tasks: Tasks, call: PendingCall) -> str:
    lease = tasks.leases.leases.get(call.lease)
    if lease is None:
        return "resting" if any(one is call for _, one in tasks.resting) else "worker"
    if lease.death is not None:
        return "last_words"
    is_first = next(iter(tuple(lease.inflight.values())), None) is call
    return "running" if is_first else "queued"


def _of_actor(actors: Actors, call: PendingCall) -> str:
    channel = actors.channels.get(call.actor_id) if call.actor_id is not None else None
    if channel is not None and channel.is_draining:
        return "last_words"
    if channel is None or not channel.is_open:
        return "actor_start"
    if call.lease:
        is_first = next(iter(tuple(channel.inflight.values())), None) is call
        return "running" if is_first else "queued"
    first = next(iter(tuple(channel.queue)), call)
    return "actor_order" if first.missing else "actor_window"
