"""Every record is what its schema says, every schema can be read, and what is not as it says is told with its place."""

from __future__ import annotations

import copy
import json
import random
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, validators
from referencing import Registry, Resource

from mlxquant.cli import main
from mlxquant.errors import RecordError
from mlxquant.evals.store.model import write_store_moe
from mlxquant.records import schemas
from mlxquant.records.files import parse_record, read_record
from mlxquant.records.schemas import VERSIONS, check
from mlxquant.records.schemas.validation import faults, load_schema
from tests.report.report_records import audit, bench, module, record
from tests.results.harness_files import lm_samples
from tests.results.tau2.tau2_files import results, simulation, write
from tests.support.schemas import unnamed
from tests.validate.validate_records import compare, evaluation, measure, tau2

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = sorted([*(ROOT / "audits").rglob("*.json"), ROOT / "benchmarks" / "results" / "bench-tiny.json"])
TOLERANCES = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.5\nmin_clusters = 2\n'


# --- the schemas ---


@pytest.mark.parametrize("name", [*VERSIONS, "common"])
def test_a_schema_is_one_and_says_what_every_field_means(name: str) -> None:
    schema = load_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["title"] and schema["description"]

    def without_words(part: Any, path: str) -> list[str]:
        if isinstance(part, list):
            return [place for entry in part for place in without_words(entry, path)]
        if not isinstance(part, dict):
            return []
        fields = {**part.get("properties", {}), **part.get("$defs", {})}
        silent = [f"{path}.{key}" for key, field in fields.items() if len(field.get("description", "")) < 3]
        inner = {**fields, "[]": part.get("items"), "*": part.get("additionalProperties")}
        return silent + [place for key, field in inner.items() for place in without_words(field, f"{path}.{key}")]

    assert without_words(schema, name) == []


def test_there_is_a_schema_for_every_kind_and_no_other() -> None:
    there = {Path(str(file)).stem for file in files(schemas).iterdir() if str(file).endswith(".json")}
    assert there == {*VERSIONS, "common"}


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_record_may_have_fields_that_a_later_version_writes(kind: str) -> None:
    assert load_schema(kind).get("additionalProperties", True) is True


# --- real records ---


@pytest.mark.parametrize("path", KEPT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kept_record_of_version_1_is_read(path: Path) -> None:
    check(read_record(path), path.name, whole=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store model, a build of it, texts, tolerances and two result files of τ²-bench."""
    folder: Path = tmp_path_factory.mktemp("records")
    write_store_moe(folder / "store")
    done = CliRunner().invoke(
        main, ["convert", str(folder / "store"), "-r", "gates-8bit", "--group-size", "64", "-o", str(folder / "b8")]
    )
    assert done.exit_code == 0, done.output
    lines = [json.dumps({"text": f"Document {i} is about nothing at all, and so are the others."}) for i in range(6)]
    (folder / "data.jsonl").write_text("\n".join(lines))
    (folder / "t.toml").write_text(TOLERANCES)
    for name, step in (("a", 2), ("b", 3)):
        write(folder / f"{name}.json", results([simulation(str(i), 0, float(i % step > 0)) for i in range(8)]))
    for name, wrong in (("x", (1,)), ("y", (1, 2))):
        lm_samples(folder / f"{name}.jsonl", wrong)
    return folder


# kind -> the command whose --json, or whose file, is a record of it; in an order in which each can use what came before
COMMANDS = {
    "plan": "plan store -r gates-8bit --group-size 64 --json",
    "fits": "plan store --fits 16GB --json",
    "audit": "audit b8 --source store --json",
    "verify": "verify b8 --source store --json",
    "diff": "diff b8 plan.json --json",
    "predict": "bench --predict store --recipe none --chip M3 --json",
    "tau2": "tau2 a.json b.json --json",
    "results": "results x.jsonl y.jsonl --candidate-build b8 --json",
    "since": "validate --since b8 -t t.toml --json",
    "compare": "compare store -r gates-8bit:bits=4,group_size=64 -r uniform-8bit:bits=8,group_size=64"
    " --data data.jsonl --teacher-forced-routing --json",
    "validate": "validate compare.json -t t.toml --json",
    "sweep": "sweep --from compare.json -t t.toml --json",
    "allocate": "allocate store --bpw 9 --bits 8 --group-size 64 --groups 1 --data data.jsonl -o a.toml --json",
    "bench": "bench b8 -p 8 -n 4 -r 1 --json",
}


SLOW = {"allocate"}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in COMMANDS])
def test_what_a_command_writes_is_as_its_schema_says(made: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(made)
    done = CliRunner().invoke(main, COMMANDS[kind].split())
    assert done.exit_code in (0, 1, 4), done.output
    (made / f"{kind}.json").write_text(done.stdout)
    written = parse_record(done.stdout.encode(), kind)
    assert check(written, kind, whole=True) == kind
    assert unnamed(load_schema(kind), written) == set()


def test_what_convert_writes_is_as_its_schemas_say(made: Path) -> None:
    for name, kind in (("audit.json", "audit"), ("mlxquant.json", "manifest")):
        written = read_record(made / "b8" / name)
        assert check(written, name, whole=True) == kind
        assert unnamed(load_schema(kind), written) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("eval", "eval --baseline b8 --candidate b8 --suite tool-loop --calls 5 --tasks 1 -o eval.json"),
        ("check_load", "check-load b8 --json"),
    ],
)
def test_what_a_slow_command_writes_is_as_its_schema_says(
    made: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.chdir(made)
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 0, done.output
    text = (made / "eval.json").read_bytes() if kind == "eval" else done.stdout.encode()
    written = parse_record(text, kind)
    assert check(written, kind, whole=True) == kind
    assert unnamed(load_schema(kind), written) == set()


# --- what is told ---


def faulty(change: Any) -> str:
    content = record([module("a"), module("b", format={"bits": 4, "group_size": 64})])
    change(content)
    with pytest.raises(RecordError) as raised:
        check(content, "x.json")
    return str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("totals"), "x.json: totals: a table expected, nothing found"),
        (lambda r: r["totals"].update(bytes=1.0), "x.json: totals.bytes: a whole number expected, 1.0 found"),
        (lambda r: r["totals"].update(bytes=True), "x.json: totals.bytes: a whole number expected, true found"),
        (lambda r: r["totals"].update(bytes=-1), "x.json: totals.bytes: 0 or more expected, -1 found"),
        (lambda r: r["modules"][1].update(path=None), "x.json: modules[1].path: a text expected, null found"),
        (lambda r: r["modules"][1]["format"].update(bits="4"), 'modules[1].format.bits: a whole number expected, "4"'),
        (lambda r: r["modules"][1].update(layer="x" * 99), f'a whole number or null expected, "{"x" * 38}… f'),
        (lambda r: r["modules"].append(module("a")), "modules[2].path: 'a' stands at [0] already"),
        (lambda r: r.update(schema="mlxquant.plan/2"), "schema mlxquant.plan/2 found, but this version of"),
        (lambda r: r.update(schema="mlxquant.nothing/1"), "schema 'mlxquant.nothing/1' found"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place_what_was_expected_and_what_was_found(change: Any, words: str) -> None:
    assert words in faulty(change)


def test_the_first_five_faults_are_told_and_how_many_more_there_are() -> None:
    text = faulty(lambda r: r.update(modules=[module(str(i), bytes="many") for i in range(12)]))
    assert len(text.splitlines()) == 6 and text.splitlines()[-1] == "… and 7 more"
    assert 'modules[4].bytes: a whole number expected, "many" found' in text


def test_one_kind_is_asked_for_by_name() -> None:
    with pytest.raises(RecordError, match=r"x\.json: a record of bench, eval expected, schema"):
        check(record([]), "x.json", kinds=("bench", "eval"))


def test_a_reader_of_some_fields_asks_for_no_others() -> None:
    lacking = {"schema": "mlxquant.manifest/1", "machine": {}, "versions": {}}
    check(lacking, "x.json", only=("machine", "versions"))
    with pytest.raises(RecordError, match=r"versions\.mlx: a text or null expected, 3 found"):
        check(lacking | {"versions": {"mlx": 3}}, "x.json", only=("machine", "versions"))


def test_who_shows_all_of_a_record_counts_on_more_than_a_gate() -> None:
    check(compare(measure("kl_nats", 0.1)), "x.json")
    with pytest.raises(RecordError, match=r"x\.json: data: expected, nothing found"):
        check(compare(measure("kl_nats", 0.1)), "x.json", whole=True)


# --- by shape ---


def plainly(kind: str, content: Any) -> list[str]:
    """Paths of the faults that jsonschema finds by itself, without our keywords."""
    registry: Any = Registry().with_resource("urn:mlxquant:common", Resource.from_contents(load_schema("common")))
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    validator = validators.extend(Draft202012Validator, type_checker=types)(load_schema(kind), registry=registry)
    return sorted({"/".join(map(str, error.absolute_path)) for error in validator.iter_errors(content)})


ODD: tuple[Any, ...] = (None, True, "x", "PASS", -1, 0, 3, 10**12, 1.5, -0.5, [], [1], {}, {"a": 1})


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, entry in inner for p in ((*at, key), *places(entry, (*at, key)))]


@pytest.mark.parametrize(
    "content", [compare(measure("kl_nats", 0.1), measure("same_top", 0.9)), evaluation(measure("pass", 0.5)), bench(),
                audit(), tau2(measure("pass", 0.5)), json.loads((ROOT / "audits/store-moe/sweep.json").read_text())],
    ids=lambda content: content["schema"],
)  # fmt: skip
def test_passing_over_shapes_changes_no_answer(content: dict[str, Any]) -> None:
    if content["schema"] == "mlxquant.sweep/1":
        content = {key: value[:3] if isinstance(value, list) else value for key, value in content.items()}
        for candidate in content["candidates"]:
            candidate["measurements"] = candidate["measurements"][:5]
    kind = content["schema"].removeprefix("mlxquant.").partition("/")[0]
    assert not list(faults(kind, content))  # and now every shape of the sound record has passed
    draw = random.Random(kind)
    everywhere = [p for p in places(content) if p[0] != "schema"]
    for _ in range(150):
        changed = copy.deepcopy(content)
        for at in draw.sample(everywhere, 2):
            inner: Any = changed
            try:
                for key in at[:-1]:
                    inner = inner[key]
                inner[at[-1]] = draw.choice(ODD)
            except (KeyError, IndexError, TypeError):
                continue  # the other change took its place away
        found = bool(list(faults(kind, changed)))
        expected = plainly(kind, changed)
        assert found == bool(expected), (expected[:3], list(faults(kind, changed))[:3])


def test_ten_thousand_measurements_or_modules_are_checked_in_well_under_a_second() -> None:
    many = compare(*(measure("kl_nats", 0.1, 0.01, slice=f"s{i % 2500}", layer=i // 2500) for i in range(10_000)))
    large = record([module(f"model.layers.{i % 60}.x{i}", layer=i % 60) for i in range(10_000)])
    for content in (many, large):
        check(content, "warm")
        began = time.process_time()
        check(content, "x")
        assert time.process_time() - began < 0.8
