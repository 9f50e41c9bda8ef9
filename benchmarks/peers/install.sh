#!/usr/bin/env bash
# Makes the environment of the peers: install.sh DIR [PYTHON]. No GPU is needed.
set -euo pipefail
folder=$1
python=${2:-python3.11}

# ours do not hold for them
unset PIP_CONSTRAINT
test -x "$folder/bin/python" || "$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
# first and alone, so that nothing pulls a build for an accelerator
"${pip[@]}" torch==2.13.0
"$folder/bin/python" -c "import torch; assert torch.version.cuda is None, 'this torch is not a build for the CPU'"
# without what they list: most of it is for accelerators
"${pip[@]}" --no-deps lmcache==0.5.6 mooncake-transfer-engine-non-cuda==0.3.13.post1
"${pip[@]}" --no-deps "transformers>=5.4" regex tqdm packaging
"${pip[@]}" "numpy==2.2.6" numba nvtx aiohttp httpx requests fastapi uvicorn uvloop httptools pydantic cryptography \
    msgspec pyyaml pyzmq psutil py-cpuinfo aiofile aiofiles blake3 redis hiredis sortedcontainers cachetools \
    safetensors tokenizers huggingface_hub grpcio "protobuf<7" "prometheus_client==0.24.1" \
    "opentelemetry-api==1.40.0" "opentelemetry-sdk==1.40.0" "opentelemetry-exporter-prometheus==0.61b0" \
    "opentelemetry-exporter-otlp==1.40.0"

# Mooncake is linked with the verbs library, which is no Python package; where the system has none it goes beside
# Mooncake's own libraries
if ! "$folder/bin/python" -c "import mooncake.store" 2> /dev/null; then
    libraries=$(echo "$folder"/lib/python*/site-packages/mooncake_transfer_engine_non_cuda.libs)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    (cd "$scratch" && apt-get download libibverbs1 libnl-3-200 libnl-route-3-200)
    for package in "$scratch"/*.deb; do dpkg -x "$package" "$scratch/root"; done
    find "$scratch/root" -name "*.so.*" -exec cp --no-dereference {} "$libraries" \;
    "$folder/bin/python" -c "import mooncake.store"
fi
