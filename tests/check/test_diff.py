"""`mlxquant diff`: recipes, records and builds side by side; the paper's step from base to agentic."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import mlxquant.check.distance as build_distance
from mlxquant.builds.facts import active_bytes
from mlxquant.builds.read.build import read_build
from mlxquant.check.audit import audit_build
from mlxquant.check.diff import read_sides
from mlxquant.check.distance import compare_builds
from mlxquant.cli import main
from mlxquant.errors import RecordError
from mlxquant.records.diff import SCHEMA, diff_records
from mlxquant.report.diff import diff_markdown, diff_text

ROOT = Path(__file__).resolve().parents[2]
AUDITS = ROOT / "audits" / "qwen3.5-122b-a10b"
RECIPES = {"base": "gates-8bit", "agentic": "deepseek-8bit", "small": "gates-4bit"}


def run(*words: object, command: str = "diff") -> Result:
    return CliRunner().invoke(main, [command, *map(str, words)])


def record_of(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    compared: dict[str, Any] = json.loads(result.stdout)
    return compared


@pytest.fixture(scope="module")
def builds(tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three builds of the tiny checkpoint: the paper's two, and one at 4 bits."""
    folder = tmp_path_factory.mktemp("builds")
    for name, recipe in RECIPES.items():
        result = run(tiny_qwen, "-r", recipe, "--group-size", "64", "-o", folder / name, command="convert")
        assert result.exit_code == 0, result.output
    return {name: folder / name for name in RECIPES}


# --- the paper's step ---


def check_the_papers_step(record: dict[str, Any]) -> None:
    assert record["delta"]["protected"] == 50
    assert record["delta"]["bytes"] == 2_392_227_840
    assert round(record["delta"]["bpw"], 3) == 0.157
    assert record["delta"]["active_bytes_per_token"] == 1_653_230_496
    assert [(g["role"], g["modules"], g["layers"]) for g in record["groups"]] == [
        ("attention", 48, ["3..48 step 4"]),
        ("embedding", 1, []),
        ("lm_head", 1, []),
    ]
    assert {(g["a"], g["b"]) for g in record["groups"]} == {("8-bit g128", "bf16")}
    assert len(record["changes"]) == 50
    assert not record["only_in_a"] and not record["only_in_b"] and not record["notes"]


def test_the_papers_step_comes_out_of_its_config(shared: Path) -> None:
    config = shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json"
    check_the_papers_step(record_of("gates-8bit", "deepseek-8bit", "--source", config))


def test_the_papers_step_comes_out_of_the_plan_records_in_audits() -> None:
    check_the_papers_step(record_of(AUDITS / "base.plan.json", AUDITS / "agentic.plan.json"))


def test_the_papers_step_reads_well_in_80_columns() -> None:
    text = run(AUDITS / "base.plan.json", AUDITS / "agentic.plan.json").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("a  base\nb  agentic\n")
    assert "protected modules               96              146             +50" in text
    assert "attention  full 3..48 step 4   48  8-bit g128 → bf16  +871.9 MiB" in text
    assert "embedding, lm_head: maps token ids to vectors and back" in text


def test_the_diff_in_audits_is_what_the_command_gives_today() -> None:
    published = json.loads((AUDITS / "base-agentic.diff.json").read_text(encoding="utf-8"))
    today = record_of(AUDITS / "base.plan.json", AUDITS / "agentic.plan.json")
    assert today["schema"] == published["schema"] == SCHEMA
    assert {**today, "mlxquant": None} == {**published, "mlxquant": None}
    assert run(AUDITS / "base.plan.json", AUDITS / "agentic.plan.json", "--md").stdout == (
        AUDITS / "base-agentic.diff.md"
    ).read_text(encoding="utf-8")


# --- builds ---


def test_builds_in_the_same_format_hold_the_same_bytes_and_errors_are_the_distance_from_the_source(
    builds: dict[str, Path],
) -> None:
    record = record_of(builds["agentic"], builds["base"])
    assert record["tensors"]["same_format"] == {"modules": 70, "equal": 70, "different": [], "distances": []}
    audited = {m["path"]: m["errors"] for m in json.loads((builds["base"] / "audit.json").read_text())["modules"]}
    assert len(record["tensors"]["other_format"]) == 6
    for entry in record["tensors"]["other_format"]:
        # the side that keeps the source's values comes first, so the distance is the other's error
        expected = audited[entry["path"]]["relative_rms_error"]
        assert entry["relative_rms_distance"] == pytest.approx(expected, rel=1e-5), entry
        assert (entry["a"], entry["b"]) == ("bf16", "8-bit g64")


def test_a_build_equals_itself(builds: dict[str, Path]) -> None:
    result = run(builds["base"], builds["base"])
    assert "Both store each of the 76 modules that they share alike." in result.stdout
    assert "76 of 76 modules in the same format hold the same bytes." in result.stdout
    assert result.stdout.startswith("a  base (a)\nb  base (b)\n")


def test_one_flipped_byte_is_found_and_its_distance_is_told(builds: dict[str, Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(builds["base"], changed)
    build = read_build(changed)
    scales = build.checkpoint.tensors["language_model.lm_head.scales"]
    with (changed / scales.file).open("r+b") as file:
        file.seek(scales.start + 1)
        byte = file.read(1)
        file.seek(scales.start + 1)
        file.write(bytes([byte[0] ^ 1]))
    compared = compare_builds(read_build(builds["base"]), read_build(changed))
    assert compared["same_format"]["different"] == ["language_model.lm_head"]
    assert compared["same_format"]["equal"] == 75
    (entry,) = compared["same_format"]["distances"]
    assert entry["relative_rms_distance"] > 0
    text = diff_text({**record_of(builds["base"], changed, "--no-bytes"), "tensors": compared})
    assert "75 of 76 modules in the same format hold the same bytes." in text
    assert "lm_head" in text.split("as a share of a's:")[1]


def test_blocks_of_any_size_give_the_same_distances(builds: dict[str, Path]) -> None:
    a, b = read_build(builds["base"]), read_build(builds["small"])
    whole = compare_builds(a, b, threads=1)
    assert compare_builds(a, b, threads=2, block=1000) == whole


def test_memory_is_that_of_blocks_not_of_tensors(builds: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = build_distance._read

    def watched(view: Any, checkpoint: Any, start: int, rows: int) -> Any:
        block = real(view, checkpoint, start, rows)
        read.append(block.nbytes)
        return block

    monkeypatch.setattr(build_distance, "_read", watched)
    compare_builds(read_build(builds["base"]), read_build(builds["small"]), block=2048)
    assert max(read) <= 4 * 2048


def test_values_that_are_not_finite_are_no_distance_but_a_reason(builds: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(builds["base"], broken)
    biases = read_build(broken).checkpoint.tensors["language_model.lm_head.biases"]
    with (broken / biases.file).open("r+b") as file:
        file.seek(biases.start)
        file.write(b"\xc0\x7f" * 4)  # NaN as bfloat16
    compared = compare_builds(read_build(broken), read_build(builds["small"]))
    assert [u["path"] for u in compared["unmeasured"]] == ["language_model.lm_head"]
    assert "NaN" in compared["unmeasured"][0]["reason"]
    text = diff_text({**record_of(broken, builds["small"], "--no-bytes"), "tensors": compared})
    assert "not measured:" in text


def test_another_tools_build_is_compared_like_ours(builds: dict[str, Path], tiny_qwen: Path, tmp_path: Path) -> None:
    from mlx_lm.convert import convert

    convert(str(tiny_qwen), str(tmp_path / "theirs"), quantize=True, q_bits=8, q_group_size=64)
    record = record_of(builds["base"], tmp_path / "theirs")
    assert record["tensors"]["same_format"]["equal"] == record["tensors"]["same_format"]["modules"]
    assert {g["role"] for g in record["groups"]} <= {"router", "shared_expert_gate"}
    assert record["b"]["totals"]["active_bytes_per_token"] > 0


def test_a_build_reads_as_many_bytes_for_a_token_as_the_plan_it_came_from(
    builds: dict[str, Path], tiny_qwen: Path, tmp_path: Path
) -> None:
    words = (tiny_qwen, "-r", "gates-8bit", "--group-size", "64", "--json")
    (tmp_path / "base.json").write_text(run(*words, command="plan").stdout)
    record = record_of(builds["base"], tmp_path / "base.json")
    assert record["delta"] == {"bytes": 0, "bpw": 0.0, "active_bytes_per_token": 0, "protected": 0}


@pytest.mark.slow
def test_every_architectures_build_reads_as_many_bytes_for_a_token_as_its_plan_says(
    tiny_any: Path, tmp_path: Path
) -> None:
    words = (tiny_any, "-r", "gates-4bit", "--group-size", "32", "--unaligned", "keep")
    plan = json.loads(run(*words, "--json", command="plan").stdout)
    outcome = run(*words, "-o", tmp_path / "build", command="convert")
    assert outcome.exit_code == 0, outcome.output
    assert active_bytes(read_build(tmp_path / "build")) == plan["totals"]["active_bytes_per_token"]


def test_a_build_can_be_held_against_a_recipe_and_against_its_own_record(
    builds: dict[str, Path], tiny_qwen: Path
) -> None:
    planned = record_of(builds["agentic"], "deepseek-8bit", "--source", tiny_qwen)
    assert planned["a"]["name"] == "agentic" and planned["b"]["name"] == "deepseek-8bit"
    assert {(g["a"], g["b"]) for g in planned["groups"]} == {("8-bit g64", "8-bit g128")}
    own = record_of(builds["agentic"], builds["agentic"] / "audit.json")
    assert own["changes"] == [] and "tensors" not in own


# --- what makes a comparison mean less ---


def test_two_models_are_compared_with_a_word_of_warning(tiny: Callable[[str], Path], builds: dict[str, Path]) -> None:
    sides = read_sides(str(builds["base"]), str(AUDITS / "base.plan.json"), None)
    record = diff_records(sides[0].record, sides[1].record, ("tiny", "large"))
    assert "have other shapes" in record["notes"][0]
    assert len(record["only_in_b"]) > 800
    assert "only in b: " in diff_text(record)
    plan = json.loads(run(tiny("llama"), "-r", "gates-8bit", "--json", command="plan").stdout)
    apart = diff_records(plan, sides[0].record, ("llama", "tiny"))
    assert "no module in common" in diff_text(apart)
    assert "alike" not in diff_text(apart)


def test_a_build_that_contradicts_itself_is_compared_with_a_note() -> None:
    good = plan_of(module("a"))
    record = diff_records(good, {**good, "disagreements": ["config.json says 4-bit"]}, ("good", "bad"))
    assert record["notes"] == ["bad: 1 disagreement in this build; `mlxquant audit` lists them"]
    assert "note: bad: 1 disagreement" in diff_text(record)


def module(path: str, **changed: Any) -> dict[str, Any]:
    affine = {"group_size": 128, "bits": 8, "mode": "affine"}
    return {
        "path": path, "kind": "Linear", "role": "shared_expert_gate", "layer": 5, "layer_type": "sliding_attention",
        "shape": [1, 3072], "parameters": 3072, "format": affine, "dtype": "BF16", "bytes": 3072 * 1024**3,
        "bpw": 8.25, "protected": False, "rule": None, "reason": "r" * 200,
        "errors": {"relative_rms_error": 0.00123456}, **changed,
    }  # fmt: skip


def plan_of(*modules: dict[str, Any]) -> dict[str, Any]:
    totals = {"parameters": 1, "bytes": 999_999_999_999, "bpw": 8.25, "active_bytes_per_token": 99_999_999_999}
    return {
        "schema": "mlxquant.plan/1", "source": None, "recipe": None, "totals": totals,
        "protected": {"modules": 0}, "modules": list(modules),
    }  # fmt: skip


def test_the_widest_words_still_fit_80_columns() -> None:
    other = {"format": {"group_size": 128, "bits": 4, "mode": "affine"}, "bytes": 1, "reason": "word " * 60}
    layers = [1, 2, 5, 9, 14, 20, 27, 33, 41]
    a = plan_of(*(module(f"model.layers.{i}.gate", layer=i) for i in layers))
    b = plan_of(*(module(f"model.layers.{i}.gate", layer=i, **other) for i in layers))
    lines = diff_text(diff_records(a, b, ("a", "b"))).splitlines()
    assert max(len(line) for line in lines if "rrr" not in line) <= 80
    assert "shared_expert_" in "\n".join(lines) and "error 0.123 % → 0.123 %" in "\n".join(lines)


def test_layers_are_told_as_a_whole_where_they_are_all_of_a_type() -> None:
    layers = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]
    published = {"format": None, "bytes": 2}
    a = plan_of(*(module(f"model.layers.{i}.gate", layer=i) for i in layers))
    b = plan_of(*(module(f"model.layers.{i}.gate", layer=i, **published) for i in layers))
    record = diff_records(a, b, ("a", "b"))
    assert record["groups"][0]["every"] is True
    assert "every sliding" in diff_text(record) and "every sliding" in diff_markdown(record)


# --- wrong input ---


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["gates-8bit", "deepseek-8bit"], 2, "gates-8bit is a recipe, which needs a model to apply to: give"),
        (
            [AUDITS / "base.plan.json", "gates-8bti", "--source", "x"],
            2,
            "no shipped recipe (did you mean 'gates-8bit'?",
        ),
        ([AUDITS / "base.plan.json", AUDITS / "base.plan.json", "--source", "x"], 2, "neither A nor B is one"),
        ([AUDITS / "base.plan.json", "no/such/build"], 2, "no/such/build: no such folder or file"),
        ([AUDITS / "base.plan.json", ROOT / "pyproject.toml", "--source", "x"], 2, "unknown key 'build-system'"),
        ([AUDITS / "base.plan.json", ROOT / "LICENSE"], 3, "a JSON record expected"),
        ([AUDITS / "base.plan.json", ROOT / "tests"], 3, "config.json"),
        ([AUDITS / "base.plan.json", AUDITS / "base-agentic.diff.json"], 3, "a record of audit, plan expected"),
        ([AUDITS / "base.plan.json", AUDITS / "base.plan.json", "--json", "--md"], 2, "exclude each other"),
        (["only-one"], 2, "Missing argument 'B'"),
    ],
)
def test_wrong_words_are_told_apart(words: list[object], code: int, message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert result.stdout == ""


def test_a_manifest_is_no_side_but_its_folder_is(builds: dict[str, Path]) -> None:
    result = run(builds["base"] / "mlxquant.json", builds["base"])
    assert (result.exit_code, "give the build's folder instead" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": None}, "modules: a list expected, null found"),
        ({"modules": [module("a", bytes="12")]}, 'modules[0].bytes: a whole number expected, "12" found'),
        ({"modules": [module("a", protected=1)]}, "modules[0].protected: true or false expected, 1 found"),
        (
            {"modules": [module("a", format={"bits": 8})]},
            "modules[0].format.group_size: a whole number expected, nothing found",
        ),
        ({"modules": [module("a"), module("a")]}, "modules[1].path: 'a' stands at [0] already"),
        ({"modules": ["a"]}, 'modules[0]: a table expected, "a" found'),
        ({"totals": {"bytes": 1}}, "totals.bpw: a number or null expected, nothing found"),
        ({"protected": []}, "protected: a table expected, a list found"),
        (
            {"schema": "mlxquant.audit/9"},
            "schema mlxquant.audit/9 found, but this version of mlxquant reads mlxquant.audit/1",
        ),
    ],
)
def test_a_record_that_lacks_what_its_schema_promises_is_refused(change: dict[str, Any], message: str) -> None:
    good = plan_of(module("a"))
    with pytest.raises(RecordError) as raised:
        diff_records(good, {**good, **change}, ("a", "b"))
    assert message in str(raised.value)


def test_records_alone_need_no_mlx() -> None:
    script = (
        "import sys\nfor name in ('mlx', 'mlx.core', 'mlx_lm', 'numba'): sys.modules[name] = None\n"
        "from mlxquant.cli import main; main()"
    )
    words = ["diff", str(AUDITS / "base.plan.json"), str(AUDITS / "agentic.plan.json")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "+2,392,227,840" in done.stdout


def test_an_audit_of_a_build_and_the_side_that_diff_makes_of_it_agree(builds: dict[str, Path]) -> None:
    side = read_sides(str(builds["base"]), str(builds["small"]), None)[0]
    assert side.record["modules"] == audit_build(read_build(builds["base"]))["modules"]
