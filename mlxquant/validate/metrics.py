"""The figures that a tolerance may name: what each is, in which unit, and which way is better.

A figure that is no family of these can still be judged where a record of the run has it (a suite's own checks, say);
a name that is neither here nor in a record is a mistake and is told with those that it could be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
# who measures it, and so what it is clustered by and what it hangs on
Family = Literal["compare", "eval", "tau2", "bench", "serving", "size"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure. `name` may be a regular expression; `shown` is how a list of valid names writes it."""

    name: str
    better: Better
    family: Family
    about: str
    shown: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("kl_nats", "lower", "compare", "mean KL(reference ‖ candidate) a token, in nats"),
    Metric(r"kl_(max|median|min|p[0-9_]+)_nats", "lower", "compare", "a quantile of it over tokens", "kl_p99_nats, …"),
    Metric("kl_through_routing_nats", "lower", "compare", "the part of it that comes through routing"),
    Metric("perplexity", "lower", "compare", "exp of the mean -log p of the correct token"),
    Metric("perplexity_ratio", "lower", "compare", "the candidate's perplexity over the reference's"),
    Metric("log_perplexity_ratio", "lower", "compare", "its logarithm"),
    Metric("log_perplexity_correlation", "higher", "compare", "correlation of the two over tokens"),
    Metric("same_top", "higher", "compare", "share of tokens with the same token most likely"),
    Metric(r"dp_(mean|rms|min|max|median|p[0-9_]+)", "lower", "compare", "change of the correct token's probability",
           "dp_mean, dp_rms, …"),
    Metric("expert_set_changed", "lower", "compare", "share of tokens for which a layer chose other experts"),
    Metric("first_expert_changed", "lower", "compare", "share of tokens whose first expert changed"),
    Metric("flips_weighted", "lower", "compare", "relative change of the block's output at such tokens, over all"),
    Metric("block_change", "lower", "compare", "relative change of the block's output, over all tokens"),
    Metric("router_margin", "higher", "compare", "the reference's logit margin at the router's boundary"),
    Metric(r"hidden_error_(in|out)", "lower", "compare", "relative L2 error of the hidden state at a layer",
           "hidden_error_in, hidden_error_out"),
    Metric("pass", "higher", "eval", "share of items passed"),
    Metric(r"pass_hat_[1-9][0-9]*", "higher", "eval", "chance that k trials of a task all pass", "pass_hat_1, …"),
    Metric("valid_call", "higher", "eval", "share of due calls that are calls at all"),
    Metric("valid_json", "higher", "eval", "… whose arguments are JSON"),
    Metric("valid_schema", "higher", "eval", "… that fit the tool's schema"),
    Metric("right_tool", "higher", "eval", "… of the right tool"),
    Metric("right_arguments", "higher", "eval", "… with the right arguments"),
    Metric("policy_kept", "higher", "eval", "… that break no policy"),
    Metric("in_order", "higher", "eval", "… made in the right order"),
    Metric("made", "higher", "eval", "… made in the end"),
    Metric("rules_kept", "higher", "eval", "share of loops that break no policy"),
    Metric("replies_right", "higher", "eval", "share of loops whose replies are all right"),
    Metric("refused_rightly", "higher", "eval", "share of loops that refuse all that they must"),
    Metric("nothing_refused_wrongly", "higher", "eval", "share of loops that refuse nothing that they must not"),
    Metric("right_call", "higher", "eval", "… right in all of that"),
    Metric("state_equal", "higher", "eval", "share of loops that leave the database as they should"),
    Metric("reward", "higher", "tau2", "average reward"),
    Metric("read_action_accuracy", "higher", "tau2", "share of expected read actions made"),
    Metric("write_action_accuracy", "higher", "tau2", "share of expected write actions made"),
    Metric("db_match", "higher", "tau2", "share of simulations with the right database at the end"),
    Metric("tool_call_errors", "lower", "tau2", "share of tool calls answered by an error"),
    Metric("turns", "lower", "tau2", "the user's turns in a run"),
    Metric("tool_calls", "lower", "tau2", "the agent's tool calls in a run"),
    Metric("infrastructure_errors", "lower", "serving", "share of trials that never got an answer"),
    Metric("timeouts", "lower", "serving", "share of trials that timed out"),
    Metric(r"ttft_s_p(50|90|99)", "lower", "serving", "seconds to the first token, over an evaluation's requests",
           "ttft_s_p50, ttft_s_p90, ttft_s_p99"),
    Metric(r"request_s_p(50|90|99)", "lower", "serving", "seconds of a whole answer", "request_s_p50, …"),
    Metric(r"decode_tok_s_p(50|90|99)", "higher", "serving", "tokens a second, over an evaluation's requests",
           "decode_tok_s_p50, …"),
    Metric("prefill_tok_s", "higher", "bench", "prompt tokens a second, of a bench test"),
    Metric("decode_tok_s", "higher", "bench", "generated tokens a second, of a bench test"),
    Metric("ttft_s", "lower", "bench", "seconds to the first token, of a bench test"),
    Metric("inter_token_ms", "lower", "bench", "milliseconds from token to token, a run's median"),
    Metric("peak_memory_bytes", "lower", "bench", "the largest of a bench test's runs"),
    Metric("bytes", "lower", "size", "of the build's tensors"),
    Metric("bpw", "lower", "size", "bits per weight, scales and biases counted"),
    Metric("active_bytes_per_token", "lower", "size", "weights that a token reads"),
)  # fmt: skip
_SUFFIXES = ("_difference", "_ratio")


def metric_named(name: str) -> Metric | None:
    """The metric of this name; differences and ratios are of the metric that they are of."""
    for metric in METRICS:
        if re.fullmatch(metric.name, name):
            return metric
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return metric_named(name.removesuffix(suffix))
    return None


def valid_names() -> str:
    """All names, for a message."""
    return ", ".join(metric.shown or metric.name for metric in METRICS)
