"""The LMCache that is installed has the interfaces that our adapters were written for."""

import argparse
import dataclasses
import inspect
from importlib.metadata import version

import pytest

pytest.importorskip("lmcache", reason="LMCache is not installed here: make integrations")

from lmcache.cli.commands import register_commands
from lmcache.utils import CacheEngineKey
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters import plugin_l2_adapter
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.health_monitor.checks.remote_backend_check import RemoteBackendHealthCheck
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
from lmcache.v1.token_database import ChunkedTokenDatabase

from cachestore.integrations.lmcache_connector import PROBE, CacheStoreAdapter, CacheStoreConnector
from cachestore.integrations.lmcache_l2 import CacheStoreL2Adapter
from cachestore.integrations.lmcache_settings import named_settings
from tests.integrations.commands import of_page, of_script
from tests.integrations.contracts import differences

pytestmark = pytest.mark.slow


def test_it_is_a_version_that_was_tried() -> None:
    assert version("lmcache") == "0.5.6"


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (CacheStoreConnector, RemoteConnector),
        (CacheStoreAdapter, ConnectorAdapter),
        (CacheStoreL2Adapter, L2AdapterInterface),
    ],
)
def test_methods_are_those_that_lmcache_calls(ours: type, theirs: type) -> None:
    assert list(differences(ours, theirs, {"figures"})) == []


def test_constructors_take_what_lmcache_gives() -> None:
    assert list(inspect.signature(CacheStoreL2Adapter).parameters) == ["adapter_params", "l1_memory_desc"]
    source = inspect.getsource(plugin_l2_adapter._create_plugin_adapter)
    assert "adapter_cls(\n        config.adapter_params," in source and 'kwargs["l1_memory_desc"]' in source


def test_what_is_called_of_lmcache_is_there() -> None:
    assert list(inspect.signature(LocalCPUBackend.allocate).parameters) == [
        *("self", "shapes", "dtypes", "fmt", "eviction", "busy_loop")
    ]
    assert list(inspect.signature(ChunkedTokenDatabase._get_vllm_hash_func).parameters) == ["self", "hash_algorithm"]
    context = list(inspect.signature(ConnectorContext).parameters)
    assert context == ["url", "loop", "local_cpu_backend", "config", "metadata", "plugin_name"]


def test_nothing_of_an_engine_but_the_name_of_its_model_is_told() -> None:
    known = {
        *("model_name", "served_model_name", "world_size", "local_world_size", "worker_id", "local_worker_id"),
        *("kv_dtype", "kv_shape", "use_mla", "role", "chunk_size", "kv_layer_groups_manager", "engine_id"),
        "kv_connector_extra_config",
    }
    # if more: does it name the weights?
    assert {field.name for field in dataclasses.fields(LMCacheMetadata)} == known


def test_keys_say_no_more_than_ours_do() -> None:
    fields = ["model_name", "world_size", "worker_id", "chunk_hash", "dtype", "request_configs"]
    assert list(inspect.signature(CacheEngineKey).parameters) == fields
    objects = ["chunk_hash", "model_name", "kv_rank", "object_group_id", "cache_salt"]
    assert list(inspect.signature(ObjectKey).parameters) == objects


def test_the_health_check_uses_the_key_that_is_known_as_its() -> None:
    source = inspect.getsource(RemoteBackendHealthCheck._resource_manager)
    assert f'model_name="{PROBE[0]}"' in source and f"chunk_hash={PROBE[1]}" in source


def test_the_servers_command_that_is_to_be_copied_is_understood() -> None:
    (of_the_page,) = of_page("lmcache server")
    for words in (of_the_page, of_script("lmcache_server.sh", "one")):
        parser = argparse.ArgumentParser()
        register_commands(parser.add_subparsers(dest="command"), words[1:])
        given = parser.parse_args(words[1:])
        (plugin,) = parse_args_to_l2_adapters_config(given).adapters
        assert (plugin.module_path, plugin.class_name) == (CacheStoreL2Adapter.__module__, CacheStoreL2Adapter.__name__)
        assert named_settings(plugin.adapter_params, "adapter_params").address == "127.0.0.1:7420"
