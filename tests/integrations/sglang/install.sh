#!/usr/bin/env bash
# Makes the environment in which SGLang's cache controller runs without a GPU: install.sh DIR [PYTHON].
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
"${pip[@]}" aiohttp msgspec pillow psutil pygments pyzmq requests starlette triton uvloop
"${pip[@]}" --no-deps --requirement "$here/requirements.txt"
(cd "$root" && "$folder/bin/python" - <<'EOF'
from tests.integrations.sglang.operators import declare

declare()
from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
EOF
)
