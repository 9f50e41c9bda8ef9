"""What tests of several floors share."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

if not Path("/dev/nvidiactl").exists():
    # whoever imports triton first decides for the whole process whether its own functions can be interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")

# how long an example takes says more about the machine than about us; pytest's own timeout ends what hangs
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = [f"tests.redis_servers.{name}" for name in ("server", "cluster", "sentinel", "tls", "scripted")]

LONG = ("cluster", "e2e", "gateway", "workers", "faults", "cli", "store")
"""Folders of few tests that take long, since they start processes or go through long histories: the longest first."""

TOGETHER = {
    f"tests/{folder}/{file}.py": "workers"
    for folder, files in {
        "e2e": ("test_abort", "test_giving_up", "test_same_tokens", "test_worker_figures"),
        "gateway": ("test_answers_e2e", "test_refusals_e2e"),
    }.items()
    for file in files
}
"""Files that xdist gives to one of its processes: they share clusters, and what the clusters' workers are forked of."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as without this, but for those `TOGETHER`."""
    # not every engine's environment has it
    from xdist.scheduler.loadfile import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return TOGETHER.get(file, file)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """Lets xdist keep the order below: files of few tests would come last, however long these take."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first: begun last, it would be waited for alone."""
    place = {folder: number for number, folder in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))


@pytest.fixture
def password() -> str:
    """A password that nobody else can know, and that no message may show."""
    return secrets.token_hex(16)


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Asserts that something becomes true soon."""

    def wait(condition: Callable[[], object], within: float = 10.0) -> None:
        until = time.monotonic() + within
        while not condition():
            assert time.monotonic() < until, "it did not become true in time"
            time.sleep(0.005)

    return wait
