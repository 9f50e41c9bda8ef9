"""`cachestore config`, and what every command says to a configuration that cannot work."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CPU = '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n'


def test_check(command: Callable[..., Any], config: Callable[[str], str]) -> None:
    assert command("config", "check").out == "ok\n"
    assert command("config", "check", "--json", "--config", config(CPU)).object == {"ok": True}


def test_files_and_socket_are_checked_as_the_start_would(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the configuration, wherever the command runs; nothing is started or made."""
    command("certs", str(tmp_path / "certs"), "--client", "alice")
    pair = 'tls_cert = "certs/server.crt"\ntls_key = "certs/{}.key"\n'
    good = config(f"{CPU}[service]\n{pair.format('server')}")
    monkeypatch.chdir("/")
    assert command("config", "check", "--config", good).out == "ok\n"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    for service, said in (
        (pair.format("alice"), "no PEM certificate of the key"),
        (pair.format("nobody"), f"service.tls_key: cannot read {tmp_path}/certs/nobody.key"),
        (f'unix_socket = "{tmp_path}/open/s"\n', "a folder of its own"),
        (
            f'unix_socket = "{tmp_path}/new/s"\n',
            f"service.unix_socket = '{tmp_path}/new/s': its directory is not there",
        ),
    ):
        given = config(f"{CPU}[service]\n{service}")
        for what in (["config", "check"], ["serve"]):
            assert said in command(*what, "--config", given).refused(2)
    elsewhere = config(f'{CPU}[service]\nhost = "192.0.2.1"\ninsecure = true\n')
    assert "no address of this machine" in command("config", "check", "--config", elsewhere).refused(2)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir(mode=0o700)
    free = config(f'{CPU}[service]\nunix_socket = "{tmp_path}/new/s"\n')
    assert command("config", "check", "--config", free).status == 0
    assert list((tmp_path / "new").iterdir()) == []


def test_a_node_that_others_could_not_find_or_would_not_know_is_refused(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path
) -> None:
    """As the start does, which says so before it asks for any Redis."""
    several = CPU + '[directory]\nname = "redis"\nserver = {url = "redis://127.0.0.1:1"}\n[service]\nport = 0\n'
    anywhere = 'host = "0.0.0.0"\ninsecure = true\n'
    (tmp_path / "s").mkdir(mode=0o700)
    for more, said in (
        (anywhere, "name this node's host or address in service.advertise"),
        (f'unix_socket = "{tmp_path}/s/s"\n', "cannot reach service.unix_socket of each other"),
    ):
        assert said in command("config", "check", "--config", config(several + more)).refused(2)
    for name in ("ca", "token_file"):
        given = config(f'{several}[peers.credentials]\n{name} = "{tmp_path}/none"\n')
        for what in (["config", "check"], ["serve"]):
            line = command(*what, "--config", given).refused(2)
            assert f"peers.credentials.{name}" in line and f"cannot read {tmp_path}/none" in line
    for more in (f'{anywhere}advertise = "10.0.0.7"\n', f'{anywhere}[cluster]\naddress = "auto"\n'):
        assert command("config", "check", "--config", config(several + more)).out == "ok\n"


def test_the_disk_is_looked_at(command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path) -> None:
    """As the tier would when it opens, and nothing is made."""
    (tmp_path / "file").touch()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    disk = CPU + '[[tiers]]\nname = "disk"\ncapacity = "1MiB"\npath = "{}"\n'
    for path, said in (
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("shared", "run chmod 700"),
        ("dangling/x", "No such file"),
    ):
        (tmp_path / "dangling").unlink(missing_ok=True)
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        line = command("config", "check", "--config", config(disk.format(tmp_path / path))).refused(2)
        assert f"tiers.disk.path: {tmp_path / path} " in line and said in line
    assert command("config", "check", "--config", config(disk.format(tmp_path / "new/folder"))).out == "ok\n"
    assert not (tmp_path / "new").exists()


def test_the_files_of_redis_are_looked_at(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path
) -> None:
    redis = CPU + f'[[tiers]]\nname = "redis"\nurl = "rediss://127.0.0.1:1"\nca_file = "{tmp_path}/none.crt"\n'
    assert "tiers.redis.ca_file" in command("config", "check", "--config", config(redis)).refused(2)


def test_the_model_is_looked_at(command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path) -> None:
    """A directory is, without its weights; a hub is not asked."""
    (tmp_path / "empty").mkdir()
    half = tmp_path / "half"
    half.mkdir()
    (half / "model.safetensors").touch()
    for model, said in (
        ("/nowhere/at/all", "looked for '/nowhere/at/all' as a directory, found none"),
        (tmp_path / "empty", "holds no *.safetensors files"),
        (half, "looked for config.json in the directory"),
    ):
        line = command("config", "check", "--config", config(f'{CPU}[engine]\nmodel = "{model}"\n')).refused(2)
        assert "engine.model" in line and said in line
    needle = Path(__file__).parents[2] / "examples" / "needle" / "model"
    for model in (needle, "nobody/has-this-one"):
        given = config(f'{CPU}[engine]\nmodel = "{model}"\n[gateway]\n')
        assert command("config", "check", "--config", given).out == "ok\n"
    (half / "config.json").write_bytes((needle / "config.json").read_bytes())
    given = config(f'{CPU}[engine]\nmodel = "{half}"\n')
    assert command("config", "check", "--config", given).out == "ok\n"
    given = config(f'{CPU}[engine]\nmodel = "{half}"\n[gateway]\n')
    assert "has no tokenizer" in command("config", "check", "--config", given).refused(2)


def test_the_gateways_files_are_looked_at(
    command: Callable[..., Any], config: Callable[[str], str], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[keys]]\nname = "alice"\nkey = "sha256:short"\n')
    keys.chmod(0o600)
    for gateway, said in (
        (f'keys = "{tmp_path}/none.toml"', f"gateway.keys: cannot read {tmp_path}/none.toml"),
        (f'keys = "{keys}"', "keys (alice): key must be the digest"),
        (f'signing_key = "{tmp_path}/none.key"', "gateway.signing_key: cannot read"),
        (f'tls_cert = "{tmp_path}/c"\ntls_key = "{tmp_path}/k"', "gateway.tls_cert: cannot read"),
    ):
        line = command("config", "check", "--config", config(f"{CPU}[gateway]\n{gateway}\n")).refused(2)
        assert said in line


def test_what_is_shown_is_a_configuration(command: Callable[..., Any], config: Callable[[str], str]) -> None:
    """Every default is written out, and a path with odd signs survives."""
    given = config(CPU + '[engine]\nmodel = "/a \\"b\\" \\\\c [d]/é"\n[store]\nlease = "5s"\n')
    shown = command("config", "show", "--config", given).out
    tables = tomllib.loads(shown)
    assert tables["engine"]["model"] == '/a "b" \\c [d]/é'
    assert tables["store"]["lease"] == 5.0 and tables["codecs"]["name"] == "lz4" and "acceleration" in tables["codecs"]
    assert tables["scheduling"]["name"] == "mc_sf" and tables["scheduling"]["predictor"]["remember"] == 1000
    assert tables["batch"]["memory"] == 1 << 30
    (cpu,) = tables["tiers"]
    assert (cpu["name"], cpu["capacity"], cpu["slab"], cpu["pinned"]) == ("cpu", 64 << 20, 0, "auto")
    assert command("config", "show", "--json", "--config", given).object == tables
    assert command("config", "show", "--config", config(shown)).out == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:{}@host:6379/0",
        "unix://:{}@/run/redis.sock",
        "rediss://:a%40{}@h",
    ],
)
def test_passwords_are_not_shown(
    command: Callable[..., Any], config: Callable[[str], str], password: str, url: str
) -> None:
    given = config(f'{CPU}[[tiers]]\nname = "redis"\nurl = "{url.format(password)}"\n')
    for flags in ([], ["--json"]):
        done = command("config", "show", "--config", given, *flags)
        assert done.status == 0
        assert password not in done.out and "***" in done.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stoer]\n", "unknown configuration key 'stoer'; did you mean 'store'?"),
        ("[store]\nlaese = 3\n", "unknown configuration key 'store.laese'; did you mean 'lease'?"),
        ('[[tiers]]\nname = "cpu"\ncapasity = "1GiB"\n', "'tiers.cpu.capasity'; did you mean 'capacity'?"),
        ('[[tiers]]\nname = "cqu"\ncapacity = "1GiB"\n', "did you mean 'cpu'?"),
        ('[[tiers]]\nname = "cpu"\ncapacity = "much"\n', "tiers.cpu.capacity: 'much' is no quantity"),
        ('[[tiers]]\nname = "cpu"\n', "tiers.cpu.capacity"),
        ('[[tiers]]\nname = "cpu"\ncapacity = 1\n', "tiers.cpu.capacity must be at least"),
        ('[[tiers]]\nname = "redis"\n', "the first must be the cpu tier"),
        (CPU + CPU, "each tier may be there once"),
        ('tiers = "cpu"\n', "tiers must be a list of tables"),
        ("tiers = []\n", "tiers must be a list of tables"),
        ('store = "mine"\n', "store must be a table"),
        ("engine = 3\n", "engine must be a table"),
        ("[engine]\n", "engine.model is missing, and has no default"),
        ("service = 3\n", "service must be a table, got a number: write the line [service] and its settings below"),
        ("[[service]]\n", "service must be a table, got a list"),
        ("[service]\nport = 3.5\n", "service.port: must be a whole number, got a number with a point"),
        ("[service]\nhost = 3\n", "service.host: must be text in quotes, got a number"),
        ('[service]\nshared = "much"\n', "service.shared: must be true or false, got text"),
        ("[peers]\nreplicas = 3\n", "peers.replicas must be a table, got a number: write the line [peers.replicas]"),
        ('[peers]\nreplicas = {a = "x"}\n', "peers.replicas.a: must be a whole number, got text"),
        ("[peers]\ncredentials = 3\n", "peers.credentials must be a table, got a number"),
        ('[gateway]\nrouting = "x"\n', "gateway.routing must be a table, got text: write the line [gateway.routing]"),
        ('[store]\nwrite = "up"\n', "store.write: must be 'through', 'back' or 'eviction'"),
        ('[engine]\nmodel = "m"\nblock_tokens = 0\n', "engine.block_tokens"),
        ('[engine]\nmodel = "m"\nblock_tokens = "many"\n', "engine.block_tokens"),
        ('[service]\nhost = "0.0.0.0"\n', "is not loopback"),
        ("[service]\nport = 70000\n", "service.port must lie in 0 .. 65535"),
        ("[cluster]\nprefill = -1\n", "cluster.prefill"),
        ('[engine]\nmodel = "m"\ndevice = "cuda"\n[cluster]\n', "engine.device = 'cuda' needs cluster.num_gpus"),
        ('[engine]\nmodel = "m"\ndevice = "cuda:1"\n[cluster]\nnum_gpus = 1\n', "use engine.device = 'cuda'"),
        ('[codecs]\nname = "lz5"\n', "did you mean 'lz4'?"),
        ("[eviction]\nname = 3\n", "eviction"),
        ("[store\n", "is not TOML"),
        ("a = 1\na = 2\n", "is not TOML"),
        ("[prefill_worker]\nlease = nan\n", "prefill_worker.lease"),
        ("[batch]\npagse = 3\n", "unknown configuration key 'batch.pagse'; did you mean 'pages'?"),
        ("[batch]\nput_share = 2\n", "batch.put_share must lie in 0 .. 1"),
        ('[batch]\nscheduling = {name = "fcfs"}\n', "batch.scheduling is a section of its own: write [scheduling]"),
        ('[scheduling]\nname = "mc_fs"\n', "scheduling.name = 'mc_fs' is unknown; did you mean 'mc_sf'?"),
        ('[scheduling]\nname = "fcfs"\nageing = 1\n', "unknown configuration key 'scheduling.ageing'"),
        ('[scheduling]\nname = "fcfs"\npredictor = "history"\n', "write the line [scheduling.predictor]"),
        ("scheduling = 3\n", "scheduling must be a table"),
    ],
    ids=lambda value: value.replace("\n", " ")[:30],
)
def test_refusals(command: Callable[..., Any], config: Callable[[str], str], text: str, said: str) -> None:
    given = config(text)
    for what in (["config", "check"], ["config", "show"], ["serve"]):
        assert said in command(*what, "--config", given).refused(2)


def test_files_that_cannot_be_read(command: Callable[..., Any], tmp_path: Path) -> None:
    assert "No such file" in command("config", "check", "--config", str(tmp_path / "none.toml")).refused(2)
    assert "directory" in command("config", "check", "--config", str(tmp_path)).refused(2)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in command("config", "check", "--config", str(binary)).refused(2)


def test_workers_need_a_model(command: Callable[..., Any], config: Callable[[str], str]) -> None:
    line = command("up", "--config", config(CPU)).refused(2)
    assert '[engine] with model = "directory or hub id"' in line and "cluster" in line and "stores alone" in line


def test_workers_need_a_model_that_is_there(command: Callable[..., Any], config: Callable[[str], str]) -> None:
    line = command("up", "--config", config(CPU + '[engine]\nmodel = "/nowhere/at/all"\n')).refused(2)
    assert "engine.model" in line and "/nowhere/at/all" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_workers_would_not_have(command: Callable[..., Any], config: Callable[[str], str]) -> None:
    on_device = CPU + '[engine]\nmodel = "org/model"\ndevice = "cuda"\n'
    assert "torch sees no CUDA device" in command("config", "check", "--config", config(on_device)).refused(2)
    assert "needs cluster.num_gpus" in command("up", "--config", config(on_device)).refused(2)
    # where Ray's machines are others, they may have one
    elsewhere = on_device + '[cluster]\naddress = "127.0.0.1:1"\nnum_gpus = 0.5\n'
    assert command("config", "check", "--config", config(elsewhere)).out == "ok\n"
    stores = on_device + '[cluster]\naddress = "127.0.0.1:1"\nprefill = 0\ndecode = 0\n'
    assert command("config", "check", "--config", config(stores)).out == "ok\n"


def test_nothing_is_up(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert command("down").out == "nothing was up\n"
    assert command("down", "--json").object == {"stopped": 0}


def test_ray_that_is_not_there(command: Callable[..., Any]) -> None:
    assert "cannot reach Ray at cluster.address = '127.0.0.1:1'" in command("down", "--address", "127.0.0.1:1").refused(
        1
    )


COMMANDS = ["serve", "up", "down", "stats", "lookup", "clear", "doctor", "demo", "config check", "config show"]


@pytest.mark.parametrize("name", ["", "config", *COMMANDS])
def test_help(command: Callable[..., Any], name: str) -> None:
    done = command(*name.split(), "--help")
    assert done.status == 0 and done.err == ""
    assert "Usage: cachestore" in done.out
    words = [] if name else [word.split()[0] for word in COMMANDS]
    assert [word for word in words if word not in done.out] == []
    if name in COMMANDS:
        assert "--json" in done.out


@pytest.mark.parametrize("arguments", [["stat"], ["stats", "--jsn"], ["serve", "--port", "high"]])
def test_usage(command: Callable[..., Any], arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.status == 2 and "Usage: cachestore" in done.err and "Traceback" not in done.err
