"""The chart, rendered by Helm, or where Helm is missing by a small program in Go that imitates it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helm.rendering import CHART, Run

PROGRAM = Path(__file__).parent / "render" / "main.go"
GOPATH = Path("/usr/share/gocode")
PACKAGES = "golang-go golang-github-masterminds-sprig-dev golang-gopkg-yaml.v3-dev"


@pytest.fixture(scope="session")
def imitation(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the Go program, built from Debian's library sources without any network."""
    go = shutil.which("go")
    libraries = [GOPATH / "src" / name for name in ("github.com/Masterminds/sprig", "gopkg.in/yaml.v3")]
    if go is None or not all(library.is_dir() for library in libraries):
        pytest.skip(f"rendering needs Helm, or on Debian: apt-get install {PACKAGES}")
    program = tmp_path_factory.mktemp("render") / "render"
    offline = dict(GO111MODULE="off", GOPATH=str(GOPATH), GOFLAGS="", CGO_ENABLED="0")
    subprocess.run([go, "build", "-o", program, PROGRAM], env=os.environ | offline, check=True, timeout=110)

    def run(*arguments: str, release: str = "kv") -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [program, *arguments, release, CHART]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    return run


@pytest.fixture(scope="session")
def render(request: pytest.FixtureRequest) -> Run:
    helm = shutil.which("helm")
    if helm is None:
        imitation: Run = request.getfixturevalue("imitation")
        return imitation

    def run(*arguments: str, release: str = "kv") -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [helm, "template", release, CHART, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run
