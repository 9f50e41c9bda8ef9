"""Engines of vLLM's with our connector, on one store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.conftest import Served


@pytest.fixture
def engine(served: Served, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    from tests.integrations.vllm.engine import Engine

    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        directory = settings.pop("directory", tmp_path / "model")
        made.append(Engine(directory, served.address, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
