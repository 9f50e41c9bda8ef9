"""The `[decode_worker]` section: where it listens, and the bounds it works under."""

from dataclasses import dataclass

from cachestore.codecs import create
from cachestore.config import Seconds
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings
from prefill_worker.connecting import Connecting, Direct, TheirPages
from prefill_worker.settings import ANYWHERE, service


@dataclass(frozen=True)
class DecodeSettings:
    """Where the worker listens, and the bounds it works under; how much it computes at once, `[batch]` says.

    `port = 0` picks a free port. A prompt of which `local_prefill_tokens` tokens at most are to be computed is
    prefilled here, in about one chunk of its own. For the others at most `prefill_attempts` prefill workers
    are asked: the next one, or none, if one does not begin within `prefill_begin`, or says nothing for `silence`, which
    is more than its longest step takes. One that failed is left alone for `rest`. The cluster map is asked again after
    `refresh`. A look into the store takes `store_timeout` at most. Planes go to the store in the form of `codec`.
    With `gpu_pages` blocks are read from pages of this node's prefill workers on the device the model is on, as far as
    they are in any.
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix_socket: str = ""
    longest_call: Seconds = 600.0
    local_prefill_tokens: int = 256
    prefill_attempts: int = 2
    prefill_begin: Seconds = 5.0
    silence: Seconds = 2.0
    rest: Seconds = 3.0
    refresh: Seconds = 1.0
    store_timeout: Seconds = 2.0
    codec: str = "raw"
    gpu_pages: bool = False

    def __post_init__(self) -> None:
        self.service(ANYWHERE)
        create(self.codec, "decode_worker.codec")
        for name in ("prefill_begin", "silence", "rest", "refresh", "store_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"decode_worker.{name} must be more than 0 seconds, got {getattr(self, name)}")
        for name in ("local_prefill_tokens", "prefill_attempts"):
            if getattr(self, name) < 0:
                raise ConfigError(f"decode_worker.{name} must be 0 or more, got {getattr(self, name)}")

    def service(self, store: ServiceSettings) -> ServiceSettings:
        """Where it listens; who may call is as in the `[service]` section beside it."""
        return service(
            "decode_worker", store, host=self.host, port=self.port, unix_socket=self.unix_socket,
            longest_call=self.longest_call,
        )  # fmt: skip

    def connecting(self, device: str) -> Connecting:
        """How it reaches stores."""
        return TheirPages(self.codec, device) if self.gpu_pages else Direct(self.codec)
