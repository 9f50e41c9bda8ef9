"""From the section `[scheduling]` to a policy and a predictor."""

from typing import Any

from cachestore.config import Table, build_named, check_table
from cachestore.scheduling import PREDICTORS, SCHEDULINGS
from cachestore.scheduling.base import Scheduling
from cachestore.scheduling.predictor import Prediction

DEFAULT: Table = {"name": "mc_sf"}
DEFAULT_PREDICTOR: Table = {"name": "history"}


def compose(table: Table = DEFAULT) -> tuple[Scheduling, Prediction]:
    """What the section asks for; ConfigError names the key that cannot work."""
    check_table(table, "scheduling")
    rest: dict[str, Any] = {key: value for key, value in table.items() if key != "predictor"}
    scheduling: Scheduling = build_named(SCHEDULINGS, rest, "scheduling")
    prediction: Prediction = build_named(PREDICTORS, table.get("predictor", DEFAULT_PREDICTOR), "scheduling.predictor")
    return scheduling, prediction
