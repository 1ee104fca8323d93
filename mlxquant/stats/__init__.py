"""Intervals for what is measured in clusters: tokens of documents, calls of tasks, trials of items.

Tokens of one document err together, and so do the calls of one task. A formula for independent samples then gives
intervals that are too short, often by a factor of three (Miller 2024, arXiv:2411.00640). Everything here takes the
documents or tasks as the independent units. By what is measured:

- means, ratios of sums, and smooth functions of them: cluster-robust, CR2, Student's t (`sums`); skewed means of 20 to
  499 documents by bootstrap-t (`resampled`);
- shares (0 or 1 for each observation): Clopper-Pearson at the effective sample size, Korn and Graubard 1998; paired
  differences of them after Bonett and Price 2012 (`sums`);
- quantiles: Woodruff's interval, or a bootstrap over clusters (`quantiles`);
- rank correlations over a few builds: Bonett and Wright 2000 (`ranks`);
- how long until something happens: Kaplan-Meier, the median by Brookmeyer and Crowley (`survival`).

Fewer than five clusters (`LEAST_CLUSTERS`) give an estimate without an interval, and the reason. Of four documents,
one that differs from the others is a quarter of all there is to see; the t quantile at 3 degrees of freedom is 3.2, so
that an honest interval says next to nothing, and a bootstrap of four has 35 distinct samples. `bench` asks for five
rounds likewise.

What it does not do: correct for many comparisons (a table of 40 slices has two outside their 95 % intervals by
chance), or know of clusters above the document, such as ten documents from one template.
"""

from __future__ import annotations

from .interval import LEAST_CLUSTERS, Interval, t_quantile
from .least_squares import bounded_least_squares
from .planning import Planned, planned
from .quantiles import bootstrap_quantile, clustered_quantiles
from .ranks import rank_correlation
from .resampled import FEWEST as FEWEST_SKEWED
from .resampled import covered, skewed_ratio
from .sums import (
    OF_TOKENS,
    assumed_effect,
    clustered_difference,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    design_effect_of,
    difference_of_sums,
    linearized,
    mcnemar_exact,
    pass_chances,
    pass_hat_difference,
    pass_hat_k,
    ratio_of_sums,
    share_of_sums,
)
from .survival import Survival, kaplan_meier

__all__ = [
    "FEWEST_SKEWED",
    "LEAST_CLUSTERS",
    "OF_TOKENS",
    "Interval",
    "Planned",
    "Survival",
    "assumed_effect",
    "bootstrap_quantile",
    "bounded_least_squares",
    "clustered_difference",
    "clustered_mean",
    "clustered_quantiles",
    "clustered_ratio",
    "clustered_share",
    "covered",
    "design_effect_of",
    "difference_of_sums",
    "interval",
    "kaplan_meier",
    "linearized",
    "mcnemar_exact",
    "pass_chances",
    "pass_hat_difference",
    "pass_hat_k",
    "planned",
    "rank_correlation",
    "ratio_of_sums",
    "share_of_sums",
    "skewed_ratio",
    "t_quantile",
    "unpaired",
]
