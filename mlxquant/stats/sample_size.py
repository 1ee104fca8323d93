"""How many more documents or tasks would settle a question that an interval leaves open."""

from __future__ import annotations

import math

from .interval import EXACT_METHOD, LEAST_CLUSTERS, Interval, t_quantile

MOST = 10_000_000


def samples_needed(found: Interval, bound: float, *, confidence: float | None = None, power: float = 0.8) -> int | None:
    """Clusters to add until the interval leaves `bound` out with a chance of `power`, if the estimate is the truth.

    The standard error falls with the square root of the number of clusters G, so the total is the least G with

        |estimate - bound| >= (t(confidence, G - 1) + z(power)) · se · sqrt(clusters / G)

    An estimate 0.5 se from the bound with 50 clusters: 1,572 in all, 1,522 more. For a share of 0 or 1 it is the least
    number of clusters, all alike, whose Clopper-Pearson interval ends before the bound. None where nothing can be
    said: no spread is known, the estimate is on the bound, or more than ten million would be needed.
    """
    wanted = found.confidence if confidence is None else confidence
    distance = abs(found.estimate - bound)
    if distance == 0 or not math.isfinite(distance):
        return None
    if found.method == EXACT_METHOD:
        if distance >= 1:
            return 0
        total = math.ceil(math.log((1 - wanted) / 2) / math.log1p(-distance))
        return max(0, total - found.clusters) if total <= MOST else None
    if found.low is None or not found.se:
        return max(1, LEAST_CLUSTERS - found.clusters) if found.clusters < LEAST_CLUSTERS else None
    from scipy.special import ndtri

    luck, spread = float(ndtri(power)), found.se * math.sqrt(found.clusters)
    total = LEAST_CLUSTERS
    for _ in range(64):  # t depends on the total, so the formula is applied until it stands
        reach = (t_quantile(wanted, total - 1) + luck) * spread / distance
        if reach > math.sqrt(MOST):
            return None
        following = max(math.ceil(reach**2), LEAST_CLUSTERS)
        if following == total or abs(following - total) == 1:
            total = max(following, total)
            break
        total = following
    return max(0, total - found.clusters)
