#!/usr/bin/env bash
# LMCache's server with the store behind it: lmcache_server.sh REVISION [ADDRESS]. REVISION names the weights and every
# setting of vLLM's that changes KV, and changes with them; LMCache sees neither. Start `cachestore serve` first, and then
#   vllm serve MODEL --kv-transfer-config '{"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}'
set -euo pipefail
revision=$1
address=${2:-127.0.0.1:7420}

exec lmcache server --l1-size-gb 20 --eviction-policy LRU --l2-adapter '{"type": "plugin",
  "module_path": "cachestore.integrations.lmcache_l2", "class_name": "CacheStoreL2Adapter",
  "adapter_params": {"address": "'"$address"'", "revision": "'"$revision"'"}}'
