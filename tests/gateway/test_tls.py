"""TLS of the gateway's port: what is in the files when a connection begins is what the client is shown."""

import asyncio
import ssl
from pathlib import Path

import pytest

from cachestore.errors import ConfigError
from cachestore.service.auth import certificates
from cachestore.service.auth.certificates import Made
from gateway.settings import GatewaySettings
from gateway.tls import GatewayTls


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return certificates.make(tmp_path / "certs", ["127.0.0.1"], [], days=1.0)


def settings(made: Made) -> GatewaySettings:
    return GatewaySettings(tls_cert=str(made.cert()), tls_key=str(made.key()))


async def shown(port: int, made: Made) -> bytes:
    """The certificate of a new connection, which the client has verified."""
    trusted = ssl.create_default_context(cafile=str(made.ca))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return certificate


def test_renewed_files_are_shown_to_new_connections(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    tls = GatewayTls(settings(made))
    tls.open()

    async def run() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls.context())
        async with server:
            port = server.sockets[0].getsockname()[1]
            first = await shown(port, made)
            assert await shown(port, made) == first
            certificates.renew(made.folder, [], [], days=1.0)
            second = await shown(port, made)
            assert second != first
            made.cert().write_text("half of a fi")
            assert await shown(port, made) == second, "what cannot be used changes nothing"

    asyncio.run(run())
    assert "the old ones stay" in caplog.text


def test_files_that_cannot_be_used_are_found_at_start(made: Made) -> None:
    made.key().chmod(0o644)
    with pytest.raises(ConfigError, match=r"^gateway\.tls_key"):
        GatewayTls(settings(made)).open()
    made.key().chmod(0o600)
    made.cert().unlink()
    with pytest.raises(ConfigError, match=r"^gateway\.tls_cert"):
        GatewayTls(settings(made)).open()


def test_where_clients_find_it() -> None:
    assert GatewaySettings().url(5) == "http://127.0.0.1:5"
    assert GatewaySettings(host="::1", tls_cert="a", tls_key="b").url(5) == "https://[::1]:5"
    assert GatewaySettings(host="0.0.0.0", keys="k", insecure=True).url(5) == "http://127.0.0.1:5"
