"""`cachestore certs` and `cachestore token`, and a store that is served and asked with what they make."""

import os
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import Role
from cachestore.service.auth.issuing import names_in

README = Path(__file__).parents[2] / "README.md"
CPU = '[[tiers]]\nname = "cpu"\ncapacity = "8MiB"\n'


def lines(out: str) -> str:
    """What a command says to copy."""
    return "\n".join(line[4:] for line in out.splitlines() if line.startswith("    "))


def split(out: str) -> tuple[str, dict[str, str]]:
    """The configuration of the store and the environment of the client."""
    told = lines(out).splitlines()
    words = [word for line in told if line.startswith("export ") for word in line.split()[1:]]
    return "".join(f"{line}\n" for line in told if not line.startswith("export ")), dict(
        word.split("=", 1) for word in words
    )


def test_what_is_made(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = command("certs", str(folder), "--name", "store.example", "--name", "10.1.2.3", "--client", "a", "--json")
    assert made.object["names"] == ["store.example", "10.1.2.3", "localhost", "127.0.0.1", "::1"]
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert files == {
        "ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600, "a.crt": 0o644, "a.key": 0o600,
        "gateway.key": 0o600, "gateway.pub": 0o644,
    }  # fmt: skip
    assert {str(folder / name) for name in files if name != "ca.key"} == set(made.object["files"])
    ca, server, client = (
        x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()) for name in ("ca", "server", "a")
    )
    for one, purpose in ((server, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)):
        one.verify_directly_issued_by(ca)
        assert list(one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["store.example", "localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1", "::1"]


def test_renewal_is_asked_for(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    assert command("certs", str(folder)).status == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "--renew" in command("certs", str(folder)).refused(2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert command("certs", str(folder), "--renew").status == 0
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"server.crt", "server.key", "client.crt", "client.key"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(cert: Path) -> list[str]:
    """The names that a certificate bears."""
    return names_in(x509.load_pem_x509_certificate(cert.read_bytes()))


def test_a_renewal_keeps_what_is_there(command: Callable[..., Any], tmp_path: Path) -> None:
    """The server's names and every client, unless it is told others; what somebody else signed is not ours to renew."""
    folder, other = tmp_path / "certs", tmp_path / "other"
    all_names = ["store.example", "10.1.2.3", "localhost", "127.0.0.1", "::1"]
    command("certs", str(folder), "--name", "store.example", "--name", "10.1.2.3", "--client", "a", "--client", "b")
    command("certs", str(other), "--client", "foreign")
    for suffix in ("crt", "key"):
        (folder / f"foreign.{suffix}").write_bytes((other / f"foreign.{suffix}").read_bytes())
    before = contents(folder)
    renewed = command("certs", str(folder), "--renew", "--json").object
    after = contents(folder)
    assert {name for name in before if after[name] != before[name]} == {
        "server.crt", "server.key", "a.crt", "a.key", "b.crt", "b.key",
    }  # fmt: skip
    assert renewed["names"] == names(folder / "server.crt") == all_names
    assert names(folder / "b.crt") == ["b"] and set(after) == set(before)
    assert str(folder / "b.key") in renewed["files"] and "foreign" not in str(renewed["files"])
    # told otherwise: one client alone, and the server alone, for another name
    command("certs", str(folder), "--renew", "--client", "b")
    one = contents(folder)
    assert {name for name in one if one[name] != after[name]} == {"b.crt", "b.key"}
    command("certs", str(folder), "--renew", "--name", "new.example")
    last = contents(folder)
    assert {name for name in last if last[name] != one[name]} == {"server.crt", "server.key"}
    assert names(folder / "server.crt") == ["new.example", "localhost", "127.0.0.1", "::1"]


def test_a_client_is_added_later(
    command: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the authority that is there; nothing else changes, and a gateway's key that has gone is not made again."""
    folder = tmp_path / "certs"
    configuration, _ = split(command("certs", str(folder)).out)
    (folder / "gateway.key").unlink()
    before = contents(folder)
    added, environment = split(command("certs", str(folder), "--client", "later").out)
    after = contents(folder)
    assert set(after) - set(before) == {"later.crt", "later.key"} and {**after, **before} == after
    assert [one["name"] for one in tomllib.loads(added)["service"]["identities"]] == ["later"]
    address = serve(CPU + configuration + added).address
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command("stats", "--address", address, "--json").object["sums_hold"]
    assert "later.crt exists; --renew" in command("certs", str(folder), "--client", "later").refused(2)


def test_nothing_is_renewed_where_nothing_is(command: Callable[..., Any], tmp_path: Path) -> None:
    assert "leave --renew away" in command("certs", str(tmp_path / "certs"), "--renew").refused(2)
    assert not (tmp_path / "certs").exists()


def test_an_authority_that_cannot_sign(command: Callable[..., Any], tmp_path: Path) -> None:
    folder, other = tmp_path / "certs", tmp_path / "other"
    for made in (folder, other):
        command("certs", str(made))
    key = folder / "ca.key"
    for content, said in (((other / "ca.key").read_bytes(), "no authority"), (b"nothing", "no authority")):
        key.write_bytes(content)
        assert said in command("certs", str(folder), "--client", "later").refused(2)
    key.unlink()
    assert "ca.key" in command("certs", str(folder), "--client", "later").refused(2)
    assert not (folder / "later.key").exists()
    (folder / "ca.crt").unlink()
    assert "leave --renew away" in command("certs", str(folder), "--renew").refused(2)
    assert "server.crt exists; no authority of it is there: move it away" in command("certs", str(folder)).refused(2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--client", "../x"], "--client must be a name of at most 63"),
        (["--client", "server"], "none of ca, server, gateway"),
        (["--client", "c" * 64], "--client must be a name of at most 63"),
        (["--client", ""], "--client must be a name"),
        (["--client", "*"], "--client must be a name"),
        (["--name", "a b"], "--name must be an address, or a host name"),
        (["--name", ""], "--name must be"),
        (["--name", "n" * 64], "at most 63 characters between two dots"),
        (["--name", ".".join(["n" * 63] * 4)], "253 in all"),
        (["--name", "*.example"], "--name: '*.example' is a wildcard"),
        (["--days", "0"], "--days must be more than 0 and at most 3650"),
        (["--days", "1e9"], "--days must be more than 0 and at most 3650"),
        (["--days", "nan"], "--days"),
    ],
)
def test_names_that_cannot_be(command: Callable[..., Any], tmp_path: Path, options: list[str], said: str) -> None:
    assert said in command("certs", str(tmp_path / "certs"), *options).refused(1)
    assert not (tmp_path / "certs").exists()


def test_the_longest_that_can_be(command: Callable[..., Any], tmp_path: Path) -> None:
    folder, client = tmp_path / "certs", "c" * 63
    host = ".".join(["n" * 63] * 3 + ["n" * 61])
    assert command("certs", str(folder), "--name", host, "--client", client, "--days", "3650").status == 0
    ca, server = (x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()) for name in ("ca", "server"))
    assert names(folder / "server.crt")[0] == host and names(folder / f"{client}.crt") == [client]
    assert server.not_valid_after_utc == ca.not_valid_after_utc


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
    for name in (field.name for field in fields(Credentials) if field.name != "insecure"):
        assert f"`CACHESTORE_{name.upper()}`" in page
