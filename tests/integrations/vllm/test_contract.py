"""The vLLM that is installed has the interfaces that our adapters were written for."""

import ast
import inspect
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager

from cachestore.integrations.vllm_connector import CacheStoreConnector
from cachestore.integrations.vllm_layout import LAYOUTS, VERSIONS
from cachestore.integrations.vllm_stats import CacheStoreMetrics, CacheStoreStats
from cachestore.integrations.vllm_tier import CacheStoreTier, Lookups
from tests.integrations.contracts import differences

pytestmark = pytest.mark.slow

BACKENDS = Path(vllm.__file__).parent / "v1" / "attention" / "backends"
UPDATE = ["self", "layer", "key", "value", "kv_cache", "slot_mapping"]


def test_it_is_a_version_that_was_tried() -> None:
    assert vllm.__version__.split("+")[0] in VERSIONS


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (CacheStoreConnector, KVConnectorBase_V1),
        (CacheStoreTier, SecondaryTierManager),
        (Lookups, AsyncLookupManager),
        (CacheStoreStats, KVConnectorStats),
        (CacheStoreMetrics, KVConnectorPromMetrics),
    ],
)
def test_methods_are_those_that_vllm_calls(ours: type, theirs: type) -> None:
    assert list(differences(ours, theirs)) == []


def test_constructors_take_what_vllm_gives() -> None:
    assert list(inspect.signature(CacheStoreConnector).parameters) == ["vllm_config", "role", "kv_cache_config"]
    tier = list(inspect.signature(SecondaryTierManager).parameters)
    assert list(inspect.signature(CacheStoreTier).parameters)[: len(tier)] == tier


def test_layouts_have_the_axes_that_vllm_says() -> None:
    assert {layout.name: layout.layer_view_order for layout in KVCacheLayout} == LAYOUTS


@pytest.mark.parametrize("name", ["flash_attn", "flashinfer", "triton_attn", "flex_attention"])
def test_backends_write_kv_by_the_call_that_proves_their_layout(name: str) -> None:
    # their modules do not import without a GPU
    tree = ast.parse((BACKENDS / f"{name}.py").read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "do_kv_cache_update"]
    assert found, f"{name} has no do_kv_cache_update"
    for function in found:
        assert [argument.arg for argument in function.args.args] == UPDATE
