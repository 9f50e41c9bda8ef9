"""The `[gateway]` section: where it listens, for whom, and the bounds it works under."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from cachestore.config import Bytes, Seconds, build_named
from cachestore.errors import ConfigError
from cachestore.service.auth.settings import NAME
from gateway.routing import ROUTINGS

LONGEST_TIMEOUT = 3000.0
"""Seconds: a tenant's token must outlive the request, and lives for an hour at most."""


@dataclass(frozen=True)
class GatewaySettings:
    """Where the gateway listens, for whom, and the bounds it works under.

    `port = 0` picks a free port. With `tls_cert` and `tls_key` it speaks TLS; off loopback it must, unless `insecure`
    waives that. `served_model` is the model's name for clients; left out, it is the last part of
    `engine.model`. `keys` is the file of API keys; without it everybody who reaches the gateway is served, which only
    loopback allows. With `signing_key`, the gateway's private key (`cachestore certs` makes it), workers and store are
    told the tenant, for the cluster named `audience`. `routing` names the way workers are chosen, and its settings.

    At most `max_waiting` requests are under way, each for `request_timeout` at most and of `body_limit` bytes at most.
    The cluster map is asked again after `refresh`; a worker that failed is left alone for `rest`. One that is silent
    for `stall` in the middle of an answer counts as lost, and so long another one is looked for.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False
    served_model: str = ""
    keys: str = ""
    signing_key: str = ""
    audience: str = "cachestore"
    routing: dict[str, Any] = field(default_factory=lambda: {"name": "prefix_load"})
    max_waiting: int = 256
    request_timeout: Seconds = 300.0
    body_limit: Bytes = 2 << 20
    refresh: Seconds = 1.0
    rest: Seconds = 3.0
    stall: Seconds = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"gateway.port must lie in 0 .. 65535, got {self.port}")
        if not NAME.fullmatch(self.audience):
            raise ConfigError(f"gateway.audience must be letters, digits and ._:@/-, got {self.audience!r}")
        if self.max_waiting < 1:
            raise ConfigError(f"gateway.max_waiting must be at least 1, got {self.max_waiting}")
        if self.body_limit < 1024:
            raise ConfigError(f"gateway.body_limit must be at least 1KiB, got {self.body_limit}")
        if not 0 < self.request_timeout <= LONGEST_TIMEOUT:
            raise ConfigError(
                f"gateway.request_timeout must be more than 0 and at most {LONGEST_TIMEOUT:g} seconds, "
                f"got {self.request_timeout}"
            )
        for name in ("refresh", "rest", "stall"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"gateway.{name} must be more than 0 seconds, got {getattr(self, name)}")
        build_named(ROUTINGS, self.routing, "gateway.routing")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("gateway.tls_cert and gateway.tls_key belong together; give both or neither")
        if not self._on_loopback():
            self._check_reach()

    @property
    def tls(self) -> bool:
        """Whether the port speaks TLS."""
        return bool(self.tls_cert)

    def url(self, port: int) -> str:
        """Where clients of this machine find it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http{'s' * self.tls}://{f'[{host}]' if ':' in host else host}:{port}"

    def _check_reach(self) -> None:
        if not self.keys:
            raise ConfigError(
                f"gateway.host = {self.host!r} is not loopback: anyone who reaches it could use the model; name a file "
                "of API keys in gateway.keys, or listen on 127.0.0.1"
            )
        if not self.tls and not self.insecure:
            raise ConfigError(
                f"gateway.host = {self.host!r} is not loopback: keys and prompts would travel for everybody to read; "
                "give gateway.tls_cert and gateway.tls_key, listen on 127.0.0.1 behind something that speaks TLS, or "
                "spell it out with gateway.insecure = true"
            )

    def _on_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False
