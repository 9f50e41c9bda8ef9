"""`cachestore serve`."""

import contextlib
import ctypes
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.service.client import RemoteStore


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_ends_in_order_and_takes_redis_with_it(serve: Callable[..., Any], number: int) -> None:
    serving = serve()
    assert serving.tiers == ["cpu", "redis"]
    with RemoteStore(serving.address) as store:
        assert store.stats()
    children = serving.children()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    assert any(b"redis-server" in command for command in commands)
    assert serving.end(number) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_a_signal_that_another_thread_takes_ends_it_too(serve: Callable[..., Any]) -> None:
    """The kernel may give it to any thread, and then it wakes nobody who waits for a lock."""
    serving = serve()
    pid = serving.process.pid
    threads = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        # it may be over by now
        with contextlib.suppress(OSError):
            threads[int(task.name)] = (task / "comm").read_text()
    for thread, name in threads.items():
        # those of Python: others may keep signals out
        if thread != pid and name == threads[pid]:
            ctypes.CDLL(None).tgkill(pid, thread, signal.SIGTERM)
    assert serving.process.wait(20) == 0


def test_a_killed_one_takes_redis_with_it(
    serve: Callable[..., Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    serving = serve()
    children = serving.children()
    assert serving.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()])


def test_port_in_use(store: Any, process: Callable[..., Any], config: Callable[[str], str]) -> None:
    port = store.address.rpartition(":")[2]
    small = config('[[tiers]]\nname = "cpu"\ncapacity = "4MiB"\n')
    line = process("serve", "--port", port, "--config", small).refused(2)
    assert f"127.0.0.1:{port}" in line and "service.port" in line


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_port_that_cannot_be(command: Callable[..., Any], port: str) -> None:
    assert "service.port must lie in 0 .. 65535" in command("serve", "--port", port).refused(2)


def test_redis_that_does_not_answer(command: Callable[..., Any], config: Callable[[str], str], password: str) -> None:
    text = f'[[tiers]]\nname = "cpu"\ncapacity = "4MiB"\n[[tiers]]\nname = "redis"\nurl = "redis://:{password}@127.0.0.1:1"\n'
    done = command("serve", "--config", config(text))
    line = done.refused(1)
    assert "127.0.0.1:1" in line and password not in line
