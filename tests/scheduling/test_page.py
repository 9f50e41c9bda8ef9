"""The page on scheduling says what is."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from cachestore.registry import Catalogue
from cachestore.scheduling import PREDICTORS, SCHEDULINGS
from cachestore.scheduling.compose import compose

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text()


def test_the_configuration_loads_and_shows_the_defaults() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert compose(tomllib.loads(text)["scheduling"]) == compose()


@pytest.mark.parametrize("catalogue", [SCHEDULINGS, PREDICTORS], ids=lambda catalogue: catalogue.folder)
def test_every_method_and_its_settings_are_named(catalogue: Catalogue) -> None:
    for method in catalogue.names():
        assert f"`{method}`" in PAGE
        for setting in fields(catalogue.load(method)):
            default = f"{setting.default:,}" if isinstance(setting.default, int) else f"{setting.default}"
            assert f"| `{setting.name}` | `{method}` | {default} |" in PAGE
