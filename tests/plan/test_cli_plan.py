"""`mlxquant plan` as a person types it: exit codes, stdout and stderr, one clear message for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.plan.recipe.recipe import available

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def plan(*args: object, columns: int = 80) -> Result:
    """Run the command in this process, in a terminal of so many columns."""
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["plan", *map(str, args)])


def refused(*args: object, code: int = 3) -> str:
    """The message of a refused request: on stderr alone, no traceback."""
    done = plan(*args)
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_encodes_on_documents_says_what_its_pass_takes_of_memory(tiny_qwen):
    done = plan(tiny_qwen, "-r", "gates-8bit:bits=4,group_size=32,method=gptq", "--unaligned", "keep", "--json")
    encoding = json.loads(done.stdout)["encoding"]
    parts = sum(encoding[f"{part}_bytes"] for part in ("layer", "inputs", "workers"))
    assert (encoding["method"], encoding["tokens"]) == ("gptq", 10_000)
    assert 0 < parts < encoding["memory_bytes"]
    assert "encoding" not in json.loads(plan(tiny_qwen, "-r", "gates-8bit:method=mse", "--json").stdout)


def test_the_text_goes_to_stdout_in_80_columns(tiny_qwen):
    done = plan(tiny_qwen, "-r", "deepseek-8bit")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("source      qwen3_5_moe (qwen3_5_moe, 4 layers;")
    assert any(line.startswith("parameters ") for line in lines)


def test_the_text_is_the_same_however_wide_the_terminal_is(tiny_qwen):
    assert plan(tiny_qwen, "-r", "none", columns=200).stdout == plan(tiny_qwen, "-r", "none").stdout


def test_json_is_one_record_and_nothing_else(tiny_qwen):
    done = plan(tiny_qwen, "-r", "mlx-lm-default", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["schema"] == "mlxquant.plan/1"
    assert record["warnings"], "warnings are part of the record"


def test_a_config_can_be_planned_where_it_lies(tiny_qwen, monkeypatch):
    monkeypatch.chdir(tiny_qwen)
    done = plan("config.json", "-r", "gates-8bit", "--json")
    assert json.loads(done.stdout)["source"]["name"] == "qwen3_5_moe/config.json"


def test_the_summary_of_a_recipe_is_not_said_of_what_overrides_make_of_it(tiny_qwen):
    assert "gates-8bit --bits 4: gates-8bit is 8-bit" in plan(tiny_qwen, "-r", "gates-8bit", "--bits", 4).stdout


def test_overrides_are_laid_over_the_recipe(tiny_qwen):
    args = ("--bits", 6, "--group-size", 64, "--set", "role=attention:bits=4", "--set", "role=lm_head:keep")
    record = json.loads(plan(tiny_qwen, "-r", "uniform-8bit", *args, "--json").stdout)
    formats = {
        (m["role"], (m["format"] or {}).get("bits"))
        for m in record["modules"]
        if m["role"] in ("attention", "lm_head", "expert")
    }
    assert formats == {("attention", 4), ("lm_head", None), ("expert", 6)}
    assert len(record["recipe"]["overrides"]) == 4


def test_dtype_casts_what_stays_unquantized(tiny_qwen):
    record = json.loads(plan(tiny_qwen, "-r", "none", "--dtype", "float32", "--json").stdout)
    assert {m["dtype"] for m in record["modules"]} == {"F32"}


@pytest.mark.parametrize(("short", "dtype"), [("bf16", "BF16"), ("fp16", "F16"), ("f16", "F16"), ("f32", "F32")])
def test_a_dtype_may_be_called_by_its_short_name(tiny_qwen, short, dtype):
    record = json.loads(plan(tiny_qwen, "-r", "none", "--dtype", short, "--json").stdout)
    assert dtype in {m["dtype"] for m in record["modules"]}


def test_what_the_group_size_does_not_divide_can_be_kept(shared):
    config = shared / "reference/configs/gpt-oss-20b.json"
    assert "does not divide the input dimension 2880" in refused(config, "-r", "gates-8bit", "--group-size", "128")
    done = plan(config, "-r", "gates-8bit", "--group-size", "128", "--unaligned", "keep")
    assert done.exit_code == 0
    assert "left unquantized" in done.stdout


# --- mistakes ---


def test_without_a_recipe_the_shipped_ones_are_listed(tiny_qwen):
    message = refused(tiny_qwen, code=2)
    assert all(recipe.name in message for recipe in available())


def test_an_unknown_recipe_lists_the_valid_ones(tiny_qwen):
    message = refused(tiny_qwen, "-r", "gate-8bit", code=2)
    assert "did you mean 'gates-8bit'?" in message
    assert "deepseek-4bit" in message


def test_without_a_source_the_usage_is_shown():
    assert "Missing argument 'SOURCE'" in refused(code=2)


def test_a_mistyped_recipe_is_told_before_the_source_is_opened():
    assert "unknown" in refused("no/such/source", "-r", "nosuch", code=2)


def test_a_missing_folder_is_named():
    assert refused("nosuchfolder", "-r", "none") == (
        "mlxquant: nosuchfolder: no such folder, config.json or Hub id (org/name)\n"
    )


def test_a_hub_id_in_offline_mode_is_told():
    assert "HF_HUB_OFFLINE" in refused("org/name", "-r", "none")


def test_a_folder_without_a_config_is_told(tmp_path):
    assert "has no config.json" in refused(tmp_path, "-r", "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "has no model_type"),
        ('{"model_type": 5}', "has no model_type"),
        ("[1", "not readable as JSON"),
        ("[]", "a JSON object expected"),
        ('{"model_type": "nosuch"}', "has no model_type 'nosuch'"),
        ('{"model_type": "../../etc"}', "has no model_type '../../etc'"),
        ('{"model_type": "base"}', "has no model_type 'base'"),
        ('{"model_type": "llama"}', "lacks hidden_size, num_hidden_layers"),
    ],
)
def test_a_config_at_fault_is_told(tmp_path, text, expected):
    (tmp_path / "config.json").write_text(text)
    assert expected in refused(tmp_path / "config.json", "-r", "none")


def test_layer_types_that_contradict_the_model_are_told(tiny_qwen, tmp_path):
    config = json.loads((tiny_qwen / "config.json").read_text())
    config["text_config"]["layer_types"] = ["full_attention"] * 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = refused(tmp_path / "config.json", "-r", "none")
    assert "layer 0: the config says full_attention, the model has linear_attention" in message


def test_a_traceback_is_shown_on_demand_only():
    command = [
        sys.executable,
        "-P",
        "-c",
        "from mlxquant.cli import main; main()",
        "--debug",
        "plan",
        "nosuch",
        "-r",
        "none",
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr
