"""Where triton is not installed, or only a CPU is there; in a process of its own."""

import os
import subprocess
import sys


def run(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment | variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_without_triton() -> None:
    """The package works without triton, and fused on CPU without the interpreter is refused, not tried."""
    run(
        "-c",
        "import sys, torch; sys.modules['triton'] = None\n"
        "from cachestore_kernels.paged import gather\n"
        "pool = torch.ones(1, 1, 1, 8); page = torch.tensor([0])\n"
        "assert gather([pool], [pool], page).sum() == 16\n"
        "del sys.modules['triton']\n"
        "try: gather([pool], [pool], page, method='fused')\n"
        "except ValueError as error: assert 'TRITON_INTERPRET=1' in str(error)\n"
        "else: raise SystemExit('compiled on a CPU')\n",
    )
