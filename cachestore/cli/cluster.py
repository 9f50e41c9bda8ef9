"""`cachestore up` and `cachestore down`: store and workers on Ray."""

import json as codec
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cachestore import errors, settings
from cachestore.cli.config_checks import look_at_device
from cachestore.cli.output import DEFAULT_ADDRESS, Config, Json, console, error_console, print_json
from cachestore.cluster import deploy, supervisor
from cachestore.cluster.deploy import Deployment
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import build
from cachestore.engine.settings import EngineSettings
from cachestore.errors import ConfigError, Unavailable

STOP_SECONDS = 60.0

RayAddress = Annotated[str | None, typer.Option(help="Instead of cluster.address.")]


def up(
    config: Config = None,
    address: RayAddress = None,
    block: Annotated[bool, typer.Option("--block", help="Stay, and take everything down at the end.")] = False,
    json: Json = False,
) -> None:
    """Bring up the store, one actor a node, the workers, and the gateway if configured; return when all answer."""
    tables = _tables(config, address)
    cluster = build(ClusterSettings, tables.get("cluster", {}), "cluster")
    if any(cluster.replicas().values()):
        _look_for_model(tables, cluster)
    if block:
        supervisor.stay(tables, _tell, lambda deployment: _report(deployment, "Ctrl-C", json))
    elif cluster.address:
        with Runtime(cluster) as runtime:
            _report(deploy.up(runtime, tables, _tell), _end(config, address), json)
    else:
        _report(_in_background(tables), _end(), json)


def down(config: Config = None, address: RayAddress = None, json: Json = False) -> None:
    """Take gateway, workers and stores down. A Ray that was not ours goes on."""
    cluster = build(ClusterSettings, _tables(config, address).get("cluster", {}), "cluster")
    if cluster.address:
        with Runtime(cluster) as runtime:
            stopped = deploy.down(runtime)
    else:
        stopped = _end_background()
    if json:
        print_json({"stopped": stopped})
    else:
        console.print(f"stopped {stopped} store{'s' * (stopped != 1)}" if stopped else "nothing was up")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(up)
    app.command()(down)


def _tables(config: Path | None, address: str | None) -> dict[str, Any]:
    tables = settings.load(config)
    if address is not None:
        tables["cluster"] = {**tables.get("cluster", {}), "address": address}
    return tables


def _look_for_model(tables: Mapping[str, Any], cluster: ClusterSettings) -> None:
    """ConfigError at once for a model or a device that is not there; workers would say so half a minute later."""
    try:
        settings.require_engine(tables)
    except ConfigError as error:
        raise ConfigError(f"{error}, or [cluster] with prefill = 0 and decode = 0 for stores alone") from error
    engine = build(EngineSettings, tables["engine"], "engine")
    cluster.check_device(engine.device)
    if not cluster.address:
        from cachestore.engine.model import model_config

        model_config(engine)
        look_at_device(engine)


def _tell(text: str) -> None:
    error_console.print(f"[dim]{text} …[/]")


def _end(config: Path | None = None, address: str | None = None) -> str:
    """The command that takes down what came up under these, without which a Ray that is not ours is not found."""
    given = {"--config": config, "--address": address}
    return shlex.join(["cachestore", "down", *(str(word) for pair in given.items() if pair[1] for word in pair)])


def _report(deployment: Deployment, end: str, json: bool) -> None:
    if json:
        gateway = {"gateway": deployment.gateway} if deployment.gateway else {}
        print_json({"stores": dict(deployment.stores), **gateway})
        return
    for node, address in deployment.stores.items():
        console.print(f"store at [bold]{address}[/] (node {node[:12]})")
    if deployment.gateway:
        console.print(f"gateway at [bold]{deployment.gateway}/v1[/]")
    usual = DEFAULT_ADDRESS in deployment.stores.values()
    ask = "cachestore stats" if usual else f"cachestore stats --address {deployment.store}"
    console.print("ask it with ", Text(ask, "bold"), ", end with ", Text(end, "bold"), sep="", soft_wrap=True)


def _in_background(tables: Mapping[str, Any]) -> Deployment:
    before = supervisor.running()
    if before is not None:
        raise ConfigError(supervisor.already(before))
    child = subprocess.Popen(
        [sys.executable, "-m", "cachestore.cluster.supervisor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdout as told:
        try:
            with child.stdin as configuration:
                codec.dump(tables, configuration)
            return _await_ready(told)
        except BaseException:
            # it takes down what it has started
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
            raise


def _await_ready(told: Iterable[str]) -> Deployment:
    for line in told:
        try:
            message = codec.loads(line)
        except ValueError:
            # something that Ray printed
            continue
        if "ready" in message:
            return Deployment(message["ready"], message["gateway"])
        if "error" in message:
            raise getattr(errors, message["kind"], Unavailable)(message["error"])
        _tell(message["doing"])
    raise Unavailable("the cluster's process ended while it started; to see more, try: cachestore up --block")


def _end_background() -> int:
    found = supervisor.running()
    if found is None:
        return 0
    with suppress(ProcessLookupError):
        os.kill(found["pid"], signal.SIGTERM)
    patience = STOP_SECONDS + found.get("drain", 0.0)
    until = time.monotonic() + patience
    while supervisor.running() is not None:
        if time.monotonic() > until:
            raise Unavailable(f"process {found['pid']} has not ended after {patience:g} s")
        time.sleep(0.05)
    return len(found["stores"])
