"""The values inside messages, once: calls, objects, actors, nodes and jobs as they travel.

Plain array-like structs without a will of their own; who says them to whom is in
`fabric.protocol.messages`. Values of user code are opaque bytes in here.
"""

import msgspec

from fabric.ids import ActorId, Address, CallId, FunctionId, Incarnation, JobId, ObjectId


class Struct(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What travels inside messages."""


class Message(Struct, frozen=True, array_like=True, tag_field="type", tag=True, gc=False):
    """What travels as an item of a frame."""


# ------------------------------------------------------------------------------------------- values


class Sealed(Struct, frozen=True, array_like=True, tag="sealed", gc=False):
    """The name of a value in shared memory: a segment of a node, at one of its generations."""

    segment: str
    generation: int
    nbytes: int
    node: Incarnation


class Failure(Struct, frozen=True, array_like=True, tag="failure", gc=False):
    """Why there is no value: a kind (see `fabric.exceptions`), a sentence, an opaque pickle."""

    kind: str
    text: str
    pickled: bytes = b""


Value = bytes | Sealed | Failure
"""A result or a put: inline pickle bytes, a sealed object's name, or why there is none."""


class Shape(Struct, frozen=True, array_like=True, gc=False):
    """What a call needs to run: resource names and amounts in units of 1/10,000, sorted by name."""

    amounts: tuple[tuple[str, int], ...]


UNIT = 10_000
"""Resource amounts travel as whole numbers of 1/UNIT."""


class JobSpec(Struct, frozen=True, array_like=True, gc=False):
    """What every worker of a job needs before it unpickles anything of it."""

    job: JobId
    sys_path: tuple[str, ...]
    working_dir: str
    namespace: str


class Call(Struct, frozen=True, array_like=True, gc=False):
    """A call spec: one attempt of one call, numbered within its lease or, for actors, its caller.

    ``inputs`` are the values of the top-level ref arguments, in the order of their placeholders in
    ``args``; ``nested`` are the refs pickled inside ``args``, which the caller holds until the
    answer.
    """

    call_id: CallId
    attempt: int
    number: int
    function: FunctionId
    method: str
    args: bytes
    inputs: tuple[Value, ...]
    nested: tuple[ObjectId, ...]
    returns: int


class CallDone(Struct, frozen=True, array_like=True, gc=False):
    """The end of one attempt: a value for each result, and what became of references.

    ``contained`` has, per result, the refs pickled inside it, which the worker holds until `Taken`
    (empty if no result contains any). Refs of the arguments that the worker keeps beyond the call
    were registered with their owners before this was sent.
    """

    call_id: CallId
    attempt: int
    values: tuple[Value, ...]
    duration_us: int
    contained: tuple[tuple[ObjectId, ...], ...] = ()


class Progress(Struct, frozen=True, array_like=True, gc=False):
    """What a worker's shared word says of one caller after the worker's death.

    Calls of that lease below ``number`` were done; ``number`` itself was running unless
    ``finished``; above it nothing had started.
    """

    caller: Incarnation
    lease: int
    number: int
    finished: bool


class Crash(Struct, frozen=True, array_like=True, gc=False):
    """How a worker's process ended: by a signal, or with an exit code, or it never began.

    ``task`` and ``attempt`` are filled in by the owner of the call that ran. ``limit`` is not 0
    where it was ended because its node ran out of memory: the bytes there were, ``rss`` of them its
    own. ``reason`` says why it could not be started.
    """

    task: str = ""
    attempt: int = 0
    exit_code: int | None = None
    signal: int | None = None
    pid: int = 0
    node: Address = Address("")
    rss: int = 0
    limit: int = 0
    last_words: str = ""
    reason: str = ""


class ActorSpec(Struct, frozen=True, array_like=True, gc=False):
    """How to make an actor, as often as it takes."""

    actor_id: ActorId
    function: FunctionId
    class_name: str
    job: JobSpec
    shape: Shape
    args: bytes
    inputs: tuple[Value, ...]
    nested: tuple[ObjectId, ...]
    name: str = ""
    is_detached: bool = False
    restarts_max: int = 0
    get_if_exists: bool = False
    max_concurrency: int = 1


class ActorView(Struct, frozen=True, array_like=True, gc=False):
    """What everybody may know of an actor. States: pending, alive, restarting, dead.

    ``incarnation`` numbers its lives from 1; ``progress`` tells how far the life with the number
    before came with each caller (a dead actor's: its last). After a life whose end nobody saw a
    number is left out, so that no progress is not taken for "nothing ran". ``failure`` says why it
    is dead or restarting.
    """

    actor_id: ActorId
    state: str
    incarnation: int
    class_name: str
    name: str = ""
    namespace: str = ""
    worker: Address = Address("")
    lease: int = 0
    node: Incarnation = Incarnation(b"")
    restarts: int = 0
    failure: Failure | None = None
    progress: tuple[Progress, ...] = ()

    def is_news_to(self, known: "ActorView | None") -> bool:
        """Views come by several ways: lives never go back, nor does one after it was alive."""
        if known is None or known.state == "dead":
            return known is None
        if self.state == "dead":
            return True
        order = (self.incarnation, self.state == "alive")
        return self != known and order >= (known.incarnation, known.state == "alive")


class NodeView(Struct, frozen=True, array_like=True, gc=False):
    """What everybody may know of a node. States: alive, dead. Amounts are in units of 1/UNIT."""

    node: Incarnation
    state: str
    host: str
    pid: int
    resources: tuple[tuple[str, int], ...]
    available: tuple[tuple[str, int], ...] = ()
    workers: int = 0
    store_bytes: int = 0
    store_bytes_max: int = 0


class JobView(Struct, frozen=True, array_like=True, gc=False):
    """What everybody may know of a job. States: running, ended."""

    job: JobId
    state: str
    pid: int
    entrypoint: str
