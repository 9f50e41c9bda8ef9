"""The `[decode_worker]` section: where it listens, and the bounds it works under."""

from dataclasses import dataclass

from cachestore.codecs import create
from cachestore.config import Seconds
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings
from prefill_worker.settings import ANYWHERE, service


@dataclass(frozen=True)
class DecodeSettings:
    """Where the worker listens, and the bounds it works under.

    `port = 0` picks a free port. `max_concurrent` requests are under way at once and take turns step by step. At most
    `prefill_attempts` prefill workers are asked, each for `prefill_timeout` at most; one that failed is left alone
    for `rest`. The cluster map is asked again after `refresh`. A call to the store takes `store_timeout` at most, the
    put at the end `put_timeout`. Planes go to the store in the form of `codec`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str = ""
    max_concurrent: int = 16
    longest_call: Seconds = 600.0
    prefill_attempts: int = 2
    prefill_timeout: Seconds = 60.0
    rest: Seconds = 3.0
    refresh: Seconds = 1.0
    store_timeout: Seconds = 2.0
    put_timeout: Seconds = 10.0
    codec: str = "raw"

    def __post_init__(self) -> None:
        self.service(ANYWHERE)
        create(self.codec)
        for name in ("prefill_timeout", "rest", "refresh", "store_timeout", "put_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"decode_worker.{name} must be more than 0 seconds, got {getattr(self, name)}")
        if self.prefill_attempts < 0:
            raise ConfigError(f"decode_worker.prefill_attempts must be 0 or more, got {self.prefill_attempts}")

    def service(self, store: ServiceSettings) -> ServiceSettings:
        """Where it listens; who may call is as in the `[service]` section beside it."""
        return service(
            "decode_worker", store, host=self.host, port=self.port, unix_socket=self.unix_socket,
            max_concurrent=self.max_concurrent, longest_call=self.longest_call,
        )  # fmt: skip
