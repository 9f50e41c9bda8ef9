"""How many workers: as many as their own queues ask for.

Requests go straight to the workers' ports, so Serve counts none of them. Each replica tells it how long its queue is
(`record_autoscaling_stats` of Serve's deployments), and this policy divides the sum among workers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

    from cachestore.cluster.settings import ClusterSettings

QUEUE = "queue"
"""The figure that replicas tell: requests that wait or run there, mean over the time that Serve looks back."""

LOOK_BACK = 15.0
"""Seconds. Replicas tell Serve every ten, so that there is always one figure at least."""


def by_queues(context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
    """How many replicas Serve should want, before it applies bounds and delays; it keeps no state.

    A replica that has told nothing yet has nothing to do. While none has, as behind a restart of Serve's controller,
    there are as many as before.
    """
    told = (context.aggregated_metrics or {}).get(QUEUE)
    if not told:
        return context.target_num_replicas, {}
    return sum(told.values()) / context.config.get_target_ongoing_requests(), {}


def autoscaling(settings: "ClusterSettings", role: str) -> Any:
    """Serve's configuration for the workers of a role; None if there are always equally many."""
    fewest, most = settings.replicas()[role], settings.most()[role]
    if fewest == most:
        return None
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    return AutoscalingConfig(
        min_replicas=fewest,
        max_replicas=most,
        target_ongoing_requests=settings.target_queue,
        upscale_delay_s=settings.scale_up_after,
        downscale_delay_s=settings.scale_down_after,
        look_back_period_s=LOOK_BACK,
        policy=AutoscalingPolicy(policy_function=by_queues),
    )
