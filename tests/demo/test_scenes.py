"""What the demo reports of answers that differ, and what it makes of a gateway that gives none."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from cachestore.demo import scenes
from cachestore.demo.asking import Asked, Asker, accuracy
from cachestore.demo.documents import Document, Question
from cachestore.demo.run import Report
from cachestore.errors import Unavailable
from cachestore.metrics import Figure

ASKED = Asked("harbour", "what?", 100, 64, 5.0, " 12 ", True)
DOCUMENT = Document("harbour", "text", (Question("what?", "12"),))
USAGE = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}


def report(**changes: Any) -> Mapping[str, Any]:
    runs: dict[str, Any] = {name: [ASKED, ASKED] for name in ("first", "warm", "cold", "redis")}
    figures = [Figure("read_hits", (("purpose", "reuse"), ("tier", "cpu")), 7)]
    whole = runs | dict(redis_blocks=3, killed=scenes.Killed("decode-a", [ASKED, ASKED], 5), figures=figures)
    return Report(**(whole | changes)).as_json()


def test_identical_means_everywhere() -> None:
    assert report()["identical_tokens"] is True
    other = [ASKED, replace(ASKED, text="13")]
    for name in ("first", "warm", "cold", "redis"):
        assert report(**{name: other})["identical_tokens"] is False
    assert report(killed=scenes.Killed("decode-a", other, 5))["identical_tokens"] is False


def test_what_is_reused_is_counted_over_all_runs_with_the_cache() -> None:
    told = report(first=[replace(ASKED, reused=0)] * 2, cold=[replace(ASKED, reused=0, first_token_ms=9.0)] * 2)
    assert (told["prompt_tokens"], told["tokens_reused"], told["reused_share"]) == (800, 6 * 64, 0.48)
    assert (told["ttft_cold_ms_p50"], told["ttft_warm_ms_p50"]) == (9.0, 5.0)
    assert told["hits_by_tier"] == {"cpu": 7} and told["moved_requests"] == 5


def test_accuracy_counts_what_is_known() -> None:
    assert accuracy([ASKED, replace(ASKED, right=False), replace(ASKED, right=None)]) == 0.5
    assert accuracy([replace(ASKED, right=None)]) is None


@contextmanager
def answering(status: int, *events: Any) -> Iterator[Asker]:
    """An asker of a server that answers every question so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, json.dumps({"data": [{"id": "tiny"}]}))

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._say(status, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")

        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    asked: list[Any] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield Asker(f"http://127.0.0.1:{server.server_port}")
            assert all(body["model"] == "tiny" and body["temperature"] == 0 for body in asked)
        finally:
            server.shutdown()


def test_an_answer_is_what_its_events_say() -> None:
    with answering(
        200, {"choices": [{"text": " 1"}]}, {"choices": [{"text": "2 "}]}, {"choices": [], "usage": USAGE}
    ) as asker:
        one = asker.ask(DOCUMENT, DOCUMENT.questions[0])
    assert one.first_token_ms > 0 and replace(one, first_token_ms=5.0) == ASKED


@pytest.mark.parametrize(
    ("status", "event", "said"), [(503, {}, "503"), (200, {"error": {"message": "lost"}}, "gave up: lost")]
)
def test_no_answer_is_an_error(status: int, event: Any, said: str) -> None:
    with answering(status, event) as asker, pytest.raises(Unavailable, match=said):
        asker.ask(DOCUMENT, DOCUMENT.questions[0])


def test_nobody_there(free_tcp_port: int) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Asker(f"http://127.0.0.1:{free_tcp_port}")
