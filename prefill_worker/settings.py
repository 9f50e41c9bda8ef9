"""The `[prefill_worker]` section: where it listens, and the bounds it works under."""

from dataclasses import dataclass, replace
from typing import Any

from cachestore.codecs import create
from cachestore.config import Seconds
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings

ANYWHERE = ServiceSettings(insecure=True)
"""Under these a worker may listen wherever it likes: whether it may is decided when those of the store are known."""


def service(section: str, store: ServiceSettings, **fields: Any) -> ServiceSettings:
    """These fields, with the store's certificates and identities; ConfigError speaks of `section` where it means it."""
    try:
        return replace(store, **fields)
    except ConfigError as error:
        text = str(error)
        for name in fields:
            text = text.replace(f"service.{name}", f"{section}.{name}")
        raise ConfigError(text) from error


@dataclass(frozen=True)
class PrefillSettings:
    """Where the worker listens, and the bounds it works under.

    `port = 0` picks a free port. `max_concurrent` requests wait or run at once, one of them computes. A call to the
    store takes `store_timeout` at most, and `wait` more for blocks that another worker is writing. The blocks of a
    handoff are leased for `lease`; its tail lives for `tail_ttl`. Planes go to the store in the form of `codec`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str = ""
    max_concurrent: int = 16
    longest_call: Seconds = 300.0
    store_timeout: Seconds = 2.0
    wait: Seconds = 2.0
    lease: Seconds = 30.0
    tail_ttl: Seconds = 60.0
    codec: str = "raw"

    def __post_init__(self) -> None:
        self.service(ANYWHERE)
        create(self.codec)
        for name in ("store_timeout", "lease", "tail_ttl"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"prefill_worker.{name} must be more than 0 seconds, got {getattr(self, name)}")
        if not self.wait >= 0:
            raise ConfigError(f"prefill_worker.wait must be 0 seconds or more, got {self.wait}")

    def service(self, store: ServiceSettings) -> ServiceSettings:
        """Where it listens; who may call is as in the `[service]` section beside it."""
        return service(
            "prefill_worker", store, host=self.host, port=self.port, unix_socket=self.unix_socket,
            max_concurrent=self.max_concurrent, longest_call=self.longest_call,
        )  # fmt: skip
