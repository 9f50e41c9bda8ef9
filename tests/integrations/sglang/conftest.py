"""SGLang made importable without a GPU, and engines of it."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.integrations.conftest import Served

if find_spec("sglang") is not None:
    from tests.integrations.sglang.operators import declare

    declare()


@pytest.fixture
def engine(served: Served) -> Iterator[Callable[..., Any]]:
    from tests.integrations.sglang.engine import Engine

    made: list[Engine] = []

    def make(**given: Any) -> Engine:
        made.append(Engine(served.address, **given))
        return made[-1]

    yield make
    for each in made:
        each.close()
