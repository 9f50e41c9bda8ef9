"""Where a Redis is, said in one URL.

    redis://[user:password@]host[:port][/database]              one server
    rediss://…                                                  the same over TLS
    unix://[user:password@]/path[?db=database]                  one server, on a unix socket
    sentinel://[user:password@]host[:port],…/service[?db=…]     the primary that Sentinels at these places name
    cluster://[user:password@]host[:port],…                     a Redis Cluster, found through any of these nodes
    sentinels://…, clusters://…                                 the same over TLS

User and password are those of the servers that hold the blocks. Signs in them other than letters and digits are written
as %xx.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from cachestore.errors import ConfigError

PORTS = {"redis": 6379, "sentinel": 26379, "cluster": 6379}
SCHEMES = {
    "redis": ("redis", False), "rediss": ("redis", True), "unix": ("redis", False),
    "sentinel": ("sentinel", False), "sentinels": ("sentinel", True),
    "cluster": ("cluster", False), "clusters": ("cluster", True),
}  # fmt: skip
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_FORMS = (
    'must be "embedded", redis://host:port, rediss://host:port, unix:///path, '
    "sentinel://host:port,host:port/service or cluster://host:port,host:port (over TLS: sentinels://, clusters://); "
    "signs in a password other than letters and digits are written as %xx"
)


class Address(NamedTuple):
    """A host and its port; with port 0 `host` is the path of a unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


@dataclass(frozen=True)
class Place:
    """What a URL says. `kind` is redis, sentinel or cluster; `service` is the Sentinels' name for their primary."""

    kind: str
    addresses: tuple[Address, ...]
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    service: str = ""
    table: str = "redis"
    """Where in a configuration the URL stands, for messages."""

    def __str__(self) -> str:
        """For messages: no user, no password."""
        scheme = "unix" if not self.addresses[0].port else self.kind + "s" * self.tls
        path = f"/{self.service}" if self.service else ""
        return f"{scheme}://{','.join(map(str, self.addresses))}{path}"


def parse(url: str, table: str = "redis") -> Place:
    """The place that `url` names; ConfigError, which shows nothing of a password, if it names none.

    `table` is where in a configuration it stands: every error names it.
    """
    try:
        return _place(url, table)
    except ConfigError as error:
        raise ConfigError(f"{table}.url {error}") from None


def _place(url: str, table: str) -> Place:
    scheme, there, rest = url.partition("://")
    if not there or scheme not in SCHEMES:
        raise ConfigError(_FORMS)
    kind, tls = SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    secret, _, hosts = authority.rpartition("@")
    user, _, password = secret.partition(":")
    if scheme == "unix":
        if hosts or not path or "\0" in unquote(path):
            raise ConfigError(_FORMS)
        addresses: tuple[Address, ...] = (Address(slash + unquote(path), 0),)
        path = ""
    else:
        addresses = tuple(_address(host, PORTS[kind]) for host in hosts.split(","))
        if kind == "redis" and len(addresses) > 1:
            raise ConfigError("names several servers; say how they belong together: sentinel:// or cluster://")
    service, path = (path, "") if kind == "sentinel" else ("", path)
    if kind == "sentinel" and not re.fullmatch(r"[A-Za-z0-9._-]+", service):
        raise ConfigError("needs the name of the Sentinels' service: sentinel://host:port,host:port/service")
    return Place(
        kind, addresses, tls, unquote(user), unquote(password),
        _database(path, query, kind), service, table,
    )  # fmt: skip


def _address(text: str, default: int) -> Address:
    match = _HOST.fullmatch(text)
    port = int(match[3] or default) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise ConfigError(_FORMS)
    return Address(match[1] or match[2], port)


def _database(path: str, query: str, kind: str) -> int:
    name, _, number = query.partition("=")
    if query and (name != "db" or path):
        raise ConfigError("takes no options but ?db=NUMBER; the others are settings of their own: user, ca_file, …")
    text = number if query else path
    if not text:
        return 0
    if not re.fullmatch("[0-9]{1,4}", text) or (kind == "cluster" and int(text)):
        raise ConfigError("names a database that is no number, or in a cluster another than 0")
    return int(text)
