"""What is taken for an address, and that nothing else becomes an outage."""

from collections.abc import Callable

import pytest

from cachestore.errors import ConfigError
from cachestore.service.address import check_address
from cachestore.service.auth.credentials import Credentials
from cachestore.service.channel import open_channel
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer

WRONG = (
    "", " ", "localhost", "localhost:", ":7420", "localhost:0", "localhost:65536", "localhost:72956",
    "localhost:99999999999", "localhost:-1", "localhost:+1", "localhost:٣", "localhost:7420 ", " localhost:7420",
    "a b:1", "host:1\n", "-a:1", "http://host:1", "http://host", "host:1/", "127.0.0.1:1@10.0.0.1:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1", "::1:7420", "[::1]", "[::1]:0", "[]:1", "[x]:1", "dns:", "dns:///", "dns:///host",
    "unix:", "unix: ", "unix://", "unix://host/s", "unix:/s ", "unix:/a\0b", "unix:/\udcff", f"unix:/{107 * 'x'}",
)  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7420", "localhost:1", "[::1]:7420", "[2001:db8::1]:65535", "[fe80::1%eth0]:1", "a_b.c-d.e.:80",
        "dns:host:1", "dns:///host:1", "unix:/run/s", "unix:///run/s", "unix:s", "unix:/a b", f"unix:/{106 * 'x'}",
    ],
)  # fmt: skip
def test_addresses(address: str) -> None:
    check_address(address)
    RemoteStore(address)


@pytest.mark.parametrize("address", WRONG, ids=ascii)
@pytest.mark.parametrize("take", [RemoteStore, lambda address: open_channel(address, Credentials())])
def test_what_is_none_is_refused_at_once_and_shown_how(take: Callable[[str], object], address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        take(address)
    assert repr(address) in str(refused.value)
    for example in ("127.0.0.1:7420", "[::1]:7420", "unix:/run/cachestore.sock"):
        assert example in str(refused.value)
        check_address(example)


@pytest.mark.parametrize("form", ["{}", "dns:{}", "dns:///{}"])
def test_every_form_reaches_the_store(server: CacheStoreServer, form: str) -> None:
    with RemoteStore(form.format(server.address)) as store:
        assert store.stats()
