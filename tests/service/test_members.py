import pytest

from cachestore.errors import InvalidArgument, Overloaded
from cachestore.service import members
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member, Members


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


def test_over_grpc(remote: RemoteStore) -> None:
    assert remote.members() == (0, ())
    assert remote.register(member(), 10) == 1
    assert remote.members("decode") == (1, (member(),))
    with pytest.raises(InvalidArgument, match=r"member\.role"):
        remote.register(Member("judge", "a", "h:1", "n", b"1"), 10)
    assert remote.register(member(), 0) == 2
    assert remote.members() == (2, ())
