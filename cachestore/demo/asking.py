"""One question to the gateway, and what it took: any client of OpenAI's interface would ask the same."""

import http.client
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cachestore.demo.documents import Document, Question
from cachestore.errors import Unavailable

ANSWER_TOKENS = 8
TIMEOUT = 120.0


@dataclass(frozen=True)
class Asked:
    """One answered question. Of `prompt_tokens`, `reused` were not computed for it; the time is in milliseconds."""

    document: str
    question: str
    prompt_tokens: int
    reused: int
    first_token_ms: float
    text: str
    right: bool | None

    @property
    def answer(self) -> str:
        """The text on one line."""
        return " ".join(self.text.split())


@dataclass
class Asker:
    """Asks the gateway at `url` about the one model that it serves. Many threads may ask at once."""

    url: str
    model: str = field(init=False)

    def __post_init__(self) -> None:
        with self._answer("GET", "/v1/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def ask(self, document: Document, question: Question, *, cache: bool = True) -> Asked:
        """One answer, greedily, as a stream; without `cache` all of the prompt is computed.

        Unavailable if the gateway gives none.
        """
        body = {
            "model": self.model, "prompt": document.text + question.text, "max_tokens": ANSWER_TOKENS, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}, "cache": cache,
        }  # fmt: skip
        begun, first, text = time.perf_counter(), 0.0, ""
        usage: dict[str, Any] = {}
        with self._answer("POST", "/v1/completions", body) as answer:
            for event in _events(answer):
                first = first or 1000 * (time.perf_counter() - begun)
                text += "".join(choice["text"] for choice in event["choices"])
                usage = event.get("usage") or usage
        right = None if question.answer is None else text.strip() == question.answer
        lines = question.text.strip().splitlines()
        return Asked(
            document.name, lines[0] if lines else "", usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"], first, text, right,
        )  # fmt: skip

    def figure(self, name: str) -> int:
        """One of the gateway's figures, over all labels."""
        with self._answer("GET", "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        named = [line for line in lines if line.partition(" ")[0].partition("{")[0] == f"cachestore_gateway_{name}"]
        return sum(int(float(line.rpartition(" ")[2])) for line in named)

    def _answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> http.client.HTTPResponse:
        """The answer; where the gateway says when to come back, this does, as clients of OpenAI's do."""
        until = time.monotonic() + TIMEOUT
        while True:
            answer = self._once(method, path, body)
            if answer.status == 200:
                return answer
            said, after = answer.read().decode(errors="replace"), answer.getheader("Retry-After")
            if after is None or time.monotonic() >= until:
                raise Unavailable(f"the gateway answers {answer.status}: {said}")
            time.sleep(float(after))

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return connection.getresponse()
        except OSError as error:
            raise Unavailable(f"the gateway at {self.url} does not answer: {error}") from error


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in answer:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise Unavailable(f"the gateway gave up: {event['error']['message']}")
        yield event


def accuracy(asked: Sequence[Asked]) -> float | None:
    """The share of right answers among those whose right answer is known."""
    known = [one.right for one in asked if one.right is not None]
    return sum(known) / len(known) if known else None


def first_token_ms(asked: Sequence[Asked]) -> float:
    """The median time to the first token."""
    return statistics.median(one.first_token_ms for one in asked)


def same_text(first: Sequence[Asked], second: Sequence[Asked]) -> bool:
    """Whether both runs of the same questions had the same answers, to the letter."""
    return [one.text for one in first] == [one.text for one in second]
