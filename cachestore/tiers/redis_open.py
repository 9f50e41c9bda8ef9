"""Finds the servers of a Redis and looks at each before anything is put there."""

import math
import time

from cachestore.errors import CacheStoreError, ConfigError, Unavailable
from cachestore.tiers.redis_condition import NEEDED, POLICY, Condition, denied
from cachestore.tiers.redis_durable import Acknowledgement
from cachestore.tiers.redis_map import ClusterSlots, Map, OneServer, SentinelPrimary
from cachestore.tiers.redis_node import Node
from cachestore.tiers.redis_url import Address, Place
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_dial import Dialer
from cachestore.tiers.resp_errors import Broken

_WHY = {
    "auth": "refuses the user or password",
    "certificate": "shows a certificate that is not for that name, is over, or comes from an authority not trusted; "
    "name the authority in {table}.ca_file",
    "moved": "is a replica, or the cluster is not whole; name the primary, or all Sentinels or nodes",
    "service": "is watched by Sentinels that know no service of that name",
    "database": "has no database of that number",
}


def opened(
    place: Place,
    dialer: Dialer,
    guide: Dialer,
    acknowledgement: Acknowledgement,
    check_after: float,
    otherwise: str = "",
) -> Map:
    """The servers at `place`; ConfigError or Unavailable, which say what to do, if they cannot be used.

    `dialer` reaches those that hold blocks, `guide` those that know which these are. `otherwise` is what else to do
    where none can be reached.
    """

    def node(address: Address) -> Node:
        return Node(address, dialer, check_after, sweeps=acknowledgement.how != "no")

    found: Map
    if place.kind == "sentinel":
        found = SentinelPrimary(place.addresses, guide, node, check_after, service=place.service)
    elif place.kind == "cluster":
        found = ClusterSlots(place.addresses, guide, node, again_after=math.inf)
    else:
        found = OneServer(node(place.addresses[0]))
    patience = dialer.connect_timeout + dialer.timeout
    try:
        found.look(time.monotonic() + patience * len(place.addresses))
        for each in found.nodes():
            connection = dialer.dial(each.address, time.monotonic() + patience)
            try:
                connection.begin(time.monotonic() + patience)
                _admit(connection, acknowledgement, place)
                each.check(connection)
            finally:
                connection.close()
    except Broken as broken:
        raise _said(place, broken.reason, otherwise) from broken
    return found


def _admit(connection: Connection, acknowledgement: Acknowledgement, place: Place) -> None:
    shown = f"{place.table}.url: {place}"
    if missing := denied(connection, [*NEEDED, *acknowledgement.commands]):
        raise ConfigError(
            f"{shown} does not let this user give {', '.join(missing)} on keys cachestore:*; allow it with ACL SETUSER"
        )
    condition = Condition.of(connection)
    if condition.policy != POLICY:
        raise ConfigError(
            f"{shown} runs maxmemory-policy {condition.policy}; the store needs {POLICY} "
            f"(redis-cli CONFIG SET maxmemory-policy {POLICY})"
        )
    if condition.clustered and place.kind != "cluster":
        raise ConfigError(f"{shown} is a node of a cluster; write cluster://host:port,host:port")
    if lacking := acknowledgement.lacking(connection):
        raise ConfigError(f'tiers.redis.durable = "{acknowledgement.how}" needs {lacking}, which {shown} lacks')


def _said(place: Place, reason: str, otherwise: str) -> CacheStoreError:
    shown = f"{place.table}.url: {place}"
    why = _WHY.get(reason, "").format(table=place.table)
    if reason in ("certificate", "moved"):
        return Unavailable(f"{shown} {why}")
    if why:
        return ConfigError(f"{shown} {why}")
    return Unavailable(f"{place.table}.url: cannot reach {place} ({reason}); start that server{otherwise}")
