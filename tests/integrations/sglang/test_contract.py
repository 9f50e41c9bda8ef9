"""The SGLang that is installed has the interfaces that our backend was written for."""

import dataclasses
import inspect
import json
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed here: make integrations")

from sglang.srt.arg_groups.fields.lora import Lora
from sglang.srt.arg_groups.fields.model import Model
from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.mem_cache import pool_host
from sglang.srt.mem_cache.hicache_storage import STORAGE_BATCH_SIZE, HiCacheStorage, HiCacheStorageConfig
from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
from sglang.srt.mem_cache.pool_host import mha, mla
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory
from sglang.srt.server_args import ServerArgs

from cachestore.integrations.sglang import CacheStoreBackend
from cachestore.integrations.sglang_host import LAYOUTS
from cachestore.integrations.sglang_naming import ENGINE_KEYS, HiCacheSettings
from cachestore.integrations.sglang_pages import MOST_KEYS
from tests.integrations.contracts import differences

pytestmark = pytest.mark.slow

READ = {"tp_rank", "tp_size", "pp_rank", "pp_size", "attn_cp_rank", "attn_cp_size", "is_mla_model"}


def test_methods_are_those_that_sglang_calls() -> None:
    assert list(differences(CacheStoreBackend, HiCacheStorage, {"figures", "close"})) == []
    # of backends that have it
    assert 'hasattr(self.storage_backend, "close")' in inspect.getsource(HiCacheController)


def test_the_constructor_takes_what_the_factory_gives() -> None:
    assert "backend_class(storage_config, kwargs)" in inspect.getsource(StorageBackendFactory._create_dynamic_backend)
    assert list(inspect.signature(CacheStoreBackend).parameters) == ["storage_config", "kwargs"]


def test_settings_have_what_the_spec_is_made_of() -> None:
    fields = {field.name for field in dataclasses.fields(HiCacheStorageConfig)}
    assert READ | {"should_split_heads", "enable_storage_metrics", "extra_config"} <= fields
    assert "model_path" in Model.__struct_fields__
    assert {"enable_lora", "lora_paths"} <= set(Lora.__struct_fields__)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_host_pools_have_what_pages_are_taken_by(kind: str) -> None:
    pool = getattr(mha, kind, None) or getattr(mla, kind)
    assert issubclass(pool, pool_host.HostKVCache)
    assert list(inspect.signature(pool.get_page_buffer_meta).parameters) == ["self", "indices"]
    assert list(inspect.signature(pool.get_data_page).parameters) == ["self", "index", "flat"]
    assert list(inspect.signature(pool.set_from_flat_data_page).parameters) == ["self", "index", "data_page"]
    assert list(inspect.signature(pool.alloc).parameters) == ["self", "need_size"]


@pytest.mark.parametrize("page", ["docs/integrations.md", "examples/integrations/sglang.sh"])
def test_the_command_that_is_to_be_copied_is_understood(page: str) -> None:
    text = (Path(__file__).parents[3] / page).read_text()
    command = text.partition("sglang.launch_server")[2].partition("}'")[0].replace("\\\n", " ") + "}'"
    parser = ArgumentParser()
    ServerArgs.add_cli_args(parser)
    given = parser.parse_args(shlex.split(command))
    extra = json.loads(given.hicache_storage_backend_extra_config)
    assert given.enable_hierarchical_cache and given.hicache_storage_backend == "dynamic"
    assert (extra["module_path"], extra["class_name"]) == (CacheStoreBackend.__module__, CacheStoreBackend.__name__)
    assert given.hicache_mem_layout in LAYOUTS["MHATokenToKVPoolHost"] and extra["interface_v1"] == 1
    assert extra.keys() <= ENGINE_KEYS | {field.name for field in dataclasses.fields(HiCacheSettings)}


def test_batches_fit_into_one_call() -> None:
    assert STORAGE_BATCH_SIZE <= MOST_KEYS


def test_the_keys_of_the_table_that_sglang_takes_out_are_those_we_know() -> None:
    source = inspect.getsource(HybridCacheController.parse_storage_backend_extra_config)
    assert source.count("extra_config.pop(") == 4
