"""The node's machine: who gets a worker, who gives one back, what follows when somebody dies."""

from fabric.core.effects import (
    Send,
    StartWorker,
    WatchProcess,
)
from fabric.protocol.cluster import RegisterJob
from fabric.protocol.messages import (
    ClientRegistered,
    LeaseReturned,
    RecallLease,
    RegisterClient,
    ReturnLease,
    Unschedulable,
    WorkerBlocked,
    WorkerReady,
    WorkerResumed,
)
from fabric.protocol.values import Failure, JobSpec, JobView, Shape
from tests.core_words import (
    CONTROL,
    INNER,
    JOB,
    LOOK_AT,
    ME,
    NO_CPU,
    NODE,
    OTHER,
    W1,
    W2,
    W3,
    W4,
    granted,
    hear,
    killed,
    me_of,
    new_node,
    ready,
    registered,
    requested,
    tell,
)

TWO_CPUS = Shape((("CPU", 20_000),))
KILLED = Failure("worker_crashed", "its worker was ended by signal 9 (SIGKILL)")


# -- registering


def test_a_driver_is_welcomed_watched_and_its_job_announced() -> None:
    node = new_node()
    job = JobSpec(JOB, (), "", "")
    assert hear(node, ME, RegisterClient(9, True, job, "here")) == [
        Send(ME, ClientRegistered(me_of(NODE), (("CPU", 20_000),), "S")),
        WatchProcess(me_of(ME), 9),
        Send(CONTROL, RegisterJob(JobView(JOB, "running", 9, "here"), job)),
    ]


def test_a_client_inside_a_worker_is_welcomed_while_its_worker_lives() -> None:
    node = ready(1)
    hello = RegisterClient(9, False, JobSpec(JOB, (), "", ""), "")
    assert hear(node, INNER, hello) == [
        Send(INNER, ClientRegistered(me_of(NODE), (("CPU", 20_000),), "S"))
    ]
    tell(node, killed(W1))
    assert hear(node, INNER, hello) == []  # late words


def test_strangers_get_no_leases() -> None:
    node = new_node(workers=1)
    assert hear(node, ME, requested(1)) == []


# -- granting


def test_an_idle_worker_is_granted_at_once() -> None:
    assert hear(ready(), ME, requested(1)) == [granted(1, W1)]


def test_no_more_is_granted_than_there_are_cpus() -> None:
    assert hear(ready(2, cpus=1), ME, requested(2)) == [granted(1, W1)]


def test_the_latest_word_counts() -> None:
    node = ready(2, cpus=1)
    hear(node, ME, requested(8))
    hear(node, ME, requested(1))
    assert hear(node, ME, ReturnLease(1)) == []


def test_where_workers_are_lacking_they_are_forked_for_what_there_is_room_for() -> None:
    node = registered(new_node(), ME)
    assert hear(node, ME, requested(4)) == [StartWorker(me_of(W1)), StartWorker(me_of(W2))]
    assert hear(node, W1, WorkerReady(1)) == [granted(1, W1)]
    assert hear(node, W2, WorkerReady(2)) == [granted(2, W2)]


def test_a_returned_lease_is_granted_to_who_waits() -> None:
    node = registered(ready(1, cpus=1), OTHER)
    hear(node, ME, requested(1))
    hear(node, OTHER, requested(1, client=OTHER))
    assert hear(node, ME, ReturnLease(1)) == [StartWorker(me_of(W2))]  # `W1` is bound to its job
    assert hear(node, W2, WorkerReady(2)) == [granted(2, W2, OTHER)]


def test_the_job_that_has_least_goes_first() -> None:
    node = registered(new_node(cpus=3, workers=3), ME, OTHER)
    hear(node, ME, requested(2))
    node.handle(ME, requested(3), 0.0)
    node.handle(OTHER, requested(1, client=OTHER), 0.0)
    assert tell(node) == [granted(3, W3, OTHER)]


def test_the_deepest_calls_of_a_job_go_first() -> None:
    node = registered(ready(1, cpus=1), INNER)
    node.handle(ME, requested(1), 0.0)
    node.handle(INNER, requested(1, depth=2), 0.0)
    assert tell(node)[0] == granted(1, W1, INNER)


def test_for_a_large_shape_that_has_nothing_room_is_kept() -> None:
    node = ready(2, cpus=2)
    hear(node, ME, requested(2))
    hear(node, ME, requested(1, TWO_CPUS, shape_id=1))
    hear(node, ME, requested(4))
    assert hear(node, ME, ReturnLease(1), now=0.0) == []
    assert hear(node, ME, ReturnLease(2), now=0.0) == [granted(3, W1, shape_id=1)]


def test_an_impossible_shape_is_refused_with_the_numbers() -> None:
    failure = Failure("unschedulable", "it needs GPU 1; the best node has CPU 2")
    shape = Shape((("GPU", 10_000),))
    assert hear(ready(), ME, requested(1, shape)) == [Send(ME, Unschedulable(0, failure))]


def test_an_impossible_shape_waits_for_its_grace() -> None:
    node = ready(unschedulable_grace_s=5.0)
    shape = Shape((("GPU", 10_000),))
    assert hear(node, ME, requested(1, shape)) == []
    assert node.deadline() == 5.0
    assert [type(one) for one in tell(node, now=5.0)] == [Send]
    assert node.deadline() is None


# -- recalling


def test_a_working_lease_is_recalled_for_a_waiting_job_after_its_quantum() -> None:
    node = registered(ready(1, cpus=1), OTHER)
    hear(node, ME, requested(8))
    assert hear(node, OTHER, requested(1, client=OTHER), now=0.05) == []
    assert node.deadline() == 0.1
    assert tell(node, now=0.1) == [Send(W1, RecallLease(1, only_if_idle=False))]
    assert node.deadline() == LOOK_AT
    assert hear(node, W1, LeaseReturned(1), now=0.2) == [StartWorker(me_of(W2))]
    assert hear(node, W2, WorkerReady(2), now=0.2) == [granted(2, W2, OTHER)]


def test_a_return_that_crosses_a_full_recall_waits_for_the_worker() -> None:
    node = registered(ready(1, cpus=1), OTHER)
    hear(node, ME, requested(8))
    hear(node, OTHER, requested(1, client=OTHER), now=1.0)
    assert hear(node, ME, ReturnLease(1), now=1.0) == []
    assert hear(node, W1, LeaseReturned(1), now=1.1) == [StartWorker(me_of(W2))]


def test_a_lease_that_its_client_may_not_use_is_recalled_if_idle() -> None:
    node = registered(ready(1, cpus=1), OTHER)
    hear(node, ME, requested(1))
    assert hear(node, OTHER, requested(1, client=OTHER), now=0.05) == [
        Send(W1, RecallLease(1, only_if_idle=True))
    ]
    hear(node, W1, LeaseReturned(1), now=0.06)
    assert node.scheduling.demands.table[ME, 0].wanted == 0


def test_a_client_that_spoke_since_its_idle_lease_was_recalled_still_wants_one() -> None:
    node = registered(ready(1, cpus=1), OTHER)
    hear(node, ME, requested(1))
    hear(node, OTHER, requested(1, client=OTHER), now=0.05)
    hear(node, ME, requested(1), now=0.06)  # it has seen the lease end, before we have
    hear(node, W1, LeaseReturned(1), now=0.06)
    assert node.scheduling.demands.table[ME, 0].wanted == 1


def test_a_lease_whose_share_would_not_help_is_left_alone() -> None:
    node = registered(ready(2, cpus=1), OTHER)
    hear(node, ME, requested(1))
    hear(node, ME, requested(1, NO_CPU, shape_id=1))
    assert hear(node, OTHER, requested(1, client=OTHER), now=1.0) == [
        Send(W1, RecallLease(1, only_if_idle=False))
    ]


def test_a_word_about_a_lease_that_is_over_is_ignored() -> None:
    node = ready()
    hear(node, ME, requested(1))
    hear(node, ME, ReturnLease(1))
    assert hear(node, W1, LeaseReturned(1)) == []
    assert hear(node, ME, ReturnLease(1)) == []
    assert hear(node, OTHER, ReturnLease(7)) == []


# -- calls that wait


def test_the_share_of_a_waiting_call_is_lent_and_taken_back() -> None:
    node = registered(ready(2, cpus=1), INNER)
    hear(node, ME, requested(1))
    hear(node, INNER, requested(1, depth=1))
    assert hear(node, W1, WorkerBlocked(1, "f")) == [
        granted(2, W2, INNER),
        StartWorker(me_of(W3)),  # the inner call may wait, too
        StartWorker(me_of(W4)),
    ]
    assert hear(node, W1, WorkerResumed(1)) == []
    assert node.resources.free == {"CPU": -10_000}  # it does not wait, it oversubscribes
    hear(node, INNER, ReturnLease(2))
    assert node.resources.free == {"CPU": 0}


def test_a_share_is_lent_once() -> None:
    node = ready(1, cpus=1)
    hear(node, ME, requested(1))
    hear(node, W1, WorkerBlocked(1, "f"))
    hear(node, W1, WorkerBlocked(1, "f"))
    assert node.resources.free == {"CPU": 10_000}
    tell(node, killed(W1))
    assert node.resources.free == {"CPU": 10_000}


def test_when_all_workers_wait_at_the_limit_the_deepest_wait_gives_up() -> None:
    node = registered(ready(1, cpus=1, workers_max=1), INNER)
    hear(node, ME, requested(1))
    hear(node, INNER, requested(1, depth=1))
    text = (
        "all 1 workers of the node wait for other calls, the deepest at depth 1: "
        "f in w:776f726b waits for one more"
    )
    assert hear(node, W1, WorkerBlocked(1, "f")) == [
        Send(INNER, Unschedulable(0, Failure("waits_limit", text)))
    ]
