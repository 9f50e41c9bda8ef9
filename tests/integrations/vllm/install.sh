#!/usr/bin/env bash
# Makes the environment in which vLLM's scheduler runs without a GPU: install.sh DIR [PYTHON].
set -euo pipefail
folder=$1
python=${2:-python3.11}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)

export PIP_CONSTRAINT=$root/constraints.txt
test -x "$folder/bin/python" || "$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
# first, so that nothing pulls a build for an accelerator
"${pip[@]}" torch numpy
"$folder/bin/python" -c "import torch; assert torch.version.cuda is None, 'this torch is not a build for the CPU'"
"${pip[@]}" -e "$root[service,hf,redis,sealing,events]" pytest pytest-timeout hypothesis
"${pip[@]}" fastapi uvicorn openai httpx aiohttp requests uvloop watchfiles msgpack jsonschema pillow \
    prometheus_client opentelemetry-sdk
"${pip[@]}" --no-deps --requirement "$here/requirements.txt"
"$folder/bin/python" -c "from vllm.v1.core.sched.scheduler import Scheduler"
