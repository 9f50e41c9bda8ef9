"""A model of some 100 M parameters with random weights.

What it says means nothing; what its first token costs does: the needle model is so small that computing a prompt and
fetching it take much the same time.
"""

from pathlib import Path


def make(tokenizer_of: str, into: Path, positions: int) -> int:
    """Writes the model beside a copy of the tokenizer of `tokenizer_of`; how many parameters it has.

    It takes prompts of up to `positions` tokens.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    return sum(parameter.numel() for parameter in model.parameters())
