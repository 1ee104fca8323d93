"""Run `mlx_lm.evaluate` and keep the samples that it throws away, for `mlxquant results`.

    python keep_samples.py --model build-4bit --tasks arc_easy --output-dir results/4bit

takes every option of `mlx_lm.evaluate` and writes, beside its file of averages, what lm-evaluation-harness writes with
`--log_samples`: a `samples_TASK_DATE.jsonl` a task, and `results_DATE.json`. Needs mlx-lm and lm-eval.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.utils import handle_non_serializable
from mlx_lm import evaluate

KEPT = ("results", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes")


def main() -> None:
    """Evaluate, with lm_eval's function replaced by one that remembers what it returned."""
    options = ArgumentParser(allow_abbrev=False, add_help=False)
    options.add_argument("--model")
    options.add_argument("--output-dir", type=Path, default=Path())
    known, _ = options.parse_known_args()
    runs: list[dict[str, Any]] = []
    simple_evaluate = lm_eval.simple_evaluate

    def remembered(*args: Any, **kwargs: Any) -> Any:
        results = simple_evaluate(*args, **{**kwargs, "log_samples": True})
        if results is not None:  # only the first of several ranks has them
            runs.append(results)
        return results

    lm_eval.simple_evaluate = remembered
    evaluate.main()
    for run in runs:
        write(run, known.model, known.output_dir)


def write(run: dict[str, Any], model: str, folder: Path) -> None:
    """Write the samples of a run, a task a file, and what it says of itself."""
    date = datetime.now().isoformat().replace(":", "-")
    about = {"model_name": model, "lm_eval_version": version("lm_eval"), "mlx_lm_version": version("mlx-lm")}
    summary = {key: run[key] for key in KEPT if key in run} | about
    (folder / f"results_{date}.json").write_text(json.dumps(summary, default=handle_non_serializable, indent=2))
    for task, samples in run["samples"].items():
        path = folder / f"samples_{task}_{date}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) + "\n")
        sys.stderr.write(f"{len(samples)} samples: {path}\n")


if __name__ == "__main__":
    main()
