"""The token with which a delegate acts for a tenant: good only as the gateway signed it, now, here, for delegates."""

import os
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cachestore.errors import CacheStoreError, InvalidArgument, PermissionDenied, Unauthenticated
from cachestore.hashing import Chain
from cachestore.service.auth import tokens
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec

Serve = Callable[..., CacheStoreServer]
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()


def framed(*fields: bytes, key: Ed25519PrivateKey = KEY) -> str:
    """A token of these fields, signed whatever they are."""
    body = b"".join(struct.pack(">BH", number, len(field)) + field for number, field in enumerate(fields))
    return urlsafe_b64encode(body + key.sign(body)).rstrip(b"=").decode()


def fields(**changed: bytes) -> list[bytes]:
    now = int(time.time() * 1000)
    usual = {
        "kind": tokens.KIND, "namespace": b"acme", "role": b"writer", "audience": b"cachestore",
        "issued": now.to_bytes(8, "big"), "expires": (now + 60_000).to_bytes(8, "big"), "nonce": os.urandom(16),
    }  # fmt: skip
    return list({**usual, **changed}.values())


def ms(seconds: float) -> bytes:
    return int((time.time() + seconds) * 1000).to_bytes(8, "big")


def test_what_the_gateway_signs_is_what_the_store_reads() -> None:
    tenant = tokens.verify(tokens.sign(KEY, "acme", role="reader", ttl=60), PUBLIC, "cachestore")
    assert (tenant.namespace, tenant.role.name, tenant.audience) == ("acme", "reader", "cachestore")
    assert 59 < tenant.expires - tenant.issued < 61
    assert tokens.verify(framed(*fields()), PUBLIC, "cachestore").namespace == "acme"
    assert tokens.sign(KEY, "acme") != tokens.sign(KEY, "acme")


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": b"cachestore tenant v2"},
        {"namespace": b""},
        {"namespace": b"a b"},
        {"namespace": b"a\x00"},
        {"namespace": "é".encode()},
        {"role": b"admin"},
        {"role": b"delegate"},
        {"role": b""},
        {"audience": b"elsewhere"},
        # far ahead: it is worked out when the tests are collected
        {"issued": ms(86400), "expires": ms(86400 + 60)},
        {"issued": ms(-600), "expires": ms(-tokens.SKEW - 1)},
        {"expires": ms(2 * tokens.LONGEST)},
        {"issued": ms(-2 * tokens.LONGEST)},
        {"issued": b"\x00" * 7},
        {"expires": b"\xff" * 8},
        {"nonce": b""},
    ],
)
def test_what_even_a_gateway_may_not_sign(changed: dict[str, bytes]) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(framed(*fields(**changed)), PUBLIC, "cachestore")


def test_fields_cannot_be_moved_left_out_or_added() -> None:
    usual = fields()
    for wrong in (usual[:-1], [*usual, b""], [usual[0], *usual[2:], usual[1]]):
        with pytest.raises(Unauthenticated, match="malformed"):
            tokens.verify(framed(*wrong), PUBLIC, "cachestore")


def test_every_bit_is_signed() -> None:
    token = tokens.sign(KEY, "acme")
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for at in range(0, len(raw) * 8, 5):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(Unauthenticated):
            tokens.verify(urlsafe_b64encode(changed).rstrip(b"=").decode(), PUBLIC, "cachestore")
    for other in (token + "=", token + "\n", " " + token, token + "A", token[:-1], token.replace("A", "-A", 1)):
        with pytest.raises(Unauthenticated):
            tokens.verify(other, PUBLIC, "cachestore")
    with pytest.raises(Unauthenticated, match="not signed"):
        tokens.verify(framed(*fields(), key=Ed25519PrivateKey.generate()), PUBLIC, "cachestore")


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(lambda raw: urlsafe_b64encode(raw).decode())))
def test_anything_else_is_refused_in_our_words(token: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(token, PUBLIC, "cachestore")


@given(st.binary(max_size=300))
def test_signed_nonsense_is_refused_in_our_words(body: bytes) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(urlsafe_b64encode(body + KEY.sign(body)).rstrip(b"=").decode(), PUBLIC, "cachestore")


@pytest.mark.parametrize(
    "options",
    [{"role": "admin"}, {"ttl": 0}, {"ttl": 4000}, {"audience": ""}, {"audience": "a\n"}, {"ttl": float("nan")}],
)
def test_what_nobody_would_accept_is_not_signed(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        tokens.sign(KEY, "acme", **options)


def asked(
    address: str, credentials: Credentials, what: Callable[[RemoteStore], object]
) -> type[CacheStoreError] | None:
    with RemoteStore(address, credentials=credentials) as store:
        try:
            what(store)
        except CacheStoreError as error:
            return type(error)
    return None


def test_only_a_delegate_acts_for_tenants(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address
    good = people.sign("b")

    def stats(store: RemoteStore) -> object:
        return store.stats()

    for name in ("reader", "alice", "bob", "admin"):
        assert asked(address, people.credentials(name).for_tenant(good), stats) is PermissionDenied
    assert asked(address, Credentials(tenant=good), stats) is Unauthenticated
    assert asked(address, people.credentials("worker").for_tenant(good), stats) is None
    # without one it has no namespace, not somebody's
    assert asked(address, people.credentials("worker"), stats) is PermissionDenied
    foreign = tokens.sign(Ed25519PrivateKey.generate(), "b")
    late = framed(*fields(issued=ms(-60), expires=ms(-30)), key=people.gateway)
    for bad in (foreign, late, people.sign("b", audience="elsewhere"), "x"):
        assert asked(address, people.credentials("worker").for_tenant(bad), stats) is Unauthenticated


def test_a_token_that_was_good_ends_in_time(serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose signature the store remembers."""
    address = serve(**people.settings).address
    credentials = people.credentials("worker").for_tenant(people.sign("b", ttl=1.0))
    with RemoteStore(address, credentials=credentials) as store:
        assert store.stats()
        monkeypatch.setattr(tokens, "SKEW", -1.0)
        with pytest.raises(Unauthenticated, match="expired"):
            store.stats()


def test_a_tenant_may_do_no_more_than_its_token_says(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address
    keys, blocks = random_prompt(small_spec(), 1)
    reader = people.credentials("worker").for_tenant(people.sign("b", role="reader"))
    writer = people.credentials("worker").for_tenant(people.sign("b"))

    def put(store: RemoteStore) -> object:
        return put_blocks(store, keys.fingerprint, blocks)

    assert asked(address, reader, put) is PermissionDenied
    assert asked(address, writer, put) is None
    assert asked(address, writer, lambda store: store.clear()) is PermissionDenied
    member = Member("prefill", "w", "h:1", "n", bytes(16))
    assert asked(address, writer, lambda store: store.register(member, 5.0)) is PermissionDenied
    assert asked(address, people.credentials("worker"), lambda store: store.register(member, 5.0)) is None
    assert asked(address, people.credentials("worker"), lambda store: store.members()) is None
    assert asked(address, people.credentials("alice"), lambda store: store.register(member, 5.0)) is PermissionDenied


def test_a_store_that_names_nobody_takes_no_tenants(server: CacheStoreServer, people: Any) -> None:
    """Their blocks would end up where everybody's are."""
    keys, _ = random_prompt(small_spec(), 1)
    chain = Chain(keys.fingerprint, keys.keys)
    shown = Credentials(tenant=people.sign("b"))
    assert asked(server.address, shown, lambda store: store.lookup(chain)) is PermissionDenied


def test_a_store_without_a_gateway_takes_no_tenants(serve: Serve, people: Any) -> None:
    address = serve(identities=people.settings["identities"]).address
    credentials = people.credentials("worker", tenant="b")
    with RemoteStore(address, credentials=credentials) as store, pytest.raises(Unauthenticated, match="gateway_key"):
        store.stats()
