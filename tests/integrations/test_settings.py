"""What an engine's configuration says to an adapter is refused by the setting's name, with what to write."""

import re
from dataclasses import dataclass
from typing import Any

import pytest

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError
from cachestore.integrations.client import ADDRESS, remote_store
from cachestore.integrations.settings import settings_from


@dataclass(frozen=True)
class Adapter:
    address: str = ""
    mirror: bool = True
    timeout: Seconds = 5.0
    wait: Seconds = 2.0
    staging: Bytes = 1 << 20
    threads: int = 2


@pytest.mark.parametrize(
    "given, message",
    [
        ({"threads": 0}, "adapter.threads must be more than 0, got 0; 2 is usual"),
        ({"timeout": "0s"}, "adapter.timeout must be more than 0, got 0; 10s is usual"),
        ({"wait": -1}, "adapter.wait must be 0 or more, got -1"),
        ({"staging": -1}, "adapter.staging must be 0 or more"),
        ({"thread": 2}, "'adapter.thread'; did you mean 'threads'"),
        ({"timeout": "soon"}, "adapter.timeout: 'soon' is no quantity; write for example '30s'"),
        ({"threads": "two"}, "adapter.threads: must be a whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings_from(Adapter, given, "adapter")


def test_none_is_an_amount_where_nothing_stops() -> None:
    assert settings_from(Adapter, {"wait": 0, "mirror": False, "timeout": "250ms"}, "adapter").timeout == 0.25


def test_an_address_is_refused_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^address: 'localhost' is no address: give host and port"):
        remote_store("localhost")
    monkeypatch.setenv(ADDRESS, "localhost")
    with pytest.raises(ConfigError, match=f"^{ADDRESS}: 'localhost' is no address"):
        remote_store("")
    monkeypatch.delenv(ADDRESS)
    with pytest.raises(ConfigError, match=f"address: name the store, .* here or in {ADDRESS}"):
        remote_store("")
