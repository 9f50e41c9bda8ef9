#!/usr/bin/env bash
# SGLang with the store behind its hierarchical cache: sglang.sh MODEL [ADDRESS]. Start `cachestore serve` first.
set -euo pipefail
model=$1
address=${2:-127.0.0.1:7420}

exec python -m sglang.launch_server --model-path "$model" --page-size 64 --enable-hierarchical-cache \
  --hicache-mem-layout page_first --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
    "backend_name": "cachestore", "module_path": "cachestore.integrations.sglang",
    "class_name": "CacheStoreBackend", "interface_v1": 1, "address": "'"$address"'"}'
