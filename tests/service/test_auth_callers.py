"""Who is a caller at all: what the anonymous get, what is shown of those who are known."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from cachestore.errors import PermissionDenied, Unauthenticated
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import Role, identity_of
from cachestore.service.auth.methods import HEALTH
from cachestore.service.auth.tokens import new_token
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec

Serve = Callable[..., CacheStoreServer]

WHO = {Role.reader: "reader", Role.writer: "alice", Role.delegate: "worker", Role.admin: "admin"}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def test_without_identities_this_machine_is_served_as_before(server: CacheStoreServer) -> None:
    with RemoteStore(server.address) as store:
        keys, blocks = random_prompt(small_spec(), 2)
        put_blocks(store, keys.fingerprint, blocks)
        assert store.lookup(keys).ready == 2
        assert store.clear() == 2


def test_with_identities_nobody_is_anonymous(serve: Serve, people: Any) -> None:
    server = serve(**people.settings)
    with RemoteStore(server.address) as nobody, pytest.raises(Unauthenticated, match="CACHESTORE_TOKEN"):
        nobody.stats()
    for shown in ("Bearer", "Bearer ", "Basic abc", f"Bearer  {people.tokens['alice']}", people.tokens["alice"]):
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/cachestore.v1.CacheStore/Stats")(b"", metadata=(("authorization", shown),), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.guard.refused.figures()


def test_a_unix_socket_asks_for_identities_too(serve: Serve, people: Any, tmp_path: Any) -> None:
    server = serve(**people.settings, unix_socket=str(tmp_path / "s"))
    with RemoteStore(server.address) as nobody, pytest.raises(Unauthenticated):
        nobody.stats()
    with RemoteStore(server.address, credentials=people.credentials("alice")) as alice:
        assert alice.stats()


def test_metadata_of_any_kind_does_no_harm(serve: Serve, people: Any) -> None:
    server = serve(**people.settings)
    good = ("authorization", f"Bearer {people.tokens['alice']}")
    odd: list[Any] = [
        (good, good),
        (("authorization", "Bearer x"), good),
        (good, ("cachestore-tenant", "x" * 4000)),
        (("authorization", "Bearer " + "x" * 5000),),
        (("authorization", "Bearer " + "x" * 60_000),),
        (*((f"x-{number}", "y" * 500) for number in range(200)), good),
    ]
    with grpc.insecure_channel(server.address) as channel:
        stats = channel.unary_unary("/cachestore.v1.CacheStore/Stats")
        for metadata in odd:
            with pytest.raises(grpc.RpcError) as refused:
                stats(b"", metadata=metadata, timeout=5)
            assert refused.value.code() in (*REFUSED, grpc.StatusCode.RESOURCE_EXHAUSTED), refused.value
        assert stats(b"", metadata=(good,), timeout=5)


def test_what_the_anonymous_send_is_not_even_parsed(serve: Serve, people: Any) -> None:
    with grpc.insecure_channel(serve(**people.settings).address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/cachestore.v1.CacheStore/Lookup")(b"\xff" * 1000, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_anonymous_hold_nothing_up(serve: Serve, people: Any) -> None:
    """They are refused before they have sent anything, however many they are and however long they would take."""
    server = serve(**people.settings, max_concurrent=2)
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield from ()

    with grpc.insecure_channel(server.address) as channel, RemoteStore(
        server.address, credentials=people.credentials("alice")
    ) as alice:  # fmt: skip
        try:
            for path in ("/cachestore.v1.CacheStore/Lookup", "/grpc.health.v1.Health/List"):
                calls = [channel.stream_unary(path).future(nothing(), timeout=15) for _ in range(40)]
                for call in calls:
                    # the second if all come at one moment: then there are more than gRPC itself takes
                    refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
                    assert call.exception(5).code() in refused
            # the one question that anybody may ask is waited for a moment, by a few at a time
            calls = [channel.stream_unary(HEALTH).future(nothing(), timeout=15) for _ in range(40)]
            assert alice.stats(timeout=5)
            codes = {call.exception(5).code() for call in calls}
            # beyond the server's threads the library refuses
            assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
        finally:
            never.set()
    figures = {figure.label("reason"): figure.value for figure in server.guard.refused.figures()}
    assert figures["unauthenticated"] >= 80


def test_no_secret_is_in_any_text(
    serve: Serve, people: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """B13: neither in errors, nor in logs, nor in what is shown of objects."""
    wrong, tenant = new_token(), people.sign("a")
    texts = []
    with caplog.at_level(logging.DEBUG):
        server = serve(**people.settings)
        for credentials in (
            Credentials(token=wrong),
            Credentials(token=people.tokens["alice"], tenant=tenant),
            Credentials(token=people.tokens["worker"], tenant=tenant[:-4] + "AAAA"),
            Credentials(token=people.tokens["reader"]),
        ):
            texts.append(repr(credentials))
            with (
                RemoteStore(server.address, credentials=credentials) as store,
                pytest.raises((Unauthenticated, PermissionDenied)) as refused,
            ):
                store.clear()
            texts += [str(refused.value), repr(refused.value)]
    said = "\n".join([*texts, caplog.text, *capfd.readouterr()])
    for secret in (wrong, tenant, tenant[:-4], *people.tokens.values()):
        assert secret not in said
    # nor what the store compares with
    assert "sha256:" not in said


def test_a_call_that_nobody_identified_has_no_identity() -> None:
    class Context:
        pass

    with pytest.raises(Unauthenticated):
        identity_of(Context())  # type: ignore[arg-type]
