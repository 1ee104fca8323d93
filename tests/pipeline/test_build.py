"""`mlxquant build`: what is refused before anything is done, what is told, and how its steps are known to be done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.divergence.texts.documents import parse_line, read_lines
from mlxquant.errors import DataError, OutputError
from mlxquant.pipeline.documents import read_purposes
from mlxquant.pipeline.folder import ALLOCATION, COMPARISON, RECIPE, BuildFolder, document_file
from mlxquant.pipeline.forecast import ExpectedStep, Forecast, check_room
from mlxquant.pipeline.record import Steps
from mlxquant.report.build import build_text, expected_text
from mlxquant.validate import read_tolerances, template_text

REQUEST = {"source": {"name": "store", "revision": None}, "options": {"method": "rtn"}}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, words)])


def texts(path: Path, numbers: range) -> Path:
    """A file of documents that differ by a number."""
    path.write_text("".join(json.dumps({"text": f"Order {n} is for customer {n * 7}."}) + "\n" for n in numbers))
    return path


def step(folder: BuildFolder, steps: Steps, name: str, reads: list[str], writes: Mapping[str, str]) -> None:
    for file, text in writes.items():
        folder.write(file, text.encode())
    steps.finish(name, reads, list(writes), 1.0)


@pytest.fixture
def begun(tmp_path: Path) -> BuildFolder:
    """A build of which two steps are done."""
    folder = BuildFolder(tmp_path / "out")
    steps = Steps(folder, REQUEST)
    with folder.claimed(fresh=False):
        steps.begin({document_file("allocate"): b"{}\n"}, None)
        step(folder, steps, "allocate", [document_file("allocate")], {RECIPE: "a", ALLOCATION: "{}"})
        step(folder, steps, "compare", [ALLOCATION], {COMPARISON: "{}"})
    return folder


# --- documents ---


def test_a_document_has_one_purpose_and_the_same_one_in_every_file(tmp_path):
    lines = read_purposes(texts(tmp_path / "a.jsonl", range(90)), None, calibrates=True).lines
    hashes = [line.content_hash for own in lines.values() for line in own]
    assert len(set(hashes)) == 90 and all(lines.values())
    again = read_purposes(texts(tmp_path / "b.jsonl", range(40, 140)), None, calibrates=True).lines
    for purpose, own in lines.items():
        others = {line.content_hash for p, each in again.items() if p != purpose for line in each}
        assert not others & {line.content_hash for line in own}


def test_what_the_judge_s_file_holds_is_nobody_else_s(tmp_path):
    data, judge = texts(tmp_path / "a.jsonl", range(60)), texts(tmp_path / "b.jsonl", range(50, 75))
    lines = read_purposes(data, judge, calibrates=False).lines
    judged = {line.content_hash for line in lines["judge"]}
    assert len(judged) == 25 and not lines["calibrate"]
    assert not judged & {line.content_hash for purpose in ("allocate", "check") for line in lines[purpose]}


def test_a_document_is_the_same_once_it_was_written_anew(tmp_path):
    (tmp_path / "tools.json").write_text('{"shop": [{"name": "look", "parameters": {}}]}')
    call = {"function": {"name": "look", "arguments": '{"id": 3}'}}
    talk = {"messages": [{"role": "developer", "content": [{"text": "Be kind."}]}, {"role": "user", "content": "hi"},
                         {"role": "assistant", "content": None, "tool_calls": [call]}],
            "tools": "shop", "slices": ["json"], "id": 7}  # fmt: skip
    (tmp_path / "data.jsonl").write_text(f'{json.dumps(talk)}\n{{"text": "plain"}}\n')
    for line in read_lines(tmp_path / "data.jsonl")[0]:
        again = parse_line(line.as_json(), line.number, {})
        assert again == line and again.content_hash == line.content_hash


def test_copies_of_a_document_are_one(tmp_path):
    (tmp_path / "twice.jsonl").write_text(texts(tmp_path / "once.jsonl", range(40)).read_text() * 2)
    once, twice = (read_purposes(tmp_path / f"{n}.jsonl", None, calibrates=False).counts() for n in ("once", "twice"))
    assert once == twice and sum(once.values()) == 40


def test_too_few_documents_are_refused_with_the_shares_that_they_leave(tmp_path):
    with pytest.raises(DataError, match=r"3 documents leave .* to judge; at least 2 for each"):
        read_purposes(texts(tmp_path / "a.jsonl", range(3)), None, calibrates=False)


# --- steps ---


def test_a_step_that_is_done_is_not_done_again(begun):
    steps = Steps(begun, REQUEST)
    assert steps.is_done("allocate", [document_file("allocate")]) and steps.is_done("compare", [ALLOCATION])
    assert not steps.is_done("validate", [COMPARISON])


def test_what_was_written_is_made_again_where_it_is_gone_and_what_follows_where_it_differs(begun):
    begun.file(RECIPE).unlink()
    steps = Steps(begun, REQUEST)
    assert not steps.is_done("allocate", [document_file("allocate")])
    step(begun, steps, "allocate", [document_file("allocate")], {RECIPE: "a", ALLOCATION: "{}"})
    assert steps.is_done("compare", [ALLOCATION])  # the same bytes came out
    step(begun, steps, "allocate", [document_file("allocate")], {RECIPE: "a", ALLOCATION: '{"a": 1}'})
    assert not steps.is_done("compare", [ALLOCATION])


@pytest.mark.parametrize("file", [RECIPE, ALLOCATION, document_file("allocate")])
def test_a_file_that_somebody_changed_is_named(begun, file):
    begun.file(file).write_text("changed")
    with pytest.raises(OutputError, match=r"was changed since allocate .*--fresh starts over"):
        Steps(begun, REQUEST).is_done("allocate", [document_file("allocate")])


def test_another_request_is_refused_with_what_differs_unless_it_starts_over(begun):
    other = {**REQUEST, "options": {"method": "mse"}}
    with pytest.raises(OutputError, match=r"options.method: rtn then, mse now"):
        Steps(begun, other)
    assert not Steps(begun, other, fresh=True).has("allocate")


def test_other_texts_are_named_by_their_option_and_not_by_their_hash(tmp_path):
    def asked(text: str) -> dict[str, Any]:
        return {**REQUEST, "data": {"--data": {"name": "a.jsonl", "sha256": text * 64}}, "documents": {"x": text * 64}}

    folder = BuildFolder(tmp_path / "out")
    with folder.claimed(fresh=False):
        Steps(folder, asked("a")).begin({}, None)
    with pytest.raises(OutputError, match=r"there changed\n  --data: other contents then\nrun the command"):
        Steps(folder, asked("b"))


def test_a_damaged_record_is_refused(begun):
    begun.file("build.json").write_text('{"schema": "mlxquant.build/1"')
    with pytest.raises(OutputError, match=r"build.json: damaged.*--fresh"):
        Steps(begun, REQUEST)


# --- what is told ---


def expected(free: int, download: int = 0) -> dict[str, Any]:
    steps = (
        ExpectedStep("calibrate", "nothing: rtn needs no documents"), ExpectedStep("allocate", "17 groups " * 9, 7e3)
    )  # fmt: skip
    sizes = Forecast(steps, 70 << 30, 5 << 30, download, free, 9 << 30, 227 << 30)
    return sizes.as_dict({"allocate": 40, "check": 38, "judge": 41})


def test_the_plan_says_time_disk_and_memory_in_80_columns():
    text = expected_text(expected(99 << 30))
    assert max(map(len, text.splitlines())) <= 80
    assert "40 to allocate" in text and "1.9 h" in text and "70.00 GiB at most for the build" in text
    assert "memory      about 9.00 GiB" in text


def test_a_disk_that_is_too_small_for_all_steps_together_is_refused():
    check_room(expected(75 << 30), 0, Path("out"))
    check_room(expected(70 << 30), 5 << 30, Path("out"))  # a part is done
    with pytest.raises(OutputError, match=r"all steps together take 75.00 GiB .*70.00 GiB"):
        check_room(expected(70 << 30), 0, Path("out"))
    with pytest.raises(OutputError, match=r"the source 200.00 GiB"):
        check_room(expected(99 << 30, 200 << 30), 0, Path("out"))


def test_the_end_names_build_records_and_page_in_80_columns():
    record = {
        "build": {"bytes": 1 << 20, "bpw": 4.5}, "steps": [{"seconds": 2.0}],
        "recipe": {"ships": "gates-8bit:bits=4,group_size=64", "why": "gates-8bit:bits=4,group_size=64 ships: tied"},
    }  # fmt: skip
    text = build_text(record, "out", "out.work")
    assert max(map(len, text.splitlines())) <= 80
    assert "out.work/report.html" in text and text.count("group_size=64") == 1


def test_the_limits_of_a_build_hold_it_against_the_best_other_recipe(tmp_path):
    (tmp_path / "t.toml").write_text(template_text(against=["uniform-8bit:bits=4"]))
    limits = [t for t in read_tolerances(tmp_path / "t.toml").tolerances if dict(t.where).get("against")]
    assert [(t.metric, t.kind, t.high, dict(t.where)) for t in limits] == [
        ("kl_nats", "difference", 0.001, {"against": "uniform-8bit:bits=4"})
    ]


# --- the command ---


def test_what_cannot_be_meant_is_refused(tiny: Callable[[str], Path], tmp_path):
    data, out, source = texts(tmp_path / "a.jsonl", range(60)), tmp_path / "out", tiny("mixtral")
    few = texts(tmp_path / "few.jsonl", range(2))
    for words, code, message in (
        (("-o", out), 2, "give --budget SIZE"),
        (("--bpw", "4,5", "-o", out), 2, "one budget"),
        (("--bpw", "4.5", "--method", "best", "-o", out), 2, "--method best"),
        (("--bpw", "0.5", "-o", out), 2, "the smallest recipe of these bits"),
        (("--bpw", "4.5", "--data", few, "-o", out), 3, "2 documents leave"),
        (("--bpw", "4.5", "-t", data, "-o", out), 2, "no TOML"),
        (("--bpw", "4.5", "-o", source), 3, "exists already"),
        (("--bpw", "4.5", "-o", tmp_path / source.name), 2, "the source has this name"),
        (("--bpw", "4.5", "-o", tmp_path / "mixed-4-6"), 2, "a shipped recipe has this name"),
    ):
        done = run(source, *(() if "--data" in words else ("--data", data)), *words)
        assert done.exit_code == code and message in done.stderr, (words, done.output)
    assert not out.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "few.jsonl"]


def test_a_work_folder_that_is_somebody_s_is_refused(tiny: Callable[[str], Path], tmp_path):
    work = tmp_path / "out.work"
    work.mkdir()
    data = texts(work / "a.jsonl", range(60))
    done = run(tiny("mixtral"), "--bpw", "4.5", "--data", data, "-o", tmp_path / "out")
    assert done.exit_code == 2 and "lies in the work folder" in done.stderr


def test_clean_knows_a_build_s_work_and_throws_only_that_away(begun):
    (begun.path / "notes.txt").write_text("mine")
    shown = CliRunner().invoke(main, ["clean", str(begun.out.parent)])
    assert "out.work\n  what      mlxquant build: out, of store\n" in shown.stdout
    assert "done: allocate, compare" in shown.stdout
    assert CliRunner().invoke(main, ["clean", str(begun.out.parent), "out.work"]).exit_code == 0
    assert [path.name for path in begun.path.iterdir()] == ["notes.txt"]
