"""Every tier that keeps blocks for good keeps the promises of one."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cachestore.eviction.lru import Lru
from cachestore.sealing import Sealer
from cachestore.testing import DurableTierTests
from cachestore.testing.tiers import departed
from cachestore.tiers.base import ColdTier
from cachestore.tiers.disk import Disk
from cachestore.tiers.encrypted import EncryptedTier
from cachestore.tiers.redis import Redis

SYNCED = ["--appendonly", "yes", "--appendfsync", "always"]


@dataclass
class Opened:
    """Tiers on one medium, one after the other."""

    start: Callable[[], ColdTier]
    unsynced: Callable[[], AbstractContextManager[object]]
    restart: Callable[[], object] = lambda: None
    tiers: list[ColdTier] = field(default_factory=list)

    def open(self) -> ColdTier:
        if self.tiers:
            self.close()
            self.restart()
        self.tiers.append(self.start())
        self.tiers[-1].open(departed)
        return self.tiers[-1]

    def close(self) -> None:
        while self.tiers:
            self.tiers.pop().close()


def on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, seal: Callable[[ColdTier], ColdTier]) -> Iterator[Opened]:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    @contextmanager
    def unsynced() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            yield

    opened = Opened(lambda: seal(Disk(str(folder / "blocks"), 64 << 20).start(Lru())), unsynced)
    yield opened
    opened.close()


def on_redis(server: Any, seal: Callable[[ColdTier], ColdTier]) -> Iterator[Opened]:
    @contextmanager
    def unsynced() -> Iterator[None]:
        with server.client() as client:
            client.config_set("appendfsync", "everysec")
            yield
            client.config_set("appendfsync", "always")

    def restart() -> None:
        server.kill()
        server.start()

    settings = Redis(server.url, durable="aof", connect_timeout=2.0, timeout=2.0)
    opened = Opened(lambda: seal(settings.start(Lru())), unsynced, restart)
    yield opened
    opened.close()


def plain(tier: ColdTier) -> ColdTier:
    return tier


def sealed(tier: ColdTier) -> ColdTier:
    return EncryptedTier(tier, Sealer({1: b"1" * 32}, 1))


class TestDisk(DurableTierTests):
    @pytest.fixture(params=[plain, pytest.param(sealed, marks=pytest.mark.slow)])
    def medium(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Opened]:
        yield from on_disk(tmp_path, monkeypatch, request.param)


class TestRedis(DurableTierTests):
    @pytest.fixture(params=[plain, pytest.param(sealed, marks=pytest.mark.slow)])
    def medium(self, request: pytest.FixtureRequest, redis_server: Callable[..., Any]) -> Iterator[Opened]:
        yield from on_redis(redis_server(extra=SYNCED), request.param)
