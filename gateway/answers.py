"""Answers as OpenAI writes them: whole, or as chunks of server-sent events."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from gateway.text import Chance, Choice, Piece, Told

DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(body) + b"\n\n"


def usage(choices: Sequence[Choice], each: int) -> dict[str, Any]:
    """Tokens of all choices together, of which so many come from `each` prompt: it is counted once.

    `cached_tokens` are those of a prompt that its first choice did not have to compute.
    """
    prompts = choices[::each]
    prompt = sum(len(choice.asked.tokens) for choice in prompts)
    made = sum(choice.count for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(choice.cached for choice in prompts)},
    }


@dataclass
class Completions:
    """Answers of /v1/completions."""

    model: str
    prefix = "cmpl"
    kind = kind_of_chunk = "text_completion"
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(16)}"

    def whole(self, pieces: Sequence[Sequence[Piece]], used: dict[str, Any]) -> dict[str, Any]:
        """The answer, of what each choice was made of."""
        choices = [self.choice(index, made) for index, made in enumerate(pieces)]
        return {**self._head(self.kind), "choices": choices, "usage": used}

    def beginning(self, choices: int) -> Iterator[dict[str, Any]]:
        """Chunks before the first token."""
        return iter(())

    def chunk(self, index: int, piece: Piece, at: int) -> dict[str, Any]:
        """What one token adds to the choice `index`, `at` characters into it."""
        return {**self._head(self.kind_of_chunk), "choices": [self.delta(index, piece, at)]}

    def last(self, used: dict[str, Any]) -> dict[str, Any]:
        """The chunk with the usage alone."""
        return {**self._head(self.kind_of_chunk), "choices": [], "usage": used}

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """One whole choice."""
        text = "".join(piece.text for piece in pieces)
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(pieces, 0),
            "finish_reason": pieces[-1].finish or None,
        }

    def delta(self, index: int, piece: Piece, at: int) -> dict[str, Any]:
        """One choice's part of a chunk."""
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs([piece], at),
            "finish_reason": piece.finish or None,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, pieces: Sequence[Piece], at: int) -> dict[str, Any] | None:
        told = [piece.told for piece in pieces if piece.told is not None]
        if not told:
            return None
        offsets = []
        for each in told:
            offsets.append(at)
            at += len(each.drawn.text)
        return {
            "tokens": [each.drawn.text for each in told],
            "token_logprobs": [each.drawn.logprob for each in told],
            "top_logprobs": [{chance.text: chance.logprob for chance in (*each.top, each.drawn)} for each in told],
            "text_offset": offsets,
        }


@dataclass
class Chats(Completions):
    """Answers of /v1/chat/completions."""

    prefix = "chatcmpl"
    kind, kind_of_chunk = "chat.completion", "chat.completion.chunk"

    def beginning(self, choices: int) -> Iterator[dict[str, Any]]:
        for index in range(choices):
            delta = {"role": "assistant", "content": "", "refusal": None}
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**self._head(self.kind_of_chunk), "choices": [choice]}

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        content = "".join(piece.text for piece in pieces)
        return {
            "index": index,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": self._logprobs(pieces, 0),
            "finish_reason": pieces[-1].finish or None,
        }

    def delta(self, index: int, piece: Piece, at: int) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text or not piece.finish else {},
            "logprobs": self._logprobs([piece], at),
            "finish_reason": piece.finish or None,
        }

    def _logprobs(self, pieces: Sequence[Piece], at: int) -> dict[str, Any] | None:
        told = [piece.told for piece in pieces if piece.told is not None]
        return {"content": [_entry(each) for each in told], "refusal": None} if told else None


def _entry(told: Told) -> dict[str, Any]:
    return {**_chance(told.drawn), "top_logprobs": [_chance(chance) for chance in told.top]}


def _chance(chance: Chance) -> dict[str, Any]:
    return {"token": chance.text, "logprob": chance.logprob, "bytes": chance.bytes}
