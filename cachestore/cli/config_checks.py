"""What a configuration names on this machine, looked at as the start would: files, folders, devices, addresses.

Nothing is made, begun or locked, and nobody is asked: no Redis, no Ray, no hub of models.
"""

import re
from pathlib import Path

from cachestore.cluster import showing
from cachestore.cluster.membership import address_for_others
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import Table, build, build_named
from cachestore.directory.compose import SECTION as DIRECTORY
from cachestore.engine.settings import EngineSettings
from cachestore.errors import ConfigError
from cachestore.service import listening
from cachestore.service.settings import ServiceSettings
from cachestore.tiers import TIERS
from cachestore.tiers.base import Checkable

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def look(tables: Table) -> None:
    """ConfigError, or UnsupportedModel, for the first thing in checked `tables` that this machine does not have."""
    for table in tables["tiers"]:
        tier = build_named(TIERS, table, "tiers")
        if isinstance(tier, Checkable):
            tier.check()
    service = build(ServiceSettings, tables.get("service", {}), "service")
    listening.check(service)
    if DIRECTORY in tables:
        # for a configuration of many nodes Ray says which machine each is on
        address_for_others(service.target, service, "any" if "cluster" in tables else "")
        showing.check(build(PeerSettings, tables.get("peers", {}), "peers"))
    engine = build(EngineSettings, tables["engine"], "engine") if "engine" in tables else None
    if engine is not None:
        _look_at_model(engine)
        if not build(ClusterSettings, tables.get("cluster", {}), "cluster").address:
            look_at_device(engine)
    if "gateway" in tables:
        _look_at_gateway(tables["gateway"], engine)


def _look_at_model(engine: EngineSettings) -> None:
    if Path(engine.model).is_dir():
        # transformers takes seconds to import
        from cachestore.engine.model import check_directory

        check_directory(engine)
    elif not _HUB_ID.fullmatch(engine.model):
        raise ConfigError(
            f"engine.model: looked for {engine.model!r} as a directory, found none, and a hub id it cannot be; a "
            "relative path begins at the working directory"
        )


def look_at_device(engine: EngineSettings) -> None:
    """ConfigError if this machine does not have the device that workers here are to compute on."""
    if engine.device != "cpu":
        # torch takes a second to import
        from cachestore.engine.devices import check_device

        check_device(engine.device)


def _look_at_gateway(table: Table, engine: EngineSettings | None) -> None:
    from gateway.keys import Keys
    from gateway.served import fast_tokenizer
    from gateway.settings import GatewaySettings
    from gateway.tls import GatewayTls

    settings = build(GatewaySettings, table, "gateway")
    Keys(settings).open()
    if settings.tls:
        GatewayTls(settings).open()
    if engine is not None and Path(engine.model).is_dir():
        fast_tokenizer(engine)
