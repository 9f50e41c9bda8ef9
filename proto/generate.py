"""Generates `cachestore/wire/` from the contracts beside this file; `--check` only compares.

The stubs come from one old, pinned compiler, because generated code refuses a runtime older than its compiler: those of
grpcio-tools 1.71.2 load under protobuf 5, 6 and 7. That compiler cannot live beside the project's own grpcio, so it
gets a throw-away environment.
"""

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

COMPILER = ("grpcio-tools==1.71.2", "setuptools<81")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCES = sorted(str(path.relative_to(HERE)) for path in HERE.rglob("*.proto"))
SERVICES = [source for source in SOURCES if re.search(r"^service ", (HERE / source).read_text(), re.MULTILINE)]
"""Those that gRPC's part is generated for; for the others there would be an empty one."""


def generate(into: Path, scratch: Path) -> None:
    """Compiles every contract into the package tree below `into`."""
    venv.create(scratch / "venv", with_pip=True)
    python = scratch / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *COMPILER], check=True)
    command = [python, "-W", "ignore", "-m", "grpc_tools.protoc", f"-I{HERE}"]
    subprocess.run([*command, f"--python_out={into}", f"--pyi_out={into}", *SOURCES], check=True)
    subprocess.run([*command, f"--grpc_python_out={into}", *SERVICES], check=True)


def generated(root: Path) -> dict[str, str]:
    """The generated files below `root`, by name."""
    return {path.name: path.read_text() for path in (root / "cachestore" / "wire").glob("*_pb2*")}


def main() -> int:
    """Exit status 1 when `--check` finds that the committed stubs are not those of the contracts."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if "--check" not in sys.argv[1:]:
            generate(ROOT, scratch)
            return 0
        (scratch / "out").mkdir()
        generate(scratch / "out", scratch)
        if generated(scratch / "out") != generated(ROOT):
            print("cachestore/wire/ differs from proto/; run: make proto", file=sys.stderr)
            return 1
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
