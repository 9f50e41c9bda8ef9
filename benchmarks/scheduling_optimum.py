"""The least total latency that any schedule of known requests has, as an integer program.

x[i, k] = 1 if request i starts before step k. Each starts once, after it arrived; in every step the memory of all that
run fits. Source of the program: Jaillet et al., arXiv 2502.07115, section 2; how far k goes is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, vstack

from cachestore.scheduling.simulation import Arrival

PROVEN = 0
"""What `milp` says of a solution that it knows to be the best."""


@dataclass(frozen=True)
class Optimum:
    """What the solver found.

    total: the latency of all requests together
    starts: the step before which each starts
    proven: no schedule has less
    gap: how far the total may be above the least, as a share of it; 0 if proven
    """

    total: int
    starts: list[int]
    proven: bool
    gap: float


def optimum(arrivals: Sequence[Arrival], budget: int, known: int, seconds: float) -> Optimum | None:
    """The least total latency of sequences in whole tokens; None if the solver found no schedule in so many seconds.

    `known` is the total of a schedule that exists. Nobody waits longer in an optimal one than `known` leaves when all
    others wait not at all, nor starts after all could have run one by one; so later starts need no variable.
    """
    outputs = [arrival.output for arrival in arrivals]
    spare = known - sum(outputs)
    end = max(arrival.step for arrival in arrivals) + sum(outputs)
    starts = [
        (number, step)
        for number, arrival in enumerate(arrivals)
        for step in range(arrival.step, min(arrival.step + spare, end - arrival.output) + 1)
    ]
    rows, columns, held = [], [], []
    for column, (number, start) in enumerate(starts):
        for taken in range(1, outputs[number] + 1):
            rows.append(start + taken)
            columns.append(column)
            held.append(arrivals[number].request.prompt_tokens + taken)
    memory = coo_array((held, (rows, columns)), shape=(end + 1, len(starts)))
    once = coo_array(
        (np.ones(len(starts)), ([number for number, _ in starts], range(len(starts)))),
        shape=(len(arrivals), len(starts)),
    )
    least = np.r_[np.full(end + 1, -np.inf), np.ones(len(arrivals))]
    most = np.r_[np.full(end + 1, budget), np.ones(len(arrivals))]
    latency = [start + outputs[number] - arrivals[number].step for number, start in starts]
    found = milp(
        latency,
        integrality=np.ones(len(starts)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(vstack([memory, once]).tocsc(), least, most),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    total, proven = round(found.fun), found.status == PROVEN
    chosen = dict(starts[column] for column in np.flatnonzero(found.x > 0.5))
    gap = 0.0 if proven else (total - found.mip_dual_bound) / total
    return Optimum(total, [chosen[number] for number in range(len(arrivals))], proven, gap)
