"""Tables become frozen dataclasses or one line that says what is wrong and how to put it right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cachestore.codecs.lz4 import Lz4
from cachestore.config import Bytes, Seconds, build, read
from cachestore.errors import ConfigError
from cachestore.eviction.lru import Lru
from cachestore.store.compose import compose
from cachestore.tiers.cpu import CpuTier
from cachestore.tiers.redis import Redis, RedisTier


@dataclass(frozen=True)
class Settings:
    size: Bytes = 1
    pause: Seconds = 1.0
    count: int = 1
    name: str = ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("1.5KiB", 1536), ("64 MiB", 64 << 20), ("2TiB", 2 << 40), ("7B", 7), ("123", 123), (5, 5)],
)
def test_sizes(text: Any, size: int) -> None:
    assert build(Settings, {"size": text}, "s").size == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("1.5min", 90.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("3", 3.0),
        (2, 2.0),
        (0.5, 0.5),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    assert build(Settings, {"pause": text}, "s").pause == seconds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "4GB"),
        ("size", "4gib"),
        ("size", "GiB"),
        ("size", ""),
        ("size", "many"),
        ("size", "inf"),
        ("size", "nan"),
        ("size", "1e400"),
        ("size", True),
        ("size", 1.5),
        ("size", [1]),
        ("pause", "5 minutes"),
        ("pause", "inf"),
        ("pause", float("inf")),
        ("pause", float("nan")),
        ("pause", False),
        ("count", "many"),
        ("count", 1.5),
        ("name", 5),
    ],
)
def test_wrong_values_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^s\.{key}: "):
        build(Settings, {key: value}, "s")


def test_unknown_keys_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'s\.siez'; did you mean 'size'\?"):
        build(Settings, {"siez": 1}, "s")
    with pytest.raises(ConfigError, match="known: count, name, pause, size"):
        build(Settings, {"zzzzz": 1}, "s")
    with pytest.raises(ConfigError, match="s must be a table"):
        build(Settings, "size", "s")  # type: ignore[arg-type]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "none.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("a = ")
    with pytest.raises(ConfigError, match="not TOML"):
        read(wrong)
    wrong.write_text('[store]\nlease = "5s"\n')
    assert read(wrong) == {"store": {"lease": "5s"}}


CPU = {"name": "cpu", "capacity": "4MiB"}


def test_a_store_is_composed_from_tables() -> None:
    tiered = compose(
        {
            "tiers": [{**CPU, "slab": "1MiB"}, {"name": "redis", "timeout": "100ms", "url": "unix:///run/redis.sock"}],
            "codecs": {"name": "lz4", "acceleration": 4},
            "eviction": {"name": "lru"},
            "store": {"write": "eviction", "lease": "2s"},
            "service": {"of": "somebody else"},
        }
    )
    memory, (cold,) = tiered.memory, tiered.cold
    assert isinstance(memory, CpuTier) and (memory.capacity, memory.slab_bytes) == (4 << 20, 1 << 20)
    assert isinstance(cold, RedisTier) and cold.settings.timeout == 0.1
    assert tiered.codec == Lz4(acceleration=4)
    assert (tiered.settings.write, tiered.settings.lease) == ("eviction", 2.0)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"tiers": []}, "tiers must be a list of tables"),
        ({"tiers": "cpu"}, "tiers must be a list of tables"),
        ({"tiers": ["cpu"]}, "tiers must be a list of tables"),
        ({"tiers": CPU}, "tiers must be a list of tables"),
        ({"tiers": [{"capacity": 1}]}, r"^tiers\[0\]\.name is missing; write one of: cpu, disk, gpu, redis"),
        ({"tiers": [CPU, CPU]}, "each tier may be there once"),
        ({"tiers": [{"name": "redis"}]}, "the first must be the cpu tier"),
        ({"tiers": [{"name": "redis"}, CPU]}, "the first must be the cpu tier"),
        ({"tiers": [{**CPU, "name": "cpuu"}]}, "did you mean 'cpu'"),
        ({"tiers": [{**CPU, "capacty": 1}]}, r"tiers\.cpu\.capacty'; did you mean 'capacity'"),
        ({"tiers": [{"name": "cpu"}]}, r"^tiers\.cpu\.capacity is missing, and has no default"),
        ({"tiers": [{"name": "cpu", "capacity": 100}]}, "at least 512"),
        ({"tiers": [{"name": "cpu", "capacity": "-1GiB"}]}, "at least 512"),
        ({"tiers": [{**CPU, "slab": "5MiB"}]}, "slab"),
        ({"tiers": [CPU, {"name": "redis", "url": "http://host"}]}, "redis://"),
        ({"tiers": [CPU, {"name": "redis", "url": "redis://"}]}, "redis://"),
        ({"tiers": [CPU, {"name": "redis", "url": "redis://:pass/word@host"}]}, "%xx"),
        ({"tiers": [CPU, {"name": "redis", "capacity": "1MiB"}]}, "4MiB"),
        ({"tiers": [CPU, {"name": "redis", "ttl": 0}]}, "more than 0"),
        ({"codecs": {"name": "zip"}}, "zip"),
        ({"codecs": {"name": "lz4", "pays": 1.5}}, "pays"),
        ({"codecs": {"name": "lz4", "acceleration": 0}}, "acceleration"),
        ({"codecs": "lz4"}, r"^codecs must be a table, got text: write the line \[codecs\] and its settings below"),
        ({"codecs": {}}, r"^codecs\.name is missing; write one of: entropy, lz4, raw"),
        ({"tiers": [CPU, {"capacity": 1}]}, r"^tiers\[1\]\.name is missing; write one of: cpu"),
        ({"tiers": [{}, {}]}, r"^tiers\[0\]\.name is missing"),
        ({"tiers": {}}, r"^tiers must be a list of tables: write \[\[tiers\]\] for each, the cpu tier first"),
        ({"tiers": [CPU, 3]}, r"^tiers must be a list of tables"),
        ({"eviction": {"name": "lur"}}, "did you mean 'lru'"),
        ({"store": {"write": "behind"}}, "through"),
        ({"store": {"lease": "1d"}}, "longest_lease"),
        ({"store": {"lease": 0}}, "lease"),
        ({"store": {"backlog": 0}}, "backlog"),
        ({"store": {"leese": 1}}, "did you mean 'lease'"),
    ],
)
def test_compositions_that_cannot_work_are_refused(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        compose(tables)
    assert "pass" not in str(caught.value).replace("password", "") and "\n" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Redis("redis://user:secret@host:1")) + repr(
        Redis("redis://user:secret@host:1").start(Lru())
    )
