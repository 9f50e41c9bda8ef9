"""Generation from the store equals generation without it, for every kind of layer that can be kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, MambaConfig

from cachestore.demo.documents import needle, needle_documents
from cachestore.errors import ConfigError, InvalidArgument, Unavailable, UnsupportedModel
from cachestore.hashing import Chain
from cachestore.integrations.transformers import PrefixCache, cached_generate
from cachestore.metrics import total
from cachestore.store.base import Lookup
from cachestore.store.tiered import TieredStore
from tests.engine.models import CONFIGS, SHAPE

SIZE = 16
NEW = 4


def made(name: str, seed: int = 7) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[name]()).eval().requires_grad_(False)


def prompt(tokens: int, seed: int = 3) -> Tensor:
    return torch.randint(3, 97, (1, tokens), generator=torch.Generator().manual_seed(seed))


def batch(*rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows padded on the left, and their mask."""
    width = max(row.shape[1] for row in rows)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - row.shape[1] :] = row
        mask[index, width - row.shape[1] :] = 1
    return ids, mask


def cold(model: Any, ids: Tensor, mask: Tensor | None = None, new: int = NEW) -> Tensor:
    mask = torch.ones_like(ids) if mask is None else mask
    output: Tensor = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)
    return output


def warm(cache: PrefixCache, ids: Tensor, mask: Tensor | None = None, new: int = NEW) -> Tensor:
    output: Tensor = cache.generate(ids, mask, max_new_tokens=new, do_sample=False)
    return output


def loaded(cache: PrefixCache) -> int:
    return total(cache.figures(), "loaded_tokens")


def check(name: str, tiered: TieredStore) -> None:
    model, store = made(name), tiered.namespace("default")
    cache = PrefixCache(store, model, revision="random", block_tokens=SIZE)
    ids = prompt(100)
    expected = cold(model, ids)
    assert torch.equal(warm(cache, ids), expected)
    assert loaded(cache) == 0
    assert torch.equal(warm(PrefixCache(store, made(name), revision="random", block_tokens=SIZE), ids), expected)
    # another prompt that goes on from the same prefix, in a batch with a shorter one and a strange one
    rows = batch(torch.cat((ids[:, :80], prompt(30, 5)), 1), ids[:, :70], prompt(90, 9))
    assert torch.equal(warm(cache, *rows), cold(model, *rows))
    assert torch.equal(warm(cache, *rows), cold(model, *rows))
    # at first up to where the strange row begins, then up to where the blocks of the first row to end do
    assert loaded(cache) == 20 + (96 + (96 - 40) + (96 - 20))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_generates_the_same_tokens_cold_and_from_the_store(name: str, tiered: TieredStore) -> None:
    config = CONFIGS[name]()
    if getattr(config, "num_kv_shared_layers", 0) and not hasattr(config, "kv_sharing_modes"):
        pytest.skip("layers that share KV need transformers 5.23")
    check(name, tiered)


@pytest.mark.slow
def test_answers_questions_about_a_document_that_was_read_once(tiered: TieredStore) -> None:
    model = AutoModelForCausalLM.from_pretrained(needle() / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(needle() / "model")
    cache = PrefixCache(tiered.namespace("default"), model)
    document = next(document for document in needle_documents() if document.name == "harbour")
    for question in document.questions[:6]:
        ids = tokenizer(document.text + question.text, return_tensors="pt")["input_ids"]
        output = warm(cache, ids, new=8)
        assert torch.equal(output, cold(model, ids, new=8))
        assert tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True) == question.answer
    assert loaded(cache) > 0.7 * total(cache.figures(), "load_tokens")


def test_a_store_that_fails_costs_the_prefix_and_nothing_else(tiered: TieredStore) -> None:
    class Down:
        def lookup(self, chain: Chain, *, timeout: float) -> Lookup:
            raise Unavailable("nobody is there")

    model, ids = made("llama"), prompt(40)
    store: Any = Down()
    cache = PrefixCache(store, model, revision="random", block_tokens=SIZE)
    assert torch.equal(warm(cache, ids), cold(model, ids))
    for operation in ("load", "save"):
        assert total(cache.figures(), "store_failures", operation=operation, reason="unavailable") == 1


def test_what_cannot_be_kept_is_refused_by_name(tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    with pytest.raises(UnsupportedModel, match="recurrent"):
        config = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)
        PrefixCache(store, AutoModelForCausalLM.from_config(config), revision="random")
    model = made("mistral")
    with pytest.raises(ConfigError, match="revision: nothing says which weights"):
        PrefixCache(store, model)
    # whatever a hub's cache holds of it, this may be another revision
    model.config._name_or_path = "company/model"
    with pytest.raises(ConfigError, match="revision: nothing says which weights 'company/model' has"):
        PrefixCache(store, model)
    cache, ids = PrefixCache(store, model, revision="random", block_tokens=SIZE), prompt(100)
    forgetful = model(ids, use_cache=True).past_key_values
    with pytest.raises(UnsupportedModel, match="layer 0 of the cache holds 31 of 100 columns"):
        cache.save(ids, forgetful)
    assert cache.load(ids).get_seq_length() == 0


def test_transformers_whose_caches_forget_is_refused(tiered: TieredStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    with pytest.raises(ConfigError, match=r"transformers 5\.17\.0: .*use 5\.18 or newer"):
        PrefixCache(tiered.namespace("default"), made("llama"), revision="random")


def test_arguments_that_cannot_be_meant_are_refused(tiered: TieredStore) -> None:
    cache = PrefixCache(tiered.namespace("default"), made("llama"), revision="random", block_tokens=SIZE)
    ids, mask = batch(prompt(20), prompt(12))
    with pytest.raises(InvalidArgument, match="attention_mask: give the tokenizer's"):
        cache.load(ids)
    mask[0, 5] = 0
    with pytest.raises(InvalidArgument, match="attention_mask: row 0 must be padding, then tokens"):
        cache.load(ids, mask)
    with pytest.raises(InvalidArgument, match="input_ids must be"):
        cache.load(ids[0])
    with pytest.raises(InvalidArgument, match="num_beams must be 1"):
        cache.generate(ids, num_beams=2)
    with pytest.raises(InvalidArgument, match="num_beams must be 1"):
        cache.generate(ids, generation_config=GenerationConfig(num_beams=2))
    beams = made("llama")
    beams.generation_config.num_beams = 2
    with pytest.raises(InvalidArgument, match="num_beams must be 1"):
        # which transformers takes for what this configuration leaves open
        PrefixCache(tiered.namespace("default"), beams, revision="random").generate(
            ids, generation_config=GenerationConfig(max_new_tokens=2)
        )
    for name, value in (
        ("use_cache", False), ("prompt_lookup_num_tokens", 3), ("cache_implementation", "static"),
        ("position_ids", ids), ("inputs_embeds", ids), ("pixel_values", ids), ("assistant_model", ids),
        ("max_new_token", 3), ("output_hidden_states", True), ("output_attentions", True),
    ):  # fmt: skip
        with pytest.raises(InvalidArgument, match=name):
            cache.generate(ids, **{name: value})


def test_the_cache_that_a_models_own_settings_name_gives_way(tiered: TieredStore) -> None:
    model, ids = made("gemma2"), prompt(70)
    expected = cold(model, ids)
    cache = PrefixCache(tiered.namespace("default"), model, revision="random", block_tokens=SIZE)
    for kind in ("hybrid", "static", "dynamic", "offloaded"):
        model.generation_config.cache_implementation = kind
        assert torch.equal(warm(cache, ids), expected)
        copied = GenerationConfig(cache_implementation=kind, max_new_tokens=NEW, do_sample=False)
        assert torch.equal(cache.generate(ids, generation_config=copied), expected)
        with pytest.raises(InvalidArgument, match="cache_implementation must be None: the store fills the cache"):
            cache.generate(ids, cache_implementation=kind)
    assert loaded(cache) > 0
    model.generation_config.cache_implementation = "quantized"
    with pytest.raises(InvalidArgument, match=r"set model\.generation_config\.cache_implementation = None"):
        warm(cache, ids)
    assert torch.equal(cache.generate(ids, cache_implementation=None, max_new_tokens=NEW, do_sample=False), expected)


def test_a_cache_of_other_rows_is_not_saved(tiered: TieredStore) -> None:
    model, ids = made("llama"), prompt(40)
    cache = PrefixCache(tiered.namespace("default"), model, revision="random", block_tokens=SIZE)
    with pytest.raises(InvalidArgument, match="input_ids must be a tensor"):
        cache.generate([[1, 2]])  # type: ignore[arg-type]
    beams = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache.load(ids), num_beams=3,
                           max_new_tokens=20, return_dict_in_generate=True)  # fmt: skip
    with pytest.raises(InvalidArgument, match="the cache holds 3 rows, but input_ids 1"):
        cache.save(beams.sequences, beams.past_key_values)
    model.requires_grad_(True)
    past = cache.load(ids)
    model(ids, past_key_values=past)
    assert cache.save(ids, past) == 2


def test_other_weights_share_nothing(tiered: TieredStore) -> None:
    store, ids = tiered.namespace("default"), prompt(40)
    warm(PrefixCache(store, made("llama"), revision="one", block_tokens=SIZE), ids, new=2)
    assert PrefixCache(store, made("llama", 8), revision="two", block_tokens=SIZE).load(ids).get_seq_length() == 0
    assert PrefixCache(store, made("llama"), revision="one", block_tokens=SIZE).load(ids).get_seq_length() == 32


def test_what_follows_the_end_of_a_row_is_not_stored(tiered: TieredStore) -> None:
    model = made("llama")
    cache = PrefixCache(tiered.namespace("default"), model, revision="random", block_tokens=4)
    ids = prompt(16)
    first = int(cold(model, ids, new=1)[0, -1])
    cache.generate(ids, max_new_tokens=12, do_sample=False)
    blocks = total(cache.figures(), "saved_blocks")
    assert blocks == (16 + 11) // 4
    model.generation_config.eos_token_id = first
    rows, mask = batch(ids, prompt(16, 5))
    output = cache.generate(rows, mask, max_new_tokens=12, do_sample=False)
    # the first row ended at once and added nothing, the other is new; the last token has no KV
    assert total(cache.figures(), "saved_blocks") == blocks + (output.shape[1] - 1) // 4
    assert output[0, 16] == first


def test_one_line_for_a_model_from_a_directory(tiered: TieredStore, tmp_path: Path) -> None:
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).save_pretrained(tmp_path)
    model, store, ids = AutoModelForCausalLM.from_pretrained(tmp_path), tiered.namespace("default"), prompt(70)
    expected = cold(model, ids, new=2)
    for _ in range(2):
        assert torch.equal(cached_generate(store, model, ids, max_new_tokens=2, do_sample=False), expected)
    assert PrefixCache(store, model).load(ids).get_seq_length() == 64
