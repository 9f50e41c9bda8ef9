"""examples/ray-cluster.yaml says what the store understands, and its parts fit together."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachestore import settings
from cachestore.cli import main
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.stores import asks, refuse_embedded
from cachestore.config import build
from cachestore.service.settings import ServiceSettings

PLACE = Path(__file__).parents[2] / "examples" / "ray-cluster.yaml"
FILES = "cachestore-files"


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    text = PLACE.read_text()
    for number, name in enumerate(("DIGEST-OF-PEER-TOKEN", "DIGEST-OF-ADMIN-TOKEN")):
        assert name in text
        text = text.replace(name, f"{number}" * 64)
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def tables(documents: list[Any]) -> dict[str, Any]:
    return tomllib.loads(documents[0]["stringData"]["cachestore.toml"])


def told() -> list[list[str]]:
    """The commands at the head of the file."""
    head = PLACE.read_text().partition("apiVersion")[0].replace("\\\n#", "")
    return [shlex.split(line[4:], comments=True) for line in head.splitlines() if line.startswith("#   ")]


def pods(cluster: Any) -> list[Any]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_its_configuration_is_one_for_several_nodes(tables: dict[str, Any]) -> None:
    settings.check(tables)
    refuse_embedded(tables, [{}, {}])
    roles = {identity.role for identity in build(ServiceSettings, tables["service"], "service").identities}
    assert roles == {"peer", "admin"}, "nodes know each other, and who operates them"


def test_its_commands_make_what_it_names(
    documents: list[Any], tables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {identity["name"]: identity["role"] for identity in tables["service"]["identities"]}
    for command in told():
        if command[0] == "cachestore":
            monkeypatch.setattr("sys.argv", [word.replace("DIR", str(tmp_path / "made")) for word in command])
            with pytest.raises(SystemExit) as left:
                main()
            assert not left.value.code
        if command[:3] == ["cachestore", "token", "new"]:
            assert names.pop(command[3]) == command[command.index("--role") + 1]
    assert not names
    (secret,) = (command for command in told() if command[:5] == ["kubectl", "create", "secret", "generic", FILES])
    given = dict(word.removeprefix("--from-file=").split("=") for word in secret[5:])
    for source in given.values():
        assert Path(source.replace("DIR", str(tmp_path / "made"))).is_file(), source
    text = PLACE.read_text()
    assert set(re.findall(r"/cachestore/files/([\w.-]+)", text)) == set(given)
    assert secret[4] in {
        volume["secret"]["secretName"] for volume in pods(documents[1])[0]["volumes"] if "secret" in volume
    }


def test_the_nodes_that_should_ask_for_a_store_do(documents: list[Any], tables: dict[str, Any]) -> None:
    wanted = build(ClusterSettings, tables["cluster"], "cluster")
    for group in documents[1]["spec"]["workerGroupSpecs"]:
        key, _, value = group["rayStartParams"]["labels"].partition("=")
        assert asks({"Labels": {key: value}, "Resources": {}}, wanted)
    assert not asks({"Labels": {}, "Resources": {}}, wanted)


def test_what_is_named_is_mounted(documents: list[Any], tables: dict[str, Any]) -> None:
    shown = build(PeerSettings, tables["peers"], "peers").credentials.credentials()
    service = tables["service"]
    for pod in pods(documents[1]):
        for container in pod["containers"]:
            files = {mount["mountPath"] for mount in container["volumeMounts"]}
            given = {each["name"]: each.get("value", "") for each in container["env"]}
            paths = [shown.ca, shown.token_file, service["tls_cert"], service["tls_key"]]
            for path in [*paths, given["CACHESTORE_CA"], given["CACHESTORE_TOKEN_FILE"]]:
                assert str(Path(path).parent) in files, path
            assert given["CACHESTORE_SERVER_NAME"] == shown.server_name
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]} <= volumes
