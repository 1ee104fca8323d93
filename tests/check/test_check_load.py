"""Does a build load: in what is installed here, in the versions that LM Studio has pinned, and what is said if not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.check.load import loads
from mlxquant.cli import main
from mlxquant.report.load import check_load_text
from tests.support.builds import build, config_of
from tests.support.environments import environment

NO_GPU = pytest.mark.skipif(sys.platform != "linux", reason="a GPU runs experts at source precision")


def check_load(folder: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check-load", str(folder), *map(str, arguments)])


def found_in(folder: Path, library: str, *arguments: str | Path):
    """The record's entry for one library, and the exit code."""
    run = check_load(folder, "--json", *arguments)
    record = json.loads(run.output)
    assert record["schema"] == "mlxquant.check_load/1"
    return next(answer for answer in record["libraries"] if answer["library"] == library), run.exit_code


@pytest.fixture(scope="module")
def text_build(tiny, tmp_path_factory) -> Path:
    """Give a text-only build of a Qwen3.5-MoE whose source has a vision tower."""
    out: Path = tmp_path_factory.mktemp("builds") / "text"
    build(tiny("qwen3_5_moe_vision"), out)
    return out


@pytest.fixture(scope="module")
def seeing_build(tiny, tmp_path_factory) -> Path:
    """Give a build of the same with vision tower and next-token head kept."""
    out: Path = tmp_path_factory.mktemp("builds") / "seeing"
    build(tiny("qwen3_5_moe_vision"), out, keep=["vision", "mtp"])
    return out


@pytest.fixture
def script(tmp_path):
    """Give a function that writes an interpreter that does something else."""

    def write(text: str) -> Path:
        path: Path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_build", "seeing_build"])
def test_what_convert_makes_loads_in_mlx_lm_and_runs(request, name):
    answer, code = found_in(request.getfixturevalue(name), "mlx-lm")
    assert code == 0 and answer["loaded"] and answer["strict"]
    assert answer["formats"] == [{"bits": 8, "group_size": 32, "mode": "affine", "modules": 45}]
    assert len(answer["text"]["tokens"]) == 8 and answer["mlx_peak_bytes"] > answer["bytes"]
    assert answer["warnings"] == []


@pytest.mark.slow
def test_the_text_says_which_library_lm_studio_takes_and_what_each_found(seeing_build, text_build):
    assert "with a vision_config, so LM Studio loads it through mlx-vlm" in check_load(seeing_build).output
    output = check_load(text_build).output
    assert "without a vision_config, so LM Studio loads it through mlx-lm" in output
    assert "  quantized  45 modules at 8-bit g32" in output


@pytest.mark.slow
def test_a_build_with_a_tensor_too_few_does_not_load_and_is_told_which(tiny, tmp_path):
    build(tiny("llama"), tmp_path / "out")
    config = config_of(tmp_path / "out")
    config["num_hidden_layers"] += 1
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    answer, code = found_in(tmp_path / "out", "mlx-lm")
    assert code == 3 and not answer["loaded"]
    assert "Missing" in answer["error"] and "model.layers.4." in answer["error"]
    assert "DOES NOT LOAD" in check_load(tmp_path / "out").output


@NO_GPU
def test_a_build_that_loads_and_cannot_run_here_loads_all_the_same(tiny, tmp_path):
    build(tiny("qwen3_moe"), tmp_path / "out", "none")
    answer, code = found_in(tmp_path / "out", "mlx-lm")
    assert code == 0 and answer["loaded"] and "error" in answer["text"]


def test_a_library_that_takes_its_process_down_is_told_by_its_signal(text_build, script):
    answer, code = found_in(text_build, "mlx-lm", "--python", script("kill -9 $$"))
    assert code == 3
    assert answer["error"] == "its process was killed by SIGKILL; was memory short?"


def test_an_environment_without_any_of_them_is_no_success(text_build, tmp_path):
    venv.create(tmp_path / "empty", with_pip=False)
    run = check_load(text_build, "--python", tmp_path / "empty/bin/python")
    assert run.exit_code == 3
    assert run.output.count("not installed, so not tried") == 2


def test_a_library_that_has_no_such_model_does_not_count(text_build, tmp_path):
    shutil.copytree(text_build, tmp_path / "out")
    config = config_of(tmp_path / "out") | {"model_type": "no_such_model"}
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    answer, _ = found_in(tmp_path / "out", "mlx-lm")
    assert answer["unsupported"] and not answer["loaded"]
    other = {"library": "mlx-vlm", "installed": True, "loaded": True}
    assert loads({"libraries": [answer, other]}) and not loads({"libraries": [answer]})
    text = check_load_text({"build": "out", "vision": False, "libraries": [answer]})
    assert text.startswith("out: without a vision_config, so LM Studio would take mlx-lm, which has no such model")


def test_an_interpreter_that_is_none_is_a_usage_error(text_build, tmp_path):
    (tmp_path / "python").write_text("not a program")
    assert check_load(text_build, "--python", tmp_path / "python").exit_code == 2
    assert check_load(text_build, "--python", tmp_path / "missing").exit_code == 2


def test_a_folder_that_is_no_build_is_an_error(tmp_path):
    run = check_load(tmp_path)
    assert run.exit_code == 3 and "no config.json found" in run.output


# --- the versions that others have ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_build", "seeing_build"])
def test_mlx_lm_0_31_3_loads_and_runs_it(request, name, tmp_path_factory):
    python = environment(tmp_path_factory, "mlx-lm==0.31.3")
    answer, code = found_in(request.getfixturevalue(name), "mlx-lm", "--python", python)
    assert (code, answer["version"], answer["loaded"]) == (0, "0.31.3", True)
    assert answer["formats"] == [{"bits": 8, "group_size": 32, "mode": "affine", "modules": 45}]
    assert len(answer["text"]["tokens"]) == 8


@pytest.mark.slow
@pytest.mark.parametrize("version", [pytest.param("0.6.12", marks=pytest.mark.environments), "0.7.10"])
def test_mlx_vlm_loads_a_kept_tower_and_sees_with_it(seeing_build, version, tmp_path_factory):
    python = environment(tmp_path_factory, f"mlx-vlm=={version}")
    answer, _ = found_in(seeing_build, "mlx-vlm", "--python", python)
    assert (answer["version"], answer["loaded"]) == (version, True)
    assert answer["formats"] == [{"bits": 8, "group_size": 32, "mode": "affine", "modules": 45}]
    assert answer["image"]["text"] and answer["text"]["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "loads"), [pytest.param("0.6.12", False, marks=pytest.mark.environments), ("0.7.10", True)]
)
def test_mlx_vlm_takes_a_text_only_build_since_0_7(text_build, version, loads, tmp_path_factory):
    python = environment(tmp_path_factory, f"mlx-vlm=={version}")
    answer, code = found_in(text_build, "mlx-vlm", "--python", python)
    assert answer["loaded"] is loads and code == (0 if loads else 3)
    if not loads:
        assert "Missing" in answer["error"] and "vision_tower." in answer["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("template", "code"), [("while True: pass", 0), ("max(range(10 ** 12))", 1)])
def test_a_chat_template_that_hangs_in_a_library_is_ended(template, code):
    script = (
        "from mlxquant.check.load_probe import _bounded\n"
        "try:\n"
        "    with _bounded('its chat template', 1):\n"
        f"        exec({template!r})\n"
        "except TimeoutError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert code or done.stdout == "its chat template renders for more than 1 s\n"
