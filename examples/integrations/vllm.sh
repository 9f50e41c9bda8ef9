#!/usr/bin/env bash
# vLLM with the store as its KV connector: vllm.sh MODEL [ADDRESS]. Start `cachestore serve` first.
set -euo pipefail
model=$1
address=${2:-127.0.0.1:7420}

exec vllm serve "$model" --disable-hybrid-kv-cache-manager --kv-transfer-config '{
  "kv_connector": "CacheStoreConnector", "kv_connector_module_path": "cachestore.integrations.vllm_connector",
  "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
  "kv_connector_extra_config": {"address": "'"$address"'"}}'
