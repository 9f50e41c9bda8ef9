"""The vLLM that is installed has the interfaces that our adapters were written for."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.manager import TieringOffloadingManager

from cachestore.integrations.settings import settings_from
from cachestore.integrations.vllm_connector import CacheStoreConnector
from cachestore.integrations.vllm_layout import LAYOUTS, VERSIONS
from cachestore.integrations.vllm_offloading import CacheStoreOffloadingConnector
from cachestore.integrations.vllm_settings import settings_of
from cachestore.integrations.vllm_stats import CacheStoreMetrics, CacheStoreStats
from cachestore.integrations.vllm_tier import CacheStoreTier, Lookups, TierSettings
from tests.integrations.commands import of_page, of_script
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
    assert list(differences(ours, theirs, {"forget"})) == []


def test_constructors_take_what_vllm_gives() -> None:
    for connector in (CacheStoreConnector, CacheStoreOffloadingConnector, OffloadingConnector):
        assert list(inspect.signature(connector).parameters) == ["vllm_config", "role", "kv_cache_config"]
    tier = list(inspect.signature(SecondaryTierManager).parameters)
    assert list(inspect.signature(CacheStoreTier).parameters)[: len(tier)] == tier


def test_caches_are_reset_by_the_calls_that_we_take_for_it() -> None:
    assert inspect.getsource(TieringOffloadingManager).count(".drain_jobs()") == 1
    assert "tier.drain_jobs()" in inspect.getsource(TieringOffloadingManager.reset_cache)
    assert "self.connector.reset_cache() is False" in inspect.getsource(Scheduler.reset_connector_cache)


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's own reading of the words behind `vllm serve`: its KVTransferConfig, and the rest."""
    # it looks for a device before it reads anything
    monkeypatch.setattr(type(current_platform), "device_type", "cpu")
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    return lambda words: parser.parse_args(words[2:])


def test_commands_that_are_to_be_copied_are_understood(understood: Any) -> None:
    tiers = 0
    for words in (*of_page("vllm serve"), of_script("vllm.sh", "MODEL")):
        given = understood(words)
        transfer = given.kv_transfer_config
        assert given.model_tag == "MODEL" and transfer.is_kv_producer and transfer.is_kv_consumer
        if "cachestore" not in str(transfer.kv_connector_module_path):
            continue
        classes = {CacheStoreConnector.__name__: CacheStoreConnector}
        classes[CacheStoreOffloadingConnector.__name__] = CacheStoreOffloadingConnector
        connector = classes[transfer.kv_connector]
        assert connector.__module__ == transfer.kv_connector_module_path
        if connector is CacheStoreConnector:
            assert transfer.kv_load_failure_policy == "recompute" and given.disable_hybrid_kv_cache_manager
            assert settings_of(transfer).address == "127.0.0.1:7420"
        for tier in transfer.kv_connector_extra_config.get("secondary_tiers", ()):
            assert SecondaryTierFactory.get_tier_class(tier) is CacheStoreTier
            own = {name: value for name, value in tier.items() if name not in ("type", "module_path")}
            assert settings_from(TierSettings, own, "secondary_tiers").address == "127.0.0.1:7420"
            tiers += 1
    assert tiers == 1


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
