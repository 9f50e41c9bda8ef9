"""Eight users ask about one document at once: it is computed once, and eight answers stream side by side.

python examples/openai/users.py http://127.0.0.1:8000/v1 [API key]
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from openai import OpenAI

DOCUMENTS = Path(__file__).resolve().parents[1] / "needle" / "documents"


class Answered(NamedTuple):
    """What one user saw: seconds to the first token and to the last, tokens of the prompt and how many were cached."""

    text: str
    first: float
    last: float
    prompt_tokens: int
    cached_tokens: int


def ask(client: OpenAI, model: str, prompt: str) -> Answered:
    """One streamed answer."""
    begun, first, text, tokens, cached = time.perf_counter(), 0.0, "", 0, 0
    stream = client.completions.create(
        model=model, prompt=prompt, max_tokens=8, temperature=0, stop="\n", stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    for chunk in stream:
        for choice in chunk.choices:
            first = first or time.perf_counter() - begun
            text += choice.text
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            tokens, cached = chunk.usage.prompt_tokens, chunk.usage.prompt_tokens_details.cached_tokens or 0
    return Answered(text, first, time.perf_counter() - begun, tokens, cached)


def main(url: str, key: str = "none") -> None:
    """Lets all of them ask at once, and says what each of them heard and waited for."""
    client = OpenAI(base_url=url, api_key=key)
    model = next(iter(client.models.list())).id
    document = (DOCUMENTS / "harbour.txt").read_text()
    asked = json.loads((DOCUMENTS / "harbour.json").read_text())[:8]
    with ThreadPoolExecutor(len(asked)) as users:
        answers = list(users.map(lambda one: ask(client, model, document + one["question"]), asked))
    for one, answer in zip(asked, answers, strict=True):
        waited = f"first token after {answer.first:.2f} s, all after {answer.last:.2f} s"
        cached = f"{answer.cached_tokens} of {answer.prompt_tokens} prompt tokens cached"
        print(f"{answer.text!r} (written: {one['answer']}), {waited}, {cached}")


if __name__ == "__main__":
    main(*sys.argv[1:])
