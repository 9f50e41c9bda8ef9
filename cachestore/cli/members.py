"""Asks every node of a cluster for what it is, from any one of them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

from cachestore.cli.output import DEFAULT_ADDRESS
from cachestore.cluster import supervisor
from cachestore.errors import CacheStoreError, InvalidArgument, Mismatch
from cachestore.service.operating import Operating
from cachestore.service.operation import NodeFacts


@dataclass(frozen=True)
class Seen:
    """One node. `facts` is what it says of itself; None, and the `error`, if it does not answer."""

    name: str
    address: str
    facts: NodeFacts | None
    error: CacheStoreError | None = None

    @property
    def why(self) -> str:
        """Why it does not answer; empty if it does."""
        return str(self.error or "")


@contextmanager
def operating(address: str) -> Iterator[Operating]:
    """The operator of the store there, with the environment's credentials."""
    with closing(Operating(address)) as operated:
        operated.open()
        yield operated


def entries(address: str | None) -> list[str]:
    """Whom to ask first: `address`, else the stores that `up` started, else the usual place."""
    if address is not None:
        return [address]
    return list((supervisor.running() or {}).get("stores", {}).values()) or [DEFAULT_ADDRESS]


def seen(address: str | None, timeout: float, samples: int = 0) -> list[Seen]:
    """All nodes, by name: those that are asked first, and those that these know of.

    Raises the error of the first one if none of them answers.
    """
    first = entries(address)
    asked = _all([("", at) for at in first], timeout, samples)
    answered = [each.facts for each in asked if each.facts is not None]
    for each in asked:
        if not answered and each.error is not None:
            raise each.error
    known = {facts.address: facts.node for facts in answered}
    others = {member.address: member.name for facts in answered for member in facts.nodes}
    rest = _all([(name, at) for at, name in others.items() if at not in known], timeout, samples)
    lives = {facts.incarnation for facts in answered}
    mistaken = {
        member.incarnation: Seen(
            member.name, member.address, None, Mismatch(f"{known[member.address]} answers there; both tell one address")
        )
        for facts in answered
        for member in facts.nodes
        if member.address in known and member.incarnation not in lives
    }
    return sorted([*asked, *rest, *mistaken.values()], key=lambda each: (each.name, each.address))


def named(nodes: Sequence[Seen], node: str) -> Seen:
    """The node of this name, or address, or the only one whose name begins so; InvalidArgument if there is none."""
    exact = [each for each in nodes if node in (each.name, each.address)]
    found = exact or [each for each in nodes if each.name.startswith(node)]
    if len(found) != 1:
        names = ", ".join(each.name or each.address for each in nodes)
        said = "is no node of this cluster" if not found else "may be one of several"
        raise InvalidArgument(f"NODE: {node!r} {said}; there are {names}")
    return found[0]


def _all(places: Sequence[tuple[str, str]], timeout: float, samples: int) -> list[Seen]:
    def ask(place: tuple[str, str]) -> Seen:
        name, address = place
        try:
            with operating(address) as operated:
                facts = operated.node(samples, timeout=timeout)
        except CacheStoreError as error:
            return Seen(name, address, None, error)
        return Seen(facts.node, facts.address or address, facts)

    with ThreadPoolExecutor(max(1, min(32, len(places)))) as asking:
        return list(asking.map(ask, places))
