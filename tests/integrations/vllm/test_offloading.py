"""vLLM's OffloadingConnector, made by its scheduler, with our tier: the tier is told which KV the model computes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from vllm.config import VllmConfig
from vllm.config.lora import LoRAConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from cachestore.errors import ConfigError
from cachestore.integrations.vllm_offloading import tier_revision
from cachestore.integrations.vllm_revision import model_revision
from cachestore.integrations.vllm_tier import CacheStoreTier
from tests.integrations.conftest import Served
from tests.integrations.vllm.model import PAGE_TOKENS, Shape, config_of

pytestmark = pytest.mark.slow

PAGES = 8
Tier = Callable[..., CacheStoreTier]


def config(directory: Path, address: str = "", revision: str = "", **model: Any) -> VllmConfig:
    tier = {"type": "CacheStoreTier", "module_path": "cachestore.integrations.vllm_tier", "address": address}
    transfer = {
        "kv_connector": "CacheStoreOffloadingConnector",
        "kv_connector_module_path": "cachestore.integrations.vllm_offloading",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "TieringOffloadingSpec",
            "cpu_bytes_to_use": 1 << 20,
            "secondary_tiers": [{**tier, "revision": revision}],
        },
    }
    made = config_of(directory, Shape(), PAGES, 256, transfer, **model)
    made.cache_config.kv_cache_layout = "LBNHC"
    return made


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Connectors."""
    connectors: list[Any] = []
    yield connectors
    for each in connectors:
        each.shutdown()


@pytest.fixture
def tier(served: Served, tmp_path: Path, made: list[Any]) -> Tier:
    def make(revision: str = "", **model: Any) -> CacheStoreTier:
        shape = Shape()
        names = [f"model.layers.{layer}.self_attn.attn" for layer in range(shape.layers)]
        heads = {"num_kv_heads": shape.kv_heads, "head_size": shape.head_dim, "dtype": shape.dtype}
        spec = FullAttentionSpec(block_size=PAGE_TOKENS, **heads)
        caches = KVCacheConfig(PAGES, [], [KVCacheGroupSpec(names, spec)])
        given = config(tmp_path, served.address, revision, **model)
        before = str(given.kv_transfer_config)
        made.append(KVConnectorFactory.create_connector(given, KVConnectorRole.SCHEDULER, caches))
        # what the user said stays as it was
        assert str(given.kv_transfer_config) == before
        found: CacheStoreTier = made[-1].connector_scheduler.manager.secondary_tiers[0]
        return found

    return make


def test_the_tier_is_named_as_the_model_is(tier: Tier, tmp_path: Path) -> None:
    plain = tier()._spec
    assert plain.revision == model_revision(config(tmp_path), "")
    assert tier(hf_overrides={"rms_norm_eps": 0.1})._spec.revision not in (plain.revision, "")
    assert tier("mine", hf_overrides={"rms_norm_eps": 0.1})._spec.revision.startswith("mine {")
    assert tier("mine")._spec.revision == "mine"


def test_a_reset_of_vllms_connector_reaches_the_tier(tier: Tier, made: list[Any]) -> None:
    found = tier("mine")
    for _ in range(2):
        before = found._pages.spec
        made[-1].reset_cache()
        assert found._pages.spec != before and found._pages.spec.revision.startswith("mine ")
        assert found._spec.revision == "mine"


def test_what_a_tier_is_not_told_otherwise_is_in_its_revision(tmp_path: Path) -> None:
    def fp8(made: VllmConfig) -> None:
        made.model_config.quantization = "fp8"

    def quantised(made: VllmConfig) -> None:
        made.cache_config.cache_dtype = "fp8"

    def some(made: VllmConfig) -> None:
        made.cache_config.kv_cache_dtype_skip_layers = ["0"]

    def states(made: VllmConfig) -> None:
        made.cache_config.mamba_ssm_cache_dtype = "float32"

    def drafts(made: VllmConfig) -> None:
        draft = config(tmp_path / "draft").model_config
        made.speculative_config = SimpleNamespace(method="eagle", draft_model_config=draft)  # type: ignore[assignment]

    found = [tier_revision(config(tmp_path / "model"), "")]
    for change in (fp8, quantised, some, states, drafts):
        made = config(tmp_path / "model")
        change(made)
        found.append(tier_revision(made, ""))
    assert len(set(found)) == 6


def test_adapters_need_a_revision(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.lora_config = LoRAConfig(max_lora_rank=8)
    with pytest.raises(ConfigError, match="revision: with LoRA give a name"):
        tier_revision(made, "")
    assert tier_revision(made, "one") == "one"
