"""Hit rate over capacity, as a picture."""

import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from cachestore.errors import ConfigError
from cachestore.replay.comparing import LRU, Row
from cachestore.replay.trace import Trace

SIZE = (9.0, 5.0)
DOTS_PER_INCH = 110
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by colour-blind readers too (Okabe and Ito, 2008)."""
GREY, BLACK = "#888888", "#222222"


def check_plot(path: Path) -> None:
    """ConfigError if no picture could be written there: known before a long replay, not behind it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--plot needs the package matplotlib; install it with: pip install 'kv-cachestore[plot]'"
        ) from error
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot: {path} must be a .png file")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot: there is no folder {path.parent}")


def draw(rows: Sequence[Row], trace: Trace, path: Path) -> None:
    """Draws the rows of `compare`: a line for every policy between those of LRU, the optimum and the infinite cache."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    figure = Figure(SIZE, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    policies = list(dict.fromkeys(row.policy for row in rows))
    by_policy = {policy: [row for row in rows if row.policy == policy] for policy in policies}
    some = by_policy[policies[0]]
    capacities = [row.capacity for row in some]
    axes.axhline(rows[0].infinite, color=GREY, linestyle=":", label="infinite cache")
    axes.plot(capacities, [row.optimum for row in some], color=BLACK, linestyle="--", label="optimum")
    for policy, colour in zip(policies, cycle(COLOURS), strict=False):
        rates = [row.hit_rate for row in by_policy[policy]]
        axes.plot(capacities, rates, color=colour, marker="o", markersize=4, label=policy)
    if LRU not in policies:
        axes.plot(capacities, [row.lru for row in some], color=GREY, label=LRU)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("capacity in blocks")
    axes.set_ylabel("share of blocks hit")
    axes.set_title(f"Hit rate over capacity: {trace.name}", loc="left", parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper")
    try:
        with warnings.catch_warnings():
            # a name in letters that the font lacks is still a picture
            warnings.simplefilter("ignore", UserWarning)
            figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--plot: cannot write {path}: {error.strerror}") from error
