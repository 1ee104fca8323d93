"""What audits/store-moe says is what its records hold, and the records are of one model, one machine, one code."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from mlxquant.cli import main

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "audits" / "store-moe"
RECORDS = [path for path in sorted((ROOT / "audits").glob("store-*/*.json")) if path.name != "allocate.json"]
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def script(name: str, folder: str = "store_study") -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "benchmarks" / folder / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["quality", "forced", "loops", "deep"])
def test_a_table_of_the_readme_is_what_the_records_hold(name):
    assert script("tables").tables()[name] in README


def test_the_studys_page_shows_what_the_records_hold():
    page = ROOT / "docs" / "studies" / "store-moe.md"
    assert script("tables").tables()["overview"] in page.read_text(encoding="utf-8")


def test_the_published_sweep_is_what_its_records_give_today():
    words = ["sweep", "--from", str(FOLDER / "compare.json"), "-t", str(FOLDER / "tolerances.toml")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 4, result.output
    # a warning tells when the tolerance file was changed, which a checkout changes
    kept = (FOLDER / "sweep.txt").read_text(encoding="utf-8")
    assert result.stdout.partition("WARNING")[0] == kept.partition("WARNING")[0]


def test_the_records_are_of_one_machine_and_one_version():
    found = [json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in ("compare", "eval")]
    assert found[0]["machine"]["chip"] == found[1]["machine"]["chip"]
    assert found[0]["versions"]["mlx"] == found[1]["versions"]["mlx"]


def test_the_dialogues_are_held_out_and_as_many_as_the_record_says():
    lines = list(script("dialogues").dialogues())
    record = json.loads((FOLDER / "compare.json").read_text(encoding="utf-8"))
    assert min(int(line["id"].split("-")[2]) for line in lines) >= 2_000_000
    assert len(lines) == record["data"]["documents"]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_record_is_as_slim_as_its_script_makes_it(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    slim = script("slim", ".").slim(json.loads(path.read_text(encoding="utf-8")))
    assert slim == record


def test_a_slim_record_keeps_figures_over_all_tokens_and_what_is_shown_of_a_part():
    figures = [
        {"metric": "dp_rms"}, {"metric": "block_change", "layer": 1}, {"metric": "kl_nats", "slice": "in:json"},
        {"metric": "right_call_difference", "depth": "1-5"},
        {"metric": "dp_rms", "slice": "in:json"}, {"metric": "kl_nats", "turn": "1", "case": "teacher-forced"},
    ]  # fmt: skip
    trial = {"calls": [[1, "11110000", "find_user", ["read"], "nothing"]], "requests": [{}]}
    record = {"candidates": [{"measurements": figures}], "trials": [trial]}
    slim = script("slim", ".").slim(record)
    assert slim["candidates"][0]["measurements"] == figures[:4]
    assert slim["trials"] == [{"calls": [[1, "11110000", "find_user", [], "nothing"]], "requests": []}]
