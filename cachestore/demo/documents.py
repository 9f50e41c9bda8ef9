"""What is asked: texts, and questions with the answers they should get."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachestore.errors import ConfigError

INSTALLED = Path(sys.prefix) / "share" / "kv-cachestore" / "needle"
CLONED = Path(__file__).parents[2] / "examples" / "needle"


@dataclass(frozen=True)
class Question:
    """The text to append to the document, and the right answer where one is known."""

    text: str
    answer: str | None


@dataclass(frozen=True)
class Document:
    """One text and its questions. The prompt is the text and the question, one behind the other."""

    name: str
    text: str
    questions: tuple[Question, ...]


def needle() -> Path:
    """The folder of the needle model and its documents: in a clone, or where the package was installed."""
    for place in (CLONED, INSTALLED):
        if (place / "model" / "config.json").exists():
            return place
    raise ConfigError("the needle model is not here; run from a clone, or name a model with --model and --prompts")


def needle_documents() -> list[Document]:
    """The documents that ship with the needle model."""
    return [
        Document(path.stem, path.read_text(), _questions(json.loads(path.with_suffix(".json").read_text()), path.stem))
        for path in sorted((needle() / "documents").glob("*.txt"))
    ]


def from_file(path: Path) -> list[Document]:
    """Documents of the user's own: a JSON list of {"name", "document", "questions": [{"question", "answer"}]}.

    `name` and `answer` may be left out.
    """
    try:
        listed = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--prompts: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--prompts: {path} is not JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"--prompts: {path} must hold a list of documents, and at least one")
    documents = []
    for number, entry in enumerate(listed):
        where = f"--prompts: document {number + 1}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("document"), str):
            raise ConfigError(f'{where} must be an object with a text "document" and a list "questions"')
        if not entry["document"].strip():
            raise ConfigError(f'{where}: "document" must not be empty')
        name = str(entry.get("name", f"document {number + 1}"))
        documents.append(Document(name, entry["document"], _questions(entry.get("questions"), where)))
    return documents


def _questions(listed: Any, where: str) -> tuple[Question, ...]:
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f'{where}: "questions" must be a list with at least one entry')
    questions = []
    for entry in listed:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("question"), str):
            raise ConfigError(f'{where}: a question must be an object with a text "question"')
        answer = entry.get("answer")
        if not isinstance(answer, str | None):
            raise ConfigError(f'{where}: an "answer" must be a text, got {answer!r}; leave it out if you know none')
        questions.append(Question(entry["question"], answer))
    return tuple(questions)
