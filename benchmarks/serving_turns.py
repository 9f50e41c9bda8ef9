"""The row of `serving.py` about conversations: is anything computed that was computed before?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from report import Report
from serving_model import MIDDLE, made
from serving_processes import system, timed

from cachestore.block import BlockSpec
from cachestore.engine.model import model_spec, tokenizer
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import chain
from cachestore.metrics import total
from decode_worker.client import DecodeClient

if TYPE_CHECKING:
    from serving import Options

DATA = "sharegpt.json"
TOKENIZER = Path(__file__).resolve().parent.parent / "examples" / "needle" / "model"
LONGEST = 4096
"""Tokens of a conversation."""

STORE = '[[tiers]]\nname = "cpu"\ncapacity = "3GiB"\n'
BATCH = '[batch]\nmemory = "48MiB"\n'
"""Pages for some six conversations: what a worker does not have itself, the store must give."""

USERS = 8
WORKERS = 2
ANSWER = 32
"""Tokens of an answer at most: what answers take is measured elsewhere."""


class Turn(NamedTuple):
    """What a user adds to the conversation so far, and how long the answer is."""

    tokens: list[int]
    output: int


def conversations(place: Path, encode: Any) -> list[list[Turn]]:
    """An entry's text is a prompt; one that goes on from another's is the next turn of the same conversation."""
    entries = sorted((str(entry["input"]), int(entry["output_length"])) for entry in json.loads(place.read_text()))
    found: list[list[Turn]] = []
    last = ""
    for text, output in entries:
        if not last or not text.startswith(last):
            found.append([])
            last = ""
        ids: list[int] = encode(text[len(last) :])["input_ids"]
        found[-1].append(Turn(ids, max(1, min(output, ANSWER))))
        last = text
    return found


class Seen:
    """Which blocks were computed before, by anybody."""

    def __init__(self, spec: BlockSpec) -> None:
        self._spec = spec
        self._keys: set[bytes] = set()
        self._lock = Lock()

    def must(self, tokens: list[int]) -> int:
        """How many of these tokens lie behind the whole blocks that were computed before."""
        keys = chain(self._spec, tokens).keys
        with self._lock:
            known = next((at for at, key in enumerate(keys) if key not in self._keys), len(keys))
        return len(tokens) - known * self._spec.block_tokens

    def add(self, tokens: list[int]) -> None:
        """All of these were computed."""
        with self._lock:
            self._keys.update(chain(self._spec, tokens).keys)


@dataclass
class Talking:
    """Users who lead their conversations through the workers, each turn through another one than the turn before."""

    workers: Sequence[DecodeClient]
    seen: Seen
    must: int = 0
    prompts: int = 0
    turns: int = 0
    _lock: Lock = field(default_factory=Lock)

    def lead(self, number: int, conversation: Sequence[Turn]) -> None:
        """One conversation, as far as it goes: the answers stay in it."""
        tokens: list[int] = []
        for place, turn in enumerate(conversation):
            tokens += turn.tokens
            if len(tokens) + turn.output > LONGEST:
                return
            must = self.seen.must(tokens)
            worker = self.workers[(number + place) % len(self.workers)]
            answer = timed(worker, tokens, turn.output)
            with self._lock:
                self.must += must
                self.prompts += len(tokens)
                self.turns += 1
            tokens += answer.tokens
            # the last token is drawn, and nobody needed its KV
            self.seen.add(tokens[:-1])


def measure_turns(report: Report, options: Options) -> None:
    """Row `serving.recompute`: eight users at a time, two decode workers, one store."""
    place = options.data / DATA if options.data else None
    if place is None or not place.is_file():
        report.skip("serving.recompute", f"no {DATA} (--data DIR)")
        return
    found = conversations(place, tokenizer(EngineSettings(str(TOKENIZER))))[: 4 if options.quick else None]
    with made(MIDDLE) as model, system(model) as started:
        store = started.store(STORE)
        workers = [started.decode(store, BATCH) for _ in range(WORKERS)]
        talking = Talking(workers, Seen(model_spec(EngineSettings(str(model)))))
        with ThreadPoolExecutor(USERS) as users:
            for done in [users.submit(talking.lead, number, one) for number, one in enumerate(found)]:
                done.result()
        figures = [figure for worker in workers for figure in worker.stats()]
    computed = total(figures, "computed_tokens") + total(figures, "recomputed_tokens")
    report.add("serving.recompute", computed / talking.must, "of never seen", "lower", bar=1.05, reach=1.01)
    report.add("serving.recompute.computed", computed, "tokens", "lower")
    report.add("serving.recompute.reused", 1 - computed / talking.prompts, "of prompt tokens")
    report.add("serving.recompute.turns", talking.turns, "turns")
