import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.hashing import Chain
from cachestore.service import listening
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
        ({"advertise": "0.0.0.0"}, "advertise"),
        ({"advertise": "::"}, "advertise"),
        ({"advertise": "store.example:7420"}, "advertise"),
        ({"advertise": "[::1]"}, "advertise"),
        ({"advertise": "127.0.0"}, "advertise"),
        ({"advertise": "dns:store"}, "advertise"),
        ({"advertise": "two words"}, "advertise"),
        ({"frame_bytes": "8MiB"}, "frame_bytes"),
        ({"in_flight_bytes": "1MiB"}, "in_flight_bytes"),
        ({"longest_call": "0s"}, "longest_call"),
        ({"unix_socket": "/" + "x" * 107}, "unix_socket has 108 bytes, and a socket's address takes 107"),
        ({"unix_socket": "/" + "\u00e9" * 54}, "unix_socket has 109 bytes"),
        ({"unix_socket": "relative/s"}, "unix_socket must be an absolute path"),
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
    settings = ServiceSettings(port=int(server.address.rpartition(":")[2]))
    with pytest.raises(ConfigError, match=rf"at 127\.0\.0\.1:{settings.port}: it is in use.*service\.port"):
        CacheStoreServer(tiered, settings).open()
    # who looks at the settings of a store that runs is not told that it runs
    listening.check(settings)


def test_one_port_for_two_is_foretold(tiered: TieredStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ServiceSettings(port=port, bulk_port=port)
    with pytest.raises(ConfigError, match=r"service\.bulk_port"):
        listening.check(settings)
    with pytest.raises(ConfigError, match=r"service\.bulk_port"):
        CacheStoreServer(tiered, settings).open()


def test_a_start_that_fails_leaves_nothing(tiered: TieredStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        server = CacheStoreServer(tiered, ServiceSettings(port=0, bulk_port=taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"service\.bulk_port"):
            server.open()
        assert os.listdir(folder) == []


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_a_host_of_another_machine_is_told_from_a_port_in_use(tiered: TieredStore, host: str) -> None:
    """Of networks that are for documentation (RFC 5737, 3849), so nobody's."""
    settings = ServiceSettings(host=host, port=0, insecure=True)
    said = rf"service\.host = '{host}' is no address of this machine .*0\.0\.0\.0"
    with pytest.raises(ConfigError, match=said):
        CacheStoreServer(tiered, settings).open()
    with pytest.raises(ConfigError, match=said):
        listening.check(settings)


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
    path.parent.mkdir(mode=0o700)
    server = serve(unix_socket=str(path))
    assert server.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
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
    with pytest.raises(ConfigError, match="a folder of its own") as refused:
        CacheStoreServer(tiered, ServiceSettings(unix_socket=str(shared / "s"))).open()
    # what it advises works, and leaves the folder as it is
    subprocess.run(
        ["mkdir", "-p", "-m", "700", str(refused.value).partition("mkdir -p -m 700 ")[2].split()[0]], check=True
    )
    advised = str(refused.value).rpartition(" ")[2]
    with CacheStoreServer(tiered, ServiceSettings(unix_socket=advised)) as server:
        assert server.address == f"unix:{advised}"
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        CacheStoreServer(tiered, ServiceSettings(unix_socket=str(private / "file"))).open()
    assert (private / "file").read_text() == "precious"


def test_the_folder_of_all_is_not_to_be_closed(tiered: TieredStore) -> None:
    settings = ServiceSettings(unix_socket=f"{tempfile.gettempdir()}/cachestore-of-nobody.sock")
    with pytest.raises(ConfigError, match="a folder of its own") as refused:
        CacheStoreServer(tiered, settings).open()
    assert "chmod" not in str(refused.value)


def test_the_longest_path_is_served(serve: Callable[..., CacheStoreServer]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/".ljust(107, "s")
        with RemoteStore(serve(unix_socket=path).address) as store:
            assert store.lookup(ANY).ready == 0


def test_a_look_at_a_socket_says_what_the_start_would_and_makes_nothing(tiered: TieredStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "file").write_text("precious")
    (tmp_path / "open").mkdir()
    os.chmod(tmp_path / "open", 0o750)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for path, said in (
        ("file/s", "a folder of its own"),
        ("file/folder/s", "is not there; make it"),
        ("private/file", "is no socket"),
        ("open/s", "a folder of its own"),
        ("link/s", "a folder of its own"),
        ("dangling/folder/s", "is not there; make it"),
        ("not/there/s", "is not there; make it"),
    ):
        settings = ServiceSettings(unix_socket=str(tmp_path / path))
        with pytest.raises(ConfigError, match=said):
            listening.check(settings)
        with pytest.raises(ConfigError, match=r"service\.unix_socket"):
            CacheStoreServer(tiered, settings).open()
    listening.check(ServiceSettings(unix_socket=str(tmp_path / "private" / "s")))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_look_at_the_socket_of_a_store_that_runs(serve: Callable[..., CacheStoreServer], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    path = str(tmp_path / "run" / "s")
    with RemoteStore(serve(unix_socket=path).address) as store:
        listening.check(ServiceSettings(unix_socket=path))
        assert store.lookup(ANY).ready == 0
