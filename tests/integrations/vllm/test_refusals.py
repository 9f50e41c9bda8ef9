"""vLLM's connector refuses at the start what it does not know, and says what to do."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec

from cachestore.errors import ConfigError, Mismatch
from cachestore.integrations import vllm_layout
from cachestore.integrations.vllm_connector import CacheStoreConnector
from cachestore.integrations.vllm_layout import layer_names
from tests.integrations.vllm.engine import Make
from tests.integrations.vllm.model import Shape

pytestmark = pytest.mark.slow


def test_heads_that_cannot_be_spread_are_refused(engine: Make) -> None:
    with pytest.raises(ConfigError, match="--tensor-parallel-size 4 does not spread the 6 head groups"):
        engine(shape=Shape(kv_heads=6), ranks=4)


def test_pages_that_are_not_what_we_take_them_for_are_refused(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mismatch, match="layer 0: known K and V"):
        engine(wrong=True)
    with pytest.raises(ConfigError, match="vLLM keeps KV of 3 layers, and the model has 2: those of"):
        engine(model={"hf_overrides": {"num_hidden_layers": 2}})
    with pytest.raises(ConfigError, match="attention backend CPU_ATTN may pack its pages"):
        engine(backend="CPU_ATTN")
    with pytest.raises(ConfigError, match="kv_load_failure_policy must be 'recompute'"):
        engine(transfer={"kv_load_failure_policy": "fail"})
    with pytest.raises(ConfigError, match="block_tokens = 40 must be a multiple"):
        engine(extra={"block_tokens": 40})
    with pytest.raises(ConfigError, match="kv_connector_extra_config"):
        engine(extra={"adress": "x"})
    sliding = SlidingWindowSpec(block_size=16, num_kv_heads=1, head_size=8, dtype=torch.float32, sliding_window=64)
    groups = KVCacheConfig(8, [], [KVCacheGroupSpec(["model.layers.0.self_attn.attn"], sliding)])
    with pytest.raises(ConfigError, match="as SlidingWindowSpec, of which not every token has KV"):
        layer_names(groups)
    monkeypatch.setattr(vllm_layout.vllm, "__version__", "0.99.0")
    with pytest.raises(ConfigError, match=r"vLLM 0\.99\.0: its page layout is not known here"):
        engine()


@pytest.mark.parametrize("batches", [{"enable_dbo": True}, {"ubatch_size": 2}])
def test_layers_that_end_once_for_each_part_of_a_batch_are_not_saved_one_by_one(
    engine: Make, batches: dict[str, int]
) -> None:
    one = engine(extra={"layerwise": True})
    for name, value in batches.items():
        # vLLM itself takes them with several devices only
        setattr(one.config.parallel_config, name, value)
    with pytest.raises(ConfigError, match="layerwise: with --enable-dbo or --ubatch-size"):
        CacheStoreConnector(one.config, KVConnectorRole.WORKER, one.scheduler.kv_cache_config)


def test_staging_that_holds_no_block_is_refused(engine: Make) -> None:
    with pytest.raises(ConfigError, match=r"staging = 1024 bytes hold no block of \d+ bytes beside \d+ of loads"):
        engine(extra={"staging": "1KiB"})
