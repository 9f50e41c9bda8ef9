"""Which request runs next, under the memory limit?

    fcfs   in the order in which they arrived
    mc_sf  those first that are predicted to end soonest

Both start a sequence only if what all are predicted to need fits the memory until the last of them ends. How long an
output will be is a question of its own, `[scheduling.predictor]`:

    bound    as long as it may be
    exact    as long as its request says
    history  a quantile of what outputs of its namespace were

To add a policy: a file with a frozen dataclass of its settings and a `start()` that gives a `base.Queue`, a line here,
and a subclass of `cachestore.testing.SchedulingTests`. To add a predictor: the same with `predictor.Predictor` and
`PredictorTests`.
"""

from cachestore.registry import Catalogue

SCHEDULINGS = Catalogue(
    "scheduling",
    {
        "fcfs": "cachestore.scheduling.fcfs:Fcfs",
        "mc_sf": "cachestore.scheduling.mc_sf:McSf",
    },
)

PREDICTORS = Catalogue(
    "scheduling.predictor",
    {
        "bound": "cachestore.scheduling.predictor_bound:Bound",
        "exact": "cachestore.scheduling.predictor_exact:Exact",
        "history": "cachestore.scheduling.predictor_history:History",
    },
)
