"""`mlxquant compare` from end to end, on a tiny checkpoint: one pass, its record, what is refused and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.records.measurements import Figures, read_comparison
from mlxquant.stream.steps import run_layer
from tests.checkpoints import write_tiny_qwen3_5_moe
from tests.support.texts import write_data

RECIPES = ("gates-8bit", "gates-8bit:bits=3")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, words)])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny_qwen3_5_moe(folder, layers=4, hidden=64, mtp=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "texts.jsonl")


@pytest.fixture(scope="module")
def made(source: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("out") / "compare.json"
    words = [w for r in RECIPES for w in ("-r", r)]
    done = run(source, *words, "--group-size", 32, "--data", data, "--max-tokens", 24, "--json", "-o", out)
    return done, out


def test_json_prints_the_record_and_nothing_else(made: tuple[Result, Path]) -> None:
    done, out = made
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == read_comparison(out)


def test_the_source_is_read_once_whatever_the_candidates(made: tuple[Result, Path]) -> None:
    told = read_comparison(made[1])["pass"]
    assert told["bytes_read"] == told["source_bytes"]


def test_three_bits_are_worse_than_eight_and_both_are_told_by_name(made: tuple[Result, Path]) -> None:
    record = read_comparison(made[1])
    figures = {c["name"]: Figures(c) for c in record["candidates"]}
    assert list(figures) == [*RECIPES, "bf16 noise floor"]
    kl = {name: f.get("kl_nats") for name, f in figures.items()}
    assert all(kl.values())
    assert kl["gates-8bit:bits=3"]["estimate"] > 5 * kl["gates-8bit"]["estimate"] > 0  # type: ignore[index]


def test_the_command_lines_group_size_holds_for_every_recipe(made: tuple[Result, Path]) -> None:
    record = read_comparison(made[1])
    assert {c["recipe"]["quantize"]["group_size"] for c in record["candidates"][:2]} == {32}


def test_flips_are_told_by_layer_and_case(made: tuple[Result, Path]) -> None:
    figures = Figures(read_comparison(made[1])["candidates"][1])
    assert figures.names("layer", "expert_set_changed") == [0, 1, 2, 3]
    for case in ("own", "router", None):
        assert figures.get("expert_set_changed", layer=1, case=case) is not None


def test_tokens_of_a_documents_slices_and_of_spans_in_the_text_are_told_apart(made: tuple[Result, Path]) -> None:
    slices = Figures(read_comparison(made[1])["candidates"][0]).names("slice")
    assert {"json", "numeric"} <= set(slices)
    assert any(name.startswith("in:") for name in slices)


@pytest.mark.parametrize("by", ["recipe", "slice", "layer", "statistic"])
def test_a_kept_record_is_shown_again(made: tuple[Result, Path], by: str) -> None:
    done = run("--from", made[1], "--by", by)
    assert done.exit_code == 0, done.output
    assert "gates-8bit" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


# What is refused


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-r", "gates-8bit:bits=x"], 2, "bits is a whole number, not 'x'"),
        (["-r", "gates-8bit", "-r", "gates-8bit"], 2, "gates-8bit: given twice"),
        ([], 2, "nothing to compare: give -r with one of"),
        (["-r", "gates-8bit", "--margin", "-1"], 2, "--margin: nats a token, 0 or more, expected; -1.0 given"),
        (["-r", "gates-8bit", "-o", "/no/such/folder/x.json"], 3, "its folder does not exist; make it first"),
        (["-r", "gates-8bit", "--data", "/no/such.jsonl"], 3, "/no/such.jsonl: cannot be read"),
    ],
)
def test_wrong_words_are_told_in_a_line(source: Path, words: list[str], code: int, message: str) -> None:
    done = run(source, *words)
    assert done.exit_code == code, done.output
    assert message in done.stderr and done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_faulty_data_are_told_by_line_and_nothing_is_measured(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine enough"}\n{"text": 3}\nnot json\n')
    done = run(source, "-r", "gates-8bit", "--data", path)
    assert done.exit_code == 3
    assert "line 2" in done.stderr and "line 3" in done.stderr


def test_a_record_and_something_to_measure_exclude_each_other(source: Path, tmp_path: Path) -> None:
    done = run(source, "--from", tmp_path / "x.json")
    assert (done.exit_code, "--from shows a record" in done.stderr) == (2, True)
    assert run("-r", "gates-8bit").exit_code == 2


def test_a_config_alone_has_no_weights(source: Path) -> None:
    done = run(source / "config.json", "-r", "gates-8bit")
    assert done.exit_code == 3 and "a config alone has no weights" in done.stderr


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_in_the_same_figures(
    source: Path, data: Path, made: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxquant.stream.state.Work.due", lambda _: True)  # keep every layer
    out, work = tmp_path / "again.json", tmp_path / "work"
    words: list[object] = [w for r in RECIPES for w in ("-r", r)]
    words += ["--group-size", 32, "--data", data, "--max-tokens", 24, "-o", out, "--work", work]
    with monkeypatch.context() as patched:
        patched.setattr("mlxquant.stream.engine.run_layer", stopping_at(2))
        stopped = run(source, *words)
    assert stopped.exit_code == 130 and f"the same command goes on from {work}" in stopped.stderr
    refused = run(source, *words, "--second-half")
    assert refused.exit_code == 3 and "begun with all tokens scored" in refused.stderr
    done = run(source, *words)
    assert done.exit_code == 0 and "going on at layer 2" in done.stderr
    first, second = read_comparison(made[1]), read_comparison(out)
    assert second["pass"]["resumed_at"] == "2" and not work.exists()
    assert [c["measurements"] for c in second["candidates"]] == [c["measurements"] for c in first["candidates"]]


def stopping_at(layer: int) -> Callable[..., None]:
    """The pass's own step, that Ctrl-C reaches before this layer."""

    def step(running: Any, at: int) -> None:
        if at == layer:
            raise KeyboardInterrupt
        run_layer(running, at)

    return step
