"""What a comparison measures, by name: a record's words, llama.cpp's words, and what a reader should know of each."""

from __future__ import annotations

KL_QUANTILES = {
    "kl_min_nats": 0, "kl_p0_1_nats": 0.001, "kl_p1_nats": 0.01, "kl_p5_nats": 0.05, "kl_p10_nats": 0.1,
    "kl_median_nats": 0.5, "kl_p90_nats": 0.9, "kl_p95_nats": 0.95, "kl_p99_nats": 0.99, "kl_p99_9_nats": 0.999,
    "kl_max_nats": 1,
}  # fmt: skip
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

# metric -> what it is, for readers of tables and reports
MEANINGS = {
    "perplexity": "exp of the mean -log p of the correct token",
    "kl_nats": "mean KL(reference ‖ candidate) a token, in nats",
    "same_top": "share of tokens at which both hold the same token most likely",
    "expert_set_changed": "share of tokens for which a layer chose other experts",
    "first_expert_changed": "share of tokens for which a layer's first expert is another one",
    "flips_weighted": "relative change of the block's output at tokens whose experts changed, over all tokens",
    "block_change": "relative change of the block's output, over all tokens",
    "hidden_error_in": "relative L2 error of the hidden state entering a layer",
    "hidden_error_out": "relative L2 error of the hidden state leaving a layer",
    "router_margin": "the reference's logit of the last expert chosen less that of the first not chosen",
}

# verdicts: beside the noise floor, and beside another candidate
WITHIN, ABOVE, OPEN = "within the noise floor", "above the noise floor", "not resolved"
BETTER, WORSE, ALIKE = "better", "worse", "alike"

CAVEAT = (
    "KL rejects bad quantizations; it does not rank near-lossless ones, whose benchmark scores it was found not to"
    " predict (arXiv:2606.19558)"
)
