"""`mlxquant build` from end to end on a tiny checkpoint, killed at every step and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.records.schemas import check
from mlxquant.records.schemas.validation import load_schema
from tests.builds.write.faults import Dead, hooked
from tests.checkpoints import Size, write_tiny
from tests.support.builds import contents
from tests.support.schemas import unnamed

pytestmark = pytest.mark.slow

OPTIONS = ("--bpw", "6.5", "--method", "imatrix", "--bits", "4,8", "--group-size", "32", "--groups", "2",
           "--max-tokens", "12")  # fmt: skip
# where a run is killed: a part of the path that is changed, and the how manieth change of it
KILLS = (
    ("calibrating/state", 1), ("calibration.safetensors", 1), ("allocating/pass-", 12), ("damage.json", 1),
    ("allocating/pass-", 12), ("checks.json", 1), ("recipe.toml", 1), ("allocate.json", 1), ("out.partial/build/", 3),
    ("out.partial/lock", 2), ("comparing/hidden", 9), ("compare.json", 1), ("validate.json", 1), ("report.html", 1),
)  # fmt: skip


class DieAt:
    """Ends the process at a change of a path that has a text in it; nothing is changed from then on."""

    def __init__(self, text: str, count: int) -> None:
        self.text, self.left = text, count

    def __call__(self, operation: str, path: str) -> None:
        self.left -= self.text in path
        if self.left <= 0:
            raise Dead


def run(folder: Path, out: str, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["build", str(folder / "source"), "--data", str(folder / "texts.jsonl"), *OPTIONS, "-o",
               str(folder / out), *words]
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("story")
    write_tiny(folder / "source", "mixtral", Size(layers=1, experts=2))
    lines = [json.dumps({"text": f"Order {n} was shipped to customer {n * 7}."}) for n in range(100, 200)]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Result:
    """A build that nothing interrupted."""
    done = run(folder, "whole")
    assert done.exit_code in (0, 1, 4), done.output
    return done


def figures(record: Any) -> Iterator[tuple[Any, ...]]:
    """What a comparison found, without what differs from run to run."""
    for candidate in record["candidates"]:
        name = candidate["name"].replace("whole", "out")
        yield name, [(m["metric"], m["estimate"], m.get("low"), m.get("high")) for m in candidate["measurements"]]


def test_every_step_leaves_its_record_and_the_verdict_is_the_exit_code(folder: Path, whole: Result) -> None:
    work = folder / "whole.work"
    record = json.loads((work / "build.json").read_text())
    assert whole.exit_code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[record["verdict"]], whole.output
    assert [step["step"] for step in record["steps"]] == [
        "calibrate", "allocate", "convert", "compare", "validate", "report",
    ]  # fmt: skip
    assert check(record, "build.json", whole=True) == "build" and unnamed(load_schema("build"), record) == set()
    compared = json.loads((work / "compare.json").read_text())
    names = [candidate["name"] for candidate in compared["candidates"]]
    assert names[0] == "whole" and record["recipe"]["best_of_the_others"] in names
    assert compared["data"]["name"] == "judge.jsonl"
    checks = json.loads((work / "validate.json").read_text())["checks"]
    assert "MISSING" not in {check["status"] for check in checks}
    assert any(check.get("against") == record["recipe"]["best_of_the_others"] for check in checks)
    assert record["build"]["bytes"] <= record["request"]["options"]["budget"]["bytes"]
    assert "whole: build of source" in (work / "report.html").read_text()
    assert [path.name for path in work.glob("*ing")] == ["allocating"]


def test_a_build_that_was_killed_everywhere_ends_with_the_same_bytes(folder: Path, whole: Result) -> None:
    for text, count in KILLS:
        with pytest.raises(Dead), hooked(DieAt(text, count)):
            run(folder, "out")
    last = run(folder, "out")
    assert last.exit_code == whole.exit_code, last.output
    assert contents(folder / "out") == contents(folder / "whole")
    work, other = folder / "out.work", folder / "whole.work"
    for name in ("recipe.toml", "calibration.safetensors", "tolerances.toml"):
        assert (work / name).read_bytes() == (other / name).read_bytes()
    records = [json.loads((each / "compare.json").read_text()) for each in (work, other)]
    assert list(figures(records[0])) == list(figures(records[1]))


def test_what_is_done_is_not_done_again_and_what_changed_is_refused(folder: Path, whole: Result) -> None:
    before = {path: path.read_bytes() for path in (folder / "whole.work").rglob("*") if path.is_file()}
    again = run(folder, "whole")
    assert again.exit_code == whole.exit_code and again.stderr.count("done before") == 6
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed <= {"build.json", "lock"}
    other = run(folder, "whole", "--max-tokens", "10")
    assert other.exit_code == 3 and "max_tokens: 12 then, 10 now" in other.stderr and "--fresh" in other.stderr
