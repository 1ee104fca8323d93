"""What no longer holds once the machine or the stack is another, and the retired command that asked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import COMMANDS, RETIRED, main
from mlxquant.errors import RecordError
from mlxquant.records.head import describe_machine, describe_versions
from mlxquant.validate import since as module
from mlxquant.validate.since import since


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, words)])


def write(path: Path, schema: str, **then: Any) -> Path:
    """A record that was made on this machine and stack, but for what it names."""
    versions = {k: then.get(k, v) for k, v in describe_versions().items()}
    machine = {k: then.get(k, v) for k, v in describe_machine().items()}
    path.write_text(json.dumps({"schema": schema, "versions": versions, "machine": machine}))
    return path


def now(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Let the stack or the machine be another."""
    for name in ("describe_versions", "describe_machine"):
        table = getattr(module, name)()
        table |= {k: v for k, v in changed.items() if k in table}
        monkeypatch.setattr(module, name, lambda table=table: table)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write(tmp_path / "mlxquant.json", "mlxquant.manifest/1")


# --- the retired command ---


@pytest.mark.parametrize("command", RETIRED)
@pytest.mark.parametrize("words", ["", "build", "build eval.json --json", "--help", "-h"])
def test_a_retired_command_names_what_does_its_work_now(command, words):
    done = CliRunner().invoke(main, [command, *words.split()])
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "mlxquant validate --since" in line


def test_a_retired_command_is_listed_nowhere():
    assert not set(RETIRED) & set(COMMANDS)
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert not any(command in shown for command in RETIRED)


# --- what figures depend on ---


@pytest.mark.parametrize(
    ("schema", "again"),
    [("bench/1", ["speed"]), ("eval/1", ["speed"]), ("compare/1", []), ("tau2/1", []), ("audit/1", ["speed"])],
)
def test_another_system_voids_speeds_also_those_of_an_evaluation(manifest, tmp_path, schema, again):
    path = write(tmp_path / "r.json", f"mlxquant.{schema}", os="macOS 1")
    record = since(manifest, [path])
    assert record["records"][0]["again"] == again
    assert [entry["figures"] for entry in record["again"]] == again


def test_another_mlx_voids_speed_and_quality(manifest, monkeypatch):
    before = describe_versions()["mlx"]
    now(monkeypatch, mlx="99.0")
    done = run("--since", manifest)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == f"changed     since mlxquant.json: mlx {before} → 99.0"
    assert done.stdout.count(f"because of mlx {before} → 99.0") == 2


def test_another_numba_changes_no_figure(manifest, monkeypatch):
    now(monkeypatch, numba="99")
    record = since(manifest)
    assert [change["what"] for change in record["changes"]] == ["numba"]
    assert record["again"] == []
    assert run("--since", manifest).exit_code == 0


def test_with_records_what_was_last_measured_counts(manifest, tmp_path, monkeypatch):
    now(monkeypatch, chip="Apple M9")
    fresh = write(tmp_path / "new.json", "mlxquant.bench/1", chip="Apple M9")
    assert run("--since", manifest).exit_code == 1
    assert run("--since", manifest, fresh).exit_code == 0
    stale = write(tmp_path / "old.json", "mlxquant.bench/1", chip="Apple M1")
    done = run("--since", manifest, fresh, stale)
    assert done.exit_code == 1
    assert "new.json: holds" in done.stdout
    assert "old.json: no longer holds (speed): chip Apple M1 → Apple M9" in done.stdout


def test_a_record_of_an_unknown_machine_does_not_hold(manifest, tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"schema": "mlxquant.bench/1", "versions": {}, "machine": {"unknown": "a server elsewhere"}}')
    done = run("--since", manifest, path)
    assert done.exit_code == 1
    assert "a server elsewhere" in " ".join(done.stdout.split())


def test_a_folder_without_a_manifest_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(RecordError, match=r"no mlxquant\.json, so what it was made on is not known; give a record"):
        since(tmp_path)
    assert run("--since", tmp_path / "nowhere").exit_code == 3


def test_a_record_that_names_no_machine_is_refused(manifest, tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"schema": "mlxquant.plan/1"}')
    with pytest.raises(RecordError, match="does not say what it was made on"):
        since(manifest, [path])
