"""A Redis that can be made to answer anything, for what a real one does not do on demand."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import hiredis
import pytest


@dataclass
class ScriptedRedis:
    """Answers like a Redis that takes blocks, except where `script` gives other bytes; None closes the connection."""

    script: Callable[[list[bytes]], bytes | None] = lambda command: b""
    heard: list[bytes] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> "ScriptedRedis":
        """Serves until `close`."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def close(self) -> None:
        """Takes no further connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = hiredis.Reader()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        with client, contextlib.suppress(OSError, hiredis.ProtocolError):
            while data := client.recv(1 << 16):
                self.heard.append(data)
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    answer = self.script(command)
                    if answer is None:
                        return
                    client.sendall(answer or self._usual(command))

    def _usual(self, command: list[bytes]) -> bytes:
        about = (
            b"maxmemory_policy:volatile-lru\r\nused_memory:1\r\nmaxmemory:2\r\n"
            b"role:master\r\nconnected_slaves:9\r\ncluster_enabled:0\r\n"
        )
        answers = {
            b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%b\r\n" % (len(about), about), b"GET": b"$-1\r\n",
            b"EXISTS": b":0\r\n", b"UNLINK": b":0\r\n", b"GETRANGE": b"$0\r\n\r\n", b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n",
            b"PERSIST": b":1\r\n", b"EXEC": b"*0\r\n",
        }  # fmt: skip
        return answers.get(command[0].upper(), b"+OK\r\n")


@pytest.fixture
def redis_scripted() -> Iterator[ScriptedRedis]:
    """A Redis that can be made to answer anything."""
    server = ScriptedRedis().start()
    yield server
    server.close()
