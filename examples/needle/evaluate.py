"""Measures how many questions about held-out texts the model answers exactly, with transformers only.

Each text gets one question about a fact at a random place in it. The answer is what greedy decoding
writes before `<eos>`, compared with the four digits of the fact.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import torch
from facts import HELD_OUT_SEED, make_text
from tokenizer import counter
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

ANSWER_TOKENS = 8
"""Most tokens a model may write; a right answer takes three, the last one being `<eos>`."""


@dataclass(frozen=True)
class Needle:
    """A model of the needle family and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, directory: Path) -> "Needle":
        """Load both from `directory`; the weights are used as 32-bit floats."""
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        return cls(model.eval(), AutoTokenizer.from_pretrained(directory))

    @torch.inference_mode()
    def answer(self, prompt: str) -> str:
        """Return what the model writes behind `prompt`, up to and without `<eos>`."""
        inputs = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        written: str = self.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return written


def right_answers(directory: Path, numbers: range, tokens: int) -> int:
    """Return how many of the held-out texts with these numbers get the right answer; runs in a worker."""
    # Two workers of one thread each are faster than one worker of two, above all on a busy machine.
    torch.set_num_threads(1)
    disable_progress_bar()
    needle = Needle.load(directory)
    count = counter(needle.tokenizer)
    right = 0
    for number in numbers:
        seed = HELD_OUT_SEED + number
        text = make_text(seed, tokens, count)
        fact = Random(seed).choice(text.facts)
        right += needle.answer(text.text + fact.question()) == fact.code
    return right


def measure(pool: ProcessPoolExecutor, workers: int, directory: Path, texts: int, tokens: int) -> float:
    """Return the share of `texts` held-out texts of `tokens` tokens whose question is answered."""
    shares = [range(first, texts, workers) for first in range(workers)]
    return sum(pool.map(partial(right_answers, directory, tokens=tokens), shares)) / texts


def main() -> None:
    """Print a table, or one JSON object with --json."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=here / "model", help="directory of the model")
    parser.add_argument("--texts", type=int, default=500, help="texts per length")
    parser.add_argument("--lengths", default="256,1000,2000", help="tokens per text, with commas between")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    accuracy: dict[str, float] = {}
    if not options.json:
        print(f"{'tokens':>8}  {'right':>7}   ({options.texts} held-out texts each)")
    workers = min(os.cpu_count() or 1, 8)
    # Started afresh, since the threads of torch do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for length in options.lengths.split(","):
            accuracy[length] = measure(pool, workers, options.model, options.texts, int(length))
            if not options.json:
                print(f"{length:>8}  {accuracy[length]:>7.1%}", flush=True)
    if options.json:
        print(json.dumps({"accuracy": accuracy, "texts": options.texts}))


if __name__ == "__main__":
    main()
