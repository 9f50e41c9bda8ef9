"""What the demo reports of a kill, and of answers that differ."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cachestore.demo import scenes
from cachestore.demo.asking import Asked, accuracy
from cachestore.demo.documents import Document, Question
from cachestore.demo.run import Report

ASKED = Asked("harbour", "what?", 100, {"cpu": 64}, 5.0, (1, 2), "12", True, "prefill-a")
DOCUMENTS = [Document(name, name, (Question("what?", "12"), Question("why?", "12"))) for name in ("harbour", "island")]


class Ray:
    """Stands for cluster, store and asker: each request is seen at work or not, and killed in time or not."""

    store_address, fingerprint = "store", b"spec"

    def __init__(self, seen: list[bool], in_time: list[bool]) -> None:
        self.seen, self.in_time = seen, in_time
        self.asked: list[str] = []
        self.killed: list[str] = []

    def clear(self) -> None:
        pass

    def ask_and_kill(self, *arguments: Any) -> tuple[str, Asked]:
        document = arguments[-1]
        self.asked.append(document.name)
        if not self.seen.pop(0):
            return "", ASKED
        worker = f"prefill-{len(self.killed)}"
        self.killed.append(worker)
        return worker, replace(ASKED, prefilled_by="prefill-other" if self.in_time.pop(0) else worker)


@contextmanager
def staged(monkeypatch: pytest.MonkeyPatch, seen: list[bool], in_time: list[bool]) -> Iterator[Ray]:
    ray = Ray(seen, in_time)
    monkeypatch.setattr(scenes, "_ask_and_kill", ray.ask_and_kill)
    monkeypatch.setattr(scenes, "await_workers", lambda *arguments: None)
    monkeypatch.setattr(scenes, "_await_gone", lambda *arguments: None)
    yield ray


def kill(ray: Any) -> scenes.Killed | None:
    return scenes.kill_prefill(SimpleNamespace(), "cachestore", ray, ray, DOCUMENTS)  # type: ignore[arg-type]


def test_a_request_that_was_over_too_soon_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(monkeypatch, [False, True], [True]) as ray:
        killed = kill(ray)
    assert killed is not None
    assert (killed.worker, killed.document.name) == ("prefill-0", "island")


def test_a_kill_behind_the_work_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(monkeypatch, [True, True], [False, True]) as ray:
        killed = kill(ray)
    assert killed is not None and killed.worker == "prefill-1" and len(ray.killed) == 2


def test_no_kill_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(monkeypatch, [False] * 4, []) as ray:
        assert kill(ray) is None
    assert ray.asked == ["harbour", "island"] * 2 and ray.killed == []


def test_it_does_not_kill_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(monkeypatch, [True] * 4, [False] * 4) as ray:
        assert kill(ray) is None
    assert len(ray.killed) == scenes.MOST_KILLS


def report(**changes: Any) -> Mapping[str, Any]:
    warm = [replace(ASKED, document=document.name) for document in DOCUMENTS for _ in document.questions]
    killed = scenes.Killed("prefill-a", DOCUMENTS[1], ASKED)
    times = scenes.FirstTokens(100, 20.0, 10.0, True)
    whole: dict[str, Any] = dict(
        documents=DOCUMENTS, warm=warm, cold=list(warm), redis=ASKED, killed=killed, first_tokens=times, figures=[]
    )
    return Report(**(whole | changes)).as_json()


def test_identical_means_everywhere() -> None:
    other = replace(ASKED, tokens=(9,))
    assert report()["identical_tokens"] is True
    assert report(warm=[other] * 4)["identical_tokens"] is False
    assert report(redis=other)["identical_tokens"] is False
    assert report(killed=scenes.Killed("prefill-a", DOCUMENTS[1], other))["identical_tokens"] is False
    assert report(first_tokens=scenes.FirstTokens(100, 20.0, 10.0, False))["identical_tokens"] is False
    # each is compared with the answer to its own question
    cold = [ASKED, ASKED, other, other]
    assert report(warm=cold, cold=cold)["identical_tokens"] is False
    assert report(warm=cold, cold=cold, killed=scenes.Killed("a", DOCUMENTS[1], other))["identical_tokens"] is True


def test_without_a_kill() -> None:
    told = report(killed=None)
    assert told["killed_worker"] is None and told["right_after_kill"] is None and told["identical_tokens"] is True


def test_accuracy_counts_what_is_known() -> None:
    assert accuracy([ASKED, replace(ASKED, right=False), replace(ASKED, right=None)]) == 0.5
    assert accuracy([replace(ASKED, right=None)]) is None
