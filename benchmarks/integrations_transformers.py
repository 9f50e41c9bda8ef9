"""The row of `benchmarks/integrations.py` for transformers: wrong bytes in caches that were loaded.

`integrations_transformers.py ROUNDS OPERATIONS`. Batches of prompts that share prefixes are loaded, filled up with
recognisable KV and saved; no model runs.
"""

import random
import sys
from typing import Any

import torch
from integrations_store import ROOT, progress, row, served
from torch import Tensor

# the recognisable KV belongs to the tests
sys.path.insert(0, str(ROOT))

from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from cachestore.integrations.transformers import PrefixCache
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from tests.integrations.content import content, prefixes

LAYERS, HEADS, DIM = 2, 2, 16
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": HEADS,
    "head_dim": DIM,
}
CONFIGS = (LlamaConfig(**SHAPE), MistralConfig(**SHAPE, sliding_window=48))


def expected(rows: list[list[int]], width: int) -> Tensor:
    """`[layers, K/V, rows, heads, columns, dim]` of rows that end together; padding is zero."""
    whole = torch.zeros(LAYERS, 2, len(rows), HEADS, width, DIM, dtype=torch.bfloat16)
    for index, tokens in enumerate(rows):
        made = content(LAYERS, 2 * HEADS * DIM, prefixes(tokens)).view(torch.bfloat16)
        each = made.view(LAYERS, len(tokens), 2, HEADS, DIM).permute(0, 2, 3, 1, 4)
        whole[:, :, index, :, width - len(tokens) :] = each
    return whole


def wrong_loads(address: str, config: Any, operations: int) -> int:
    """Of so many loads and saves, the loads that brought a wrong byte."""
    choose, wrong = random.Random(7), 0
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    families = [choose.choices(range(3, 500), k=300) for _ in range(20)]
    with RemoteStore(address) as store:
        cache = PrefixCache(store, model, revision="random", block_tokens=16)
        for number in range(operations // 2):
            rows = [
                choose.choice(families)[: choose.randrange(1, 200)] + choose.choices(range(3, 500), k=8)
                for _ in range(choose.choice((1, 1, 1, 2, 3)))
            ]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(tokens)) + tokens for tokens in rows])
            mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rows])
            held = cache.load(ids, mask)
            whole, came = expected(rows, width), int(held.get_seq_length())
            if came:
                found = torch.stack([torch.stack((layer.keys, layer.values)) for layer in held.layers])
                same = found[..., :came, :].view(torch.int16) == whole[..., :came, :].view(torch.int16)
                wrong += not bool((same.all(-1).all(3).all(1).all(0) | (mask[:, :came] == 0)).all())
            for layer in range(LAYERS):
                held.update(*whole[layer, :, :, :, came:], layer)
            cache.save(ids, held, mask)
            if number % 1000 == 999:
                progress(f"transformers, {config.model_type}: {2 * number + 2} operations")
        figures = cache.figures()
        loaded, failed = total(figures, "loaded_tokens"), total(figures, "store_failures")
        assert loaded > operations and not failed, figures
        progress(f"transformers, {config.model_type}: {loaded} tokens loaded")
    return wrong


def main() -> None:
    """Prints the row."""
    operations = int(sys.argv[2])
    torch.set_num_threads(1)
    # so little that what was stored leaves all the time
    with served("4MiB") as address:
        row("wrong_bytes.transformers", sum(wrong_loads(address, config, operations // 2) for config in CONFIGS))


if __name__ == "__main__":
    main()
