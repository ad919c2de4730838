"""Every error of the fabric: the tree, and the word each one travels under.

::

    FabricError                         FAB-100
    ├── ConfigError (ValueError)        FAB-101   a setting does not make sense
    ├── SessionEndedError               FAB-102   a ref or handle of a session that is over
    ├── ForkedProcessError              FAB-103   used in a fork of a process that uses the fabric
    ├── NeedsConcurrencyError           FAB-104   an inline session has one thread for everything
    ├── TaskError (+ the user's type)   FAB-200   the task or method raised
    ├── WorkerCrashedError              FAB-201   the worker's process ended under the call
    ├── OutOfMemoryError                FAB-202   the worker was ended to save the node's memory
    ├── TaskCancelledError              FAB-203   the call was cancelled
    ├── RuntimeEnvError                 FAB-204   the job's environment could not be made
    ├── SerializationError              FAB-205   a value cannot be pickled; names the culprit
    ├── ActorError                      FAB-300
    │   ├── ActorDiedError              FAB-301   the actor is gone for good
    │   └── ActorUnavailableError       FAB-302   its worker is gone, it may come back
    ├── NameTakenError (ValueError)     FAB-303   another actor has that name
    ├── PendingCallsLimitExceeded       FAB-304   more calls wait for the actor than it allows
    ├── ObjectLostError                 FAB-400   every copy is gone and cannot be made again
    │   ├── OwnerDiedError              FAB-401   the process that answers for it is gone
    │   ├── ObjectCorruptError          FAB-402   its bytes fail their checksum
    │   └── ObjectUnreachableError      FAB-403   it exists where nobody can read it now
    ├── ObjectStoreFullError            FAB-404   no memory for it, and none came back
    ├── GetTimeoutError (TimeoutError)  FAB-500   it was not ready in time
    ├── UnschedulableError              FAB-501   no node can ever run it
    ├── WaitsLimitExceeded              FAB-502   every worker waits for another call
    └── ClusterError                    FAB-600
        ├── ClusterNotFoundError        FAB-601
        ├── WrongTokenError             FAB-602
        ├── VersionMismatchError        FAB-603
        ├── AlreadyRunningError         FAB-604
        ├── NameClashError              FAB-605   another distribution owns ``import fabric``
        └── ControlStoreFullError       FAB-606

Each has a stable ``code``, says its cause in one sentence, and then what to do next. Errors come
back from other processes as `fabric.protocol.messages.Failure`, whose ``kind`` is a key of
`FAILURES`; turning one into the other is not done here but in `fabric.failures`.
"""


class FabricError(Exception):
    """Anything that went wrong in the fabric.

    ``text`` is the cause, ``advice`` the next thing to do.
    """

    code = "FAB-100"
    advice = "This was not foreseen: please report it, with the program that shows it."

    def __init__(self, text: str = "", *, advice: str | None = None) -> None:
        # not super(): in the class made for a TaskError the next one in line is the user's own,
        # whose constructor takes whatever it likes
        Exception.__init__(self, text)
        if advice is not None:
            self.advice = advice

    @property
    def text(self) -> str:
        """The cause, in one sentence."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return "\n".join(part for part in (self.text, f"{self.advice} [{self.code}]") if part)


class ConfigError(FabricError, ValueError):
    """A setting, an argument of `init` or a variable of the environment does not make sense."""

    code = "FAB-101"
    advice = "Correct the setting or leave it out; the defaults work."


class SessionEndedError(FabricError):
    """A ref or an actor handle outlived the session that it belongs to."""

    code = "FAB-102"
    advice = (
        "Use refs and handles before `fabric.shutdown()`; make them again after `fabric.init()`."
    )


class ForkedProcessError(FabricError):
    """The fabric was used in a process forked from one that uses it; sockets and threads do not
    fork.
    """

    code = "FAB-103"
    advice = (
        "Start the process with the 'spawn' method (`multiprocessing.get_context('spawn')`), or"
        " call tasks instead of forking."
    )


class NeedsConcurrencyError(FabricError):
    """An inline session cannot do this: it runs every call in this process, one at a time."""

    code = "FAB-104"
    advice = (
        "Run it on a private fabric (without `inline=True` and FABRIC_MODE), or wait for it later."
    )


class TaskError(FabricError):
    """A task or an actor's method raised. Also an instance of the type that was raised.

    ``cause`` is the user's exception (None if it could not travel), ``task`` the name of what ran,
    ``node`` and ``pid`` where, ``remote_traceback`` the user's frames as text.
    """

    code = "FAB-200"
    advice = "The traceback above is the task's own, from the worker."

    cause: BaseException | None = None
    task: str = ""
    node: str = ""
    pid: int = 0
    remote_traceback: str = ""


class WorkerCrashedError(FabricError):
    """The worker's process ended while it ran the call, and no attempt is left.

    ``signal`` or ``exit_code`` say how, ``last_words`` are the last lines of its log.
    """

    code = "FAB-201"
    advice = (
        "Run it without the fabric to see whether the crash is its own doing; if not, allow more"
        " attempts with `.options(max_retries=…)`."
    )

    task: str = ""
    attempt: int = 0
    signal: int | None = None
    exit_code: int | None = None
    pid: int = 0
    node: str = ""
    last_words: str = ""


class OutOfMemoryError(FabricError):
    """The worker was ended because its node ran out of memory.

    It used ``rss`` of ``limit`` bytes; ``task`` and ``attempt`` say what it ran.
    """

    code = "FAB-202"
    advice = "Run fewer of these at once (`num_cpus=2`), or work on smaller pieces."

    task: str = ""
    attempt: int = 0
    rss: int = 0
    limit: int = 0
    pid: int = 0
    node: str = ""
    last_words: str = ""


class TaskCancelledError(FabricError):
    """The call was cancelled, before or while it ran."""

    code = "FAB-203"
    advice = "Call it again if its result is wanted after all."


class RuntimeEnvError(FabricError):
    """The environment that the job asked for could not be made on a node."""

    code = "FAB-204"
    advice = "What the job imports must lie where its driver finds it: workers look there, too."


class SerializationError(FabricError):
    """A value cannot be pickled, or not unpickled where it was needed; names the culprit."""

    code = "FAB-205"
    advice = "Leave the culprit out, or make it inside the task or the actor's constructor."


class ActorError(FabricError):
    """Something is wrong with the actor that a method was called on."""

    code = "FAB-300"
    advice = "`fabric status` shows the actors of a cluster, and what became of them."


class ActorDiedError(ActorError):
    """The actor is gone for good: it was killed, ended, or crashed too often."""

    code = "FAB-301"
    advice = "Create it again, or let the fabric restart it with `@actor(max_restarts=…)`."


class ActorUnavailableError(ActorError):
    """The actor's worker is gone and the call may or may not have run; the actor may come back."""

    code = "FAB-302"
    advice = "Call again, or let the fabric do it with `@actor(max_task_retries=…)`."


class NameTakenError(FabricError, ValueError):
    """Another living actor of the namespace has that name."""

    code = "FAB-303"
    advice = (
        "Take another name, or the living actor with `get_if_exists=True` or `fabric.get_actor`."
    )


class PendingCallsLimitExceeded(FabricError):
    """More calls wait for an actor than its ``max_pending_calls`` allows."""

    code = "FAB-304"
    advice = "Get some of the results before calling again."


class ObjectLostError(FabricError):
    """Every copy of the object is gone and it cannot be made again."""

    code = "FAB-400"
    advice = "Make the object again by calling what made it."


class OwnerDiedError(ObjectLostError):
    """The process that answers for the object, the one that made its ref, is gone."""

    code = "FAB-401"
    advice = "Make refs that others need in the driver or in an actor that lives long enough."


class ObjectCorruptError(ObjectLostError):
    """The object's bytes do not have the checksum they were written with."""

    code = "FAB-402"
    advice = "Make the object again by calling what made it; if it happens again, check the memory."


class ObjectUnreachableError(ObjectLostError):
    """The object exists, but nobody here can read it now."""

    code = "FAB-403"
    advice = "`fabric status` shows which nodes answer."


class ObjectStoreFullError(FabricError):
    """There was no room for the object in shared memory, and none came back in time.

    ``need`` and ``free`` are in bytes.
    """

    code = "FAB-404"
    advice = (
        "Drop refs and the arrays read from them, or begin with a larger store:"
        " `fabric.init(object_store_memory=…)`."
    )

    need: int = 0
    free: int = 0


class GetTimeoutError(FabricError, TimeoutError):
    """What was waited for was not ready in time. It may still become so."""

    code = "FAB-500"
    advice = "Wait longer, or look with `fabric.wait`."


class UnschedulableError(FabricError):
    """No node of the cluster can ever run this; the text says what was asked and what the best node
    has.
    """

    code = "FAB-501"
    advice = (
        "Ask for less, or give the fabric more: `fabric.init(num_cpus=…, resources=…)`, or for a"
        " cluster `fabric up --num-cpus … --resources …`."
    )


class WaitsLimitExceeded(FabricError):
    """Every worker waits for another call and no more may be started; the text has the chain."""

    code = "FAB-502"
    advice = "Wait in fewer tasks at once, or raise FABRIC_WORKERS_MAX."


class ClusterError(FabricError):
    """Something is wrong with the cluster as a whole, or with the way to it."""

    code = "FAB-600"
    advice = (
        "`fabric.shutdown()` and `fabric.init()` begin anew; `fabric status` shows whether the"
        " cluster of this machine answers."
    )


class ClusterNotFoundError(ClusterError):
    """There is no cluster there."""

    code = "FAB-601"
    advice = "Start one with `fabric up`, or leave out the address for a private one."


class WrongTokenError(ClusterError):
    """The cluster does not accept this token."""

    code = "FAB-602"
    advice = "Use the token of that very cluster."


class VersionMismatchError(ClusterError):
    """The other side speaks another protocol or runs another Python."""

    code = "FAB-603"
    advice = "Install the same version of fabric-compute and the same Python minor version on both."


class AlreadyRunningError(ClusterError):
    """This process is connected to another fabric already, or the cluster runs already."""

    code = "FAB-604"
    advice = "Call `fabric.shutdown()` first, or leave out what differs."


class NameClashError(ClusterError):
    """Another distribution that is installed here owns ``import fabric``."""

    code = "FAB-605"
    advice = (
        "Install `fabric-compute` into an environment without `fabric`, which is an SSH library of"
        " another name."
    )


class ControlStoreFullError(ClusterError):
    """The control store's disk or table is full."""

    code = "FAB-606"
    advice = (
        "End actors that are not needed, or free space under the state directory; `fabric up"
        " --state-dir …` takes another."
    )


FAILURES: dict[str, type[FabricError]] = {
    "task": TaskError,
    "worker_crashed": WorkerCrashedError,
    "out_of_memory": OutOfMemoryError,
    "cancelled": TaskCancelledError,
    "runtime_env": RuntimeEnvError,
    "serialization": SerializationError,
    "actor_died": ActorDiedError,
    "actor_unavailable": ActorUnavailableError,
    "name_taken": NameTakenError,
    "pending_calls": PendingCallsLimitExceeded,
    "object_lost": ObjectLostError,
    "owner_died": OwnerDiedError,
    "object_corrupt": ObjectCorruptError,
    "object_unreachable": ObjectUnreachableError,
    "store_full": ObjectStoreFullError,
    "store_too_small": ObjectStoreFullError,
    "unschedulable": UnschedulableError,
    "waits_limit": WaitsLimitExceeded,
    "control_store_full": ControlStoreFullError,
    "cluster": ClusterError,
    "session_ended": SessionEndedError,
}
"""The kind of a failure as machines say it -> the error that users see."""

ADVICES: dict[str, str] = {
    "store_too_small": (
        "Begin with a larger store, `fabric.init(object_store_memory=…)` or `fabric up"
        " --object-store-memory …`, or put the value in parts."
    ),
}
"""Kinds whose next thing to do is not that of their error -> what it is instead."""
