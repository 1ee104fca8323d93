"""`mlxquant sweep` end to end: one real pass over a tiny checkpoint, then real builds through eval."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.evals.store.model import write_store_moe
from tests.validate.validate_records import write

TEXTS = [f"Order {n} was shipped to customer {n * 7} on day {n % 9}." for n in range(100, 106)]
GATE = """
min_clusters = 3
[[tolerance]]
metric = "kl_nats"
max = 0.1
[[tolerance]]
metric = "kl_nats"
slice = "numeric"
max = 0.1
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["sweep", *map(str, words)])


@pytest.fixture(scope="module")
def asked(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep that was run: its folder, the words of the command, what came out."""
    folder = tmp_path_factory.mktemp("sweep")
    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text, "slices": ["numeric"]}) + "\n" for text in TEXTS))
    (gate,) = write(folder, gate=GATE)
    words = [tiny("qwen3_5_moe"), "--recipes", "gates-8bit,uniform-8bit:bits=4", "--bits", "8,2", "--group-size", "32",
             "--unaligned", "keep", "-t", gate, "--data", data, "--work", folder / "work"]  # fmt: skip
    done = run(*words, "-o", folder / "sweep.json")
    assert done.exit_code == 0, done.output
    return {
        "folder": folder,
        "words": words,
        "text": done.stdout,
        "next": done.stderr,
        "record": json.loads((folder / "sweep.json").read_text()),
    }


def test_all_candidates_are_judged_in_one_pass_and_the_smallest_inside_is_recommended(asked):
    record = asked["record"]
    compared = json.loads((asked["folder"] / "work" / "compare.json").read_text())
    assert compared["pass"]["bytes_read"] == compared["pass"]["source_bytes"]
    assert {c["name"] for c in record["candidates"]} == {
        "gates-8bit:bits=8", "gates-8bit:bits=2", "uniform-8bit:bits=4",
    }  # fmt: skip
    by_name = {c["name"]: c for c in record["candidates"]}
    assert by_name["gates-8bit:bits=8"]["bytes"] > by_name["gates-8bit:bits=2"]["bytes"]
    inside = [c for c in record["candidates"] if c["verdict"] == "PASS"]
    assert record["recommendation"]["name"] == min(inside, key=lambda c: c["bytes"])["name"]
    assert f"recommended  {record['recommendation']['name']}" in asked["text"]
    assert not any("set after the fact" in w for w in record["warnings"])


def test_the_command_that_makes_the_recommended_build_is_told_and_makes_it(asked, tmp_path):
    words = shlex.split(asked["next"].partition("Next: ")[2])
    assert words[:4] == ["mlxquant", "convert", str(asked["words"][0]), "-r"]
    words[words.index("BUILD")] = str(tmp_path / "build")
    assert CliRunner().invoke(main, words[1:]).exit_code == 0
    made = json.loads((tmp_path / "build" / "mlxquant.json").read_text())
    chosen = next(c for c in asked["record"]["candidates"] if c["name"] == asked["record"]["recommendation"]["name"])
    assert made["recipe"]["sha256"] == chosen["recipe"]["sha256"]


def test_layers_apart_are_not_measured_where_no_tolerance_asks_for_them(asked):
    compared = json.loads((asked["folder"] / "work" / "compare.json").read_text())
    assert compared["options"]["own"] is False
    assert not any(m.get("case") == "own" for c in compared["candidates"] for m in c["measurements"])


def test_the_same_command_measures_nothing_again(asked):
    kept = asked["folder"] / "work" / "compare.json"
    before = kept.stat().st_mtime_ns
    done = run(*asked["words"], "--json")
    assert done.exit_code == 0, done.output
    assert kept.stat().st_mtime_ns == before
    assert json.loads(done.stdout)["recommendation"] == asked["record"]["recommendation"]


def test_kept_records_are_judged_as_those_just_measured(asked):
    done = run("--from", asked["folder"] / "work" / "compare.json", "-t", asked["folder"] / "gate.toml", "--json")
    assert done.exit_code == 0, done.output
    for key in ("recommendation", "thresholds", "checks", "frontier"):
        assert json.loads(done.stdout)[key] == asked["record"][key]


def test_another_question_is_not_answered_by_what_the_folder_holds(asked):
    words = ["8,3" if word == "8,2" else word for word in asked["words"]]
    done = run(*words)
    assert done.exit_code == 3
    assert "holds the answer to another question" in done.stderr
    assert "gates-8bit:bits=3" in done.stderr


def test_a_tolerance_nobody_can_mean_costs_no_pass(asked, tmp_path):
    (wrong,) = write(tmp_path, wrong=GATE.replace("slice", "slize"))
    words = [wrong if str(word).endswith("gate.toml") else word for word in asked["words"]]
    done = run(*words, "--fresh")
    assert done.exit_code == 2
    assert "slize" in done.stderr
    assert (asked["folder"] / "work" / "compare.json").is_file()


@pytest.mark.parametrize("theirs", ["compare.json", "asked.json", "builds/thesis.tex", "thesis.tex"])
def test_a_folder_of_somebody_else_is_refused_before_anything_is_measured(asked, tmp_path, theirs):
    path = tmp_path / "work" / theirs
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    words = [tmp_path / "work" if word == asked["folder"] / "work" else word for word in asked["words"]]
    for fresh in ((), ("--fresh",)):
        done = run(*words, *fresh)
        assert (done.exit_code, "which mlxquant did not leave there" in done.stderr) == (3, True)
    assert path.read_text() == '{"mine": 1}'


def test_what_somebody_puts_beside_the_records_stays_and_starting_over_refuses_their_builds(asked):
    work = asked["folder"] / "work"
    (work / "notes.txt").write_text("mine")
    theirs = work / "builds" / "mine" / "model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert run(*asked["words"]).exit_code == 0
    done = run(*asked["words"], "--fresh")
    assert (done.exit_code, "builds/mine: holds what mlxquant did not leave there" in done.stderr) == (3, True)
    assert theirs.read_text() == "mine"
    theirs.parent.rename(work / "builds" / "unquantized")
    done = run(*asked["words"], "--eval", "1")
    assert (done.exit_code, "builds/unquantized: holds what mlxquant did not" in done.stderr) == (3, True)
    shutil.rmtree(work / "builds")
    assert (work / "notes.txt").read_text() == "mine"


def test_a_file_that_is_judged_or_read_may_not_lie_in_the_work_folder(asked, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(asked["words"][0], work / "source")
    words = [work / "source", *asked["words"][1:-1], work]
    done = run(*words, "--fresh")
    assert (done.exit_code, "lies in the work folder" in done.stderr) == (2, True)
    assert (work / "source" / "config.json").is_file()


@pytest.mark.slow
def test_the_best_few_are_played_as_builds_beside_the_source_and_count(tmp_path):
    write_store_moe(tmp_path / "store-moe")
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    gate = '[[tolerance]]\nmetric = "right_call"\nrecord = "eval"\nmin_clusters = 5\nmin_difference = -0.9\n'
    (path,) = write(tmp_path, gate=gate)
    words = [tmp_path / "store-moe", "--recipes", "gates-8bit", "--bits", "8,2", "--group-size", "64", "-t", path,
             "--data", data, "--eval", "1", "--calls", "5", "--tasks", "5", "--work", tmp_path / "work"]  # fmt: skip
    done = run(*words, "--json")
    assert done.exit_code in (0, 1, 4), done.output
    record = json.loads(done.stdout)
    (played,) = (tmp_path / "work").glob("eval-*.json")
    sides = json.loads(played.read_text())
    assert [sides["baseline"]["name"], *(c["name"] for c in sides["candidates"])] == [
        "unquantized",
        "gates-8bit:bits=2",
    ]
    statuses = {c["candidate"]: c["status"] for c in record["checks"]}
    assert statuses["gates-8bit:bits=8"] == "MISSING"
    assert statuses["gates-8bit:bits=2"] in ("PASS", "FAIL", "INCONCLUSIVE")
    same = run(*words, "--json")
    assert (same.exit_code, json.loads(same.stdout)["checks"]) == (done.exit_code, record["checks"])
    shutil.rmtree(tmp_path / "work" / "builds" / "unquantized")
    again = run("--from", tmp_path / "work" / "compare.json", "--from", played, "-t", path, "--json")
    assert json.loads(again.stdout)["checks"] == record["checks"]


def test_a_length_that_no_loop_has_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (path,) = write(tmp_path, gate='[[tolerance]]\nmetric = "kl_nats"\nmax = 1.0\n')
    write_store_moe(tmp_path / "store-moe")
    done = run(tmp_path / "store-moe", "--recipes", "gates-8bit", "--group-size", "64", "-t", path, "--eval", "1",
               "--calls", "5,500")  # fmt: skip
    assert done.exit_code == 2
    assert done.stderr == "mlxquant: --calls 500: a tool loop has 5 to 200 calls\n"
