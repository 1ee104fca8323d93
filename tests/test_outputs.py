"""What commands are told to write: never over an input or a file of somebody, known before any work is done."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from tests.builds.write.faults import hooked
from tests.support.builds import build

GATE = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'
# A command, with its inputs and one output each: {x} is an input by that name, {out} what is written
COMMANDS = {
    "validate -o": "validate {record} -t {gate} -o {out}",
    "validate --markdown": "validate {record} -t {gate} --markdown {out}",
    "validate --junit": "validate {record} -t {gate} --junit {out}",
    "validate --since": "validate --since {build} -o {out}",
    "report": "report {record} -o {out}",
    "plan": "plan {source} -r {recipe} -o {out}",
    "tau2": "tau2 {tau2} -o {out}",
    "rollout": "rollout --baseline http://a/v1 --candidate http://b/v1 --model m --candidate-build {build} -o {out}",
    "rollout --logs": "rollout --logs {logs} -o {out}",
    "compare --from": "compare --from {record} -o {out}",
    "compare": "compare {source} -r {recipe} --data {data} -o {out}",
    "compare --build": "compare {source} --build {build} --data {data} -o {out}",
    "bench --predict": "bench --predict {build} -o {out}",
    "bench": "bench {build} --prompt-file {data} -o {out}",
    "recipes --from": "recipes --from {build} -o {out}",
    "sweep": "sweep {source} --recipes {recipe} -t {gate} --data {data} -o {out}",
    "sweep --from": "sweep --from {record} -t {gate} -o {out}",
    "eval -o": "eval --baseline {source} --candidate {build} --suite {suite} -o {out}",
    "eval --trace": "eval --baseline {source} --candidate {build} --suite {suite} --trace {out}",
}
NAMES = ("record", "gate", "build", "tau2", "logs", "source", "recipe", "data", "suite")


@pytest.fixture(scope="module")
def shared(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Give a folder with one input of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(tiny("qwen3_moe"), folder / "source")
    build(folder / "source", folder / "build")
    shutil.copy(root / "audits" / "store-moe" / "compare.json", folder / "record")
    (folder / "gate").write_text(GATE)
    (folder / "recipe.toml").write_text('name = "mine"\n[quantize]\nbits = 8\ngroup_size = 32\n')
    (folder / "data").write_text('{"text": "a document"}\n')
    (folder / "suite").write_text('{"id": "1", "prompt": "a", "score": "exact", "answer": "b"}\n')
    traffic = (root / "tests" / "rollout" / "litellm-1.108.7.ndjson.gz").read_bytes()
    (folder / "logs").write_bytes(gzip.decompress(traffic))
    simulation = {"task_id": "1", "trial": 0, "termination_reason": "user_stop", "reward_info": {"reward": 1.0}}
    simulations = [{**simulation, "id": str(i), "task_id": str(i), "messages": []} for i in range(6)]
    (folder / "tau2").write_text(json.dumps({"info": {}, "tasks": [], "simulations": simulations}))
    return folder


@pytest.fixture
def inputs(shared: Path, tmp_path: Path) -> dict[str, Path]:
    """Give a copy of them."""
    shutil.copytree(shared, tmp_path / "in")
    return {name: tmp_path / "in" / ("recipe.toml" if name == "recipe" else name) for name in NAMES}


def run(command: str, inputs: dict[str, Path], out: Path) -> Result:
    return CliRunner().invoke(main, COMMANDS[command].format(**inputs, out=out).split())


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every name below a folder, with the bytes of files and where links lead."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        kind = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = kind
    return found


def refused(result: Result, *codes: int) -> str:
    assert result.exit_code in codes, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["itself", "another spelling", "link", "hard link"])
def test_an_output_that_is_an_input_is_refused(inputs: dict[str, Path], tmp_path: Path, command: str, how: str):
    used = [name for name in NAMES if f"{{{name}}}" in COMMANDS[command] and inputs[name].is_file()]
    for name in used:
        out = inputs[name]
        if how == "another spelling":
            out = tmp_path / "in" / ".." / "in" / out.name
        elif how != "itself":
            out = tmp_path / f"{name}-{how.replace(' ', '-')}"
            (out.symlink_to if how == "link" else out.hardlink_to)(inputs[name])
        before = contents(tmp_path)
        refused(run(command, inputs, out), 2, 3)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_there_is_not_replaced(inputs: dict[str, Path], tmp_path: Path, command: str):
    for number, text in enumerate(("years of work", '{"my": "older record"}', '{"schema": "mine/1"}\n', "## notes\n")):
        out = tmp_path / f"{number}"
        out.write_text(text)
        before = contents(tmp_path)
        message = refused(run(command, inputs, out), 3)
        assert "already exists" in message or "is no trace" in message
        assert contents(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_where_no_file_can_be_is_told_first(inputs: dict[str, Path], tmp_path: Path, command: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = contents(tmp_path)
    for name in ("folder", "file/x", "no/such/folder/x", "link", "pipe", "n" * 300):
        refused(run(command, inputs, tmp_path / name), 2, 3)
        assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_takes_no_file_is_told_first(inputs: dict[str, Path], tmp_path: Path, command: str):
    (tmp_path / "theirs").mkdir(mode=0o555)
    assert "cannot be written" in refused(run(command, inputs, tmp_path / "theirs" / "x"), 3)


@pytest.mark.parametrize("command", [c for c, words in COMMANDS.items() if "{build}" in words or "{source}" in words])
def test_an_output_inside_a_build_or_a_source_is_refused(inputs: dict[str, Path], tmp_path: Path, command: str):
    before = contents(tmp_path)
    for name in ("source", "build"):
        if f"{{{name}}}" in COMMANDS[command]:
            assert "lies in" in refused(run(command, inputs, inputs[name] / "x"), 2)
            assert contents(tmp_path) == before


def test_two_outputs_of_one_name_are_refused(inputs: dict[str, Path], tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    words = [
        "validate",
        inputs["record"],
        "-t",
        inputs["gate"],
        "--junit",
        tmp_path / "v",
        "-o",
        tmp_path / "link" / "v",
    ]
    assert "give each a file of its own" in refused(CliRunner().invoke(main, [str(w) for w in words]), 2)
    assert not (tmp_path / "v").exists()


def test_an_output_in_the_work_folder_is_refused(inputs: dict[str, Path], tmp_path: Path):
    for command in ("compare", "sweep"):
        words = [*COMMANDS[command].format(**inputs, out=tmp_path / "work" / "x").split(), "--work", tmp_path / "work"]
        (tmp_path / "work").mkdir(exist_ok=True)
        assert "lies in the work folder" in refused(CliRunner().invoke(main, [str(w) for w in words]), 2)
        assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["validate -o", "validate --markdown", "validate --junit", "report", "tau2", "rollout --logs"]
)
def test_what_is_worked_out_of_records_replaces_its_earlier_version(
    inputs: dict[str, Path], tmp_path: Path, command: str
):
    out = tmp_path / "out"
    out.write_text("")  # as of mktemp: it holds nothing
    first = run(command, inputs, out)
    assert first.exit_code in (0, 1, 4), first.output
    assert out.stat().st_size > 100
    before = out.stat().st_ino
    assert run(command, inputs, out).exit_code == first.exit_code
    assert out.stat().st_ino != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("command", ["compare --from", "bench --predict", "recipes --from", "sweep --from"])
def test_other_records_replace_nothing_not_even_their_own(inputs: dict[str, Path], tmp_path: Path, command: str):
    assert run(command, inputs, tmp_path / "out").exit_code in (0, 1, 4)
    before = (tmp_path / "out").read_bytes()
    assert "already exists" in refused(run(command, inputs, tmp_path / "out"), 3)
    assert (tmp_path / "out").read_bytes() == before


@pytest.mark.parametrize("command", ["compare --from", "sweep --from"])
def test_figures_are_shown_also_where_the_disk_takes_no_record(inputs: dict[str, Path], tmp_path: Path, command: str):
    def fail(operation: str, path: str) -> None:
        if operation == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with hooked(fail):
        done = run(command, inputs, tmp_path / "out")
    assert done.exit_code == 3
    assert "kl_nats" in done.stdout or "KL" in done.stdout
    assert "cannot be written (No space left on device)" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_file_that_keeps_a_run_is_not_its_trace(inputs: dict[str, Path], tmp_path: Path):
    (tmp_path / "e.json.partial").write_text("years of work")
    assert "e.json.partial" in refused(run("eval -o", inputs, tmp_path / "e.json"), 3)
    words = [
        *COMMANDS["eval -o"].format(**inputs, out=tmp_path / "e.json").split(),
        "--trace",
        tmp_path / "e.json.partial",
    ]
    refused(CliRunner().invoke(main, [str(w) for w in words]), 2, 3)
    assert (tmp_path / "e.json.partial").read_text() == "years of work"
