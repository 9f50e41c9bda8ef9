"""What the chart deploys, and what it refuses."""

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachestore.errors import ConfigError
from cachestore.settings import check
from tests.helm.rendering import NEEDED, Run, configuration, documents, mounted, pod, values


def test_kinds(render: Run) -> None:
    kinds = documents(render)
    assert set(kinds) == {"ConfigMap", "NetworkPolicy", "RayCluster", "Secret", "ServiceAccount"}
    assert kinds["RayCluster"]["apiVersion"] == "ray.io/v1"
    assert {kind["metadata"]["labels"]["app.kubernetes.io/instance"] for kind in kinds.values()} == {"kv"}
    assert "workerGroupSpecs" not in kinds["RayCluster"]["spec"]


def test_default_configuration(render: Run) -> None:
    assert configuration(documents(render)) == {
        "tiers": [
            {"name": "cpu", "capacity": "4GiB"},
            {"name": "redis", "url": "embedded", "capacity": "1GiB"},
        ],
        "codecs": {"name": "lz4"},
        "eviction": {"name": "lru"},
        "service": {"host": "127.0.0.1", "port": 7420},
        "engine": {"model": "/models/needle", "dtype": "float32", "device": "cpu"},
        "cluster": {"prefill": 2, "decode": 2, "num_gpus": 0},
    }


def test_the_store_takes_the_configuration(render: Run, tmp_path: Path) -> None:
    """Rendered with the defaults, and with values in every section."""
    given = values(
        tmp_path / "values.yaml",
        tiers=[{"name": "cpu", "capacity": "1GiB"}, {"name": "redis", "url": "redis://cache:6379/0", "ttl": "1h"}],
        codecs={"name": "raw"},
        store={"lease": "10s", "write": "eviction"},
        service={"host": "127.0.0.1", "port": 7421, "in_flight_bytes": "64MiB"},
        engine={"model": "/models/other", "dtype": "bfloat16", "device": "cuda", "threads": 2},
        cluster={"prefill": 3, "decode": 1, "num_gpus": 0.5, "start_timeout": "10min"},
        resources={"gpus": 2},
    )
    for arguments in ((), given):
        tables = configuration(documents(render, *arguments))
        check(tables)
        with pytest.raises(ConfigError, match=r"unknown configuration key 'cluster\.replicas'"):
            check({**tables, "cluster": {"replicas": 3}})


def test_overridden_configuration(render: Run, tmp_path: Path) -> None:
    odd = {
        "quote": 'a "b" \\ <c> é\n',
        "share": 0.25,
        "on": True,
        "many": [1, "two"],
        "deep": {"a b": [{"c": 1}]},
    }
    tiers = [{"name": "redis", "url": "redis://cache:6379/0", "capacity": "1TiB"}]
    store = odd | {"nothing": None}
    given = values(tmp_path / "values.yaml", tiers=tiers, store=store, codecs={"name": "none"})
    set_too = ("--set", "service.port=7421", "--set", "cluster.prefill=5")
    result = configuration(documents(render, *given, *set_too))
    assert result["tiers"] == tiers
    assert result["store"] == odd
    assert result["codecs"] == {"name": "none"}
    assert result["service"] == {"host": "127.0.0.1", "port": 7421}
    assert result["cluster"] == {"prefill": 5, "decode": 2, "num_gpus": 0}


EXPOSED = ("--set", "expose.enabled=true", "--set", "expose.keysSecret=keys")
WITH_TLS = (*EXPOSED, "--set", "expose.tlsSecret=certificate")


def test_the_gateway_is_reached_by_tls_and_with_keys(render: Run) -> None:
    kinds = documents(render, *WITH_TLS, "--set", "gateway.port=8443", "--set", "gateway.served_model=llama")
    tables = configuration(kinds)
    check(tables)
    assert tables["gateway"] == {
        "host": "0.0.0.0", "port": 8443, "served_model": "llama", "keys": "/keys/keys.toml",
        "tls_cert": "/keys/tls.crt", "tls_key": "/keys/tls.key",
    }  # fmt: skip
    (port,) = kinds["Service"]["spec"]["ports"]
    assert port == {"name": "https", "port": 443, "targetPort": 8443}
    labels = kinds["RayCluster"]["spec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"].items() <= labels.items()
    inside, outside = kinds["NetworkPolicy"]["spec"]["ingress"]
    assert "podSelector" in str(inside) and outside == {"ports": [{"port": 8443}]}
    spec = pod(kinds)
    (init,) = spec["initContainers"]
    assert mounted(spec["containers"][0], "keys") == "/keys" and "umask 077" in str(init["command"])
    assert {mount["name"] for mount in init["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}
    probe = spec["containers"][1]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/health", "port": 8443, "scheme": "HTTPS"}


def test_the_keys_can_be_read_by_their_owner_alone(render: Run, tmp_path: Path) -> None:
    """What the init container runs, run here."""
    (init,) = pod(documents(render, *WITH_TLS))["initContainers"]
    for name in ("secrets/keys/keys.toml", "secrets/tls/tls.crt", "secrets/tls/tls.key", "keys/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "keys" / "x").unlink()
    script = init["command"][2].replace(" /", f" {tmp_path}/")
    subprocess.run([*init["command"][:2], script], check=True, timeout=10)
    made = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "keys").iterdir()}
    assert made == {"keys.toml": "0o600", "tls.crt": "0o600", "tls.key": "0o600"}
    assert (tmp_path / "keys" / "tls.key").read_text() == "secrets/tls/tls.key"


def test_without_tls_only_who_speaks_it_before_the_gateway_reaches_it(render: Run, tmp_path: Path) -> None:
    proxy = [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]
    given = values(tmp_path / "values.yaml", expose={"enabled": True, "keysSecret": "keys", "from": proxy})
    kinds = documents(render, *given)
    tables = configuration(kinds)
    check(tables)
    assert tables["gateway"] == {"host": "0.0.0.0", "port": 8000, "keys": "/keys/keys.toml", "insecure": True}
    assert kinds["NetworkPolicy"]["spec"]["ingress"][1] == {"ports": [{"port": 8000}], "from": proxy}
    assert kinds["Service"]["spec"]["ports"][0]["name"] == "http"
    assert pod(kinds)["containers"][1]["readinessProbe"]["httpGet"]["scheme"] == "HTTP"


def test_batching_scheduling_and_scaling_are_handed_over(render: Run, tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "batch": {"pages": 512, "max_waiting": 64},
        "scheduling": {"name": "mc_sf", "ageing": 0.5, "predictor": {"name": "history", "quantile": 0.8}},
        "decode_worker": {"rest": "5s"},
        "gateway": {"served_model": "llama", "routing": {"name": "prefix_load", "load": 0.7}},
    }
    scaled = {"decode": 2, "decode_most": 4, "target_queue": 6, "scale_down_after": "2min", "drain": "45s"}
    kinds = documents(render, *values(tmp_path / "values.yaml", cluster=scaled, **sections))
    tables = configuration(kinds)
    check(tables)
    assert {name: tables[name] for name in sections} == sections
    assert tables["cluster"] == {"prefill": 2, "num_gpus": 0, **scaled}
    # a gateway that is not exposed answers on the pod's loopback
    assert "Service" not in kinds and "initContainers" not in pod(kinds)
    assert pod(kinds)["terminationGracePeriodSeconds"] == 90


def test_nobody_is_root(render: Run) -> None:
    spec = pod(documents(render))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        context = container["securityContext"]
        assert "runAsUser" not in context, "the pod's user counts"
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_no_port_of_the_store_leaves_the_pod(render: Run) -> None:
    kinds = documents(render)
    ports = [container.get("ports", []) for container in pod(kinds)["containers"]]
    assert ports == [[{"name": "gcs-server", "containerPort": 6379}], []], "only Ray's own"
    assert "Service" not in kinds and "Ingress" not in kinds
    assert kinds["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"

    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]
    labels = kinds["RayCluster"]["spec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert "NetworkPolicy" not in documents(render, "--set", "networkPolicy.enabled=false")


def test_both_containers_join_one_ray(render: Run) -> None:
    """A driver beside the head needs its session directory, shared memory, process ids and token."""
    kinds = documents(render)
    spec = pod(kinds)
    head, up = spec["containers"]
    assert spec["shareProcessNamespace"] is True
    assert head["volumeMounts"] == up["volumeMounts"]
    assert head["env"] == up["env"]
    assert head["image"] == up["image"] == "example.org/cachestore:0.1.0"
    assert {mount["name"] for mount in head["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert "command" not in head, "KubeRay writes it"
    assert up["command"][:2] == ["cachestore", "up"]
    assert "--block" in up["command"], "a container that ends is started again"
    assert up["command"][-1] == f"{mounted(up, 'config')}/cachestore.toml"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert volumes["config"]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    environment = {variable["name"]: variable for variable in head["env"]}
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    reference = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": kinds["Secret"]["metadata"]["name"], "key": "auth_token"}


def test_gpus_only_when_asked(render: Run) -> None:
    assert "nvidia.com/gpu" not in str(documents(render))
    kinds = documents(render, "--set", "resources.gpus=2", "--set", "cluster.num_gpus=1")
    head, up = pod(kinds)["containers"]
    assert head["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in str(up)


def test_own_secrets_and_volumes(render: Run, tmp_path: Path) -> None:
    volume = {"persistentVolumeClaim": {"claimName": "models"}}
    account = {"create": False, "name": "mine"}
    given = values(
        tmp_path / "values.yaml",
        configSecret="own-config",
        ray={"tokenSecret": "own-token"},
        modelVolume=volume,
        serviceAccount=account,
        nodeSelector={"disk": "nvme"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        image={"pullSecrets": [{"name": "registry"}]},
    )
    kinds = documents(render, *given)
    assert set(kinds) == {"NetworkPolicy", "RayCluster"}
    spec = pod(kinds)
    assert {"name": "models", **volume} in spec["volumes"]
    assert {"name": "config", "secret": {"secretName": "own-config"}} in spec["volumes"]
    mounts = spec["containers"][0]["volumeMounts"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in mounts
    assert "'name': 'own-token'" in str(spec["containers"])
    assert spec["serviceAccountName"] == "mine"
    assert spec["nodeSelector"] == {"disk": "nvme"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (NEEDED[:2], "engine.model: name a Hugging Face model directory"),
        (NEEDED[2:], "image.repository: name an image"),
        ((*NEEDED, "--set", "service.host=0.0.0.0"), "service.host: 0.0.0.0 is not loopback"),
        ((*NEEDED, "--set", "cluster.num_gpus=1"), "set resources.gpus"),
        ((*NEEDED, "--set", "securityContext.runAsUser=0"), "securityContext.runAsUser: 0 is root"),
        ((*NEEDED, "--set", "expose.enabled=true", "--set", "expose.tlsSecret=x"), "expose.keysSecret: name a Secret"),
        ((*NEEDED, *EXPOSED), "expose.tlsSecret: without it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(render: Run, arguments: tuple[str, ...], message: str) -> None:
    done = render(*arguments)
    assert done.returncode != 0
    assert message in done.stderr


def test_passwords_stay_out_of_the_configmap(render: Run, tmp_path: Path) -> None:
    tiers = [{"name": "redis", "url": "rediss://user:secret@cache:6379", "capacity": "1GiB"}]
    done = render(*NEEDED, *values(tmp_path / "values.yaml", tiers=tiers))
    assert done.returncode != 0
    assert "use configSecret" in done.stderr
    assert "secret@" not in done.stdout + done.stderr


def test_names(render: Run) -> None:
    assert documents(render, release="cachestore")["RayCluster"]["metadata"]["name"] == "cachestore"
    name = documents(render, release="x" * 53)["RayCluster"]["metadata"]["name"]
    assert len(name) <= 45 and not name.endswith("-")


def test_token_survives_upgrades(imitation: Run, tmp_path: Path) -> None:
    """Always by the imitation: `helm template` asks no cluster."""
    first = documents(imitation)["Secret"]
    assert len(base64.b64decode(first["data"]["auth_token"])) == 64
    assert documents(imitation)["Secret"]["data"] != first["data"], "made anew, not built in"
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(first))
    assert documents(imitation, "--lookup", str(cluster))["Secret"] == first
