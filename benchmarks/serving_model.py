"""The model of the serving benchmarks: a Llama with random weights, large enough that computing is what takes time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

VOCABULARY = 8192
POSITIONS = 8192
Shape = dict[str, int]
LARGE: Shape = dict(
    hidden_size=640, intermediate_size=2560, num_hidden_layers=8, num_attention_heads=10, num_key_value_heads=2
)
"""52 million parameters in fp32; a token's KV takes 8 KiB."""

MIDDLE: Shape = dict(
    hidden_size=320, intermediate_size=1280, num_hidden_layers=5, num_attention_heads=5, num_key_value_heads=1
)
"""10 million, for hundreds of thousands of tokens; to compute a block still takes longer than to fetch it."""

TINY: Shape = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
)


@contextmanager
def made(shape: Shape) -> Iterator[Path]:
    """The model's directory, for as long as the context lasts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    with TemporaryDirectory(prefix="cachestore-bench-") as folder:
        model: Any = LlamaForCausalLM(config)
        model.save_pretrained(folder)
        yield Path(folder)


def prompt(random: Random, tokens: int) -> list[int]:
    """A prompt that nobody has seen."""
    return [random.randrange(VOCABULARY) for _ in range(tokens)]
