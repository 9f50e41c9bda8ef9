"""One question, and what it took."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cachestore.demo.documents import Document, Question
from cachestore.errors import Unavailable
from cachestore.service.client import RemoteStore
from decode_worker.client import DecodeClient
from prefill_worker.prompt import CacheUse

ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Asked:
    """One answered question. `reused` counts prompt tokens by the tier they came from; times are in milliseconds."""

    document: str
    question: str
    prompt_tokens: int
    reused: Mapping[str, int]
    first_token_ms: float
    tokens: tuple[int, ...]
    answer: str
    right: bool | None
    prefilled_by: str


class Asker:
    """Asks the decode workers of one model in turn, through the cluster map of the store."""

    def __init__(
        self, store: RemoteStore, address: str, fingerprint: bytes, tokenizer: Any, max_tokens: int = ANSWER_TOKENS
    ) -> None:
        self._store = store
        self.store_address = address
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._turn = 0

    def prompt(self, document: Document, question: Question) -> list[int]:
        """The token ids of a document with a question behind it."""
        ids: list[int] = self._tokenizer.encode(document.text + question.text)
        return ids

    def ask(self, document: Document, question: Question, cache: CacheUse = CacheUse.READ_AND_WRITE) -> Asked:
        """Asks the next decode worker."""
        prompt = self.prompt(document, question)
        _, members = self._store.members("decode")
        workers = [member for member in members if member.fingerprint == self.fingerprint]
        if not workers:
            raise Unavailable("no decode worker of this model is in the cluster map")
        self._turn += 1
        with DecodeClient(workers[self._turn % len(workers)].address) as client:
            started = time.perf_counter()
            first = 0.0
            tokens: list[int] = []
            with client.generate(prompt, max_tokens=self._max_tokens, cache=cache) as answer:
                for token in answer:
                    first = first or 1000 * (time.perf_counter() - started)
                    tokens.append(token)
                usage = answer.usage
        assert usage is not None
        text = self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        right = None if question.answer is None else text == question.answer
        return Asked(
            document.name,
            next(iter(question.text.strip().splitlines()), ""),
            len(prompt),
            dict(usage.reuse.reused),
            first,
            tuple(tokens),
            text,
            right,
            usage.prefilled_by,
        )


def accuracy(asked: Sequence[Asked]) -> float | None:
    """The share of right answers among those whose right answer is known."""
    known = [one.right for one in asked if one.right is not None]
    return sum(known) / len(known) if known else None
