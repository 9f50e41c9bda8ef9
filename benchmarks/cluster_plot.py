"""Hit rate and imbalance over nodes, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster_run import Outcome

from cachestore.replay.plot import COLOURS, DOTS_PER_INCH, SIZE


def draw(
    found: Mapping[str, Sequence[Outcome]], ones: Mapping[str, Sequence[Outcome]], nodes: Sequence[int], path: Path
) -> None:
    """For each workload its hit rate beside those of `ones`, single nodes with all the memory, and its imbalance."""
    from matplotlib.figure import Figure

    figure = Figure(SIZE, dpi=DOTS_PER_INCH, layout="constrained")
    sides = figure.subplots(1, 2)
    for colour, (name, outcomes) in zip(COLOURS, found.items(), strict=False):
        rates = [many.hit_rate / one.hit_rate for many, one in zip(outcomes, ones[name], strict=True)]
        sides[0].plot(nodes, rates, color=colour, marker="o", label=name)
        sides[1].plot(nodes, [outcome.imbalance for outcome in outcomes], color=colour, marker="o", label=name)
    for axes, title in zip(sides, ("hit rate over one node's", "most served over mean"), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel("nodes")
        axes.set_title(title, loc="left")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].set_ylim(0.8, 1.02)
    sides[1].set_ylim(bottom=1.0)
    sides[1].legend(frameon=False)
    figure.savefig(path)
