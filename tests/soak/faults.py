"""What the nemesis can do. Each fault lasts as long as its context, and tells what effect was seen."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from tests.faults import injections as inject
from tests.faults.injections import BOTH, DOWN, UP, Direction, Injection
from tests.soak.node import Node
from tests.soak.system import System

Begin = Callable[[System, random.Random, "Effect"], AbstractContextManager[None]]


@dataclass
class Effect:
    """How often the fault was seen to act, and at which nodes."""

    seen: int = 0
    where: list[str] = field(default_factory=list)

    def one(self, system: System, chance: random.Random) -> Node:
        """The node to which it is done."""
        node = chance.choice(system.nodes)
        self.where.append(node.name)
        return node


@dataclass(frozen=True)
class Fault:
    """`part` is what it breaks: two faults at once break different parts. `damages` bytes that no checksum guards."""

    name: str
    part: str
    begin: Begin
    damages: bool = False


def _through(part: str, make: Callable[[random.Random], Injection]) -> Begin:
    @contextmanager
    def begin(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
        node = effect.one(system, chance)
        proxy = node.to_store if part == "wire" else node.to_redis
        injection = make(chance)
        proxy.begin(injection)
        if isinstance(injection, inject.Refuse):
            proxy.reset()
        try:
            yield
        finally:
            proxy.end(injection)
            effect.seen += injection.acted

    return begin


@contextmanager
def _reset(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    effect.seen += effect.one(system, chance).to_store.reset()
    yield


@contextmanager
def _store_killed(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    node = effect.one(system, chance)
    node.store.kill()
    effect.seen += node.store.popen.returncode == -signal.SIGKILL
    try:
        yield
    finally:
        system.start_store(node)


@contextmanager
def _store_ended(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    node = effect.one(system, chance)
    effect.seen += node.store.end(10.0) == 0
    try:
        yield
    finally:
        system.start_store(node)


@contextmanager
def _store_stopped(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    node = effect.one(system, chance)
    node.store.stop()
    effect.seen += 1
    try:
        yield
    finally:
        node.store.go_on()


@contextmanager
def _all_but_one_killed(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    nodes = chance.sample(system.nodes, len(system.nodes) - 1)
    effect.where += [node.name for node in nodes]
    for node in nodes:
        node.store.kill()
        effect.seen += node.store.popen.returncode == -signal.SIGKILL
    try:
        yield
    finally:
        for node in nodes:
            system.start_store(node)


def _cut_off(direction: Direction) -> Begin:
    """A node that nobody reaches, that reaches nobody, or both, as far as Redis and who calls it are concerned."""

    @contextmanager
    def begin(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
        node = effect.one(system, chance)
        # what comes back from Redis comes to the node, what goes up to a store does too
        ways = ((node.to_store, direction), (node.to_redis, OPPOSITE[direction]))
        holes = [(proxy, inject.BlackHole(way)) for proxy, way in ways]
        for proxy, hole in holes:
            proxy.begin(hole)
        try:
            yield
        finally:
            for proxy, hole in holes:
                proxy.end(hole)
            effect.seen += sum(hole.acted for _, hole in holes)

    return begin


@contextmanager
def _redis_killed(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    system.redis_process.kill()
    effect.seen += system.redis_process.wait() == -signal.SIGKILL
    try:
        yield
    finally:
        system.start_redis()


@contextmanager
def _redis_stopped(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
    system.redis_process.send_signal(signal.SIGSTOP)
    effect.seen += 1
    try:
        yield
    finally:
        system.redis_process.send_signal(signal.SIGCONT)


def _redis_told(*commands: tuple[object, ...], after: tuple[object, ...] = ()) -> Begin:
    @contextmanager
    def begin(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
        with system.redis() as client:
            before = int(client.info("stats")["total_commands_processed"])
            for command in commands:
                client.execute_command(*command)
            effect.seen += int(client.info("stats")["total_commands_processed"]) > before
        try:
            yield
        finally:
            if after:
                with system.redis() as client:
                    client.execute_command(*after)

    return begin


def _actor_killed(role: str) -> Begin:
    @contextmanager
    def begin(system: System, chance: random.Random, effect: Effect) -> Iterator[None]:
        system.actors[role].kill()
        effect.seen += system.actors[role].popen.returncode == -signal.SIGKILL
        try:
            yield
        finally:
            system.start_actor(role)

    return begin


NETWORK: dict[str, Callable[[random.Random], Injection]] = {
    "latency": lambda chance: inject.Latency(seconds=chance.uniform(0.001, 0.2), jitter=0.1, seed=chance.randrange(99)),
    "bandwidth": lambda chance: inject.Bandwidth(BOTH, chance.uniform(0.1, 4.0) * (1 << 20)),
    "stall there": lambda chance: inject.Stall(UP),
    "stall back": lambda chance: inject.Stall(DOWN, chance.randrange(1 << 16)),
    "reset at byte": lambda chance: inject.ResetAt(DOWN, chance.randrange(5_000, 400_000), every=True),
    "half close": lambda chance: inject.HalfCloseAt(DOWN, chance.randrange(5_000, 400_000), every=True),
    "black hole": lambda chance: inject.BlackHole(BOTH),
    "black hole there": lambda chance: inject.BlackHole(UP),
    "black hole back": lambda chance: inject.BlackHole(DOWN),
    "refused": lambda chance: inject.Refuse(),
    "slicer": lambda chance: inject.Slicer(BOTH, chance.randrange(7, 600)),
}
DAMAGE: dict[str, Callable[[random.Random], Injection]] = {
    "flip": lambda chance: inject.FlipAt(DOWN, chance.randrange(5_000, 200_000), every=True, bit=chance.randrange(8)),
    "drop": lambda chance: inject.DropAt(DOWN, chance.randrange(5_000, 200_000), every=True, length=9),
    "duplicate": lambda chance: inject.DuplicateAt(DOWN, chance.randrange(5_000, 200_000), every=True, length=99),
}

MEMORY = ("CONFIG", "SET", "maxmemory")
NETWORKS = ("wire", "redis")

OPPOSITE = {UP: DOWN, DOWN: UP, BOTH: BOTH}

FAULTS: tuple[Fault, ...] = (
    *(Fault(f"{part} {name}", part, _through(part, make)) for part in NETWORKS for name, make in NETWORK.items()),
    *(Fault(f"{part} {name}", part, _through(part, make), True) for part in NETWORKS for name, make in DAMAGE.items()),
    Fault("wire all reset", "wire", _reset),
    Fault("store killed", "store", _store_killed),
    Fault("store ended", "store", _store_ended),
    Fault("store stopped", "store", _store_stopped),
    Fault("redis killed", "redis", _redis_killed),
    Fault("redis stopped", "redis", _redis_stopped),
    Fault("redis emptied", "redis", _redis_told(("FLUSHALL",))),
    Fault("redis full", "redis", _redis_told((*MEMORY, "2mb"), after=(*MEMORY, "96mb"))),
    Fault("redis paused", "redis", _redis_told(("CLIENT", "PAUSE", "1000"))),
    Fault("writer killed", "writer", _actor_killed("writer")),
    Fault("reader killed", "reader", _actor_killed("reader")),
)
OF_NODES: tuple[Fault, ...] = (
    Fault("store killed, all but one", "store", _all_but_one_killed),
    Fault("node cut off", "node", _cut_off(BOTH)),
    Fault("node hears nobody", "node", _cut_off(UP)),
    Fault("node is heard by nobody", "node", _cut_off(DOWN)),
)
"""What can only be done to one node of several."""
