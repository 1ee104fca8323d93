"""`mlxquant convert` as a person types it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.plan.recipe.recipe import load_recipe
from tests.builds.write.faults import AtRename, Dead, hooked
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, contents, stored


@pytest.fixture
def source(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a checkpoint called `source` in the folder that the command is run in."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_qwen, tmp_path / "source")
    return tmp_path / "source"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["convert", *words])


def shell(root: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "80"}
    command = [sys.executable, "-m", "mlxquant", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, **options)  # type: ignore[call-overload,no-any-return]


def test_a_build_is_made_and_told_of_in_a_line(source, tmp_path, root):
    done = shell(root, "convert", "source", "-r", "gates-8bit", "-o", "out")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert re.fullmatch(r"out: [\d.]+ MiB, 8\.\d{4} bits per weight, \d+ modules protected; [\d.]+ s\n", done.stdout)
    opening, *following = done.stderr.splitlines()
    assert re.fullmatch(
        r"mlxquant: reads [\d.]+ MiB, writes [\d.]+ MiB; [\d.]+ GiB free in /.*; less than a minute", opening
    )
    assert following[:3] == [
        "Next: mlxquant audit out",
        '      mlx_lm.generate --model out --prompt "Hello"',
        "      mlx_lm.server --model out --port 8080",
    ]
    assert following[3].startswith("      LM Studio: mkdir -p ") and len(following) == 4
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_json_is_one_record_on_stdout_and_nothing_else(source, root):
    done = shell(root, "convert", "source", "-r", "gates-8bit", "-o", "out", "--json")
    assert done.returncode == 0
    assert done.stdout == Path("out/mlxquant.json").read_text()
    assert json.loads(done.stdout)["schema"] == "mlxquant.manifest/1"


def test_an_error_is_one_message_and_a_traceback_comes_with_debug_alone(source, root):
    Path("out").mkdir()
    plain = shell(root, "convert", "source", "-r", "gates-8bit", "-o", "out")
    assert (plain.returncode, plain.stdout) == (3, "")
    assert plain.stderr == "mlxquant: out: exists already; choose another OUT, or remove it first\n"
    loud = shell(root, "--debug", "convert", "source", "-r", "gates-8bit", "-o", "out")
    assert loud.returncode != 0
    assert "Traceback" in loud.stderr


@pytest.mark.slow
def test_what_the_system_refuses_is_a_message_too(source, root, tmp_path):
    long = "x" * 300
    for words in (["convert", "source", "-r", "gates-8bit", "-o", long], ["plan", long, "-r", "none"], ["audit", long]):
        done = shell(root, *words)
        assert (done.returncode, done.stdout) == (3, "")
        assert "File name too long" in done.stderr and "Traceback" not in done.stderr
        assert "Traceback" in shell(root, "--debug", *words).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_gpu_that_is_not_there_is_known_beforehand(source, tmp_path, monkeypatch):
    monkeypatch.setattr("mlx.core.is_available", lambda device: False)
    refused = run("source", "-r", "gates-8bit", "-o", "out", "--device", "gpu")
    assert refused.exit_code == 2 and "mlx finds no GPU" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_what_to_type_next_can_be_typed(source, root):
    done = shell(root, "convert", "source", "-r", "gates-8bit", "-o", "my build")
    assert "Next: mlxquant audit 'my build'\n" in done.stderr
    assert "mlx_lm.generate --model 'my build' --prompt" in done.stderr


def test_a_terminal_without_our_signs_gets_question_marks_not_a_traceback(source, root, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = shell(root, "diff", "gates-8bit", "deepseek-8bit", "--source", "source")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["source", "-r", "gates-8bit"], 2, "Missing option '-o'"),
        (["source", "-o", "out"], 2, "a recipe is missing: give -r with one of"),
        (["-r", "gates-8bit", "-o", "out"], 2, "Missing argument 'SOURCE'"),
        (["source", "-r", "gates-8bit", "-o", "out", "--jobs", "0"], 2, "--jobs"),
        (["source", "-r", "gates-8bit", "-o", "out", "--max-memory", "some"], 2, "a size such as 96GB"),
        (["source", "-r", "gates-8bit", "-o", "out", "--max-memory", "1MB"], 2, "are needed for one worker"),
        (["source", "-r", "gates-8bit", "-o", "source/out"], 3, "lies in the checkpoint's own folder"),
        (["source", "-r", "gates-8bit", "-o", "out", "--dtype", "int8"], 2, "bfloat16"),
        (["source", "-r", "gate-8bit", "-o", "out"], 2, "gates-8bit"),
        (["nowhere", "-r", "gates-8bit", "-o", "out"], 3, "nowhere"),
        (["source/config.json", "-r", "gates-8bit", "-o", "out"], 3, "weights"),
        (["source", "-r", "gates-8bit", "-o", "source/config.json/out"], 3, "cannot be written to"),
        (["source", "-r", "gates-8bit", "-o", "out", "--set", "role=atention:keep"], 2, "attention"),
    ],
)
def test_what_cannot_be_done_says_so_and_leaves_nothing(source, tmp_path, words, code, message):
    done = run(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_options_reach_the_build(source, tmp_path):
    words = ["--dtype", "float16", "--bits", "6", "--group-size", "32", "--set", "role=lm_head:keep", "--jobs", "1"]
    assert run("source", "-r", "uniform-8bit", "-o", "out", *words, "--no-hash", "--no-audit").exit_code == 0
    tensors = stored(tmp_path / "out")
    assert tensors["language_model.lm_head.weight"][0] == "F16"
    assert tensors["language_model.model.embed_tokens.weight"][1][-1] == 128 * 6 // 32
    manifest = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    assert manifest["options"]["hash"] is False
    assert manifest["recipe"]["overrides"] == ["--bits 6", "--group-size 32", "--set role=lm_head:keep"]


def test_nan_is_refused_and_allowed_on_demand(source, tmp_path):
    from tests.support.builds import patch

    patch(source, "lm_head.weight", b"\xc0\x7f", at=256)
    refused = run("source", "-r", "none", "-o", "out")
    assert refused.exit_code == 3
    assert "language_model.lm_head.weight: row 1, column 0" in refused.stderr
    assert not list(tmp_path.glob("out*"))
    assert run("source", "-r", "none", "-o", "out", "--allow-nonfinite").exit_code == 0


def test_a_warning_of_the_plan_is_shown(source):
    done = run("source", "-r", "naive-linear-8bit", "--bits", "4", "-o", "out")
    assert (done.exit_code, "mlxquant: warning: " in done.stderr) == (0, True)


def test_a_run_that_finds_its_work_done_says_what_it_took_over(source, tmp_path):
    with hooked(AtRename()), pytest.raises(Dead):
        build(source, tmp_path / "out", load_recipe("gates-8bit"))
    done = run("source", "-r", "gates-8bit", "-o", "out")
    assert done.exit_code == 0
    assert re.search(r"; [\d.]+ s, 2\.\d+ MiB taken over$", done.stdout.strip())


def test_fresh_starts_over_where_other_work_stands_in_the_way(source, tmp_path):
    with hooked(AtRename()), pytest.raises(Dead):
        build(source, tmp_path / "out", "uniform-8bit")
    refused = run("source", "-r", "gates-8bit", "-o", "out")
    assert refused.exit_code == 3
    assert "recipe: uniform-8bit" in refused.stderr
    assert run("source", "-r", "gates-8bit", "-o", "out", "--fresh").exit_code == 0
    assert run("source", "-r", "gates-8bit", "-o", "other").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_help_fits_a_terminal_and_has_examples():
    text = run("--help").stdout
    assert "mlxquant convert ./checkpoint -r gates-4bit" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("  mlxquant")) <= 80


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_progress_on_a_terminal_stays_within_80_columns_and_off_stdout(tmp_path, root):
    """The bar shows bytes, rate and module; a model of a few seconds is made for it."""
    import fcntl
    import pty
    import struct
    import termios

    write_tiny(tmp_path / "source", "qwen3_moe", Size(layers=4, hidden=512, experts=32, inner=512))
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(root)}
    words = ["convert", str(tmp_path / "source"), "-r", "uniform-8bit", "-o", str(tmp_path / "out"), "--json"]
    shown = b""
    with (
        (tmp_path / "stdout").open("wb") as file,
        subprocess.Popen([sys.executable, "-m", "mlxquant", *words], stdout=file, stderr=terminal, env=env),
    ):
        os.close(terminal)
        with suppress(OSError):  # Linux's way to say that the other end was closed
            while part := os.read(master, 1 << 16):
                shown += part
    os.close(master)
    stdout = (tmp_path / "stdout").read_text()
    assert json.loads(stdout)["schema"] == "mlxquant.manifest/1"
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())
    lines = re.split(r"[\r\n]+", text)
    assert max(len(line) for line in lines if not line.startswith("mlxquant: ")) <= 80
    assert re.search(r"\d+%.*B/s, …?[a-z_.0-9]+\]", text), text
