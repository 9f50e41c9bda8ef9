"""Training batches: token rows and the positions in them that the model learns to write.

Every function takes a `Random` and returns rows of equal length; the answer positions are those the
accuracy of a stage is counted on, one group per answer.
"""

from dataclasses import dataclass
from random import Random

import torch
from facts import HELD_OUT_SEED, make_text
from tokenizer import counter
from torch import Tensor
from transformers import PreTrainedTokenizerBase

QUESTIONS = 24
"""Most questions behind one training text."""

Answers = list[list[int]]
"""For one row: for each answer the indices of its tokens."""


@dataclass(frozen=True)
class Batch:
    """Token ids [rows, length] and, for each answer, the flat indices of its tokens [answers, k]."""

    ids: Tensor
    answers: Tensor

    @staticmethod
    def of(rows: list[list[int]], answers: list[Answers], pad: int) -> "Batch":
        """Pad rows on the right; a causal model never sees the padding from an earlier token."""
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        flat = [[r * length + i for i in answer] for r, group in enumerate(answers) for answer in group]
        return Batch(ids, torch.tensor(flat))


class Batches:
    """Makes batches of each kind for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.count = counter(tokenizer)
        special = set(tokenizer.all_special_ids)
        self.ordinary = [i for i in range(len(tokenizer)) if i not in special]
        pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
        assert isinstance(pad, int) and isinstance(eos, int)
        self.pad, self.eos = pad, eos

    def copy(self, rng: Random, rows: int, length: int) -> Batch:
        """Return random sequences repeated up to `length`; every token of a repeat is an answer.

        Each row has a period of its own: with one period for all, a model looks back by a fixed
        distance and learns nothing about matching tokens.
        """
        out, answers = [], []
        for _ in range(rows):
            period = rng.randint(length // 8, length // 2)
            once = rng.choices(self.ordinary, k=period)
            out.append([once[i % period] for i in range(length)])
            # The first token of the first repeat cannot be known.
            answers.append([[i] for i in range(period + 1, length)])
        return Batch.of(out, answers, self.pad)

    def sentences(self, rng: Random, rows: int, length: int) -> Batch:
        """Return texts of an eighth of `length` to `length` tokens, each with questions about many of its facts."""
        out, answers = [], []
        for _ in range(rows):
            seed, spacing = rng.randrange(HELD_OUT_SEED), rng.choice((20, 35, 50))
            text = make_text(seed, rng.randint(length // 8, length), self.count, spacing)
            row = self.tokenizer.encode(text.text)
            places = []
            for fact in rng.sample(text.facts, min(len(text.facts), QUESTIONS)):
                row += self.tokenizer.encode(fact.question())
                answer = [*self.tokenizer.encode(fact.code), self.eos]
                places.append(list(range(len(row), len(row) + len(answer))))
                row += answer
            out.append(row)
            answers.append(places)
        return Batch.of(out, answers, self.pad)
