"""The one registry of metrics: what each is, its unit, which way is better, what values it can have, who measures it.

A metric that is not here can still be judged where a record has it (a suite's own checks, say); a name that is neither
here nor in a record is a mistake and is told with those that it could be. Differences and ratios are not listed: they
are of the metric that they are named after, and `metric_named` works out their direction and range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Literal

# where a measurement applies, in the order in which readers name it; without a place it is over everything, as served
PLACES = ("slice", "depth", "turn", "layer", "case", "against", "test")
# "zero": the nearer to 0 the better, so that a limit on either side limits something
Better = Literal["lower", "higher", "zero"]
# who measures it, and so what it is clustered by and what it depends on
Family = Literal["compare", "eval", "tau2", "results", "rollout", "bench", "serving", "size"]

SHARE, NATS, RELATIVE, SECONDS, RATE, BYTES, COUNT = (
    "share", "nats", "relative error", "s", "tokens/s", "bytes", "count",
)  # fmt: skip
# unit -> the least and the largest value that it can have
_RANGES: dict[str, tuple[float, float]] = {SHARE: (0.0, 1.0)}
_SUFFIXES = ("_difference", "_ratio")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `name` may be a regular expression; `shown` is how a list of valid names writes it.

    `span` are the ends of the values that it can have, where its unit does not say: a share lies in [0, 1], all else
    is 0 or more.
    """

    name: str
    better: Better
    family: Family
    unit: str
    meaning: str
    shown: str = ""
    span: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The least value that it can have."""
        return (self.span or _RANGES.get(self.unit, (0.0, inf)))[0]

    @property
    def high(self) -> float:
        """The largest value that it can have."""
        return (self.span or _RANGES.get(self.unit, (0.0, inf)))[1]

    @property
    def best(self) -> str:
        """Which way is better, in words."""
        return "closer to 0 is better" if self.better == "zero" else f"{self.better} is better"

    def difference(self) -> Metric:
        """The metric of a candidate less a baseline's."""
        wide = self.high - self.low
        return Metric(f"{self.name}_difference", self.better, self.family, self.unit, self.meaning, span=(-wide, wide))

    def ratio(self) -> Metric:
        """The metric of a candidate over a baseline's."""
        return Metric(f"{self.name}_ratio", self.better, self.family, "ratio", self.meaning, span=(0.0, inf))


_ANY = (-inf, inf)
_CHANGE = (-1.0, 1.0)

METRICS: tuple[Metric, ...] = (
    Metric("kl_nats", "lower", "compare", NATS, "mean KL(reference ‖ candidate) a token, in nats"),
    Metric(r"kl_(max|median|min|p[0-9_]+)_nats", "lower", "compare", NATS, "a quantile of it over tokens",
           "kl_p99_nats, …"),
    Metric(r"kl_above_(0_01|0_1|1)_nats", "lower", "compare", SHARE, "share of tokens whose KL is above so many nats",
           "kl_above_0_01_nats, kl_above_0_1_nats, kl_above_1_nats"),
    Metric("kl_through_routing_nats", "lower", "compare", NATS, "the part of it that comes through routing", span=_ANY),
    Metric("perplexity", "lower", "compare", "perplexity", "exp of the mean -log p of the correct token",
           span=(1.0, inf)),
    Metric("perplexity_ratio", "lower", "compare", "ratio", "the candidate's perplexity over the reference's"),
    Metric("log_perplexity", "lower", "compare", NATS, "mean -log p of the correct token"),
    Metric("log_perplexity_ratio", "lower", "compare", NATS, "logarithm of perplexity_ratio", span=_ANY),
    Metric("log_perplexity_correlation", "higher", "compare", "correlation", "correlation of both models' -log p",
           span=_CHANGE),
    Metric("same_top", "higher", "compare", SHARE, "share of tokens with the same token most likely"),
    Metric("dp_rms", "lower", "compare", "probability", "root mean square change of the correct token's probability",
           span=(0.0, 1.0)),
    Metric(r"dp_(mean|min|max|median|p[0-9_]+)", "zero", "compare", "probability",
           "change of the correct token's probability", "dp_mean, dp_p1, …", span=_CHANGE),
    Metric("expert_set_changed", "lower", "compare", SHARE, "share of tokens for which a layer chose other experts"),
    Metric("first_expert_changed", "lower", "compare", SHARE, "share of tokens whose first expert changed"),
    Metric("flips_weighted", "lower", "compare", RELATIVE, "relative change of the block's output at such tokens, over"
           " all"),
    Metric("block_change", "lower", "compare", RELATIVE, "relative change of the block's output, over all tokens"),
    Metric(r"router_margin(_p[0-9]+|_median)?", "higher", "compare", "logits",
           "the reference's logit margin at the router's boundary", "router_margin, router_margin_p1, …", span=_ANY),
    Metric(r"hidden_error_(in|out)", "lower", "compare", RELATIVE, "relative L2 error of the hidden state at a layer",
           "hidden_error_in, hidden_error_out"),
    Metric("pass", "higher", "eval", SHARE, "share of items passed"),
    Metric(r"pass_hat_[1-9][0-9]*", "higher", "eval", SHARE, "chance that k trials of a task all pass",
           "pass_hat_1, …"),
    Metric("valid_call", "higher", "eval", SHARE, "share of due calls that are calls at all"),
    Metric("valid_json", "higher", "eval", SHARE, "share of due calls whose arguments are JSON"),
    Metric("valid_schema", "higher", "eval", SHARE, "share of due calls that fit the tool's schema"),
    Metric("right_tool", "higher", "eval", SHARE, "share of due calls of the right tool"),
    Metric("right_arguments", "higher", "eval", SHARE, "share of due calls with the right arguments"),
    Metric("policy_kept", "higher", "eval", SHARE, "share of due calls that break no policy"),
    Metric("in_order", "higher", "eval", SHARE, "share of due calls made in the right order"),
    Metric("made", "higher", "eval", SHARE, "share of due calls made in the end"),
    Metric("rules_kept", "higher", "eval", SHARE, "share of loops that break no policy"),
    Metric("replies_right", "higher", "eval", SHARE, "share of loops whose replies are all right"),
    Metric("refused_rightly", "higher", "eval", SHARE, "share of loops that refuse all that they must"),
    Metric("nothing_refused_wrongly", "higher", "eval", SHARE, "share of loops that refuse nothing that they must not"),
    Metric("right_call", "higher", "eval", SHARE, "share of due calls with nothing wrong"),
    Metric("state_equal", "higher", "eval", SHARE, "share of loops that leave the database as they should"),
    Metric("reward", "higher", "tau2", "reward", "average reward", span=(0.0, 1.0)),
    Metric("read_action_accuracy", "higher", "tau2", SHARE, "share of expected read actions made"),
    Metric("write_action_accuracy", "higher", "tau2", SHARE, "share of expected write actions made"),
    Metric("db_match", "higher", "tau2", SHARE, "share of simulations with the right database at the end"),
    Metric("tool_call_errors", "lower", "tau2", SHARE, "share of tool calls answered by an error"),
    Metric("turns", "lower", "tau2", COUNT, "the user's turns in a run"),
    Metric("tool_calls", "lower", "tau2", COUNT, "the agent's tool calls in a run"),
    Metric("same_tool", "higher", "rollout", SHARE, "share of the baseline's replies with calls for which the candidate"
           " calls the same tools"),
    Metric("same_arguments", "higher", "rollout", SHARE, "share of the baseline's replies with calls for which the"
           " candidate calls the same tools with the same arguments"),
    Metric("unexpected_call", "lower", "rollout", SHARE, "share of the baseline's replies without a call for which the"
           " candidate calls a tool"),
    Metric("same_finish", "higher", "rollout", SHARE, "share of mirrored replies that end for the same reason"),
    Metric("same_language", "higher", "rollout", SHARE, "share of mirrored replies in the same language"),
    Metric("refused", "lower", "rollout", SHARE, "share of texts that begin as refusals do"),
    Metric("cut_off", "lower", "rollout", SHARE, "share of replies that ended at the limit of tokens"),
    Metric("output_tokens", "lower", "rollout", COUNT, "tokens of a reply"),
    Metric("thumbs_up", "higher", "rollout", SHARE, "share of rated replies that users liked"),
    Metric("retried", "lower", "rollout", SHARE, "share of requests that users sent again within ten minutes"),
    Metric(r"(acc|acc_norm|acc_bytes|exact_match|f1|em|mc1|mc2)(,[\w.-]+)?", "higher", "results", SHARE,
           "a score of lm-evaluation-harness, with its filter", "acc, acc_norm, exact_match,strict-match, f1, …"),
    Metric("(base|plus)_pass", "higher", "results", SHARE, "share of EvalPlus tasks solved, by base or all tests",
           "base_pass, plus_pass"),
    Metric("infrastructure_errors", "lower", "serving", SHARE, "share of trials that never got an answer"),
    Metric("timeouts", "lower", "serving", SHARE, "share of trials that timed out"),
    Metric(r"ttft_s_p(50|90|99)", "lower", "serving", SECONDS,
           "seconds to the first token, over an evaluation's requests", "ttft_s_p50, ttft_s_p90, ttft_s_p99"),
    Metric(r"request_s_p(50|90|99)", "lower", "serving", SECONDS, "seconds of a whole answer", "request_s_p50, …"),
    Metric(r"decode_tok_s_p(50|90|99)", "higher", "serving", RATE, "tokens a second, over an evaluation's requests",
           "decode_tok_s_p50, …"),
    Metric("prefill_tok_s", "higher", "bench", RATE, "prompt tokens a second, of a bench test"),
    Metric("decode_tok_s", "higher", "bench", RATE, "generated tokens a second, of a bench test"),
    Metric("ttft_s", "lower", "bench", SECONDS, "seconds to the first token, of a bench test"),
    Metric("inter_token_ms", "lower", "bench", "ms", "milliseconds from token to token, a run's median"),
    Metric("peak_memory_bytes", "lower", "bench", BYTES, "the largest of a bench test's runs"),
    Metric("bytes", "lower", "size", BYTES, "of the build's tensors"),
    Metric("bpw", "lower", "size", "bits per weight", "bits per weight, scales and biases counted"),
    Metric("active_bytes_per_token", "lower", "size", BYTES, "weights that a token reads"),
)  # fmt: skip


@lru_cache(maxsize=1024)
def metric_named(name: str) -> Metric | None:
    """The metric of this name, or the difference or ratio of one; None where there is none.

    >>> metric_named("same_top_difference").low
    -1.0
    """
    if len(name) > _LONGEST:
        return None
    for metric in METRICS:
        if re.fullmatch(metric.name, name):
            return metric
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and (of := metric_named(name.removesuffix(suffix))):
            return of.difference() if suffix == "_difference" else of.ratio()
    return None


def valid_names() -> str:
    """All names, for a message."""
    return ", ".join(metric.shown or metric.name for metric in METRICS)


# --- quantiles that are measured, and what llama.cpp calls its figures ---

KL_QUANTILES = {
    "kl_min_nats": 0, "kl_p0_1_nats": 0.001, "kl_p1_nats": 0.01, "kl_p5_nats": 0.05, "kl_p10_nats": 0.1,
    "kl_median_nats": 0.5, "kl_p90_nats": 0.9, "kl_p95_nats": 0.95, "kl_p99_nats": 0.99, "kl_p99_9_nats": 0.999,
    "kl_max_nats": 1,
}  # fmt: skip
KL_ABOVE = {"kl_above_0_01_nats": 0.01, "kl_above_0_1_nats": 0.1, "kl_above_1_nats": 1.0}
DP_QUANTILES = {
    "dp_min": 0, "dp_p0_1": 0.001, "dp_p1": 0.01, "dp_p5": 0.05, "dp_p10": 0.1, "dp_p25": 0.25, "dp_median": 0.5,
    "dp_p75": 0.75, "dp_p90": 0.9, "dp_p95": 0.95, "dp_p99": 0.99, "dp_p99_9": 0.999, "dp_max": 1,
}  # fmt: skip
LLAMA_NAMES = {
    "perplexity": "Mean PPL(Q)",
    "perplexity_reference": "Mean PPL(base)",
    "log_perplexity_correlation": "Cor(ln(PPL(Q)), ln(PPL(base)))",
    "log_perplexity_ratio": "Mean ln(PPL(Q)/PPL(base))",
    "perplexity_ratio": "Mean PPL(Q)/PPL(base)",
    "perplexity_difference": "Mean PPL(Q)-PPL(base)",
    "kl_nats": "Mean KLD",
    "kl_max_nats": "Maximum KLD",
    "kl_p99_9_nats": "99.9% KLD",
    "kl_p99_nats": "99.0% KLD",
    "kl_p95_nats": "95.0% KLD",
    "kl_p90_nats": "90.0% KLD",
    "kl_median_nats": "Median KLD",
    "kl_p10_nats": "10.0% KLD",
    "kl_p5_nats": "5.0% KLD",
    "kl_p1_nats": "1.0% KLD",
    "kl_p0_1_nats": "0.1% KLD",
    "kl_min_nats": "Minimum KLD",
    "dp_mean": "Mean Δp",
    "dp_max": "Maximum Δp",
    "dp_p99_9": "99.9% Δp",
    "dp_p99": "99.0% Δp",
    "dp_p95": "95.0% Δp",
    "dp_p90": "90.0% Δp",
    "dp_p75": "75.0% Δp",
    "dp_median": "Median Δp",
    "dp_p25": "25.0% Δp",
    "dp_p10": "10.0% Δp",
    "dp_p5": "5.0% Δp",
    "dp_p1": "1.0% Δp",
    "dp_p0_1": "0.1% Δp",
    "dp_min": "Minimum Δp",
    "dp_rms": "RMS Δp",
    "same_top": "Same top p",
}

# verdicts: beside the noise floor, and beside another candidate
WITHIN, ABOVE, OPEN = "within the noise floor", "above the noise floor", "not resolved"
BETTER, WORSE, ALIKE = "better", "worse", "alike"

CAVEAT = (
    "KL rejects bad quantizations; it does not rank near-lossless ones, whose benchmark scores it was found not to"
    " predict (arXiv:2606.19558)"
)
