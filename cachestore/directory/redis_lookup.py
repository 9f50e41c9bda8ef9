"""Where the blocks of a prompt are: one pipeline to each server, all of them on their way at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachestore.deadline import Deadline
from cachestore.directory.redis_entries import entry_name, grouped, logs, multi_get
from cachestore.tiers.redis_blocks import EXPIRES, cache_name, durable_name, stays
from cachestore.tiers.redis_node import Node, Unfit
from cachestore.tiers.redis_servers import Servers
from cachestore.tiers.resp_errors import Broken, Refused, checked


@dataclass(eq=False)
class Answers:
    """For each key the log of its entry, empty where there is none, and whether the Redis tier has it."""

    logs: list[bytes]
    there: list[bool]
    unasked: int = 0
    """Entries that could not be asked for."""


@dataclass(eq=False)
class _Question:
    """What one server is asked: entries, in groups, and blocks of the Redis tier, by their places in the prompt."""

    groups: list[list[int]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Lookup:
    """How to ask: whether the servers are a cluster, and of which blocks of the Redis tier, if of any."""

    servers: Servers
    clustered: bool
    cache: bool
    durable: bool

    def ask(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> Answers:
        """What the servers say by the deadline, or sooner."""
        until = self.servers.soon(2 * len(keys), deadline)
        names = [entry_name(namespace, key) for key in keys]
        head = cache_name(namespace, b"")
        blocks = [head + key.hex().encode() for key in keys] if self.cache else []
        answers = Answers([b""] * len(keys), [False] * len(keys), len(keys))
        questions = self._questions(names, keys, blocks, Deadline(until))
        exchanges = [
            self._exchange(node, until, question, names, blocks, answers) for node, question in questions.items()
        ]
        # each is sent its question before the first is waited for
        for exchange in [exchange for exchange in exchanges if self._goes_on(exchange)]:
            self._goes_on(exchange)
        return answers

    def _questions(
        self, names: Sequence[bytes], keys: Sequence[bytes], blocks: Sequence[bytes], deadline: Deadline
    ) -> dict[Node, _Question]:
        questions: dict[Node, _Question] = {}
        groups = grouped([key[0] for key in keys], self.clustered)
        for node, indices in self.servers.where([names[group[0]] for group in groups], deadline).items():
            questions.setdefault(node, _Question()).groups = [groups[index] for index in indices]
        for node, indices in self.servers.where(blocks, deadline).items():
            questions.setdefault(node, _Question()).blocks = indices
        return questions

    def _exchange(
        self,
        node: Node,
        until: float,
        question: _Question,
        names: Sequence[bytes],
        blocks: Sequence[bytes],
        answers: Answers,
    ) -> Iterator[None]:
        """First sends the question, then takes the answers."""
        asked = [blocks[index] for index in question.blocks]
        pieces = [multi_get([names[index] for index in group]) for group in question.groups]
        pieces.append(_each(b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n", asked))
        if self.durable:
            last = b"\r\n".join(b"$%d\r\n%d" % (len(b"%d" % place), place) for place in EXPIRES)
            ends = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n" + last + b"\r\n"
            pieces.append(_each(ends, [durable_name(name) for name in asked]))
        count = len(question.groups) + len(asked) * (1 + self.durable)
        with node.connection(until) as connection:
            connection.send([b"".join(pieces)])
            yield
            self._take(question, connection.answers(count), answers)
            if connection.strayed:
                self._lost()

    def _goes_on(self, exchange: Iterator[None]) -> bool:
        try:
            next(exchange)
        except StopIteration:
            return False
        except (Unfit, Broken):
            self._lost()
            return False
        return True

    def _lost(self) -> None:
        if self.servers.map is not None:
            self.servers.map.stale = True

    def _take(self, question: _Question, said: list[Any], answers: Answers) -> None:
        entries, blocks = said[: len(question.groups)], said[len(question.groups) :]
        for group, answer in zip(question.groups, entries, strict=True):
            for index, log in zip(group, logs(answer, len(group)), strict=True):
                if not isinstance(log, Refused):
                    answers.logs[index] = log or b""
                    answers.unasked -= 1
        count = len(question.blocks)
        cache, durable = blocks[:count], blocks[count:]
        if not set(map(type, cache)) <= {int}:
            cache = [checked(answer, int, Refused) for answer in cache]
        for index, answer in zip(question.blocks, cache, strict=True):
            answers.there[index] = answer == 1
        for index, answer in zip(question.blocks, durable, strict=False):
            answers.there[index] |= stays(checked(answer, bytes, Refused))


def _each(command: bytes, names: Sequence[bytes]) -> bytes:
    """This command, a form for the length of a name and the name, for each of these names of one length."""
    if not names:
        return b""
    before, _, after = (command % (len(names[0]), b"\0")).partition(b"\0")
    return before + (after + before).join(names) + after
