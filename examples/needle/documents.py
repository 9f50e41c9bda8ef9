"""Writes the six example documents and their questions below `documents/`.

A prompt is exactly the document followed by one `question` of its JSON file. The tokens of the document
are the first tokens of that prompt, so all questions about a document share its cached blocks; this is
checked here for every pair.
"""

import json
from pathlib import Path
from random import Random

from facts import HELD_OUT_SEED, make_text
from tokenizer import counter
from transformers import AutoTokenizer

TITLES = ("harbour", "railway", "market", "island", "valley", "archive")
TOKENS = 1000
QUESTIONS = 8
FIRST_SEED = 2 * HELD_OUT_SEED
"""Beyond the texts that evaluation uses."""


def main() -> None:
    """Write every document as NAME.txt and NAME.json."""
    here = Path(__file__).parent
    tokenizer = AutoTokenizer.from_pretrained(here / "model")
    count = counter(tokenizer)
    (here / "documents").mkdir(exist_ok=True)
    for number, title in enumerate(TITLES):
        document = make_text(FIRST_SEED + number, TOKENS, count)
        tokens = tokenizer.encode(document.text)
        asked = Random(FIRST_SEED + number).sample(document.facts, QUESTIONS)
        for fact in asked:
            if tokenizer.encode(document.text + fact.question())[: len(tokens)] != tokens:
                raise SystemExit(f"{title}: the tokens change when a question follows")
        questions = [{"question": fact.question(), "answer": fact.code} for fact in asked]
        (here / "documents" / f"{title}.txt").write_text(document.text, encoding="utf-8")
        (here / "documents" / f"{title}.json").write_text(json.dumps(questions, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
