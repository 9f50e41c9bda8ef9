"""Words of the domain and numbers of the wire, two ways; an unknown number is the caller's mistake."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Generic, TypeVar

from cachestore.errors import InvalidArgument
from cachestore.store.base import Durability, Purpose, PutStatus, Verdict
from cachestore.wire import store_pb2 as wire

Number = TypeVar("Number", bound=int)
Word = TypeVar("Word", bound=StrEnum)


class Words(Generic[Number, Word]):
    """One enum on both sides; `field` is its name in messages."""

    def __init__(self, field: str, words: dict[Number, Word]) -> None:
        self._field = field
        self._words: dict[int, Word] = {int(number): word for number, word in words.items()}
        self._numbers = {word: number for number, word in words.items()}

    def word(self, number: int) -> Word:
        """The word that a number of the wire means."""
        try:
            return self._words[number]
        except KeyError:
            known = ", ".join(f"{key} ({word})" for key, word in self._words.items())
            raise InvalidArgument(f"{self._field} = {number} is unknown; use one of {known}") from None

    def words(self, numbers: Iterable[int]) -> list[Word]:
        """The words of several."""
        numbers = list(numbers)
        known = {number: self.word(number) for number in set(numbers)}
        return [known[number] for number in numbers]

    def numbers(self, words: Iterable[Word]) -> list[Number]:
        """The numbers of several."""
        words = list(words)
        known = {word: self.number(word) for word in set(words)}
        return [known[word] for word in words]

    def number(self, word: Word) -> Number:
        """The number that stands for a word on the wire; InvalidArgument for one that nobody sends."""
        if word not in self._numbers:
            raise InvalidArgument(f"{self._field} = {word} is not for callers; use one of {', '.join(self._numbers)}")
        return self._numbers[word]


PURPOSE = Words("purpose", {wire.REUSE: Purpose.REUSE, wire.HANDOFF: Purpose.HANDOFF})
DURABILITY = Words("durability", {wire.CACHE: Durability.CACHE, wire.DURABLE: Durability.DURABLE})
VERDICT = Words("verdicts", {wire.USED: Verdict.USED, wire.FOUND_CORRUPT: Verdict.CORRUPT, wire.UNREAD: Verdict.UNREAD})
PUT_STATUS = Words(
    "answers.status",
    {
        wire.WANTED: PutStatus.WANTED,
        wire.STORED: PutStatus.STORED,
        wire.ALREADY_EXISTS: PutStatus.ALREADY_EXISTS,
        wire.IN_PROGRESS: PutStatus.IN_PROGRESS,
        wire.KEPT_FIRST: PutStatus.KEPT_FIRST,
        wire.NOT_KEPT: PutStatus.NOT_KEPT,
        wire.FAILED: PutStatus.FAILED,
    },
)
