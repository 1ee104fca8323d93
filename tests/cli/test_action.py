"""The composite action of the documentation: its shell steps, run as GitHub runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.validate.validate_records import compare, measure, write

yaml = pytest.importorskip("yaml", reason="PyYAML comes with huggingface_hub")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "teams.md"


def blocks() -> list[Any]:
    return [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)]


def action() -> dict[str, Any]:
    return next(block for block in blocks() if isinstance(block, dict) and block["runs"]["using"] == "composite")


def play(folder: Path, **inputs: str) -> tuple[int, str, str]:
    """Run every step with bash as GitHub does; exit code, step summary and outputs."""
    written = action()
    values = {name: entry.get("default", "") for name, entry in written["inputs"].items()} | inputs
    summary, output = folder / "summary", folder / "output"
    code = 0
    for step in written["runs"]["steps"]:
        assert step["shell"] == "bash" and "${{" not in step["run"], "text of inputs would be run"
        variables = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: values[m[1]], text)
            for name, text in step["env"].items()
        }
        environment = {
            **os.environ, **variables, "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        code = code or done.returncode
    return code, summary.read_text() if summary.exists() else "", output.read_text()


def records(folder: Path, limit: str) -> None:
    text = f'[[tolerance]]\nmetric = "kl_nats"\n{limit}\n'
    write(folder, **{"a b": compare(measure("kl_nats", 0.01, 0.002)), "tolerances": text})


@pytest.mark.parametrize(
    ("limit", "inputs", "code", "exit_code"),
    [
        ("max = 0.001", {"candidate": "gates-8bit"}, 1, 1),
        pytest.param("max = 1", {}, 0, 0, marks=pytest.mark.slow),
        pytest.param("max = 0.011", {}, 4, 4, marks=pytest.mark.slow),
        pytest.param("max = 0.011", {"unsettled": "warn"}, 0, 4, marks=pytest.mark.slow),
        ("max = 1", {"candidate": "$(touch ran)"}, 2, 2),
    ],
)
def test_the_steps_of_the_action_end_as_the_verdict_says(
    tmp_path: Path, limit: str, inputs: dict[str, str], code: int, exit_code: int
) -> None:
    records(tmp_path, limit)
    ended, summary, output = play(tmp_path, records="a b.json\n\n", **inputs)
    assert (ended, output) == (code, f"exit-code={exit_code}\n")
    assert summary.startswith("## mlxquant validate") == (exit_code != 2)
    assert (tmp_path / "verdict.xml").exists() == (exit_code != 2) and not (tmp_path / "ran").exists()


def test_the_job_that_uses_it_fetches_the_history_and_gives_inputs_that_there_are() -> None:
    job = next(block for block in blocks() if isinstance(block, list))
    assert job[0]["with"]["fetch-depth"] == 0
    assert set(job[-1]["with"]) <= set(action()["inputs"])
