"""What `cachestore doctor --cluster` looks at: whether the nodes of a cluster fit together."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cachestore import settings
from cachestore.cli.checks import Advice
from cachestore.cli.members import Seen, operating, seen
from cachestore.cluster.meeting import two_of
from cachestore.cluster.runtime import OUTAGE, OUTAGE_SECONDS, RAYS_OUTAGE
from cachestore.directory.compose import SECTION, compose
from cachestore.errors import ConfigError, Unavailable
from cachestore.service.auth.tokens import SKEW
from cachestore.service.client import RemoteStore
from cachestore.service.operation import CONTRACT, NodeFacts

SAMPLES = 256
"""Blocks of each node that are looked for in the directory."""

AGAIN_SECONDS = 2.0
"""After which what was put just now, or taken out, has been told to the directory."""

KNOWN = 0.95
"""The share of blocks in memory of which the directory should know, with puts going on."""

WORKERS = ("prefill", "decode")


def cluster(address: str | None, config: Path | None, timeout: float) -> Iterator[tuple[str, Callable[[], str]]]:
    """The checks of all nodes together."""
    begun = time.time()
    found = seen(address, timeout)
    ended = time.time()
    facts = [each.facts for each in found if each.facts is not None]
    yield "nodes answer", partial(_answer, found)
    yield "nodes know each other", partial(_meet, facts)
    yield "nodes reach each other", partial(_reach, [each for each in found if each.facts is not None], timeout)
    yield "wire", partial(_wire, facts)
    yield "clocks", partial(_clocks, facts, begun, ended)
    yield "configuration", partial(_alike, facts)
    yield "tiers", partial(_tiers, facts)
    yield "specs", partial(_specs, [each.address for each in found if each.facts is not None], timeout)
    if any(each.outage for each in facts):
        yield "control plane", partial(_outage, facts)
    if config is not None:
        yield "Redis", partial(_redis, config)
    for each in found:
        if each.facts is not None and each.facts.nodes:
            yield f"directory: {each.name}", partial(_directory, each.address, timeout)


def _answer(found: Sequence[Seen]) -> str:
    silent = [f"{each.name or '?'} at {each.address}: {each.why}" for each in found if each.facts is None]
    if silent:
        raise Unavailable("; ".join(silent))
    return ", ".join(f"{each.name} at {each.address}" for each in found)


def _meet(facts: Sequence[NodeFacts]) -> str:
    lost = [each.node for each in facts if not each.directory]
    if lost and len(facts) > 1:
        raise Unavailable(
            f"{', '.join(lost)} cannot reach the directory, or have no [directory]: they serve what they hold, and "
            "others do not find it; look at directory.server, or the tier's url, on these nodes"
        )
    for each in facts:
        for twin in each.nodes:
            called = {member.incarnation: member.address for member in each.nodes if member.name == twin.name}
            if len(called) > 1:
                raise ConfigError(two_of(twin.name, set(called.values())))
    everybody = {each.node for each in facts}
    for each in facts:
        known = {member.name for member in each.nodes}
        if len(facts) > 1 and everybody - known:
            missing = ", ".join(sorted(everybody - known))
            raise Unavailable(f"{each.node} does not know of {missing}; do they name the same Redis in [directory]?")
    return f"{len(everybody)} nodes"


def _reach(found: Sequence[Seen], timeout: float) -> str:
    def ask(node: Seen) -> list[str]:
        with operating(node.address) as operated:
            unmet = operated.node(meet=True, timeout=timeout).unmet
        # those that do not answer here, either, are named already
        return [
            f"{node.name} does not reach {each.node} at {each.address}: {each.why}"
            for each in unmet
            if each.address in answering
        ]

    answering = {each.address for each in found}
    with ThreadPoolExecutor(max(1, min(32, len(found)))) as asking:
        refused = [line for lines in asking.map(ask, found) for line in lines]
    if refused:
        raise Unavailable(
            "; ".join(refused) + "; look at their peers.credentials, and at service.identities with the role peer"
        )
    return "each with its own credentials"


def _wire(facts: Sequence[NodeFacts]) -> str:
    far = [f"{each.node} ({each.contract})" for each in facts if abs(each.contract - CONTRACT) > 1]
    if far:
        raise ConfigError(f"version {CONTRACT} of the wire is not understood by {', '.join(far)}; install one release")
    releases = sorted({each.release for each in facts})
    if len({each.contract for each in facts}) > 1:
        return f"neighbouring versions, as while nodes are upgraded: releases {', '.join(releases)}"
    return f"version {CONTRACT}; release{'s' * (len(releases) > 1)} {', '.join(releases)}"


def _clocks(facts: Sequence[NodeFacts], begun: float, ended: float) -> str:
    # an answer was given at some moment between the question and the end
    apart = {each.node: max(begun - each.clock, each.clock - ended, 0.0) for each in facts}
    wrong = [f"{node} by {seconds:.1f} s" for node, seconds in apart.items() if seconds > SKEW]
    if wrong:
        raise ConfigError(
            f"clocks differ from this machine's: {', '.join(wrong)}; tokens and ends of blocks go by them"
        )
    return f"at most {max(apart.values(), default=0.0):.1f} s apart"


def _alike(facts: Sequence[NodeFacts]) -> str:
    names = sorted({name for each in facts for name in each.alike})
    for name in names:
        by_digest: dict[bytes, list[str]] = {}
        for each in facts:
            by_digest.setdefault(each.alike.get(name, b""), []).append(each.node)
        if len(by_digest) > 1:
            groups = " and ".join(", ".join(nodes) for nodes in by_digest.values())
            raise ConfigError(f"{name} differ between {groups}; give all nodes the same configuration")
    return f"the same {', '.join(names)}"


def _tiers(facts: Sequence[NodeFacts]) -> str:
    down = [f"{tier.name} of {each.node}" for each in facts for tier in each.tiers if not tier.healthy]
    if down:
        raise Unavailable(
            f"{', '.join(down)}: cannot be used now; of a Redis look at its maxmemory-policy, which must be "
            "volatile-lru, and whether that node reaches it"
        )
    return "all can be used"


def _specs(addresses: Sequence[str], timeout: float) -> str:
    specs: set[bytes] = set()
    workers: set[str] = set()
    for address in addresses:
        with RemoteStore(address) as store:
            for member in store.members(timeout=timeout)[1]:
                if member.role in WORKERS:
                    workers.add(member.name)
                    specs.add(member.fingerprint)
    if len(specs) > 1:
        shown = ", ".join(sorted(spec.hex()[:12] for spec in specs))
        return Advice(f"{len(workers)} workers of {len(specs)} specs ({shown}), which share no blocks: is that meant?")
    return f"{len(workers)} workers, one spec" if workers else "no workers"


def _outage(facts: Sequence[NodeFacts]) -> str:
    by_ray = {each.node: each.outage for each in facts if each.outage}
    short = [node for node, seconds in by_ray.items() if seconds <= RAYS_OUTAGE]
    if short:
        return Advice(
            f"{', '.join(short)} end when Ray's control plane is away for {min(by_ray.values()):g} s, as while its "
            f"machine is replaced; before Ray starts on a node set {OUTAGE}={OUTAGE_SECONDS}"
        )
    return f"may be away for {min(by_ray.values()):g} s"


def _redis(config: Path) -> str:
    tables = settings.load(config)
    directory = compose(tables)
    if directory is None:
        raise ConfigError(f"[{SECTION}] is missing: without it nodes do not find each other's blocks")
    directory.open()
    directory.close()
    return "reached from here, with the policy and the rights that it needs"


def _directory(address: str, timeout: float) -> str:
    with operating(address) as operated:
        facts = operated.node(SAMPLES, timeout=timeout)
        if facts.announced < facts.sampled:
            time.sleep(AGAIN_SECONDS)
            facts = operated.node(SAMPLES, timeout=timeout)
    if facts.announced < KNOWN * facts.sampled:
        raise Unavailable(
            f"knows {facts.announced} of {facts.sampled} blocks drawn by lot; it is told again within "
            "directory.refresh: look at directory_pending and directory_refused in `cachestore stats`"
        )
    return f"knows {facts.announced} of {facts.sampled} blocks drawn by lot"
