"""Errors of other processes, and addresses where no Ray of ours is; without Ray."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cachestore.cluster import reach
from cachestore.cluster.causes import cause
from cachestore.errors import ConfigError, Unavailable

REMOTE = """ray::ServeReplica:x.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "replica.py", line 1, in __init__
    raise ConfigError("engine.model: none")
cachestore.errors.{}: engine.model: looked for 'a: b', found none
"""


@pytest.mark.parametrize("kind", [ConfigError, Unavailable])
def test_our_errors_keep_their_kind_and_text(kind: type[Exception]) -> None:
    error = cause(REMOTE.format(kind.__name__) + "\nand something else", "the workers did not start")
    assert type(error) is kind
    assert str(error) == "the workers did not start: engine.model: looked for 'a: b', found none"


def test_the_last_of_several_counts() -> None:
    chained = REMOTE.format("Unavailable") + "\nThe above was the cause of:\n\n" + REMOTE.format("ConfigError")
    assert isinstance(cause(chained, "x"), ConfigError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Traceback\nImportError: no module", "x: ImportError: no module"),
        ("cachestore.errors.Nonsense: y", "x: cachestore.errors.Nonsense: y"),
        ("\n \n", "x: Ray does not say why"),
    ],
)
def test_others_are_told_as_they_are(text: str, said: str) -> None:
    error = cause(text, "x")
    assert isinstance(error, Unavailable) and str(error) == said


class Handler(grpc.GenericRpcHandler):
    """Knows one method, and whoever brings the right token."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        brought = dict(details.invocation_metadata).get("authorization")
        if details.method != reach.PROBE:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if brought != "Bearer right":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without a token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_tokens_are_looked_up_where_ray_looks(address: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN"):
        reach.check(address)
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("right\n")
    reach.check(address)
    (home / "other").write_text("wrong")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other"))
    with pytest.raises(ConfigError, match="refuses our token"):
        reach.check(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    reach.check(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="refuses our token"):
        reach.check(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_nobody_there(home: Path, address: str) -> None:
    with pytest.raises(Unavailable, match=r"cannot reach Ray at cluster\.address"):
        reach.check(address)


@pytest.mark.parametrize("address", ["", "ray://127.0.0.1:1"])
def test_what_only_ray_understands_is_left_to_ray(home: Path, address: str) -> None:
    reach.check(address)


def test_auto_is_where_ray_looks(address: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"cluster\.address = 'auto' \({address}\): Ray refuses our token"):
        reach.check("auto")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    reach.check("auto")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"cannot reach Ray at cluster\.address = 'auto' \(127\.0\.0\.1:1\)"):
        reach.check("auto")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    reach.check("auto")
