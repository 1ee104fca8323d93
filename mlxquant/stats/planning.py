"""How many documents or tasks would settle a question: planned on what is assumed, never on the estimate at hand.

To take the estimate for the truth is post-hoc power (Hoenig and Heisey 2001, The American Statistician 55): it says
again how near the estimate lies to the limit, and of one truth gives 22 in one sample and 3,028 in the next. Here the
truth is assumed (no difference, or a figure half-way between its limit and the best that it can be), and of the data
only the spread from cluster to cluster is taken, with its own uncertainty, which makes the plan a range:

    clusters >= ((t(confidence) + z(power)) · spread / |assumed - limit|)²

    spread between sqrt(df / chi²(0.9, df)) and sqrt(df / chi²(0.1, df)) times the one observed
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .interval import LEAST_CLUSTERS, Interval, t_quantile

POWER = 0.8
MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Planned:
    """Clusters in all, `least` to `most`, that leave the limit out with a chance of 80 %, the truth being `assumed`."""

    least: int
    most: int
    assumed: float

    def as_dict(self) -> dict[str, Any]:
        """As in a record."""
        return {"least": self.least, "most": self.most, "assumed": self.assumed}


def planned(interval: Interval, limit: float, assumed: float, *, confidence: float | None = None) -> Planned | None:
    """Plan a measurement that would tell `assumed` from `limit`, by the spread of one at hand.

    None where no spread is known, the two are one, or more than ten million clusters would be needed.
    """
    distance = abs(assumed - limit)
    if interval.low is None or interval.high is None or not distance or not math.isfinite(distance):
        return None
    from scipy.special import chdtri

    df = interval.df or max(interval.clusters - 1, 1)
    # half the interval, not the standard error: that is 0 where nothing differs
    quantile = t_quantile(interval.confidence, df)
    spread = (interval.high - interval.low) / 2 * math.sqrt(interval.clusters) / quantile if quantile > 0 else 0.0
    if not spread > 0 or not math.isfinite(spread):
        return None
    wanted = interval.confidence if confidence is None else confidence
    ends = [math.sqrt(df / float(chdtri(df, tail))) for tail in (0.1, 0.9)]
    reach = spread / distance
    if reach * ends[1] > math.sqrt(MOST):
        return None
    least, most = (_clusters(reach * end, wanted) for end in ends)
    return None if most >= MOST else Planned(least, most, assumed)


def _clusters(spread: float, confidence: float) -> int:
    """The least G with ``G >= ((t(confidence, G - 1) + z(power)) · spread)²``, `spread` in units of the distance."""
    from scipy.special import ndtri

    luck, total = float(ndtri(POWER)), LEAST_CLUSTERS
    for _ in range(64):  # t depends on the total, so the formula is applied until it stands
        root = (t_quantile(confidence, total - 1) + luck) * spread
        beyond = root >= math.sqrt(MOST)  # where its square may be none that a float holds
        following = MOST if beyond else max(math.ceil(root**2), LEAST_CLUSTERS)
        if abs(following - total) <= 1:
            return max(following, total)
        total = following
    return total
