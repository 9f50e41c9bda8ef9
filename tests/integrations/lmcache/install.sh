#!/usr/bin/env bash
# Makes the environment in which LMCache runs without a GPU: install.sh DIR [PYTHON].
set -euo pipefail
folder=$1
here=$(cd "$(dirname "$0")" && pwd)

# LMCache has its hashes from vLLM, and Python's builtin one where there is none
"$here/../vllm/install.sh" "$@"
export PIP_CONSTRAINT=$here/../../../constraints.txt
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" httpx opentelemetry-exporter-prometheus psutil pyyaml sortedcontainers uvicorn
# without what they list, most of which is for accelerators
"${pip[@]}" --no-deps --requirement "$here/requirements.txt"
"$folder/bin/python" -c "from lmcache.v1.cache_engine import LMCacheEngineBuilder"
