"""Why an object has no value yet: the reasons a wait can have, and which one it is.

A part of the client that changes nothing. Each reason is a row of `REASONS`; a test puts a call
into every one of them and ends the wait, so that none can last for ever unseen. The node's reasons
for giving no worker are not known here: it refuses what can never be.
"""

from fabric.core.client.actors import Actors
from fabric.core.client.calls import Calls, PendingCall
from fabric.core.client.references import References
from fabric.core.client.tasks import Tasks
from fabric.core.events import Await
from fabric.ids import ObjectId, brief, call_of, owner_address

REASONS: dict[str, str] = {
    "argument": "its call waits for an argument, {what}",
    "worker": "its call waits for a worker, and {what}",
    "queued": "its call is at {what}, behind others",
    "running": "its call runs at {what}",
    "last_words": "{what} has died, and what it said before is being heard",
    "actor_start": "its actor, {what}, has not come up",
    "actor_order": "its actor runs calls in order, and one before it waits for {what}",
    "actor_window": "its actor, {what}, has as many calls waiting as it is sent at a time",
    "owner": "it belongs to another process, {what}, which has not said its value",
    "promise": "no call of its own makes it, but {what}",
}
"""Name → sentence."""


def reason_of(
    calls: Calls, tasks: Tasks, actors: Actors, references: References, object_id: ObjectId
) -> tuple[str, str]:
    """The name of the reason and its sentence, for an object that has no value."""
    if not references.objects.is_mine(object_id):
        name, what = "owner", str(owner_address(object_id))
    else:
        call = calls.pending.get(call_of(object_id))
        if call is None:
            name, what = "promise", "a call of several items"
        elif call.missing:
            name, what = "argument", _missing(call)
        elif call.actor_id is None:
            name, what = _of_task(tasks, call)
        else:
            name, what = _of_actor(actors, call)
    return name, REASONS[name].format(what=what)


def _missing(call: PendingCall) -> str:
    missing = [one.object_id for one in call.inputs if type(one) is Await]
    return brief("o", missing[0]) if missing else "which has just come"


def _of_task(tasks: Tasks, call: PendingCall) -> tuple[str, str]:
    lease = tasks.leases.leases.get(call.lease)
    if lease is None:
        queue = tasks.leases.queues[call.queue_key]
        return "worker", f"this process has {len(queue.leases)} of the {queue.asked} it asked for"
    if lease.death is not None:
        return "last_words", str(lease.worker)
    is_first = next(iter(lease.inflight.values()), None) is call
    return "running" if is_first else "queued", str(lease.worker)


def _of_actor(actors: Actors, call: PendingCall) -> tuple[str, str]:
    channel = actors.channels.get(call.actor_id) if call.actor_id is not None else None
    what = brief("a", call.actor_id or b"")
    if channel is None or channel.is_draining or channel.view is None:
        is_dead = channel is not None and channel.is_draining
        return "last_words" if is_dead else "actor_start", what
    if call.lease:
        is_first = next(iter(channel.inflight.values()), None) is call
        return "running" if is_first else "queued", what
    if not channel.is_open:
        return "actor_start", f"{what} ({channel.view.state})"
    first = channel.queue[0] if channel.queue else call
    return ("actor_order", _missing(first)) if first.missing else ("actor_window", what)
