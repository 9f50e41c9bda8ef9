import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore

ANY = Chain(bytes(32), (b"k" * 32,))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", "", "127.0.0.1.example.com", "[::1]"])
def test_anything_but_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"service\.host = .*(is not loopback|is no IP address)"):
        ServiceSettings(host=host)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"port": 70000}, "port"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"frame_bytes": "8MiB"}, "frame_bytes"),
        ({"in_flight_bytes": "1MiB"}, "in_flight_bytes"),
        ({"longest_call": "0s"}, "longest_call"),
        ({"unix_socket": "/" + "x" * 200}, "unix_socket"),
        ({"prot": 1}, "port"),
    ],
)
def test_settings_that_cannot_work_are_refused(table: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(ServiceSettings, table, "service")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.2.1"])
def test_loopback_is_served(serve: Callable[..., CacheStoreServer], host: str) -> None:
    server = serve(host=host)
    assert not server.address.endswith(":0")
    with RemoteStore(server.address) as store:
        assert store.lookup(ANY).ready == 0


def test_a_port_in_use_is_a_clear_error(server: CacheStoreServer, tiered: TieredStore) -> None:
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"{port}.*in use"):
        CacheStoreServer(tiered, ServiceSettings(port=port)).open()


def test_a_closed_server_can_be_opened_again(server: CacheStoreServer) -> None:
    server.close()
    server.close()
    with pytest.raises(Unavailable):
        server.address  # noqa: B018
    server.open()
    with RemoteStore(server.address) as store:
        assert store.lookup(ANY).ready == 0


def test_the_unix_socket_is_private(serve: Callable[..., CacheStoreServer], tmp_path: Path) -> None:
    path = tmp_path / "run" / "store.sock"
    server = serve(unix_socket=str(path))
    assert server.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ConfigError, match="in use by another server"):
        serve(unix_socket=str(path))
    with RemoteStore(server.address) as store:
        assert store.lookup(ANY).ready == 0
    server.close()
    assert not path.exists()


def test_a_socket_left_behind_is_replaced(serve: Callable[..., CacheStoreServer], tmp_path: Path) -> None:
    path = tmp_path / "run" / "store.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with RemoteStore(serve(unix_socket=str(path)).address) as store:
        assert store.lookup(ANY).ready == 0


def test_a_socket_where_others_could_put_theirs_is_refused(tiered: TieredStore, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chmod(shared, 0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        CacheStoreServer(tiered, ServiceSettings(unix_socket=str(shared / "s"))).open()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        CacheStoreServer(tiered, ServiceSettings(unix_socket=str(private / "file"))).open()
    assert (private / "file").read_text() == "precious"
    with pytest.raises(ConfigError, match="absolute"):
        CacheStoreServer(tiered, ServiceSettings(unix_socket="relative/s")).open()
