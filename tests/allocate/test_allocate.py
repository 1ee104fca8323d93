"""`mlxquant allocate` on a tiny checkpoint: measured, solved, checked, written; and what it refuses."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest
from click.testing import CliRunner, Result

import mlxquant
from mlxquant.allocate.folder import AllocateFolder
from mlxquant.cli import main
from mlxquant.layout.layout import read_layout
from mlxquant.pipeline.unfinished import discard_unfinished, find_unfinished
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.records.files import record_text
from mlxquant.records.schemas import check
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import Size, write_tiny

FEW = ("--bits", "8,4", "--group-size", "32", "--groups", "1")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["allocate", *map(str, words)])


def write_texts(path: Path, count: int, word: str) -> Path:
    path.write_text("".join(json.dumps({"text": f"{word} {i * 37} of a few {i}."}) + "\n" for i in range(count)))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers, texts to measure on and others to judge by."""
    folder: Path = tmp_path_factory.mktemp("allocate")
    write_tiny(folder / "source", "qwen3_moe", Size(layers=1, experts=2), shards=1)
    write_texts(folder / "data.jsonl", 3, "Measure")
    write_texts(folder / "judge.jsonl", 4, "Judge")
    return folder


@pytest.fixture(scope="module")
def allocated(place: Path) -> dict[str, Any]:
    """The record of one run for two budgets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlxquant.stream.speed._WIDTH", 64)  # a moment of arithmetic is told by smaller products
        done = run(place / "source", "--bpw", "6,30", "--data", place / "data.jsonl",
                   "--judge", place / "judge.jsonl", *FEW,
                   "--work", place / "work", "-o", place / "recipe.toml", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def test_the_record_is_as_its_schema_says(allocated):
    assert check(allocated, "allocate", whole=True) == "allocate"


def test_bytes_are_the_plan_s_and_stay_within_the_budget(place, allocated):
    source = open_checkpoint(place / "source")
    layout = read_layout(source)
    budget = allocated["budgets"][0]
    plan = make_plan(layout, load_recipe(str(place / "recipe-6.toml")), source)
    assert plan.totals["bytes"] <= budget["bytes"] == int(6 * plan.totals["parameters"] / 8)
    ships = next(e for e in (budget["allocated"], *budget["contestants"]) if e["name"] == budget["ships"])
    assert plan.totals["bytes"] == ships["bytes"]


def test_contestants_have_at_most_the_budget_s_bytes_and_every_group_size_is_among_them(allocated):
    budget = allocated["budgets"][0]
    assert {"uniform-8bit:bits=4,group_size=32", "gates-8bit:bits=4,group_size=32"} <= {
        each["name"] for each in budget["contestants"]
    }
    assert all(each["bytes"] <= budget["bytes"] for each in budget["contestants"])


def test_with_few_documents_to_check_on_the_best_contestant_ships_and_the_text_says_why(place, allocated):
    budget = allocated["budgets"][0]
    assert budget["ships"] == budget["best"] and "only 4 documents checked" in budget["why"]
    recipe = load_recipe(str(place / "recipe-6.toml"))
    source = open_checkpoint(place / "source")
    formats = [str(p.format) for p in make_plan(read_layout(source), recipe, source).modules]
    name, _, changes = budget["best"].partition(":")
    shipped = load_variation(f"{name}:{changes}".rstrip(":"), unaligned="keep", method="rtn")
    assert formats == [str(p.format) for p in make_plan(read_layout(source), shipped, source).modules]


def test_a_budget_that_everything_fits_keeps_the_model_as_it_is_and_says_so(place, allocated):
    whole = allocated["budgets"][1]
    assert "holds the model as it is" in whole["why"] and not whole["contestants"]
    assert load_recipe(str(place / "recipe-30.toml")).default is None


def test_the_same_command_measures_nothing_again_and_writes_the_same_bytes(place, allocated):
    kept = [(place / "work" / name).read_bytes() for name in ("damage.json", "checks.json")]
    done = run(place / "source", "--bpw", "6", "--data", place / "data.jsonl", "--judge", place / "judge.jsonl", *FEW,
               "--work", place / "work", "-o", place / "again.toml")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [(place / "work" / name).read_bytes() for name in ("damage.json", "checks.json")] == kept
    assert (place / "again.toml").read_bytes() == (place / "recipe-6.toml").read_bytes()
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_a_recipe_for_a_decode_speed_reads_fewer_bytes_a_token(place, allocated, tmp_path):
    words = ["--bpw", "10", "--data", place / "data.jsonl", "--judge", place / "judge.jsonl", *FEW, "--chip", "M3"]
    done = run(place / "source", *words, "--min-decode", "1e9", "-o", tmp_path / "x.toml")
    reached = re.search(r"reaches ([0-9.]+) tok/s", done.stderr)
    assert reached, done.output
    for name, speed in (("free", ()), ("fast", ("--min-decode", str(0.9 * float(reached[1]))))):
        chip = words if speed else words[:-2]
        done = run(
            place / "source", *chip, *speed, "--work", tmp_path / "work", "-o", tmp_path / f"{name}.toml", "--json"
        )
        assert done.exit_code == 0, done.output
    source = open_checkpoint(place / "source")
    free, fast = (
        make_plan(read_layout(source), load_recipe(str(tmp_path / f"{name}.toml")), source).totals
        for name in ("free", "fast")
    )
    limit = json.loads(done.stdout)["options"]["active_bytes"]
    assert fast["active_bytes_per_token"] <= limit < free["active_bytes_per_token"]


def test_a_work_folder_of_other_documents_is_refused(place, allocated, tmp_path):
    done = run(place / "source", "--bpw", "6", "--data", place / "judge.jsonl", *FEW, "--work", place / "work",
               "-o", tmp_path / "x.toml")  # fmt: skip
    assert done.exit_code == 3 and "--fresh" in done.stderr
    assert not (tmp_path / "x.toml").exists()


def test_clean_lists_the_work_folder_and_throws_it_away(tmp_path):
    folder = AllocateFolder(tmp_path / "work")
    with folder.claimed():
        folder.keep("some-model", "x", {"a": 0.1, "b": 0.2})
    (work,) = find_unfinished(tmp_path)
    assert (work.command, work.what, work.progress) == (
        "allocate",
        "an allocation for some-model",
        "2 choices measured",
    )
    assert [each.name for each in discard_unfinished(tmp_path, ["work"])] == ["work"]
    assert not (tmp_path / "work").exists()


def test_mlx_lm_takes_the_recipe_as_a_predicate(place, allocated):
    name = str(place / "recipe-6.toml")
    plan = mlxquant.make_plan(mlxquant.open_source(place / "source"), name)
    predicate = mlxquant.quant_predicate(place / "source", name, q_group_size=32)
    attention = [planned for planned in plan.modules if planned.module.role == "attention"]
    for planned in attention:
        rows, columns = planned.module.shape
        answer = predicate(planned.module.path, nn.Linear(columns, rows, bias=False))
        bits = answer["bits"] if isinstance(answer, dict) else None
        assert bits == (None if planned.format is None else planned.format.bits)
    assert attention


def test_plan_names_an_allocated_recipe_that_is_ahead_and_one_of_another_model_is_refused(place, allocated, tmp_path):
    record = copy.deepcopy(allocated)
    budget = record["budgets"][0]
    budget |= {"ships": budget["allocated"]["name"], "recipe": ['name = "allocated-6bpw"', "[quantize]", "bits = 8",
               "group_size = 32", 'unaligned = "keep"']}  # fmt: skip
    (tmp_path / "allocate.json").write_text(record_text(record))
    words = ["plan", str(place / "source"), "--fits", "6MB", "--from", str(tmp_path / "allocate.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "allocated-6bpw" in done.stdout and "allocated for this model" in " ".join(done.stdout.split())
    assert CliRunner().invoke(main, [*words, "--bits", "4"]).exit_code == 2
    record["source"]["layers"] = 7
    (tmp_path / "allocate.json").write_text(record_text(record))
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "7 layers" in done.stderr


@pytest.mark.slow
def test_sweep_takes_an_allocated_recipe_with_its_own_bits(place, allocated, tmp_path):
    (tmp_path / "t.toml").write_text('[[tolerance]]\nmetric = "kl_nats"\nmax = 9\nmin_clusters = 2\n')
    done = CliRunner().invoke(
        main, ["sweep", str(place / "source"), "--recipes", str(place / "recipe-6.toml"), "--bits", "4", "-t",
               str(tmp_path / "t.toml"), "--data", str(place / "judge.jsonl"), "--json"]
    )  # fmt: skip
    assert done.exit_code in (0, 4), done.output
    assert [c["name"] for c in json.loads(done.stdout)["candidates"]]


# --- refusals, before anything is measured ---


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "give --budget SIZE"),
        ("--bpw 4 --budget 8GB", "give --budget SIZE"),
        ("--bpw much", "bits per weight such as 4.2 expected"),
        ("--bpw 4,a/b", "--bpw a/b: bits per weight such as 4.2 expected"),
        ("--budget 8GB,1/2GB", "a size such as 96GB"),
        ("--budget ,", "--budget: a size such as 96GB expected"),
        ("--bpw 4,4.0", "different budgets expected"),
        ("--bpw 1.5", "the smallest recipe of these bits and group sizes takes"),
        ("--budget 3.1MB", "the smallest recipe of these bits and group sizes takes"),
        ("--bpw 4 --bits 7", "--bits 7: one of"),
        ("--bpw 4 --group-size 48", "--group-size 48: one of"),
        ("--bpw 4 --method best", "--method best: one of rtn, mse, imatrix, gptq expected"),
        ("--bpw 4 --chip M3", "--chip and --min-decode go together"),
        ("--bpw 4 --chip M3 --min-decode nan", "--min-decode nan: tokens a second"),
        ("--bpw 4 --chip M3 --min-decode -5", "--min-decode -5: tokens a second"),
        ("--bpw 4 --chip M3 --min-decode 1e9", "tok/s at this context with no weights at all"),
        ("--bpw 4 --context 32k", "--context goes with --budget"),
        ("--bpw 4 --calibration x.cal", "--method rtn does not use it"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(place, tmp_path, words, text):
    done = run(place / "source", *words.split(), "--data", place / "judge.jsonl", "-o", tmp_path / "x.toml")
    assert done.exit_code == 2, done.output
    assert text in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_several_recipes_need_a_file_s_name_too(place, tmp_path):
    for words in ("6", "6,7"):
        done = run(place / "source", "--bpw", words, "--data", place / "data.jsonl", "-o", tmp_path)
        assert done.exit_code == 3 and "a file's name expected" in done.stderr


def test_a_recipe_file_that_is_there_stays(place, tmp_path):
    (tmp_path / "x.toml").write_text("mine")
    done = run(place / "source", "--bpw", "6", "--data", place / "data.jsonl", "-o", tmp_path / "x.toml")
    assert done.exit_code == 3 and (tmp_path / "x.toml").read_text() == "mine"
