"""The store of one node with all that serves it; under Ray an actor, pinned there, restarted, found by name."""

import gc
import resource
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from cachestore.cluster import showing
from cachestore.cluster.durable_replicas import DurableReplicas
from cachestore.cluster.healing import Healing
from cachestore.cluster.managed import refuse_unstarted
from cachestore.cluster.meeting import Meeting
from cachestore.cluster.membership import Membership, address_for_others
from cachestore.cluster.operator import NodeOperator, nothing
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.peers import Peers
from cachestore.cluster.replicas import Replicas
from cachestore.config import build
from cachestore.directory.compose import SECTION as DIRECTORY
from cachestore.directory.compose import compose as compose_directory
from cachestore.service.auth.authority import anyone
from cachestore.service.events.kv_events import KvEvents
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import SECTIONS, compose


def actor_name(node_id: str) -> str:
    """The name under which the store of a node is found."""
    return f"store-{node_id[:12]}"


def store_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that make a store what it is; the others may change while it is up."""
    return {name: tables[name] for name in (*SECTIONS, DIRECTORY, "peers", "service", "kv_events") if name in tables}


def open_many_files() -> None:
    """Lets this process have as many files open as the system allows it, where it has taken less."""
    # every slab of memory takes two in a store and one in each client, every connection another; the soft limit is
    # mostly 1,024, for the sake of programs that call select(), which can watch no more and which nothing here calls
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def keep_what_is() -> None:
    """Once a process of one store has started: what is there stays, and no collection need look at it amid a call."""
    gc.collect()
    gc.freeze()


class StoreHost:
    """Opens the configured store and serves it, on `port` instead of the configured one. It knows nothing of Ray.

    With a directory it joins that. `machine` is where other nodes reach this one's machine, for a configuration that
    does not say because it is that of many. `ended` is called when the node was drained: its process is to end then.
    One that is `patient` starts without a Redis that cannot be reached, and takes it up when it can.
    """

    def __init__(
        self,
        tables: Mapping[str, Any],
        node: str,
        port: int | None = None,
        machine: str = "",
        ended: Callable[[], None] = nothing,
        patient: bool = False,
    ) -> None:
        self._address = ""
        open_many_files()
        refuse_unstarted(tables)
        self._tables = store_tables(tables)
        settings = build(ServiceSettings, tables.get("service", {}), "service")
        if port is not None:
            settings = replace(settings, port=port)
        events = build(KvEvents, tables.get("kv_events", {}), "kv_events")
        directory, reading = compose_directory(tables), build(PeerSettings, tables.get("peers", {}), "peers")
        if directory is not None:
            showing.check(reading)
        peers = Peers(directory, reading) if directory is not None else None
        with ExitStack() as opened:
            store = compose({**tables, "store": {**tables.get("store", {}), "node": node}})
            store.patient = patient
            opened.enter_context(store)
            publisher = events.start(store)
            if publisher is not None:
                opened.enter_context(publisher)
            opened.enter_context(Healing(store, peers))
            if peers is not None:
                # before anybody can ask: until this node has joined, nothing is gone from all of them
                store.elsewhere = [peers]
            beside = peers.figures if peers is not None else list
            looks = {"path/peers": Meeting(peers).look} if peers is not None else {}
            is_life = peers.is_life if peers is not None else anyone
            self.operator = NodeOperator(store, self._tables, node, peers, ended=ended)
            self._server = opened.enter_context(
                CacheStoreServer(store, settings, node, beside, self.operator, is_life, looks)
            )
            self._address = self._server.address
            if peers is not None:
                self._address = address_for_others(self._server.address, settings, machine)
                busy = partial(getattr, self._server.calls, "used")
                self._server.members.stores = peers.members
                member = opened.enter_context(Membership(peers.directory, store, node, self._address, busy))
                if reading.durable:
                    opened.enter_context(DurableReplicas(store, peers))
                if reading.replicas:
                    opened.enter_context(Replicas(store, peers))
                self.operator.address, self.operator.leave = self._address, member.close
            self.tiers = [store.memory.name, *(tier.name for tier in store.lower)]
            self._opened = opened.pop_all()

    def address(self) -> str:
        """Where clients find the store; with a directory those of other nodes, too."""
        return self._address

    def about(self) -> tuple[str, dict[str, Any]]:
        """The address, and the tables of the store."""
        return self.address(), self._tables

    def close(self) -> None:
        """Ends what serves, then the store."""
        self._opened.close()
