"""A store that is served and asked with what `cachestore certs` and `cachestore token` make."""

import os
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import Role
from tests.cli.told import CPU, split

README = Path(__file__).parents[2] / "README.md"


def test_what_is_said_works(
    command: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied as it stands, into a configuration and an environment."""
    configuration, environment = split(command("certs", str(tmp_path / "certs"), "--client", "alice").out)
    address = serve(CPU + configuration).address
    assert "CACHESTORE_CA" in command("stats", "--address", address).refused(1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command("stats", "--address", address, "--json").object["sums_hold"]
    assert "Clear needs the role admin" in command("clear", "--address", address).refused(1)


def test_what_the_readme_says_works(
    command: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands as they stand, but for the port, with a store set to what they print."""
    safety = README.read_text().partition("## Safety\n")[2].partition("\n## ")[0]
    by_certificate, by_token = re.findall(r"^```sh\n(.*?)^```$", safety, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    address, printed = "", ""
    for line in f"{by_certificate}{by_token}".splitlines():
        program, *words = shlex.split(line, comments=True)
        if program == "export":
            for name, value in (word.split("=", 1) for word in words):
                monkeypatch.setenv(name, value)
        elif program == "unset":
            for name in words:
                monkeypatch.delenv(name)
        elif words[0] == "health":
            port = serve(CPU + printed).address.rpartition(":")[2]
            address = words[-1].replace("7420", port)
            assert command(*words[:-1], address).status == 0
        else:
            # what is for tokens alone leaves these out
            printed = printed.partition("[[")[0].replace("client_ca", "# client_ca") + split(command(*words).out)[0]
    monkeypatch.delenv("CACHESTORE_TOKEN_FILE")
    assert "CACHESTORE_TOKEN" in command("stats", "-a", address).refused(1)


def test_tokens_work(
    command: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, shown_environment = split(command("token", "new", "alice").out)
    file = tmp_path / "token"
    kept, kept_environment = split(
        command("token", "new", "carol", "--role", "admin", "--namespace", "c", "--file", str(file)).out
    )
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text().strip() not in kept
    (carol,) = tomllib.loads(kept)["service"]["identities"]
    assert (carol["role"], carol["namespace"]) == ("admin", "c")
    address = serve(CPU + shown + kept).address
    assert "CACHESTORE_TOKEN" in command("stats", "--address", address).refused(1)
    for environment, status in ((shown_environment, 1), (kept_environment, 0)):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert command("stats", "--address", address, "--json").object["sums_hold"]
            assert command("clear", "--address", address).status == status
    assert "exists" in command("token", "new", "dora", "--file", str(file)).refused(2)
    assert "did you mean 'writer'" in command("token", "new", "dora", "--role", "writr").refused(2)


def test_a_tenants_token_is_signed(command: Callable[..., Any], tmp_path: Path) -> None:
    command("certs", str(tmp_path / "certs"))
    key = tmp_path / "certs" / "gateway.key"
    signed = command("token", "tenant", "acme", "--key", str(key), "--json").object["token"]
    assert signed != command("token", "tenant", "acme", "--key", str(key)).out.strip()
    assert "role" in command("token", "tenant", "acme", "--key", str(key), "--role", "admin").refused(1)
    os.chmod(key, 0o640)
    assert "chmod 600" in command("token", "tenant", "acme", "--key", str(key)).refused(2)
    assert "--key" in command("token", "tenant", "acme", "--key", str(tmp_path / "certs" / "ca.key")).refused(2)
    for public in ("gateway.pub", "server.crt"):
        said = command("token", "tenant", "acme", "--key", str(tmp_path / "certs" / public)).refused(2)
        assert "holds no private key" in said and "gateway.key" in said and "chmod" not in said


def test_a_delegate_takes_its_tenants_token_from_the_environment(
    command: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("certs", str(tmp_path / "certs"))
    identity, environment = split(command("token", "new", "worker", "--role", "delegate").out)
    service = f'[service]\ngateway_key = "{tmp_path / "certs" / "gateway.pub"}"\n'
    address = serve(CPU + service + identity).address
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "tenant" in command("stats", "--address", address).refused(1)
    key = str(tmp_path / "certs" / "gateway.key")
    monkeypatch.setenv("CACHESTORE_TENANT", command("token", "tenant", "acme", "--key", key).out.strip())
    assert command("stats", "--address", address, "--json").object["sums_hold"]


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ('host = "0.0.0.0"', "service.insecure"),
        ('tls_cert = "c"', "belong together"),
        ('identities = ["a"]', "identities"),
    ],
)
def test_what_is_not_safe_is_not_served(
    command: Callable[..., Any], config: Callable[[str], str], service: str, said: str
) -> None:
    """B14: one line, exit status 2."""
    given = config(f"{CPU}[service]\n{service}\n")
    for arguments in (["serve"], ["config", "check"]):
        assert said in command(*arguments, "--config", given).refused(2)


def test_a_key_that_others_can_read_is_not_served(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path
) -> None:
    configuration, _ = split(command("certs", str(tmp_path / "certs")).out)
    os.chmod(tmp_path / "certs" / "server.key", 0o644)
    assert "chmod 600" in command("serve", "--port", "0", "--config", config(CPU + configuration)).refused(2)


def test_identities_are_shown_as_they_could_be_written(
    command: Callable[..., Any], config: Callable[[str], str]
) -> None:
    identities, _ = split(command("token", "new", "alice").out)
    given = config(CPU + '[store.quotas]\n"a/b:c" = "1MiB"\n' + identities)
    shown = command("config", "show", "--config", given).out
    (alice,) = tomllib.loads(shown)["service"]["identities"]
    assert alice["name"] == "alice" and tomllib.loads(shown)["store"]["quotas"] == {"a/b:c": 1 << 20}
    assert command("config", "show", "--config", config(shown)).out == shown


def test_the_page_on_security_is_right(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("certs", "certs", "--name", "store.example", "--client", "prefill-1").status == 0
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert command("config", "check", "--config", config(CPU + example)).out == "ok\n"
    assert re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE) == [role.name for role in Role]
    for name in {field.name for field in fields(Credentials)} - {"insecure", "peer", "meant"}:
        assert f"`CACHESTORE_{name.upper()}`" in page
