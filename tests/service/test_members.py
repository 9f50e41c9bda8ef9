from collections.abc import Callable
from typing import Any

import pytest

from cachestore.errors import InvalidArgument, Overloaded, PermissionDenied
from cachestore.service import members
from cachestore.service.auth import tokens
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member, Members
from cachestore.service.server import CacheStoreServer


def member(name: str = "a", incarnation: bytes = b"1", address: str = "h:1", queue: int = 0) -> Member:
    return Member("decode", name, address, "node", incarnation, queue)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Members:
    return Members(clock)


def test_the_epoch_grows_with_what_a_router_must_notice(known: Members) -> None:
    assert known.register(member(), 10) == 1
    assert known.register(member(queue=5), 10) == 1
    assert known.list() == (1, (member(queue=5),))
    assert known.register(member(address="h:2"), 10) == 2
    assert known.register(member(incarnation=b"2"), 10) == 3
    assert known.register(member(name="b"), 10) == 4
    assert known.list("decode")[0] == 4 and known.list("prefill") == (4, ())


def test_who_is_silent_is_forgotten(known: Members, clock: Clock) -> None:
    known.register(member(), 10)
    clock.now += 9
    known.register(member(), 10)
    clock.now += 9
    assert known.list() == (1, (member(),))
    clock.now += 1
    assert known.list() == (2, ())


def test_a_farewell_is_for_its_own_incarnation(known: Members) -> None:
    known.register(member(incarnation=b"2"), 10)
    assert known.register(member(incarnation=b"1"), 0) == 1
    assert known.register(member(incarnation=b"2"), 0) == 2
    assert known.register(member(incarnation=b"2"), 0) == 2
    assert known.list() == (2, ())


def test_bounds(known: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (Member("judge", "a", "h:1", "n", b"1"), member(name=""), member(incarnation=b""), member(address="")):
        with pytest.raises(InvalidArgument):
            known.register(bad, 10)
    for ttl in (-1, 1e9):
        with pytest.raises(InvalidArgument, match="ttl"):
            known.register(member(), ttl)
    with pytest.raises(InvalidArgument, match="role"):
        known.list("judge")
    monkeypatch.setattr(members, "MOST_MEMBERS", 1)
    known.register(member(), 10)
    known.register(member(), 10)
    with pytest.raises(Overloaded):
        known.register(member(name="b"), 10)


def test_a_live_name_is_its_identitys_alone(known: Members, clock: Clock) -> None:
    known.register(member(), 10, "workers")
    for ttl in (10, 0):
        with pytest.raises(PermissionDenied, match="'a' was registered by workers"):
            known.register(member(address="evil:1"), ttl, "evil")
    assert known.list() == (1, (member(),))
    # a worker that starts again, and another of the same identity
    known.register(member(incarnation=b"2"), 10, "workers")
    known.register(member(name="b"), 10, "workers")
    known.register(member(name="b"), 0, "workers")
    known.register(member(name="b"), 10, "others")
    clock.now += 10
    known.register(member(address="h:2"), 10, "others")
    assert known.list("decode")[1] == (member(address="h:2"),)


def test_one_identity_leaves_room_for_others(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 4)
    known = Members(clock, callers=2)
    for name in "abb":
        known.register(member(name), 10, "many")
    with pytest.raises(Overloaded, match="many has registered 2 members, all that one caller may"):
        known.register(member("c"), 10, "many")
    known.register(member("c"), 10, "other")
    known.register(member("a"), 0, "many")
    known.register(member("d"), 10, "many")


def test_another_delegate_cannot_take_a_workers_place(serve: Callable[..., CacheStoreServer], people: Any) -> None:
    settings, secret = people.settings, tokens.new_token()
    second = IdentitySettings("second", "delegate", "", f"sha256:{tokens.digest_of(secret).hex()}")
    server = serve(**{**settings, "identities": (*settings["identities"], second)})
    with (
        RemoteStore(server.address, credentials=people.credentials("worker")) as one,
        RemoteStore(server.address, credentials=Credentials(token=secret)) as two,
    ):
        one.register(member(), 10)
        with pytest.raises(PermissionDenied, match="registered by worker"):
            two.register(member(address="evil:1"), 3600)
        assert two.members() == (1, (member(),))
        one.register(member(), 0)
        two.register(member(address="h:2"), 10)
        assert one.members()[1] == (member(address="h:2"),)


def test_a_worker_that_is_refused_says_so_and_comes_in_when_the_name_is_free(
    serve: Callable[..., CacheStoreServer], people: Any, caplog: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    server = serve(**people.settings)
    server.members.register(member(address="other:1"), 600, "other")
    with RemoteStore(server.address, credentials=people.credentials("worker")) as store:
        heartbeat = Heartbeat(store, member(), lambda: 0, every=0.02)
        heartbeat.open()
        eventually(lambda: "registered by other" in caplog.text)
        server.members.register(member(address="other:1"), 0, "other")
        eventually(lambda: store.members()[1] == (member(),))
        heartbeat.close()
    assert caplog.text.count("registered by other") == 1


def test_over_grpc(remote: RemoteStore) -> None:
    assert remote.members() == (0, ())
    assert remote.register(member(), 10) == 1
    assert remote.members("decode") == (1, (member(),))
    with pytest.raises(InvalidArgument, match=r"member\.role"):
        remote.register(Member("judge", "a", "h:1", "n", b"1"), 10)
    assert remote.register(member(), 0) == 2
    assert remote.members() == (2, ())
