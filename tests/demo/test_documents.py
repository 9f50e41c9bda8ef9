"""What the demo is asked: the documents that ship with it, and files of the user's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from cachestore.demo import documents
from cachestore.demo.documents import Document, Question, from_file, needle_documents
from cachestore.errors import ConfigError


def write(folder: Path, content: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_ones_that_ship() -> None:
    shipped = needle_documents()
    assert len(shipped) >= 4
    for document in shipped:
        assert len(document.questions) == 8
        for question in document.questions:
            assert question.answer is not None and question.answer in document.text
            assert question.text.endswith(" ")


def test_without_them_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("CLONED", "INSTALLED"):
        monkeypatch.setattr(documents, place, tmp_path)
    with pytest.raises(ConfigError, match="--model and --prompts"):
        documents.needle()


def test_own_documents(tmp_path: Path) -> None:
    given = [
        {"name": "é", "document": "a text", "questions": [{"question": "what?", "answer": "a"}]},
        {"document": "another", "questions": [{"question": "why?"}, {"question": "when?", "answer": None}]},
    ]
    assert from_file(write(tmp_path, given)) == [
        Document("é", "a text", (Question("what?", "a"),)),
        Document("document 2", "another", (Question("why?", None), Question("when?", None))),
    ]


QUESTIONS = [{"question": "what?"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "a list of documents"),
        ([], "at least one"),
        ("text", "a list of documents"),
        ([3], "document 1 must be an object"),
        ([{"questions": QUESTIONS}], 'a text "document"'),
        ([{"document": 3, "questions": QUESTIONS}], 'a text "document"'),
        ([{"document": " \n", "questions": QUESTIONS}], '"document" must not be empty'),
        ([{"document": "a"}], '"questions" must be a list'),
        ([{"document": "a", "questions": []}], "at least one entry"),
        ([{"document": "a", "questions": "what?"}], '"questions" must be a list'),
        ([{"document": "a", "questions": ["what?"]}], "a question must be an object"),
        ([{"document": "a", "questions": [{"question": 1}]}], "a question must be an object"),
        ([{"document": "a", "questions": [{"question": "b", "answer": 4831}]}], "must be a text, got 4831"),
        ([{"document": "a", "questions": QUESTIONS}, {"document": "b"}], "document 2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_file(write(tmp_path, content))
    assert str(raised.value).startswith("--prompts: ") and said in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b"{'a': 1}"])
def test_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not JSON"):
        from_file(path)


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        from_file(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="directory"):
        from_file(tmp_path)
