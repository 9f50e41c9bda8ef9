"""When a sequence ends, and what of its text may be shown before that is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cachestore.errors import InvalidArgument

MOST_STOPS = 16
LONGEST_STOP = 256
REPLACEMENT = "�"
"""What a tokenizer shows for bytes that are no whole character yet."""


class Finish(StrEnum):
    """Why a sequence ended: at a stop token or string, or at its most tokens."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Stop:
    """Where a request ends: after `max_tokens` tokens, with one of `tokens`, or before one of `strings` in its text.

    The token or string that ends it is not part of the text.
    """

    max_tokens: int
    tokens: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidArgument(f"max_tokens must be at least 1, got {self.max_tokens}")
        if len(self.strings) > MOST_STOPS or not all(1 <= len(each) <= LONGEST_STOP for each in self.strings):
            raise InvalidArgument(f"stop must be at most {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")


@dataclass
class Stopping:
    """The text and the end of one sequence. `decode` makes text of tokens; `text` is what may be shown so far.

    Text that may be the beginning of a stop string, or of a character, is held back until the next tokens tell.
    """

    stop: Stop
    decode: Callable[[Sequence[int]], str]
    text: str = ""
    finish: Finish | None = None
    tokens: list[int] = field(default_factory=list)
    _whole: str = ""
    _settled: int = 0
    _known: int = 0

    def add(self, token: int) -> str:
        """Takes the next token; the text that may be shown now. Nothing more may be added once `finish` is set."""
        if self.finish is not None:
            raise InvalidArgument(f"the sequence has ended already: {self.finish}")
        self.tokens.append(token)
        ended = token in self.stop.tokens
        last = ended or len(self.tokens) >= self.stop.max_tokens
        self._extend(len(self.tokens) - ended, last)
        shown = self._shown(last)
        if self.finish is None and last:
            self.finish = Finish.STOP if ended else Finish.LENGTH
        more, self.text = shown[len(self.text) :], shown
        return more

    def _extend(self, end: int, last: bool) -> None:
        """Decodes the tokens up to `end` that are not text yet, behind those before them: they change how these read.

        A character that is not whole waits for the next tokens, unless this is the last.
        """
        before = self.decode(self.tokens[self._settled : self._known])
        text = self.decode(self.tokens[self._settled : end])
        if last or not text.endswith(REPLACEMENT):
            self._whole += text[len(before) :]
            self._settled, self._known = self._known, end

    def _shown(self, last: bool) -> str:
        ends = [at for each in self.stop.strings if (at := self._whole.find(each, len(self.text))) >= 0]
        if ends:
            self.finish = Finish.STOP
            return self._whole[: min(ends)]
        if last:
            return self._whole
        return self._whole[: len(self._whole) - self._held()]

    def _held(self) -> int:
        """How many characters at the end may begin a stop string."""
        longest = 0
        for string in self.stop.strings:
            for length in range(min(len(string) - 1, len(self._whole)), longest, -1):
                if self._whole.endswith(string[:length]):
                    longest = length
                    break
        return longest
