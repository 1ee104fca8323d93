"""What no longer holds once the machine or the stack is another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.errors import BuildError, RecordError
from mlxquant.records.head import describe_machine, describe_versions
from mlxquant.validate import revalidate as module
from mlxquant.validate.revalidate import revalidate
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("revalidate")
    write_tiny(folder / "source", "llama", Size(layers=1))
    build(folder / "source", folder / "build")
    return folder / "build"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["revalidate", *map(str, words)])


def record(path: Path, schema: str, **then: Any) -> Path:
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


def test_nothing_changed_and_everything_holds(made):
    done = run(made)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "build: changed since it was made: nothing of machine and versions",
        "speed measured when it was made: holds",
        "quality measured when it was made: holds",
    ]


def test_another_mlx_voids_speed_and_quality(made, monkeypatch):
    then = describe_versions()["mlx"]
    now(monkeypatch, mlx="99.0")
    done = run(made)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == f"build: changed since it was made: mlx {then} → 99.0"
    assert done.stdout.count(f"no longer holds: mlx {then} → 99.0") == 2


def test_another_system_voids_speed_alone(made, monkeypatch):
    now(monkeypatch, os="macOS 99.1")
    speed, quality = revalidate(made).checked
    assert [c.what for c in speed.changes] == ["os"]
    assert quality.changes == ()


def test_another_numba_changes_no_figure(made, monkeypatch):
    now(monkeypatch, numba="99")
    found = revalidate(made)
    assert found.holds
    assert found.since_made is not None
    assert [c.what for c in found.since_made] == ["numba"]
    assert run(made).exit_code == 0


def test_with_records_what_was_last_measured_counts(made, tmp_path, monkeypatch):
    now(monkeypatch, chip="Apple M9")
    fresh = record(tmp_path / "new.json", "mlxquant.bench/1", chip="Apple M9")
    assert run(made).exit_code == 1
    assert run(made, fresh).exit_code == 0
    stale = record(tmp_path / "old.json", "mlxquant.bench/1", chip="Apple M1")
    done = run(made, fresh, stale)
    assert done.exit_code == 1
    assert "new.json: holds" in done.stdout
    assert "old.json: no longer holds: chip Apple M1 → Apple M9" in done.stdout


def test_each_kind_of_record_depends_on_what_its_figures_do(made, tmp_path):
    cases = {"mlxquant.bench/1": False, "mlxquant.eval/1": True, "mlxquant.compare/1": True, "other/1": False}
    for schema, holds in cases.items():
        assert revalidate(made, [record(tmp_path / "r.json", schema, os="macOS 1")]).holds == holds


def test_a_record_of_an_unknown_machine_does_not_hold(made, tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"schema": "mlxquant.bench/1", "versions": {}, "machine": {"unknown": "a server elsewhere"}}')
    done = run(made, path)
    assert done.exit_code == 1
    assert "a server elsewhere" in done.stdout


def test_what_cannot_be_told_is_an_error(made, tmp_path):
    other = Path(shutil.copytree(made, tmp_path / "other"))
    (other / "mlxquant.json").unlink()
    with pytest.raises(BuildError, match=r"no mlxquant.json, so what it was made on is not known"):
        revalidate(other)
    assert revalidate(other, [record(tmp_path / "r.json", "mlxquant.bench/1")]).holds
    (tmp_path / "r.json").write_text('{"schema": "mlxquant.plan/1"}')
    with pytest.raises(RecordError, match="does not say on what it was measured"):
        revalidate(made, [tmp_path / "r.json"])
    assert run(tmp_path / "nowhere").exit_code == 3
    assert run(made, tmp_path / "nowhere.json").exit_code == 3


def test_json_is_the_record(made, tmp_path):
    done = run(made, record(tmp_path / "r.json", "mlxquant.bench/1", mlx="0.1"), "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["schema"], found["holds"]) == (1, "mlxquant.revalidate/1", False)
    assert found["measurements"][0]["changes"] == [{"what": "mlx", "then": "0.1", "now": describe_versions()["mlx"]}]
