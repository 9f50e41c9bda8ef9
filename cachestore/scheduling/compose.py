"""From the section `[scheduling]` to a policy and a predictor."""

from collections.abc import Mapping
from typing import Any

from cachestore.config import Table, build_named
from cachestore.errors import ConfigError
from cachestore.scheduling import PREDICTORS, SCHEDULINGS
from cachestore.scheduling.base import Scheduling
from cachestore.scheduling.predictor import Prediction

DEFAULT: Table = {"name": "mc_sf"}
DEFAULT_PREDICTOR: Table = {"name": "history"}


def compose(table: Table = DEFAULT) -> tuple[Scheduling, Prediction]:
    """What the section asks for; ConfigError names the key that cannot work."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"scheduling must be a table, got {table!r}")
    if "predictor" in table and not isinstance(table["predictor"], dict):
        raise ConfigError("scheduling.predictor must be a table: write [scheduling.predictor]")
    rest: dict[str, Any] = {key: value for key, value in table.items() if key != "predictor"}
    scheduling: Scheduling = build_named(SCHEDULINGS, rest, "scheduling")
    prediction: Prediction = build_named(PREDICTORS, table.get("predictor", DEFAULT_PREDICTOR), "scheduling.predictor")
    return scheduling, prediction
