"""What is rendered of the chart, taken apart."""

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm"
NEEDED = ("--set", "image.repository=example.org/cachestore", "--set", "engine.model=/models/needle")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def documents(render: Run, *arguments: str, release: str = "kv") -> dict[str, Any]:
    """Rendered with the required values and these arguments; by kind, of which none may come twice."""
    done = render(*NEEDED, *arguments, release=release)
    assert done.returncode == 0, done.stderr
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    kinds = {document["kind"]: document for document in found}
    assert len(kinds) == len(found)
    return kinds


def configuration(kinds: dict[str, Any]) -> dict[str, Any]:
    return tomllib.loads(kinds["ConfigMap"]["data"]["cachestore.toml"])


def pod(kinds: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = kinds["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]
    return spec


def mounted(container: dict[str, Any], volume: str) -> str:
    (place,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume)
    assert isinstance(place, str)
    return place


def values(path: Path, **content: Any) -> tuple[str, str]:
    path.write_text(yaml.safe_dump(content))
    return "-f", str(path)
