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
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose

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
def answering(status: int, *events: Any, busy: int = 0) -> Iterator[Asker]:
    """An asker of a server that answers every question so, but for the first ones while it is `busy`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = json.dumps({"data": [{"id": "tiny"}]})
            self._say(200, "cachestore_gateway_workers 2\n" if self.path == "/metrics" else models)

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if len(asked) <= busy:
                self._say(503, "later", {"Retry-After": "0"})
                return
            self._say(status, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")

        def _say(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
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


@pytest.mark.parametrize("busy", [0, 2])
def test_an_answer_is_what_its_events_say(busy: int) -> None:
    """Also of a gateway that says to come back first."""
    events = {"choices": [{"text": " 1"}]}, {"choices": [{"text": "2 "}]}, {"choices": [], "usage": USAGE}
    with answering(200, *events, busy=busy) as asker:
        one = asker.ask(DOCUMENT, DOCUMENT.questions[0])
    assert one.first_token_ms > 0 and replace(one, first_token_ms=5.0) == ASKED


@pytest.mark.parametrize(
    ("status", "event", "said"), [(503, {}, "503"), (200, {"error": {"message": "lost"}}, "gave up: lost")]
)
def test_no_answer_is_an_error(status: int, event: Any, said: str) -> None:
    with answering(status, event) as asker, pytest.raises(Unavailable, match=said):
        asker.ask(DOCUMENT, DOCUMENT.questions[0])


def test_another_worker_is_waited_for_where_one_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        compose({}) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
        RemoteStore(server.address) as store,
        answering(200) as asker,
    ):
        told = [Member("decode", name, "127.0.0.1:1", "here", name.encode()) for name in ("lost", "left", "new")]
        for member in told:
            store.register(member, 60.0)
        monkeypatch.setattr(scenes, "REPLACE_SECONDS", 0.0)
        with pytest.raises(Unavailable, match="no other decode worker"):
            scenes.await_replaced(asker, [store], "lost", 2)
        store.register(told[0], 0.0)
        scenes.await_replaced(asker, [store], "lost", 2)
        with pytest.raises(Unavailable, match="left, new"):
            scenes.await_replaced(asker, [store], "lost", 3)


def test_nobody_there(free_tcp_port: int) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Asker(f"http://127.0.0.1:{free_tcp_port}")
