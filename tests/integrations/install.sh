#!/usr/bin/env bash
# Makes the environment in which an engine runs without a GPU: install.sh ENGINE DIR [PYTHON].
# Of the engine's folder it installs libraries.txt with what they need, and requirements.txt, the engine among them,
# without what those list, most of which is for accelerators.
set -euo pipefail
engine=$1
folder=$2
python=${3:-python3.11}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

export PIP_CONSTRAINT=$root/constraints.txt
test -x "$folder/bin/python" || "$python" -m venv "$folder"
folder=$(cd "$folder" && pwd)
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
# first, so that nothing pulls a build for an accelerator
"${pip[@]}" torch numpy
"$folder/bin/python" -c "import torch; assert torch.version.cuda is None, 'this torch is not a build for the CPU'"
"${pip[@]}" -e "$root[service,hf,redis,sealing,events]" pytest pytest-timeout hypothesis
"${pip[@]}" --requirement "$here/$engine/libraries.txt"
"${pip[@]}" --no-deps --requirement "$here/$engine/requirements.txt"
# fails where the engine does not import
cd "$root"
"$folder/bin/python" -m pytest --quiet --quiet --collect-only --disable-warnings -o filterwarnings=default \
    "tests/integrations/$engine"
