"""Code that a checkpoint or build brings along is not run or asked about by any command; what needs it is refused."""

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

from mlxquant.builds.read.loading import load_build, load_tokenizer
from mlxquant.cli import main
from mlxquant.errors import LayoutError, SourceError
from mlxquant.layout.mlx_lm import model_classes
from mlxquant.source.remote_code import named_code
from tests.support.builds import build

EVIL = "from pathlib import Path\nPath({marker!r}).touch()\nclass T: pass\nclass C: pass\n"


def run(*words: str | Path) -> Result:
    """Run a command with yes to every question."""
    return CliRunner().invoke(main, [*map(str, words)], input="y\n" * 20)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(scope="module")
def clean(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a source and a build of it."""
    out = tmp_path_factory.mktemp("builds") / "clean"
    build(tiny("deepseek_v3"), out)
    return tiny("deepseek_v3"), out


@pytest.fixture
def pair(clean: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Give copies of source and build with code in them, and the file that the code would make."""
    marker = tmp_path / "RAN"
    for folder, name in zip(clean, ("source", "built"), strict=True):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "evil.py").write_text(EVIL.format(marker=str(marker)))
    (tmp_path / "data.jsonl").write_text('{"text": "One short text of a few words."}\n' * 6)
    (tmp_path / "limits.toml").write_text('[[tolerance]]\nmetric = "kl_nats"\nmax = 1\n')
    return tmp_path / "source", tmp_path / "built", marker


def name_code(folder: Path) -> None:
    """Name code for config and tokenizer, as models with code of their own do."""
    change(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    change(folder / "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["evil.T", None]})


COMMANDS = [
    "audit {built}", "verify {built}", "check-load {built}", "bench {built} -p 8 -n 2 -r 1", "diff {built} {clean}",
    "eval --baseline {built} --candidate {built} --calls 5 --tasks 1", "recipes --from {built} -o {out}.toml",
    "compare {clean_source} --build {built} --data {data}", "upload {built} org/name --dry-run",
    "plan {source} -r gates-8bit", "convert {source} -r gates-8bit -o {out}",
    "compare {source} -r gates-8bit --data {data}",
    "sweep {source} --recipes gates-8bit --bits 4 --data {data} -t {limits} -o {out}",
    "verify {clean} --source {source}",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_config_that_names_a_model_file(
    command: str, pair: tuple[Path, Path, Path], clean: tuple[Path, Path], tmp_path: Path
) -> None:
    source, built, marker = pair
    for folder in (source, built):
        change(folder / "config.json", model_file="evil.py")
    places = {
        "source": source, "built": built, "clean_source": clean[0], "clean": clean[1],
        "data": tmp_path / "data.jsonl", "out": tmp_path / "out", "limits": tmp_path / "limits.toml",
    }  # fmt: skip
    done = run(*command.format(**places).split())
    assert not marker.exists()
    assert done.exit_code == 3 and "evil.py" in done.output, done.output
    assert "Traceback" not in done.output and not isinstance(done.exception, MemoryError)


def test_a_build_whose_config_changes_after_the_check_is_not_run(
    pair: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, built, marker = pair
    change(built / "config.json", model_file="evil.py")
    monkeypatch.setattr("mlxquant.builds.read.loading.read_config", lambda *_: {"model_type": "deepseek_v3"})
    load_build(built)
    assert not marker.exists()


def test_a_model_file_within_a_table_is_refused_and_null_is_not(pair: tuple[Path, Path, Path]) -> None:
    _, built, _ = pair
    change(built / "config.json", model_file=None)
    assert run("audit", built).exit_code == 0
    change(built / "config.json", text_config={"model_file": "evil.py"})
    assert "evil.py" in run("audit", built).output


@pytest.mark.slow
def test_a_tokenizer_with_code_is_read_from_its_json_and_nobody_is_asked(
    pair: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    source, built, marker = pair
    plain = load_tokenizer(source, "source", {})
    for folder in (source, built):
        name_code(folder)
    tokenizer = load_tokenizer(source, "source", {})
    assert tokenizer.encode("A text, 12.") == plain.encode("A text, 12.")
    assert "evil.T" in caplog.text and "tokenizer.json" in caplog.text
    for command in (
        f"bench {built} -p 8 -n 2 -r 1 --json",
        f"check-load {built} --json",
        f"compare {source} -r gates-8bit --unaligned keep --data {built.parent}/data.jsonl --no-own --json",
    ):
        done = run(*command.split())
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("{"), done.stdout[:200]
    assert not marker.exists()


def leave_code_alone(folder: Path, mapped: Any) -> None:
    """Name code for the tokenizer, which has nothing else."""
    name_code(folder)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": mapped})
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("mapped", [["evil.T", None], [None, "evil.T"], "evil.T", ["other/repository--evil.T", None]])
def test_a_tokenizer_that_is_nothing_but_code_is_refused_by_name(pair: tuple[Path, Path, Path], mapped: Any) -> None:
    source, _, marker = pair
    leave_code_alone(source, mapped)
    with pytest.raises(SourceError, match=r"evil\.T") as error:
        load_tokenizer(source, "kimi", {})
    assert "kimi" in str(error.value) and "tokenizer.json" in str(error.value)
    assert not marker.exists()


def test_commands_refuse_a_tokenizer_that_is_nothing_but_code_by_name(pair: tuple[Path, Path, Path]) -> None:
    _, built, marker = pair
    leave_code_alone(built, ["evil.T", None])
    done = run("bench", built, "-p", "8", "-n", "2", "-r", "1")
    assert done.exit_code == 3 and "evil.T" in done.output
    entry = json.loads(run("check-load", built, "--json").stdout)["libraries"][0]
    assert entry["loaded"] and "evil.T" in entry["text"]["error"]
    assert not marker.exists()


def test_a_tokenizer_of_a_class_that_transformers_lacks_is_refused_by_name(pair: tuple[Path, Path, Path]) -> None:
    source, _, _ = pair
    change(source / "tokenizer_config.json", tokenizer_class="KimiTokenizer")
    load_tokenizer(source, "kimi", {})  # tokenizer.json says all
    (source / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match="KimiTokenizer"):
        load_tokenizer(source, "kimi", {})


def test_code_that_only_a_processor_names_is_seen(pair: tuple[Path, Path, Path]) -> None:
    _, built, _ = pair
    (built / "preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": "evil.P"}}')
    (built / "video_preprocessor_config.json").write_text('{"deep": [{"auto_map": {"AutoProcessor": "evil.Q"}}]}')
    assert list(named_code(built)) == ["preprocessor_config.json", "video_preprocessor_config.json"]


@pytest.mark.parametrize("name", ["../../evil", "os", "..evil", "evil.py", "/tmp/evil", "base", "llama.x", "", "a b"])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_model_type_is_a_model_of_mlx_lms_and_nothing_else(name: str, loaded: bool) -> None:
    if loaded:
        import mlx_lm  # noqa: F401 - it then looks for classes itself
    with pytest.raises(LayoutError):
        model_classes({"model_type": name})


def test_modules_in_the_folder_at_hand_are_not_imported(tmp_path: Path) -> None:
    for name in ("click", "numpy", "mlx", "mlx_lm", "json", "jinja2", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "mlxquant", "recipes"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("key", ["chat_template_type", "tool_parser_type"])
@pytest.mark.parametrize("name", ["../../evil", "evil", "..evil", "os"])
def test_a_renderer_or_parser_is_one_of_mlx_lms_and_nothing_else(
    pair: tuple[Path, Path, Path], key: str, name: str
) -> None:
    source, _, marker = pair
    change(source / "tokenizer_config.json", **{key: name})
    with pytest.raises(SourceError, match="cannot be loaded"):
        load_tokenizer(source, "source", {})
    assert not marker.exists()
