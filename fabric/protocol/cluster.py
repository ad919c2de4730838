"""The messages between nodes and the control store, once: membership, jobs, and the cluster's view.

All other messages, and the set of all of them, are in `fabric.protocol.messages`; what holds there
holds here. Clients ask for the view through their node.
"""

from fabric.ids import Incarnation, JobId
from fabric.protocol.values import ActorView, JobSpec, JobView, Message, NodeView

# -------------------------------------------------------------------------- nodes and control store


class NodeJoined(Message, frozen=True, array_like=True, tag="node_joined", gc=False):
    """control store -> node. You are in, under that epoch."""

    epoch: int
    cluster: str


class NodeHeartbeat(Message, frozen=True, array_like=True, tag="node_heartbeat", gc=False):
    """node -> control store. I live, and this is what I have free."""

    view: NodeView


class LeaveNode(Message, frozen=True, array_like=True, tag="leave_node", gc=False):
    """node -> control store. I end in order: count me out now, and not when I have been silent."""


class NodeFenced(Message, frozen=True, array_like=True, tag="node_fenced", gc=False):
    """control store -> node. I declared you dead: end, or join again as somebody new."""


class RegisterJob(Message, frozen=True, array_like=True, tag="register_job", gc=False):
    """node -> control store. A driver started a job."""

    view: JobView
    spec: JobSpec


class EndJob(Message, frozen=True, array_like=True, tag="end_job", gc=False):
    """node -> control store. That client of the job is gone: actors it made end unless detached.
    Where it is the job's driver, the job is over, with the actors that any client of it made.
    """

    job: JobId
    client: Incarnation


class GetView(Message, frozen=True, array_like=True, tag="get_view", gc=False):
    """client -> node -> control store. The whole view, please; a node asks without a request."""

    request: bytes


class View(Message, frozen=True, array_like=True, tag="view", gc=False):
    """control store -> node -> client. Nodes, actors and jobs as of ``(epoch, sequence)``."""

    request: bytes
    epoch: int
    sequence: int
    nodes: tuple[NodeView, ...]
    actors: tuple[ActorView, ...]
    jobs: tuple[JobView, ...]


class ViewChanged(Message, frozen=True, array_like=True, tag="view_changed", gc=False):
    """control store -> everybody. Published: what changed; after a gap in sequence, `GetView`.
    Empty ones come where nothing changed for a heartbeat, so that a last one lost is missed.
    """

    epoch: int
    sequence: int
    nodes: tuple[NodeView, ...] = ()
    actors: tuple[ActorView, ...] = ()
    jobs: tuple[JobView, ...] = ()
