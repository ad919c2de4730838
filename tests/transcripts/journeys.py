"""The journeys, each a function that lets it happen and returns what was said."""

from collections.abc import Callable

from fabric.core.events import (
    Ask,
    Await,
    CallBlocked,
    CallResumed,
    Cancel,
    DefineLocally,
    Drop,
    Hold,
    MakeActor,
    Put,
    Register,
    SegmentWritten,
    Submit,
    SubmitToActor,
    Want,
    WantSegment,
)
from fabric.ids import (
    ActorId,
    Address,
    CallId,
    FunctionId,
    ObjectId,
    call_id,
    incarnation_of,
    object_id,
)
from fabric.protocol.messages import GetNamedActor
from fabric.protocol.values import (
    ActorSpec,
    Failure,
    JobSpec,
    Progress,
    Sealed,
    Shape,
    Value,
)
from tests.transcripts.wires import Wires

CPU = Shape((("CPU", 10_000),))
NOTHING = Shape(())
SQUARE = FunctionId(b"--------square()")
COUNTER = FunctionId(b"-------Counter()")


class NoSlot:
    """A ref without a value."""

    value: Value | None = None


def _call(client: Address, number: int) -> CallId:
    return call_id(incarnation_of(client), number)


def _result(client: Address, number: int) -> ObjectId:
    return object_id(_call(client, number), 0)


def _define(wires: Wires, client: Address) -> None:
    """Functions are known; the lines say nothing of it."""
    for function, name in ((SQUARE, "square"), (COUNTER, "Counter")):
        wires.tell(client, DefineLocally(function, name, b"pickled", is_shared=True))
    wires.lines.clear()


def _submit(
    client: Address,
    number: int,
    *waits_for: ObjectId,
    nested: tuple[ObjectId, ...] = (),
    depth: int = 0,
) -> Submit:
    inputs = tuple(Await(one, NoSlot()) for one in waits_for)
    call = _call(client, number)
    return Submit(call, SQUARE, CPU, b"arguments!", inputs, nested, 1, 3, depth)


def one_call() -> str:
    """One call on one lease."""
    wires = Wires()
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    wires.note("the worker ran it")
    wires.ran(wires.worker(1), b"one answer")
    wires.note("a second without work")
    wires.wait(1.0)
    return wires.text()


def dependent_calls() -> str:
    """The second call takes the result of the first."""
    wires = Wires()
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    wires.tell(driver, _submit(driver, 2, _result(driver, 1)))
    wires.note("the first one has run: its result completes the second")
    wires.ran(wires.worker(1), b"one answer")
    wires.ran(wires.worker(1), b"another answer")
    return wires.text()


def nested_get() -> str:
    """A call waits for a call of its own, on a node with one CPU."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    worker = wires.worker(1)
    wires.ran(worker, b"one answer")
    wires.note("measured by now, so two calls are on their way at a time")
    wires.tell(driver, _submit(driver, 2))
    wires.tell(driver, _submit(driver, 3))
    wires.note("the running one submits a call and waits for it")
    inner = wires.client_of(worker, driver)
    wires.tell(inner, DefineLocally(SQUARE, "square", b"pickled"))
    wires.tell(inner, _submit(inner, 1, depth=1))
    wires.tell(worker, CallBlocked())
    wires.note("the inner call runs on the CPU that was lent")
    wires.ran(wires.worker(2), b"inner answer")
    wires.tell(worker, CallResumed())
    wires.ran(worker, b"outer answer")
    return wires.text()


def cancelled_calls() -> str:
    """Of three calls at a worker one runs and one waits when they are cancelled."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    worker = wires.worker(1)
    wires.ran(worker, b"one answer")
    wires.note("measured by now, so several calls are on their way at a time")
    for number in (2, 3, 4):
        wires.tell(driver, _submit(driver, number))
    wires.note("the one in the middle is skipped")
    wires.tell(driver, Cancel(b"", _result(driver, 3), False, True))
    wires.note("the running one is interrupted; whoever waits for it waits no more")
    wires.tell(driver, Cancel(b"", _result(driver, 2), False, True))
    wires.ran(worker, b"nobody wants it")
    wires.ran(worker, b"another answer")
    return wires.text()


def two_drivers() -> str:
    """A second driver comes while the first one has all workers."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    wires.ran(wires.worker(1), b"one answer")
    wires.tell(driver, _submit(driver, 2))
    wires.tell(driver, _submit(driver, 3))
    wires.note("somebody else wants a worker")
    other = wires.driver("other")
    wires.tell(other, DefineLocally(SQUARE, "square", b"pickled"))
    wires.tell(other, _submit(other, 1))
    wires.note("after its quantum the lease is recalled; what has not started comes back")
    wires.wait(0.1)
    wires.ran(wires.worker(1), b"second answer")
    wires.note("the worker is bound to the first job, so the second one's was forked")
    wires.ran(wires.worker(2), b"other answer")
    wires.note("now the first driver waits, and its turn comes")
    wires.wait(0.1)
    wires.ran(wires.worker(1), b"third answer")
    return wires.text()


def large_result() -> str:
    """A result that is too large to travel is sealed in shared memory."""
    wires = Wires()
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    worker = wires.worker(1)
    result = _result(driver, 1)
    wires.note("the worker asks for room, writes, seals, answers")
    wires.tell(worker, WantSegment(result, 1, 10_000_000))
    wires.tell(worker, SegmentWritten(result, 1))
    wires.ran(worker, Sealed("S-1", 1, 10_000_000, incarnation_of(wires.node)))
    wires.note("the next call takes it: only its name travels")
    wires.tell(driver, _submit(driver, 2, result))
    wires.ran(worker, b"one answer")
    wires.note("the last reference goes; the segment stays warm for the next value of its size")
    wires.tell(driver, Drop((result,)))
    wires.tell(worker, WantSegment(_result(driver, 3), 1, 9_500_000))
    return wires.text()


def worker_death() -> str:
    """A worker dies: one call is to blame, those behind it are innocent."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    wires.ran(wires.worker(1), b"one answer")
    for number in (2, 3, 4):
        wires.tell(driver, _submit(driver, number))
    wires.ran(wires.worker(1), b"another answer")
    wires.note("it dies while it runs the third; the shared word tells its number")
    wires.kill(wires.worker(1), Progress(incarnation_of(driver), 1, 2, finished=False))
    wires.note("the third is charged an attempt, the fourth is not")
    wires.ran(wires.worker(2), b"third answer")
    wires.ran(wires.worker(2), b"fourth answer")
    return wires.text()


def _actor(client: Address, number: int, name: str = "", restarts: int = 0) -> ActorSpec:
    actor_id = ActorId(_result(client, number))
    job = JobSpec(incarnation_of(client), (), "", "")  # type: ignore[arg-type]
    return ActorSpec(
        actor_id, COUNTER, "Counter", job, NOTHING, b"args", (), (), name, False, restarts
    )


def _ask(client: Address, number: int, actor: ActorSpec, retries: int = 0) -> SubmitToActor:
    call = _call(client, number)
    return SubmitToActor(call, actor.actor_id, "add", b"arguments!", (), (), 1, retries)


def actor_life() -> str:
    """An actor is made, called, started again after a crash, and ends with its last handle."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    actor = _actor(driver, 1, restarts=1)
    wires.tell(driver, MakeActor(actor, ()))
    wires.note("called before it is there: the calls wait in their channel")
    wires.tell(driver, _ask(driver, 2, actor))
    wires.tell(driver, _ask(driver, 3, actor))
    wires.tell(driver, _ask(driver, 4, actor, retries=1))
    wires.note("its constructor returns")
    wires.made(wires.worker(1))
    wires.ran(wires.worker(1), b"10")
    wires.note("its worker dies under the second call, which may not be repeated")
    wires.kill(wires.worker(1), Progress(incarnation_of(driver), 1, 1, finished=False))
    wires.note("it lives again, and callers number from 0")
    wires.made(wires.worker(2))
    wires.ran(wires.worker(2), b"5")
    wires.note("the last handle goes")
    wires.tell(driver, Drop((ObjectId(actor.actor_id),)))
    return wires.text()


def kept_reference() -> str:
    """A ref travels inside an argument and is kept by the worker: it becomes a borrower."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    shared = _result(driver, 1)
    wires.tell(driver, Put(shared, b"shared value"))
    wires.tell(driver, _submit(driver, 2, nested=(shared,)))
    worker = wires.worker(1)
    wires.note("the call unpickles the ref, reads it, and keeps it in a global")
    inner = wires.client_of(worker, driver)
    wires.tell(inner, Hold(shared))
    wires.tell(inner, Want(shared))
    wires.note("before its answer leaves, the owner must know")
    wires.tell(inner, Register(b"before the answer", (shared,)))
    wires.ran(worker, b"one answer")
    wires.note("the driver lets go, and the value stays for the borrower")
    wires.tell(driver, Drop((shared,)))
    wires.note("the borrower lets go")
    wires.tell(inner, Drop((shared,)))
    return wires.text()


def named_actor() -> str:
    """Two drivers and one name."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    actor = _actor(driver, 1, "anna")
    wires.tell(driver, MakeActor(actor, ()))
    wires.made(wires.worker(1))
    wires.note("another driver wants the same name")
    other = wires.driver("other")
    rival = _actor(other, 1, "anna")
    wires.tell(other, DefineLocally(COUNTER, "Counter", b"pickled", is_shared=True))
    wires.tell(other, MakeActor(rival, ()))
    wires.note("so it asks who has it, and calls that one")
    request = _call(other, 2)
    wires.tell(other, Ask(request, GetNamedActor(request, "anna", "")))
    wires.tell(other, Hold(ObjectId(actor.actor_id)))
    wires.tell(other, _ask(other, 3, actor))
    wires.ran(wires.worker(1), b"10")
    return wires.text()


def failed_input() -> str:
    """A call fails, and with it all that waited for its result, however far."""
    wires = Wires(cpus=1)
    driver = wires.driver()
    _define(wires, driver)
    wires.tell(driver, _submit(driver, 1))
    wires.tell(driver, _submit(driver, 2, _result(driver, 1)))
    wires.tell(driver, _submit(driver, 3, _result(driver, 2)))
    wires.ran(wires.worker(1), Failure("task", "raised on purpose"))
    return wires.text()


JOURNEYS: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        one_call,
        dependent_calls,
        nested_get,
        cancelled_calls,
        two_drivers,
        large_result,
        worker_death,
        actor_life,
        kept_reference,
        named_actor,
        failed_input,
    )
}
