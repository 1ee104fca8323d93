"""Small result files of each harness, written as their own writers write them; excerpts of real ones are in data/."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_ZSTD = find_spec("compression") is not None or (find_spec("backports") and find_spec("backports.zstd"))
needs_zstd = pytest.mark.skipif(not _ZSTD, reason="neither Python 3.14 nor backports.zstd is here")
DATE = "2026-11-29T00-25-00.511004"


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def document(path: Path, value: Any) -> Path:
    """Write one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def lm_row(number: int, score: float, *, filter: str = "none", metric: str = "exact_match", **others: Any) -> Any:
    """A line of samples_*.jsonl."""
    return {
        "doc_id": number,
        "doc": {"question": f"q{number}", "passage": f"p{number // 2}", "subject": "ab"[number % 2]},
        "target": str(number),
        "arguments": {},
        "resps": [["x"]],
        "filtered_resps": ["x"],
        "filter": filter,
        "metrics": [metric],
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}",
        "target_hash": f"t{number}",
        metric: score,
        **others,
    }


def lm_samples(path: Path, wrong: Collection[int], n: int = 20, **others: Any) -> Path:
    """A samples file of one metric: 1 for all but the wrong ones."""
    return lines(path, [lm_row(i, float(i not in wrong), **others) for i in range(n)])


def inspect_log(wrong: Collection[int], n: int = 12, epochs: int = 1, **header: Any) -> dict[str, Any]:
    """A log of one task whose errors are clustered by passage and grouped by subject."""
    metrics = [
        {"name": "inspect_ai/stderr", "options": {"cluster": "passage"}},
        {"name": "inspect_ai/grouped", "options": {"metric": {"name": "accuracy"}, "group_key": "subject"}},
    ]
    spec = {"task": "sums", "model": "mockllm/model", "created": "2026-11-29T00:00:00+00:00", "metrics": metrics}
    samples = [
        {
            "id": f"s{i}",
            "epoch": epoch + 1,
            "input": [{"id": f"{i}{epoch}", "role": "user", "content": f"What is {i}?"}],
            "target": str(i),
            "metadata": {"passage": i // 2, "subject": "ab"[i % 2]},
            "scores": {"match": {"value": "I" if i in wrong and epoch == 0 else "C"}},
        }
        for i in range(n)
        for epoch in range(epochs)
    ]
    return {"version": 2, "status": "success", "eval": spec, "samples": samples, **header}


def eval_zip(path: Path, log: dict[str, Any], header: str = "header.json", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The same log as a zip with a member a sample."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(header, json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return path


def bfcl(folder: Path, model: str, wrong: Collection[int], category: str = "simple_python", n: int = 20) -> Path:
    """score/ and result/ of one category."""
    ids = [f"{category}_{i}" for i in range(n)]
    lines(folder / f"result/{model}/non_live/BFCL_v4_{category}_result.json", [{"id": i, "result": "[]"} for i in ids])
    failures = [
        {"id": ids[i], "model_name": model, "test_category": category, "valid": False, "possible_answer": [i]}
        for i in sorted(wrong)
    ]
    counts = {"accuracy": 1 - len(failures) / n, "correct_count": n - len(failures), "total_count": n}
    lines(folder / f"score/{model}/non_live/BFCL_v4_{category}_score.json", [counts, *failures])
    return folder / "score" / model


def evalplus(path: Path, wrong: Collection[int], n: int = 20, samples: int = 1, version: str = "fe585eb4") -> Path:
    """eval_results.json: base passes throughout, plus fails for the wrong ones' first samples."""
    entries: dict[str, Any] = {
        f"HumanEval/{i}": [
            {
                "task_id": f"HumanEval/{i}",
                "solution": "",
                "base_status": "pass",
                "plus_status": "fail" if i in wrong and k == 0 else "pass",
                "base_fail_tests": [],
                "plus_fail_tests": [],
            }
            for k in range(samples)
        ]
        for i in range(n)
    }
    return document(path, {"date": "2026-11-29 00:00", "hash": version, "eval": entries})


def omlx_run(model: str, wrong: Collection[int], benchmark: str = "mmlu", n: int = 20) -> dict[str, Any]:
    """A run of an accuracy benchmark."""
    questions = [
        {
            "id": str(i),
            "correct": i not in wrong,
            "expected": "A",
            "predicted": "B" if i in wrong else "A",
            "question": f"q{i}",
            "raw_response": "",
            "category": "law" if i % 2 else "logic",
            "time_s": 0.1,
        }
        for i in range(n)
    ]
    return {"model_id": model, "benchmark": benchmark, "accuracy": 0.5, "total": n, "question_results": questions}


ALL: Sequence[str] = ("lm-evaluation-harness", "inspect_ai", "BFCL", "EvalPlus", "oMLX")


def sides(folder: Path, harness: str, wrong: tuple[Collection[int], Collection[int]]) -> list[Path]:
    """Two runs of a harness, of 20 questions each (12 for inspect_ai), with these wrong."""
    paths = []
    for name, mine in zip(("base", "cand"), wrong, strict=True):
        here = folder / name
        here.mkdir()
        if harness == "lm-evaluation-harness":
            paths.append(lm_samples(here / f"samples_sums_{DATE}.jsonl", mine))
        elif harness == "inspect_ai":
            paths.append(eval_zip(here / "log.eval", inspect_log(mine, n=20)))
        elif harness == "BFCL":
            paths.append(bfcl(folder, name, mine))
        elif harness == "EvalPlus":
            paths.append(evalplus(here / "x_eval_results.json", mine))
        else:
            paths.append(document(here / "export.json", [omlx_run(f"org/{name}", mine)]))
    return paths
