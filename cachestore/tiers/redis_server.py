"""Which Redis is meant, and who asks: what a tier and a directory are told alike."""

from dataclasses import dataclass, field
from typing import ClassVar

from cachestore.errors import ConfigError
from cachestore.tiers.redis_url import Place, parse
from cachestore.tiers.resp_dial import Dialer, context

EMBEDDED = "embedded"
"""In place of a URL: a server of our own, for one node alone."""

MANAGED = "managed"
"""In place of a URL: a server that Ray runs, whose URL is written here before anything is opened."""

UNSTARTED = "redis://managed.invalid"
"""What stands for its URL until then, so that a configuration can be checked (RFC 2606: no such host exists)."""


@dataclass(frozen=True)
class RedisServer:
    """`url` is a place as `redis_url` describes them, or `EMBEDDED`, or `MANAGED`.

    `user` and `password` may stand in the URL or here; those for Sentinels stand here. With TLS, chain and host name
    are always verified, against `ca_file` or else what the system trusts; `cert_file` and `key_file` are what we show.
    """

    table: ClassVar[str]
    """Where in a configuration these settings stand: every error names it."""

    url: str = field(default=EMBEDDED, repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        place = self.place
        self._check_secrets(None if self.url == MANAGED else place)
        for name in ("ca_file", "cert_file", "key_file"):
            if getattr(self, name) and not (place and place.tls):
                raise ConfigError(f"{self.table}.{name} is for rediss://, sentinels:// and clusters://; url names none")
        if bool(self.cert_file) < bool(self.key_file):
            raise ConfigError(f"{self.table}.key_file needs {self.table}.cert_file beside it")

    def _check_secrets(self, place: Place | None) -> None:
        for name in ("user", "password"):
            if getattr(self, name) and (place is None or place.user or place.password):
                where = "of its own" if place is None else "in it"
                raise ConfigError(f"{self.table}.{name}: url has a user or password {where} already")
            if getattr(self, f"sentinel_{name}") and (place is None or place.kind != "sentinel"):
                raise ConfigError(f"{self.table}.sentinel_{name} is for sentinel:// and sentinels://; url names none")

    @property
    def place(self) -> Place | None:
        """Where the URL leads; None for a server of our own."""
        return None if self.url == EMBEDDED else parse(UNSTARTED if self.url == MANAGED else self.url, self.table)

    def check(self) -> None:
        """As in `Checkable`. The server is not asked."""
        if self.place is not None and self.place.tls:
            context(self.ca_file, self.cert_file, self.key_file, self.table)

    def dialers(self, place: Place, connect_timeout: float, timeout: float) -> tuple[Dialer, Dialer]:
        """What reaches the servers at `place`, and what reaches those that know which these are."""
        tls = context(self.ca_file, self.cert_file, self.key_file, self.table) if place.tls else None
        waits = connect_timeout, timeout
        dialer = Dialer(place.user or self.user, place.password or self.password, place.database, tls, *waits)
        if place.kind != "sentinel":
            return dialer, dialer
        return dialer, Dialer(self.sentinel_user, self.sentinel_password, 0, tls, *waits)
