"""Speed: measured through mlx-lm in this process, measured through a server, or predicted from a plan.

    workload    what is measured (pp512, tg128 @ d4096), how often, and what one sample holds
    run         all builds in turn, round after round; `conditions` says what else the machine did meanwhile
    local       a build loaded here; `served` a model behind an endpoint; `prompts` their text
    record      results, measurements and ratios with intervals from the samples; pooling of records
    predict     bytes and arithmetic of a token from a plan alone; `chips` has Apple's bandwidths
    calibration what chips reach of their ceiling, fitted to published speeds (throughput.json) or a record

Quality is measured elsewhere (`divergence`, `evals`); tables and texts of the records are in `report`.
"""

__all__ = ["calibration", "chips", "conditions", "local", "predict", "prompts", "record", "run", "served", "workload"]
