"""What every directory promises."""

import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest

from cachestore.deadline import Deadline
from cachestore.directory.base import NOWHERE, Directory, Life, Where
from cachestore.errors import InvalidArgument
from cachestore.metrics import total
from cachestore.testing.tiers import KEYS, A, B, soon

MANY = [bytes([number % 256, number // 256]) * 16 for number in range(1000)]


class Node:
    """A node with `held`, which it announces as a store would."""

    def __init__(self, directory: Directory, name: str, queue: int = 0) -> None:
        self.directory = directory
        self.held: set[tuple[bytes, bytes]] = set()
        self.queue = queue
        directory.join(name, f"{name}:1", self.held, lambda: self.queue)
        directory.step()

    @property
    def life(self) -> Life:
        """Its life now."""
        assert self.directory.life is not None
        return self.directory.life

    def put(self, namespace: bytes, *keys: bytes) -> None:
        """Takes blocks in, and has said so."""
        self.held |= {(namespace, key) for key in keys}
        self.directory.announce(namespace, keys)
        self.directory.step()

    def drop(self, namespace: bytes, *keys: bytes) -> None:
        """Lets blocks go, and has said so."""
        self.held -= {(namespace, key) for key in keys}
        self.directory.withdraw(namespace, keys)
        self.directory.step()


def holders(found: Sequence[Where]) -> list[set[str]]:
    """The names of the nodes that hold each block."""
    return [{life.node for life in where.holders} for where in found]


def became(condition: Callable[[], object]) -> None:
    """Waits until something is so."""
    until = soon()
    while not condition():
        until.check("waiting for a directory")
        time.sleep(0.005)


def stepped(*directories: Directory) -> bool:
    """True, once these did what was due."""
    for directory in directories:
        directory.step()
    return True


def acquainted(*nodes: Node) -> None:
    """Waits until each of these nodes knows all others."""
    names = {node.life.node for node in nodes}

    def known() -> bool:
        parts = [node.directory for node in nodes]
        return stepped(*parts) and all(names <= {life.node for life in part.lives()} for part in parts)

    became(known)


class DirectoryTests:
    """Subclasses give the fixture `part`: `part(ttl)` gives an open part in one directory, empty at first.

    Its node is dead `ttl` seconds after it was last heard of, half a minute if nothing is said. It is due to be heard
    of every tenth of a second at least. A part that is no more stepped is one whose process hangs.
    """

    @pytest.fixture
    def part(self) -> Iterator[Callable[..., Directory]]:
        raise NotImplementedError("give the suite a fixture `part` that yields what opens parts in one directory")

    def asked(self, directory: Directory, keys: Sequence[bytes], namespace: bytes = A) -> list[set[str]]:
        """Who holds these blocks, for somebody who has just looked who lives."""
        directory.step()
        return holders(directory.lookup(namespace, keys, soon()))

    def test_what_a_node_announced_is_found_by_everybody(self, part: Callable[..., Directory]) -> None:
        one, other, reader = Node(part(), "one"), Node(part(), "other"), part()
        one.put(A, *KEYS[:3])
        other.put(A, *KEYS[1:5:3])
        for directory in (one.directory, other.directory, reader):
            became(lambda directory=directory: len(self.asked(directory, KEYS[1:2])[0]) == 2)  # type: ignore[misc]
            expected = [{"one"}, {"one", "other"}, {"one"}, set(), {"other"}]
            assert self.asked(directory, KEYS[:5]) == expected
        found = reader.lookup(A, KEYS[:1], soon())[0].holders[0]
        assert found.address == "one:1" and found.incarnation == one.life.incarnation
        assert reader.life is None and reader.healthy

    def test_nothing_asked_is_nothing_answered(self, part: Callable[..., Directory]) -> None:
        node = Node(part(), "one")
        node.put(A)
        node.drop(A)
        node.directory.wrong(A, [], node.life.incarnation)
        assert node.directory.lookup(A, [], soon()) == [] and node.directory.healthy

    def test_a_whole_prompt(self, part: Callable[..., Directory]) -> None:
        node, reader = Node(part(), "one"), part()
        node.put(A, *MANY[::3])
        expected = [{"one"} if number % 3 == 0 else set() for number in range(1000)]
        became(lambda: self.asked(reader, MANY) == expected)

    def test_what_was_withdrawn_is_gone_and_may_come_again(self, part: Callable[..., Directory]) -> None:
        node, other = Node(part(), "one"), Node(part(), "other")
        for _ in range(3):
            node.put(A, *KEYS[:4])
            other.put(A, KEYS[0])
            node.drop(A, KEYS[0], KEYS[2], KEYS[7])
            became(lambda: self.asked(node.directory, KEYS[:4]) == [{"other"}, {"one"}, set(), {"one"}])
            other.drop(A, KEYS[0])

    def test_namespaces_never_see_each_other(self, part: Callable[..., Directory]) -> None:
        node = Node(part(), "one")
        node.put(A, KEYS[0])
        node.put(B, KEYS[1])
        node.drop(B, KEYS[0])
        assert self.asked(node.directory, KEYS[:2], A) == [{"one"}, set()]
        assert self.asked(node.directory, KEYS[:2], B) == [set(), {"one"}]

    def test_to_say_it_twice_says_no_more(self, part: Callable[..., Directory]) -> None:
        node = Node(part(), "one")
        node.put(A, KEYS[0], KEYS[0])
        node.put(A, KEYS[0])
        assert [len(where.holders) for where in node.directory.lookup(A, KEYS[:1], soon())] == [1]
        node.drop(A, KEYS[0])
        assert self.asked(node.directory, KEYS[:1]) == [set()]

    def test_a_wrong_entry_is_gone_after_the_first_miss(self, part: Callable[..., Directory]) -> None:
        one, other, reader = Node(part(), "one"), Node(part(), "other"), part()
        one.put(A, *KEYS[:2])
        other.put(A, KEYS[0])
        became(lambda: self.asked(reader, KEYS[:1]) == [{"one", "other"}])
        reader.wrong(A, KEYS[:1], one.life.incarnation)
        assert holders(reader.lookup(A, KEYS[:2], soon())) == [{"other"}, {"one"}]
        reader.step()
        became(lambda: self.asked(other.directory, KEYS[:2]) == [{"other"}, {"one"}])
        one.put(A, KEYS[0])
        became(lambda: self.asked(reader, KEYS[:1]) == [{"one", "other"}])

    def test_what_a_node_held_before_it_joined_is_told(self, part: Callable[..., Directory]) -> None:
        directory, reader = part(), part()
        directory.join("one", "one:1", {(A, key) for key in KEYS[:3]})
        became(lambda: stepped(directory) and self.asked(reader, KEYS[:4]) == [{"one"}] * 3 + [set()])

    def test_who_hangs_is_dead_and_who_comes_back_says_all_again(self, part: Callable[..., Directory]) -> None:
        node, other = Node(part(0.5), "one"), Node(part(), "other")
        node.put(A, KEYS[0])
        became(lambda: stepped(node.directory) and self.asked(other.directory, KEYS[:1]) == [{"one"}])
        first = node.life.incarnation
        became(lambda: self.asked(other.directory, KEYS[:1]) == [set()])
        assert [life.node for life in other.directory.lives()] == ["other"]
        became(lambda: stepped(node.directory) and self.asked(other.directory, KEYS[:1]) == [{"one"}])
        assert "one" in [life.node for life in other.directory.lives()]
        # whether that is another life is for the directory to say, but one that was buried is over
        assert node.life.incarnation == first or first not in [life.incarnation for life in other.directory.lives()]

    def test_who_leaves_holds_nothing(self, part: Callable[..., Directory]) -> None:
        node, other = Node(part(), "one"), Node(part(), "other")
        node.put(A, KEYS[0])
        became(lambda: self.asked(other.directory, KEYS[:1]) == [{"one"}])
        node.directory.leave()
        assert node.directory.life is None
        became(lambda: self.asked(other.directory, KEYS[:1]) == [set()])
        assert "one" not in [life.node for life in other.directory.lives()]
        node.directory.leave()
        again = Node(node.directory, "one")
        assert self.asked(again.directory, KEYS[:1]) == [set()]

    def test_whoever_asks_anew_knows_all_who_had_joined_and_none_who_had_left(
        self, part: Callable[..., Directory]
    ) -> None:
        node, reader = Node(part(), "one"), part()
        names = ["one"]
        for name in ("other", "third"):
            joined = Node(part(), name)
            names.append(name)
            for directory in (node.directory, reader):
                assert directory.refresh(soon())
                assert [life.node for life in directory.lives()] == names
        joined.directory.leave()
        assert node.directory.refresh(soon())
        assert [life.node for life in node.directory.lives()] == names[:-1]

    def test_who_was_forgotten_does_not_know_all_before_it_has_joined_again(
        self, part: Callable[..., Directory]
    ) -> None:
        node, other = Node(part(), "one"), Node(part(), "other")
        acquainted(node, other)
        other.directory.drop("one", soon())
        assert not node.directory.refresh(soon()) and other.directory.refresh(soon())
        became(lambda: stepped(node.directory) and node.directory.refresh(soon()))
        assert {life.node for life in node.directory.lives()} == {"one", "other"}

    def test_after_the_deadline_it_is_not_known_who_lives_now(self, part: Callable[..., Directory]) -> None:
        node = Node(part(), "one")
        assert not node.directory.refresh(Deadline(time.monotonic() - 1))
        assert [life.node for life in node.directory.lives()] == ["one"] and node.directory.refresh(soon())

    def test_a_dead_node_is_dropped_at_once_and_one_that_is_not_joins_again(
        self, part: Callable[..., Directory]
    ) -> None:
        node, other = Node(part(), "one"), Node(part(), "other")
        node.put(A, KEYS[0])
        became(lambda: self.asked(other.directory, KEYS[:1]) == [{"one"}])
        first = node.life.incarnation
        other.directory.drop("one", soon())
        assert [life.node for life in other.directory.lives()] == ["other"]
        assert holders(other.directory.lookup(A, KEYS[:1], soon())) == [set()]
        other.directory.drop("nobody", soon())
        became(lambda: stepped(node.directory) and self.asked(other.directory, KEYS[:1]) == [{"one"}])
        assert node.life.incarnation != first

    def test_of_two_lives_of_a_node_the_later_counts(self, part: Callable[..., Directory]) -> None:
        first, reader = Node(part(), "one"), part()
        first.put(A, KEYS[0])
        became(lambda: self.asked(reader, KEYS[:1]) == [{"one"}])
        time.sleep(0.002)
        second = Node(part(), "one")
        second.put(A, KEYS[1])
        became(lambda: stepped(second.directory) and self.asked(reader, KEYS[:2]) == [set(), {"one"}])
        assert [life.incarnation for life in reader.lives()] == [second.life.incarnation]

    def test_how_busy_a_node_is_comes_with_its_heartbeat(self, part: Callable[..., Directory]) -> None:
        node, reader = Node(part(), "one", queue=3), part()
        node.queue = 7

        def queues() -> list[int]:
            node.directory.step()
            reader.step()
            return [life.queue for life in reader.lives()]

        became(lambda: queues() == [7])

    def test_who_did_not_join_announces_nothing_and_nobody_joins_twice(self, part: Callable[..., Directory]) -> None:
        directory = part()
        for say in (directory.announce, directory.withdraw):
            with pytest.raises(InvalidArgument, match="joined"):
                say(A, KEYS)
        for node, address in (("", "a"), ("a", ""), ("a" * 256, "a"), ("a\n", "a"), ("a", "b\0")):
            with pytest.raises(InvalidArgument, match=r"^(node|address) must"):
                directory.join(node, address, set())
        directory.join("one", "one:1", set())
        with pytest.raises(InvalidArgument, match="leave"):
            directory.join("one", "one:1", set())

    def test_after_the_deadline_nothing_is_known_and_nothing_raised(self, part: Callable[..., Directory]) -> None:
        node = Node(part(), "one")
        node.put(A, KEYS[0])
        over = Deadline(time.monotonic() - 1)
        assert node.directory.lookup(A, KEYS[:2], over) == [NOWHERE] * 2
        assert total(node.directory.figures(), "directory_unasked") == 2
        assert node.directory.healthy and self.asked(node.directory, KEYS[:1]) == [{"one"}]

    def test_figures_add_up(self, part: Callable[..., Directory]) -> None:
        node, other = Node(part(), "one"), Node(part(), "other")
        acquainted(node, other)
        node.put(A, *KEYS[:4])
        other.put(A, *KEYS[:4])
        node.drop(A, *KEYS[:2])
        node.directory.lookup(A, KEYS[:6], soon())
        figures = node.directory.figures()
        told = [total(figures, f"directory_{what}") for what in ("announced", "withdrawn", "lookups", "asked", "found")]
        assert told == [4, 2, 1, 6, 4]
        assert total(figures, "directory_births") == 1 and total(figures, "directory_lives") == 2

    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_what_a_dictionary_would_be(self, part: Callable[..., Directory], seed: int) -> None:
        random, keys = Random(seed), MANY[:12]
        nodes = [Node(part(), name) for name in ("a", "b", "c")]
        acquainted(*nodes)
        model: dict[bytes, set[str]] = {key: set() for key in keys}
        for _ in range(60):
            node, some = random.choice(nodes), random.sample(keys, random.randrange(1, 6))
            name = node.life.node
            match random.choice(["put", "put", "drop", "wrong", "look"]):
                case "put":
                    node.put(A, *some)
                    for key in some:
                        model[key].add(name)
                case "drop":
                    node.drop(A, *some)
                    for key in some:
                        model[key].discard(name)
                case "wrong":
                    other = random.choice(nodes)
                    other.drop(A, *some)
                    node.directory.wrong(A, some, other.life.incarnation)
                    node.directory.step()
                    for key in some:
                        model[key].discard(other.life.node)
                case _:
                    assert holders(node.directory.lookup(A, keys, soon())) == [model[key] for key in keys]

    def test_closing_twice_is_allowed_and_then_nothing_is_known(self, part: Callable[..., Directory]) -> None:
        directory = part()
        directory.close()
        directory.close()
        assert holders(directory.lookup(A, KEYS[:1], soon())) == [set()]
        directory.step()
