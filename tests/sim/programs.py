"""Users' code in the model: what a driver runs, and what its calls run, drawn from the seed.

A program is a generator that yields what it waits for: `Sleep`, `Get`, `Write`, `Ask`, `Count`. A
call's code is a `Plan`, drawn by the driver and carried in the call's arguments, so that every
attempt of it does the same. What becomes of values is in `refs`; who runs the generators is in
`processes`.
"""

from collections.abc import Generator
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from fabric.core.events import (
    DefineLocally,
    KillActor,
    MakeActor,
    Submit,
    SubmitToActor,
)
from fabric.ids import ActorId, CallId, FunctionId, ObjectId, object_id
from fabric.protocol.messages import GetNamedActor
from fabric.protocol.values import UNIT, ActorSpec, Failure, Sealed, Shape
from tests.sim.cancels import Interrupted, cancel
from tests.sim.refs import Content, SimRef, encoded

if TYPE_CHECKING:
    from tests.sim.shells import Client

FUNCTION = FunctionId(b"function-of-tests")
CLASS = FunctionId(b"class-of-tests---")
CPU = Shape((("CPU", UNIT),))
FREE = Shape(())
HALF = Shape((("CPU", UNIT // 2),))
IMPOSSIBLE = Shape((("GPU", UNIT),))
NAMES = ("anna", "bert")

STUBBORN_S = 2.0
"""Code that does not let itself be interrupted takes so much longer."""


class Plan(msgspec.Struct, array_like=True):
    """What a call does."""

    duration_s: float = 0.0
    children: list["Plan"] = []
    waits: bool = False  # for its children
    passes: bool = False  # the refs of its children inside its result
    reads: bool = False  # the refs nested in its arguments, and keeps those inside them
    hands: bool = False  # those refs on to its children
    drops: bool = False  # those of its arguments in the middle, before it ends
    keeps: bool = False  # those refs in its actor
    forgets: bool = False  # what its actor has kept
    returns_nested: bool = False
    fails: bool = False
    crashes: int = 0  # its process, in its first attempts
    nbytes: int = 0
    returns: int = 1
    retries: int = 3
    calls: int = 0  # of the actors nested in its arguments
    makes: bool = False  # an actor of its own, and calls it
    cancels: bool = False  # its first child, or a ref nested in its arguments
    is_stubborn: bool = False  # goes on when it is interrupted
    timeout_s: float | None = None


class Args(msgspec.Struct, array_like=True):
    """What the arguments of a call are made of."""

    plan: Plan
    nested: list[bytes]
    actors: list[bytes]


class Sleep(msgspec.Struct):
    """Compute for that long."""

    duration_s: float


class Get(msgspec.Struct):
    """Wait for those; the answer is the refs inside them, held for whoever asked."""

    refs: list[SimRef]


class Write(msgspec.Struct):
    """Write a large value; the answer is its `Sealed` or a failure."""

    object_id: ObjectId
    attempt: int
    content: bytes


class Ask(msgspec.Struct):
    """Ask a question; the answer is a message or a failure."""

    request: bytes
    make: Any


class Count(msgspec.Struct):
    """Wait until the owners of those count this process."""

    request: bytes
    object_ids: tuple[ObjectId, ...]


class Crash(msgspec.Struct):
    """The process ends here."""


Program = Generator[Any, Any, Any]


def pack(
    client: "Client", plan: Plan, inputs: list[SimRef], nested: list[SimRef], actors: list[SimRef]
) -> tuple[bytes, tuple[Any, ...], tuple[ObjectId, ...]]:
    """Arguments as the runtime packs them."""
    for one in (*nested, *actors):
        client.refs.share(one)
    names = [one.object_id for one in nested]
    tokens = [one.object_id for one in actors]
    args = msgspec.msgpack.encode(Args(plan, list(names), list(tokens)))
    return args, tuple(map(client.refs.input_of, inputs)), tuple(dict.fromkeys((*names, *tokens)))


def submit(
    client: "Client",
    plan: Plan,
    inputs: list[SimRef],
    nested: list[SimRef],
    actors: list[SimRef],
    shape: Shape = CPU,
) -> list[SimRef]:
    """Call the task."""
    client.define(FUNCTION, is_shared=False)
    args, values, names = pack(client, plan, inputs, nested, actors)
    call = client.refs.next_call()
    refs = client.refs.results(call, plan.returns)
    client.tell_client(
        Submit(
            *(call, FUNCTION, shape, args, values, names, plan.returns, plan.retries),
            client.depth,
            plan.timeout_s,
        )
    )
    return [client.refs.hold(one) for one in refs]


def submit_to(
    client: "Client",
    actor: SimRef,
    plan: Plan,
    inputs: list[SimRef],
    nested: list[SimRef],
    actors: list[SimRef],
) -> list[SimRef]:
    """Call a method of that actor."""
    args, values, names = pack(client, plan, inputs, nested, actors)
    call = client.refs.next_call()
    refs = client.refs.results(call, plan.returns)
    client.tell_client(
        SubmitToActor(
            call,
            ActorId(actor.object_id),
            "method",
            args,
            values,
            names,
            plan.returns,
            plan.retries,
        )
    )
    return [client.refs.hold(one) for one in refs]


def make_actor(
    client: "Client", plan: Plan, inputs: list[SimRef], nested: list[SimRef], **options: Any
) -> SimRef:
    """Make an actor; the result counts its handles."""
    client.define(CLASS, is_shared=True)
    args, values, names = pack(client, plan, inputs, nested, [])
    token = client.refs.token(object_id(client.refs.next_call(), 0))
    spec = ActorSpec(
        ActorId(token.object_id),
        CLASS,
        "Model",
        client.job,
        options.pop("shape", FREE),
        args,
        (),
        names,
        **options,
    )
    client.tell_client(MakeActor(spec, values))
    return client.refs.hold(token)


def body(client: "Client", call: CallId, attempt: int, life: int, raw: bytes) -> Program:
    """The code of a call: gives its outcomes, each the bytes of a value with the refs inside it."""
    args = msgspec.msgpack.decode(raw, type=Args)
    plan = args.plan
    nested = [client.refs.hold(client.refs.revive(ObjectId(one))) for one in args.nested]
    actors = [client.refs.hold(client.refs.revive(ObjectId(one))) for one in args.actors]
    children: list[SimRef] = []
    try:
        yield from code(client, plan, attempt, nested, actors, children)
    except Interrupted:
        if plan.is_stubborn:
            yield Sleep(STUBBORN_S)
        for one in (*nested, *actors, *children):
            client.refs.drop(one)
        return [(Failure("task", "interrupted"), []) for _ in range(plan.returns)]
    return results(client, plan, (call, attempt, life), nested, actors, children)


def code(
    client: "Client",
    plan: Plan,
    attempt: int,
    nested: list[SimRef],
    actors: list[SimRef],
    children: list[SimRef],
) -> Program:
    """What a call does until it has its results."""
    yield Sleep(plan.duration_s / 2)
    if attempt <= plan.crashes:
        yield Crash()
    if plan.reads and nested:
        nested += yield Get(list(nested))
    handed = nested[:2] if plan.hands else []
    for child in plan.children:
        children += submit(client, child, [], handed, [])
    for actor in actors:
        for _ in range(plan.calls):
            children += submit_to(client, actor, Plan(retries=0), [], [], [])
    if plan.makes:
        own = make_actor(client, Plan(), [], [])
        children += submit_to(client, own, Plan(retries=0), [], [], [])
        client.refs.drop(own)
    if plan.cancels and (children or nested):
        cancel(client, (*children, *nested)[0], Random(plan.nbytes + plan.retries))
    if plan.waits and children:
        nested += yield Get(list(children))
    if plan.drops:
        for one in nested[::2]:
            client.refs.drop(one)
        del nested[::2]
    yield Sleep(plan.duration_s / 2)


def results(
    client: "Client",
    plan: Plan,
    run: tuple[CallId, int, int],
    nested: list[SimRef],
    actors: list[SimRef],
    children: list[SimRef],
) -> list[tuple[Any, list[SimRef]]]:
    """Its outcomes; what it has held is let go."""
    call, attempt, life = run
    inner = (children if plan.passes else []) + (nested if plan.returns_nested else [])
    outcomes: list[tuple[Any, list[SimRef]]] = []
    for index in range(plan.returns):
        held = [client.refs.hold(one) for one in inner] if index == 0 else []
        for one in held:
            client.refs.share(one)
        refs: list[bytes] = [one.object_id for one in held]
        content = Content(call, attempt, index, life, refs, bytes(plan.nbytes))
        outcomes.append((encoded(content), held))
    if plan.forgets:
        for one in client.kept:
            client.refs.drop(one)
        client.kept.clear()
    if plan.keeps:
        client.kept += [client.refs.hold(one) for one in (*nested, *actors)]
    for one in (*nested, *actors, *children):
        client.refs.drop(one)
    if plan.fails:
        for _, held in outcomes:
            for one in held:
                client.refs.drop(one)
        return [(Failure("task", "raised on purpose"), []) for _ in outcomes]
    return outcomes


def draw_plan(random: Random, depth: int, crash_p: float, is_roomy: bool) -> Plan:
    """Some code; only where there is room for many workers may all of it wait."""
    some = random.random
    count = random.choice((0, 0, 1, 2)) if depth else 0
    return Plan(
        duration_s=random.choice((0.0, 1e-5, 1e-3, 0.03)) if some() < 0.9 else 0.3,
        children=[draw_plan(random, depth - 1, crash_p, is_roomy) for _ in range(count)],
        waits=some() < 0.7,
        passes=some() < 0.4,
        reads=is_roomy and some() < 0.5,
        hands=some() < 0.4,
        drops=some() < 0.3,
        keeps=some() < 0.3,
        forgets=some() < 0.2,
        returns_nested=some() < 0.3,
        fails=some() < 0.06,
        crashes=random.choice((1, 2, 9)) if some() < crash_p else 0,
        nbytes=random.choice((0, 0, 10, 3000, 9000)),
        returns=random.choice((1, 1, 1, 0, 3)),
        retries=random.choice((0, 1, 3, 3, -1)),
        calls=random.choice((0, 1, 2)),
        makes=is_roomy and depth > 0 and some() < 0.1,
        cancels=some() < 0.1,
        is_stubborn=some() < 0.2,
        timeout_s=random.choice((0.01, 0.2)) if some() < 0.05 else None,
    )


class Driver:
    """A driver's program: random steps over its variables, then everything is got and dropped."""

    def __init__(
        self, client: "Client", seed: str, steps: int, crash_p: float, cpus: int, workers_max: int
    ) -> None:
        self.client = client
        self.random = Random(seed)
        self.steps = steps
        self.crash_p = crash_p
        self.cpus = cpus
        self.workers_max = workers_max
        self.halves = 0
        self.variables: list[SimRef] = []
        self.actors: list[SimRef] = []

    def run(self) -> Program:
        """The whole program."""
        random = self.random
        verbs = (self.call, self.call, self.put, self.get, self.drop, self.sleep, self.cancel)
        actor_verbs = (self.make, self.call_actor, self.call_actor, self.kill, self.find)
        has_actors = self.workers_max > 8 and random.random() < 0.8
        for _ in range(self.steps):
            verb = random.choice((*verbs, *actor_verbs) if has_actors else verbs)
            yield from verb()
        if self.variables:
            self.variables += yield Get(list(self.variables))
        self.forget([*self.variables, *self.actors])
        self.variables, self.actors = [], []
        yield Sleep(0.05)

    def pick(self, items: list[SimRef], count: int) -> list[SimRef]:
        """Some of them."""
        return self.random.sample(items, min(count, len(items), self.random.randint(0, 2)))

    def arguments(self) -> tuple[Plan, list[SimRef], list[SimRef], list[SimRef]]:
        """Those of a call."""
        depth = self.random.choice((0, 0, 1, 2))
        plan = draw_plan(self.random, depth, self.crash_p, self.workers_max > 100)
        inputs, nested = self.pick(self.variables, 2), self.pick(self.variables, 2)
        return plan, inputs, nested, self.pick(self.actors, 1)

    def call(self) -> Program:
        """Some calls of one task."""
        plan, inputs, nested, actors = self.arguments()
        shape = self.random.choice((CPU, CPU, CPU, HALF, FREE))
        if self.random.random() < 0.02:
            shape = IMPOSSIBLE
        for _ in range(self.random.choice((1, 1, 2, 8))):
            refs = submit(self.client, plan, inputs, nested, actors, shape)
            if self.random.random() < 0.1:
                self.forget(refs)
            else:
                self.variables += refs
        yield Sleep(0.0)

    def forget(self, refs: list[SimRef]) -> None:
        """Nobody here wants them any more."""
        for ref in refs:
            self.client.refs.drop(ref)

    def put(self) -> Program:
        """A value of its own, small or large, perhaps with refs inside."""
        client = self.client
        inner = self.pick(self.variables, 2)
        nbytes = self.random.choice((0, 50, 9000))
        if nbytes < client.limits.inline_bytes_max:
            self.variables.append(client.refs.hold(client.refs.put_small(nbytes, inner)))
            return
        name = object_id(client.refs.next_call(), 0)
        for one in inner:
            client.refs.share(one)
        refs: list[bytes] = [one.object_id for one in inner]
        content = Content(name[:14], 0, 0, 0, refs, bytes(nbytes))
        held = [client.refs.hold(one) for one in inner]
        sealed = yield Write(name, 0, encoded(content))
        if isinstance(sealed, Sealed):
            ref = client.refs.put_sealed(name, sealed, held)
            self.variables.append(client.refs.hold(ref))
        for one in held:
            client.refs.drop(one)

    def get(self) -> Program:
        """Wait for some, and take what is inside them; perhaps that is all one wanted of them."""
        refs = self.pick(self.variables, 2)
        if not refs:
            return
        self.variables += yield Get(refs)
        if self.random.random() < 0.4:
            for ref in refs:
                self.variables.remove(ref)
            self.forget(refs)

    def drop(self) -> Program:
        """Forget some, and now and then an actor."""
        items = self.actors if self.random.random() < 0.2 else self.variables
        refs = self.pick(items, 2)
        for ref in refs:
            items.remove(ref)
        self.forget(refs)
        yield Sleep(0.0)

    def cancel(self) -> Program:
        """Some are not wanted after all."""
        for ref in self.pick(self.variables, 2):
            cancel(self.client, ref, self.random)
        yield Sleep(0.0)

    def sleep(self) -> Program:
        """Do something else."""
        yield Sleep(self.random.choice((0.0, 0.001, 0.02, 0.4)))

    def make(self) -> Program:
        """An actor, perhaps with a name."""
        random = self.random
        plan = Plan(
            duration_s=random.choice((0.0, 0.01)),
            fails=random.random() < 0.1,
            keeps=random.random() < 0.3,
        )
        name = random.choice(("", "", *NAMES))
        options: dict[str, Any] = {
            "name": name,
            "restarts_max": random.choice((0, 1, 3, -1)),
            "shape": self.actor_shape(),
        }
        inputs, nested = self.pick(self.variables, 1), self.pick(self.variables, 1)
        client = self.client
        token = make_actor(client, plan, inputs, nested, **options)
        self.actors.append(token)
        yield Sleep(0.0)

    def actor_shape(self) -> Shape:
        """Actors keep what they have for life: never so much that nothing is left for tasks."""
        if self.cpus < 4 or self.halves or self.random.random() < 0.7:
            return FREE
        self.halves += 1
        return HALF

    def call_actor(self) -> Program:
        """Some calls of an actor."""
        if not self.actors:
            return
        actor = self.random.choice(self.actors)
        for _ in range(self.random.choice((1, 3, 8))):
            plan, inputs, nested, actors = self.arguments()
            # who waits inside an actor may wait for itself
            plan.children, plan.waits, plan.reads, plan.makes = [], False, False, False
            plan.retries = self.random.choice((0, 0, 2))
            self.variables += submit_to(self.client, actor, plan, inputs, nested, actors)
        yield Sleep(0.0)

    def kill(self) -> Program:
        """End an actor, or only its present life."""
        if self.actors and self.random.random() < 0.5:
            actor = self.random.choice(self.actors)
            why = Failure("actor_died", "killed")
            event = KillActor(ActorId(actor.object_id), why, self.random.random() < 0.6)
            self.client.tell_client(event)
        yield Sleep(0.0)

    def find(self) -> Program:
        """An actor by its name."""
        client = self.client
        name = self.random.choice(NAMES)
        request = client.refs.next_call()
        answer = yield Ask(request, GetNamedActor(request, name, client.job.namespace))
        spec = getattr(answer, "spec", None)
        if spec is not None:
            token = client.refs.hold(client.refs.revive(ObjectId(spec.actor_id)))
            client.found[token.object_id] = None
            yield Count(client.refs.next_call(), (token.object_id,))
            if isinstance(token.value, Failure):  # its last handle was gone
                client.refs.drop(token)
            else:
                self.actors.append(token)


def definition(function: FunctionId, is_shared: bool) -> DefineLocally:
    """A function or class of the model."""
    return DefineLocally(function, "model", b"pickled", is_shared)
