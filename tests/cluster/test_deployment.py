"""One deployment on a Ray of its own: it answers, heals, listens to nobody else, and goes without a trace."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.engine.model import model_spec
from cachestore.engine.settings import EngineSettings
from cachestore.errors import CacheStoreError
from cachestore.hashing import fingerprint
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.client import DecodeClient
from decode_worker.request import Usage

pytestmark = pytest.mark.timeout(240)
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@dataclass
class Up:
    """What `cachestore up --block` brought up."""

    process: Any
    ray: Any
    store: RemoteStore
    address: str
    model: Path

    def members(self, role: str) -> tuple[Member, ...]:
        """The members of a role, none while the store is away."""
        try:
            return self.store.members(role, timeout=1.0)[1]
        except CacheStoreError:
            return ()

    def ask(self, tokens: list[int], count: int = 8) -> tuple[list[int], Usage]:
        """The answer of a decode worker."""
        with DecodeClient(self.members("decode")[0].address) as client:
            with client.generate(tokens, max_tokens=count, timeout=30) as answer:
                made = list(answer)
        assert answer.usage is not None
        return made, answer.usage

    def expected(self, tokens: list[int], count: int = 8) -> list[int]:
        """The same by transformers alone."""
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        made = model.generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)
        return [int(token) for token in made[0, len(tokens) :]]


@pytest.fixture(scope="module")
def up(ray: Any, configuration: str, tiny_model: Path, next_object: Callable[[Any], Any]) -> Iterator[Up]:
    config = ray.folder / "cachestore.toml"
    config.write_text(configuration)
    process = ray.start("-m", "cachestore", "up", "--block", "--json", "--config", str(config))
    address = next(iter(next_object(process)["stores"].values()))
    with RemoteStore(address) as store:
        yield Up(process, ray, store, address, tiny_model)


def prompt(seed: int, length: int = 70) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


def listening(pids: list[int]) -> list[str]:
    """Local addresses, in the kernel's hex, on which these processes accept TCP connections."""
    inodes = set()
    for pid in pids:
        try:
            inodes |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]


def test_same_tokens_as_transformers_and_reuse(up: Up) -> None:
    tokens = prompt(1)
    first, cold = up.ask(tokens)
    second, warm = up.ask(tokens)
    assert first == second == up.expected(tokens)
    assert cold.reuse.reused == {} and cold.prefilled_by == up.members("prefill")[0].name
    assert sum(warm.reuse.reused.values()) >= 64
    assert total(up.store.stats(), "read_hits") > 0


def test_fingerprints_are_in_the_map(up: Up) -> None:
    expected = fingerprint(model_spec(EngineSettings(str(up.model), block_tokens=16)))
    members = [*up.members("prefill"), *up.members("decode")]
    assert [member.fingerprint for member in members] == [expected] * 2
    assert len({member.node for member in members}) == 1


def test_nothing_listens_off_loopback(up: Up) -> None:
    found = listening(up.ray.marked.pids())
    ports = [int(address.rpartition(":")[2], 16) for address in found]
    assert int(up.address.rpartition(":")[2]) in ports, "the store itself is among them"
    assert len(found) > 4, "Ray's own are among them"
    assert [address for address in found if address.rpartition(":")[0] not in LOOPBACK] == []


def test_a_ray_of_our_own_goes_on_for_minutes_without_its_control_plane(up: Up) -> None:
    (raylet,) = up.ray.marked.pids("raylet/raylet")
    told = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
    assert b"RAY_gcs_rpc_server_reconnect_timeout_s=600" in told


def test_a_killed_store_answers_again_and_knows_its_workers(up: Up, wait_until: Callable[..., None]) -> None:
    before = {member.name for role in ("prefill", "decode") for member in up.members(role)}
    (store,) = up.ray.marked.pids("ray::StoreActor")
    os.kill(store, signal.SIGKILL)
    wait_until(lambda: up.ray.marked.pids("ray::StoreActor") not in ([], [store]))
    wait_until(lambda: {m.name for role in ("prefill", "decode") for m in up.members(role)} == before)
    tokens = prompt(1)
    assert up.ask(tokens)[0] == up.expected(tokens)
    assert up.ask(tokens)[1].reuse.reused


@pytest.mark.slow
def test_a_killed_prefill_worker_is_replaced(up: Up, wait_until: Callable[..., None]) -> None:
    (before,) = up.members("prefill")
    (worker,) = up.ray.marked.pids("ray::ServeReplica:cachestore-prefill")
    os.kill(worker, signal.SIGKILL)
    tokens = prompt(2)
    assert up.ask(tokens)[0] == up.expected(tokens), "the answer does not need the worker"
    wait_until(lambda: {member.name for member in up.members("prefill")} - {before.name}, 60)
    wait_until(lambda: len(up.members("prefill")) == 1)
    (after,) = up.members("prefill")
    assert after.fingerprint == before.fingerprint

    def by_the_new_one() -> bool:
        number = len(asked)
        asked.append(up.ask(prompt(100 + number)))
        return asked[-1][1].prefilled_by == after.name

    asked: list[tuple[list[int], Usage]] = []
    wait_until(by_the_new_one)


def test_down_leaves_nothing(up: Up, wait_until: Callable[..., None]) -> None:
    """The last of this file: it takes everything down."""
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(60) == 0
    wait_until(up.ray.marked.gone)
    noise = [line for line in up.ray.errors().splitlines() if not line.endswith(" …")]
    assert noise == [], "only progress is told"
