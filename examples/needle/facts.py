"""Seeded texts that hide many facts between filler sentences, and the questions about them.

A fact is one sentence, "The code of station Lima is 4831."; codes are uniform over 0000..9999, so only
the text itself can tell an answer. Inside a text no name comes twice, and no two codes begin with the
same two digits: the model finds the first two digits by the name and the others by the first two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from words import DID, KINDS, LEADS, NAMES, WHEN, WHERE, WHO

TOKENS_PER_FACT = 50
"""Mean distance in tokens between two facts of a text, unless a caller asks for another one."""

HELD_OUT_SEED = 1_000_000_000
"""Seeds from here on belong to evaluation and documents; training uses only smaller ones."""


@dataclass(frozen=True)
class Fact:
    """One subject and its code of four digits."""

    kind: str
    name: str
    code: str

    def sentence(self, lead: str = "") -> str:
        """Return the sentence that states the fact, opened by `lead`."""
        opening = f"{lead}the" if lead else "The"
        return f"{opening} code of {self.kind} {self.name} is {self.code}."

    def question(self) -> str:
        """Return the complete string to append to a text so that the next tokens are the code.

        The answer opens with the words of the fact, which a small model learns to follow in minutes.
        """
        subject = f"the code of {self.kind} {self.name}"
        return f"\nQuestion: what is {subject}?\nAnswer: {subject} is "


@dataclass(frozen=True)
class FactText:
    """A text and its facts in the order in which the text states them."""

    text: str
    facts: tuple[Fact, ...]


def filler(rng: Random) -> str:
    """Return one sentence without any fact."""
    parts = [rng.choice(WHO), rng.choice(DID)]
    if rng.random() < 0.7:
        parts.append(rng.choice(WHERE))
    if rng.random() < 0.6:
        parts.append(rng.choice(WHEN))
    sentence = " ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def make_facts(rng: Random, count: int) -> list[Fact]:
    """Return `count` facts with distinct names; `count` is at most the number of names."""
    names, openings = rng.sample(NAMES, count), rng.sample(range(100), count)
    return [
        Fact(rng.choice(KINDS), name, f"{opening:02d}{rng.randrange(100):02d}")
        for name, opening in zip(names, openings, strict=True)
    ]


def make_text(
    seed: int,
    tokens: int,
    token_count: Callable[[str], int],
    tokens_per_fact: int = TOKENS_PER_FACT,
) -> FactText:
    """Return a text of `tokens` tokens, up to a few per cent.

    `token_count` tells the tokens of one sentence with its leading space. Facts lie at random places
    between the fillers; about every sixth sentence opens a new line.
    """
    rng = Random(seed)
    facts = make_facts(rng, min(len(NAMES), max(2, tokens // tokens_per_fact)))
    stated = [(fact.sentence(rng.choice(LEADS)), fact) for fact in facts]
    sentences: list[tuple[str, Fact | None]] = list(stated)
    # Each sentence may cost one token more at the start of a line.
    used = sum(token_count(f" {sentence}") + 1 for sentence, _ in stated)
    while True:
        sentence = filler(rng)
        used += token_count(f" {sentence}")
        if used > tokens:
            break
        sentences.append((sentence, None))
    rng.shuffle(sentences)
    text = sentences[0][0]
    for sentence, _ in sentences[1:]:
        text += ("\n" if rng.random() < 1 / 6 else " ") + sentence
    return FactText(text, tuple(fact for _, fact in sentences if fact is not None))
