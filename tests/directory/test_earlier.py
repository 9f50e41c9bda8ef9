"""A later life of a node's name hides the earlier one, which may go on all the same."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.directory.base import Directory
from cachestore.testing.directories import became, stepped
from cachestore.testing.tiers import soon
from cachestore.tiers.redis import Redis as Server
from tests.redis_servers.server import RedisServer


@pytest.fixture
def part(redis_server: Callable[..., RedisServer], on: Any) -> Iterator[Callable[..., Directory]]:
    with on(Server(redis_server().url)) as opened:
        yield opened


def joined(part: Directory, address: str) -> Directory:
    part.join("a", address, ())
    part.step()
    return part


def test_one_that_goes_on_is_known_to_all_until_it_leaves(part: Callable[..., Directory]) -> None:
    first, other = joined(part(0.5), "one:1"), part(0.5)
    later = joined(part(0.5), "one:1")
    became(lambda: stepped(first, later, other) and [each.goes_on for each in other.earlier()] == [True])
    (found,) = other.earlier()
    assert first.life is not None and found.life.incarnation == first.life.incarnation
    assert [life.incarnation for life in other.lives()] == [later.life.incarnation if later.life else b""]
    first.leave()
    became(lambda: stepped(later, other) and not other.earlier())


def test_one_that_was_killed_may_go_on_elsewhere_but_not_where_the_later_one_stands(
    part: Callable[..., Directory],
) -> None:
    joined(part(30.0), "one:1")
    other = part(30.0)
    joined(part(30.0), "one:1")
    other.refresh(soon())
    assert other.earlier() == ()
    joined(part(30.0), "two:1")
    other.refresh(soon())
    assert [(each.life.address, each.goes_on) for each in other.earlier()] == [("one:1", False)] * 2
