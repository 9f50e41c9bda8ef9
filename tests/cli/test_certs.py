"""`cachestore certs`: what it makes, adds and renews, and what it refuses."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cachestore.service.auth.issuing import names_in
from tests.cli.told import CPU, split


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
