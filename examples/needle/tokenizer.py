"""Builds the tokenizer: byte-level BPE trained on generated texts, digits in pairs.

A code of four digits is two tokens. With four tokens a small model goes on after the third digit as some
other code with this digit at this place does.

Any text can be encoded (the alphabet is all 256 bytes) and decoded again unchanged. No token is added
in front or behind; `<eos>` ends an answer.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random

from facts import make_text
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from words import KINDS, NAMES

VOCABULARY = 1024
PAD, EOS = "<pad>", "<eos>"


def corpus() -> Iterator[str]:
    """Yield texts and questions that hold every word often enough to become one token each."""
    for seed in range(200):
        yield make_text(seed, 2000, lambda sentence: len(sentence.split()) + 4).text
    rng = Random(0)
    for name in NAMES * 20:
        kind, code = rng.choice(KINDS), f"{rng.randrange(10_000):04d}"
        yield f"\nQuestion: what is the code of {kind} {name}?\nAnswer: {code}"


def build() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same words give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]{1,2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], int]:
    """Return a function that tells the number of tokens of a sentence and remembers it."""

    @lru_cache(maxsize=100_000)
    def count(sentence: str) -> int:
        return len(tokenizer.encode(sentence))

    return count
