"""examples/ray-cluster.yaml says what the store understands, and its parts fit together."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachestore import settings
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.stores import asks, refuse_embedded
from cachestore.config import build
from cachestore.service.settings import ServiceSettings

PLACE = Path(__file__).parents[2] / "examples" / "ray-cluster.yaml"


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


def pods(cluster: Any) -> list[Any]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_its_configuration_is_one_for_several_nodes(tables: dict[str, Any]) -> None:
    settings.check(tables)
    refuse_embedded(tables, [{}, {}])
    roles = {identity.role for identity in build(ServiceSettings, tables["service"], "service").identities}
    assert roles == {"peer", "admin"}, "nodes know each other, and who operates them"


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
