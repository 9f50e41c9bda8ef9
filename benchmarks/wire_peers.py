"""The peers of `wire.py`, each driven in an interpreter of its own (see peers/README.md)."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from store_memory import PROMPT
from wire_sides import BLOCK_BYTES, Missing, Way

if TYPE_CHECKING:
    from wire import Options

SCRIPTS = Path(__file__).parent / "peers"
ENVIRONMENT = Path(__file__).parent.parent / "build" / "peers"
"""Where `make bench-peers` puts the interpreter of the peers."""

_SET_INTERFACE, _UP = 0x8914, 0x41


def alone() -> bool:
    """Moves this program to a network that has loopback only, beginning it anew; False where the system forbids that.

    Some peers listen wherever they can, whatever they are told, and who is compared shall stand where they stand.
    """
    if any(name != "lo" for _, name in socket.if_nameindex()):
        apart = ["unshare", "--map-root-user", "--net"]
        try:
            subprocess.run([*apart, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        os.execvp(apart[0], [*apart, sys.executable, *sys.argv])
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_INTERFACE, struct.pack("16sh14x", b"lo", _UP))
    return True


class Peer(dict[str, Way]):
    """What a peer's script can be asked for, by word; it times itself, so that asking does not count."""

    def __init__(self, process: subprocess.Popen[str], *words: str) -> None:
        super().__init__({word: partial(self._ask, word) for word in words})
        self._process = process

    def _ask(self, word: str, number: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {number}\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> float:
        """The seconds of the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a peer ended by itself; what it said stands above")
        return float(json.loads(line)["seconds"])


@contextmanager
def started(options: Options, script: str, *arguments: object, **environment: str) -> Iterator[Peer]:
    """A peer's script at work."""
    if options.peers is None:
        raise Missing(options.no_peers)
    python = options.peers / "bin" / "python"
    if not python.is_file():
        raise Missing(f"no {python} (make bench-peers)")
    command = [str(python), str(SCRIPTS / script), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        cwd=SCRIPTS,
    )  # fmt: skip
    try:
        peer = Peer(process, "read", "write", "clear")
        peer.answer()
        yield peer
    finally:
        # the script ends what it has started when its input ends
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def mooncake(options: Options, mode: str, count: int, blocks: int = PROMPT) -> Iterator[Peer]:
    """Mooncake Store with `count` prompts of `blocks` blocks of ours: `remote`, `checked` (the same with its checksum
    on), or `local` (the same host, in batches)."""
    settings = {"MC_LOG_LEVEL": "ERROR", "MC_YLT_LOG_LEVEL": "error", "GLOG_minloglevel": "3"}
    settings |= {"MC_STORE_CLIENT_METRIC": "0", "MC_TCP_BIND_ADDRESS": "127.0.0.1"}
    settings |= {"MOONCAKE_STORE_CHECKSUM": "1"} if mode == "checked" else {}
    with started(options, "mooncake_store.py", mode, count, blocks, BLOCK_BYTES, **settings) as peer:
        yield peer


@contextmanager
def lmcache(options: Options, count: int, chunks: int) -> Iterator[Peer]:
    """LMCache's server with shared memory, and `count` prompts of `chunks` chunks of 4 MiB."""
    quiet = {"LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    with started(options, "lmcache_server.py", count, chunks, **quiet) as peer:
        yield peer
