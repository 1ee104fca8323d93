"""`clean` lists unfinished work by its own markers, removes what is named of it, and never anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.write.partial import Partial
from mlxquant.calibrate.run import run_calibration
from mlxquant.cli import main
from mlxquant.disk.journal import RunJournal
from mlxquant.errors import OutputError
from mlxquant.pipeline.unfinished import find_unfinished
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.options import CompareOptions
from mlxquant.stream.state import check_work
from mlxquant.sweep.folder import SweepFolder
from mlxquant.words.progress import Progress
from tests.builds.write.faults import Dead, Die, hooked
from tests.checkpoints import Size, write_tiny
from tests.stream.compare_pass import texts
from tests.support.builds import build

MARKER = {"schema": "mlxquant.work/1", "tool": "mlxquant", "version": "0", "command": "convert", "made_folder": True}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unfinished") / "source"
    write_tiny(folder, "mixtral", Size(layers=1, experts=2))
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """Give a folder with an unfinished conversion, one deeper, and what is none."""
    for out in (tmp_path / "out", tmp_path / "models" / "me" / "deep"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(Dead), hooked(Die(60)):
            build(source, out)
    (tmp_path / "finished.partial").mkdir()
    (tmp_path / "finished.partial" / "thesis.tex").write_text("years of work")
    (tmp_path / "notes.partial").write_text("mine")
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["clean", *map(str, words)])


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_it_lists_what_is_unfinished_and_removes_what_is_named(folder):
    shown = run(folder)
    assert shown.exit_code == 0
    assert [line for line in shown.stdout.splitlines() if not line.startswith(" ")] == [
        "models/me/deep.partial", "out.partial",
    ]  # fmt: skip
    assert "mlxquant convert: source with gates-8bit" in shown.stdout
    assert "written, " in shown.stdout and " ago\n" in shown.stdout
    before = contents(folder)
    removed = run(folder, "out.partial")
    assert removed.stdout.startswith("out.partial: removed, ")
    assert contents(folder) == {n: d for n, d in before.items() if not n.startswith("out.partial/")}
    assert not (folder / "out.partial").exists()
    assert run(folder / "models", "me/deep.partial").exit_code == 0
    assert run(folder).stdout == f"{folder}: no unfinished work of mlxquant\n"


def test_a_name_may_be_typed_from_where_one_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("models", "models/me/deep.partial").exit_code == 0
    assert not (folder / "models/me/deep.partial").exists()


@pytest.mark.parametrize(
    "name", ["finished.partial", "notes.partial", "nothing", "..", "../x", "/", "out.partial/build", "models", ""]
)
def test_a_name_that_is_no_unfinished_work_is_refused_and_nothing_goes(folder, name):
    before = contents(folder)
    refused = run(folder, "out.partial", name)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no unfinished work of mlxquant" in refused.stderr
    assert contents(folder) == before


def test_work_that_a_process_holds_is_listed_as_such_and_refused(folder):
    with Partial(folder / "out").claimed():
        assert "at work right now" in run(folder).stdout
        refused = run(folder, "out.partial")
        assert (refused.exit_code, "works there right now" in refused.stderr) == (3, True)
    assert (folder / "out.partial").exists()


@pytest.mark.parametrize("place", ["out.partial/thesis.tex", "out.partial/build/thesis.tex"])
def test_what_somebody_put_into_it_is_a_reason_to_refuse_all_of_it(folder, place):
    (folder / place).write_text("years of work")
    before = contents(folder)
    refused = run(folder, "out.partial")
    assert (refused.exit_code, "which mlxquant did not leave there" in refused.stderr) == (3, True)
    assert contents(folder) == before


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_a_link_in_place_of_a_file_of_ours_is_refused(folder, link: Callable[[Path, Path], None]):
    (folder / "mine").write_text("mine")
    journal = folder / "out.partial" / "journal.jsonl"
    journal.unlink()
    link(folder / "mine", journal)
    assert run(folder, "out.partial").exit_code == 3
    assert (folder / "mine").read_text() == "mine"


def test_no_link_is_followed_to_work_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link.partial").symlink_to(folder / "out.partial")
    (elsewhere / "models").symlink_to(folder / "models")
    assert find_unfinished(elsewhere) == []
    assert run(elsewhere, "link.partial").exit_code == 2
    assert (folder / "out.partial").exists()


def test_a_marker_that_a_stranger_wrote_gives_nothing_of_the_user_s_away(folder):
    mine = folder / "photos"
    mine.mkdir()
    (mine / "journal.jsonl").write_text("mine")
    (mine / "holiday.jpg").write_text("mine")
    (mine / "lock").write_text(json.dumps({**MARKER, "names": ["holiday.jpg", "../out.partial", "/etc/passwd"]}))
    assert run(folder, "photos").exit_code == 3
    assert (mine / "holiday.jpg").read_text() == "mine"


def test_a_hostile_journal_is_listed_and_steers_no_terminal(folder):
    (folder / "out.partial" / "journal.jsonl").write_text("0 {\n" + "[" * 5000)
    (folder / "x\x1b[31m").mkdir()
    (folder / "x\x1b[31m" / "lock").write_text(json.dumps({**MARKER, "names": []}))
    shown = run(folder)
    assert "an unknown source with an unknown recipe" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_an_evaluation_s_journal_is_known_by_what_is_in_it(tmp_path):
    journal = RunJournal(tmp_path / "eval.json.partial", {"schema": "mlxquant.eval/1", "suites": ["tool-loop"]})
    assert "at work right now" in run(tmp_path).stdout
    assert run(tmp_path, "eval.json.partial").exit_code == 3
    journal.close()
    shown = run(tmp_path)
    assert "mlxquant eval: an evaluation of tool-loop" in shown.stdout and "0 trials finished" in shown.stdout
    assert run(tmp_path, "eval.json.partial").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_s_folder_is_that_of_calibrate_and_no_other_pass_takes_it(source, tmp_path):
    documents = texts((4, 4))

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        run_calibration(open_checkpoint(source), documents, {}, CompareOptions(work=work), stop)
    shown = run(tmp_path).stdout
    assert "mlxquant calibrate: source\n" in shown
    assert "1 step finished" in shown
    with pytest.raises(OutputError, match="holds unfinished work of mlxquant calibrate"):
        check_work(work, [])
    assert run(tmp_path, "work").exit_code == 0
    assert not work.exists()


def test_a_sweep_s_folder_goes_with_its_builds_but_not_what_is_not_its_own(source, tmp_path):
    sweep = SweepFolder(tmp_path / "work")
    with sweep.claimed():
        sweep.keep(tmp_path / "work" / "asked.json", "{}")
        build(source, sweep.build("gates-8bit"))
    assert "a sweep over an unknown source" in run(tmp_path).stdout
    (tmp_path / "work" / "eval-1.json").write_text("{}")
    assert run(tmp_path, "work").exit_code == 0
    assert contents(tmp_path) == {"work/eval-1.json": b"{}"}


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path):
    refused = run(tmp_path / "nowhere")
    assert (refused.exit_code, "a folder expected" in refused.stderr) == (2, True)
