"""The harnesses' own writers make files, each in an environment of its own, and `mlxquant results` reads them.

Models are mocks that answer at once. What these tests make is what tests/results/data/ has excerpts of.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from tests.results.harness_files import needs_zstd
from tests.support.environments import environment
from tests.support.pages import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.environments]

LM_EVAL, INSPECT, MLX_LM = "lm-eval==0.4.13", "inspect_ai==0.3.285", "mlx-lm==0.32.2"
EVALPLUS = "evalplus==0.3.1"
ROWS = [{"question": f"What is {i}+{i}?", "answer": str(2 * i), "passage": f"p{i // 2}"} for i in range(12)]
TASKS = {
    "sums": """
task: sums
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "^(\\\\d+)$"}, {function: take_first}]}
  - {name: flexible, filter: [{function: regex, regex_pattern: "(\\\\d+)"}, {function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "choice": """
task: choice
output_type: multiple_choice
doc_to_choice: ["{{answer}}", "99", "seven"]
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
}
INSPECT_TASK = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import accuracy, grouped, match, stderr
from inspect_ai.solver import generate

wrong, folder, kind = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
samples = [Sample(id=f"s{i}", input=f"What is {i}?", target=str(i), metadata={"passage": f"p{i // 2}", "odd": i % 2})
           for i in range(12)]

def answer(input, tools, tool_choice, config):
    number = input[-1].text.split()[-1].rstrip("?")
    output = ModelOutput.from_content("mockllm/model", "none" if number in wrong else number)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it is counted with a download
    return output

task = Task(dataset=samples, solver=generate(), scorer=match(), epochs=2, name="sums",
            metrics=[accuracy(), stderr(cluster="passage"), grouped(accuracy(), "odd")])
(log,) = eval(task, model=get_model("mockllm/model", custom_outputs=answer), log_dir=folder, log_format=kind,
              display="none")
assert log.status == "success", log.error
"""
# mlx_lm.evaluate has no option for a folder of tasks
WITH_TASKS = """
import functools, runpy, sys
import lm_eval.tasks as tasks
tasks.TaskManager.__init__ = functools.partialmethod(tasks.TaskManager.__init__, include_path=sys.argv.pop(1))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(python: Path, *words: object, cwd: Path, **environ: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "HOME": str(cwd)}
    done = subprocess.run(
        [str(python), *map(str, words)],
        cwd=cwd,
        env=os.environ | offline | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def record(*paths: object) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["results", *map(str, paths), "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of two tasks that need no download."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\ntest_split: test\n"
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f'{common}doc_to_text: "{{{{question}}}}"\n{text}')
    return folder


def test_what_lm_eval_writes_is_read(tmp_path: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = environment(tmp_path_factory, LM_EVAL, MLX_LM)
    for name, seed in (("base", 0), ("cand", 5)):
        words = f"-m lm_eval --model dummy --tasks sums,choice --log_samples --seed {seed},1,2,3".split()
        run(python, *words, "--include_path", tasks, "--output_path", tmp_path / name, cwd=tmp_path)
    made = record(tmp_path / "base", tmp_path / "cand", "--cluster", "passage")
    (side,) = made["candidates"]
    assert made["harness"] == "lm-evaluation-harness" and side["problems"] == []
    assert side["pairing"]["pairs"] == 24 and side["counts"]["clusters"] == 6
    (theirs,) = (tmp_path / "cand").rglob("results_*.json")
    averages = json.loads(theirs.read_text())["results"]
    ours = {m["metric"]: m["estimate"] for m in side["measurements"] if "slice" not in m}
    assert ours["acc"] == pytest.approx(averages["choice"]["acc,none"])
    assert ours["acc_norm"] == pytest.approx(averages["choice"]["acc_norm,none"])
    assert ours["exact_match,strict"] == averages["sums"]["exact_match,strict"]


def test_the_wrapper_keeps_the_samples_of_mlx_lm_evaluate(
    tmp_path: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from mlxquant.evals.store.model import write_store_moe

    python = environment(tmp_path_factory, LM_EVAL, MLX_LM)
    write_store_moe(tmp_path / "store")
    for name, bits in (("base", 8), ("cand", 2)):
        words = ["convert", tmp_path / "store", "-r", f"uniform-8bit:bits={bits},group_size=32", "-o", tmp_path / name]
        assert CliRunner().invoke(main, [str(word) for word in words]).exit_code == 0
        options = ["--tasks", "choice", "--output-dir", tmp_path / f"out-{name}", "--no-apply-chat-template"]
        script = ROOT / "docs" / "assets" / "keep_samples.py"
        run(python, "-c", WITH_TASKS, tasks, script, "--model", tmp_path / name, *options, cwd=tmp_path)
    made = record(tmp_path / "out-base", tmp_path / "out-cand", "--candidate-build", tmp_path / "cand")
    (side,) = made["candidates"]
    assert side["pairing"]["pairs"] == 12 and side["manifest_sha256"]
    (averages,) = (json.loads(p.read_text()) for p in (tmp_path / "out-cand").iterdir() if p.name.startswith("eval_"))
    ours = {m["metric"]: m["estimate"] for m in side["measurements"] if "slice" not in m}
    assert ours["acc"] == pytest.approx(averages["choice"]["acc,none"])


@needs_zstd
def test_what_inspect_ai_writes_is_read(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = environment(tmp_path_factory, INSPECT, "openai")
    (tmp_path / "sums.py").write_text(INSPECT_TASK)
    for kind in ("eval", "json"):
        for name, wrong in (("base", "3"), ("cand", "3,5,6")):
            run(python, "sums.py", wrong, tmp_path / kind / name, kind, cwd=tmp_path)
    eval_, json_ = (record(tmp_path / kind / "base", tmp_path / kind / "cand") for kind in ("eval", "json"))
    (side,) = json_["candidates"]
    assert side["measurements"] == eval_["candidates"][0]["measurements"]
    assert (side["pairing"]["pairs"], side["counts"]["clusters"], side["counts"]["most_trials"]) == (24, 6, 2)
    difference = {(m["metric"], m.get("slice")): m["estimate"] for m in side["measurements"]}
    assert difference["match_difference", None] == pytest.approx(-2 / 12)
    assert difference["pass_hat_2", None] == 0.75 and difference["match", "odd:1"] == pytest.approx(4 / 6)


def test_what_evalplus_writes_is_read(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = environment(tmp_path_factory, EVALPLUS)
    problems = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f"def f{i}(x):\n",
            "canonical_solution": f"    return x + {i}\n",
            "entry_point": f"f{i}",
            "base_input": [[1], [2]],
            "plus_input": [[3], [40]],
            "contract": "",
            "atol": 0,
        }
        for i in range(20)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    for name, wrong in (("base", 1), ("cand", 5)):
        lines = []
        for i in range(20):
            body = f"return x + {i} if x < 40 else None" if i < wrong else f"return x + {i}"
            lines.append({"task_id": f"HumanEval/{i}", "solution": f"def f{i}(x):\n    {body}\n"})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = ["-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", f"{name}.jsonl", "--parallel", "2"]
        run(python, *words, cwd=tmp_path, HUMANEVAL_OVERRIDE_PATH=str(data))
    made = record(tmp_path / "base_eval_results.json", tmp_path / "cand_eval_results.json")
    (side,) = made["candidates"]
    ours = {m["metric"]: m["estimate"] for m in side["measurements"] if "slice" not in m}
    assert made["harness"] == "EvalPlus" and ours["base_pass"] == 1
    assert ours["plus_pass"] == ours["pass"] == pytest.approx(15 / 20)
    assert ours["pass_difference"] == pytest.approx(-4 / 20)
