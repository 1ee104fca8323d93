"""Tolerance files with their mistakes, and what validate writes: text, JSON, Markdown, JUnit, the list of --since."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.records.head import describe_machine, describe_versions
from mlxquant.records.metrics import METRICS, metric_named
from mlxquant.validate import ToleranceError, read_tolerances, template_text
from mlxquant.validate.template import FOR
from tests.report.report_records import HOSTILE
from tests.validate.validate_records import bench, compare, evaluation, measure, tau2, write

GOOD = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\n'


# element -> attributes that it must have, may have, children: jenkinsci/xunit-plugin@031e285, junit-10.xsd
_SAID = ((), ("type", "message"), ())
JUNIT: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "testsuites": ((), ("name", "time", "tests", "failures", "errors"), ("testsuite",)),
    "testsuite": (("name", "tests", "failures", "errors"), ("time", "skipped", "timestamp", "hostname", "id"),
                  ("properties", "testcase", "system-out", "system-err")),
    "properties": ((), (), ("property",)),
    "property": (("name", "value"), (), ()),
    "testcase": (("name",), ("time", "classname"), ("error", "failure")),
    "error": _SAID, "failure": _SAID, "system-out": ((), (), ()), "system-err": ((), (), ()),
}  # fmt: skip


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, words)])


def mistakes(folder: Path, text: str) -> str:
    (path,) = write(folder, t=text)
    with pytest.raises(ToleranceError) as caught:
        read_tolerances(path)
    return str(caught.value)


# --- tolerance files ---


@pytest.mark.parametrize("kinds", [("compare",), ("eval", "bench"), FOR])
def test_the_file_of_init_is_valid_also_with_every_commented_tolerance(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    (path,) = write(tmp_path, t=template_text(kinds))
    read = read_tolerances(path)
    assert read.name == "release gate"
    table = re.compile(
        r"^# (?=\[\[tolerance\]\]|(?:metric|record|slice|depth|layer|against|test|m(?:in|ax)\w*) =)", re.M
    )
    (path,) = write(tmp_path, all=table.sub("", path.read_text()))
    assert len(read_tolerances(path).tolerances) > len(read.tolerances)


@pytest.mark.parametrize("kind", FOR)
def test_init_writes_limits_only_for_what_is_asked_for_and_argues_each(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "gate.toml"
    assert run("--init", path, "--for", kind).exit_code == 0
    for tolerance in read_tolerances(path).tolerances:
        metric = metric_named(tolerance.metric)
        families = {kind} if kind in ("compare", "bench") else {"eval", "serving", kind}
        assert metric and metric.family in families and tolerance.why
        assert tolerance.record in (None, kind)


def test_init_from_results_of_other_harnesses_is_for_those(tmp_path: Path) -> None:
    (record,) = write(tmp_path, tau2=tau2())
    path = tmp_path / "gate.toml"
    assert run("--init", path, "--from", record).exit_code == 0
    assert {t.record for t in read_tolerances(path).tolerances} == {"tau2"}
    done = run(record, "-t", path, "--json")
    assert "no record" not in {c["reason"] for c in json.loads(done.stdout)["checks"]}


def test_init_from_records_names_their_places_and_leaves_out_what_is_too_small(tmp_path: Path) -> None:
    compared = compare(
        *(measure("kl_nats", 0.01, slice=name, clusters=n) for name, n in (("in:json", 50), ("de", 30), ("fr", 7)))
    )
    files = write(tmp_path, compare=compared, bench=bench())
    path = tmp_path / "gate.toml"
    assert run("--init", path, "--from", files[0], "--from", files[1]).exit_code == 0
    read = read_tolerances(path)
    places = {(t.metric, t.where) for t in read.tolerances if t.where}
    assert places == {
        ("kl_nats", (("slice", "in:json"),)), ("kl_nats", (("slice", "de"),)),
        ("decode_tok_s", (("test", "tg16"),)), ("prefill_tok_s", (("test", "pp64"),)),
    }  # fmt: skip
    assert "# fr" in path.read_text()
    other = run("--init", tmp_path / "other.toml", "--for", "eval", "--from", files[0])
    assert other.exit_code == 2 and "compare.json: a record of compare" in other.stderr
    done = run(*files, "-t", path, "--json")
    assert "MISSING" not in {c["status"] for c in json.loads(done.stdout)["checks"] if c.get("slice") or c.get("test")}


def test_init_without_more_words_is_for_the_comparison_that_a_sweep_makes(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    assert run("--init", path).exit_code == 0 and path.read_text() == template_text()
    again = run("--init", path)
    assert again.exit_code == 3 and "already exists" in again.output


def test_the_slices_that_the_file_names_are_those_of_compare_and_eval() -> None:
    from mlxquant.divergence.texts import spans
    from mlxquant.evals.suites.catalog import Choice, open_suites

    inside = {value for name, value in vars(spans).items() if name.startswith("IN_")}
    items = [item for suite in open_suites(["contracts"], Choice((5,), 1)) for item in suite.items()]
    text = template_text(FOR)
    assert inside == set(re.findall(r"\bin:[a-z_]+", text))
    named = {name for line in re.findall(r"slice = \[(.*)\]", text) for name in re.findall(r'"([^"]+)"', line)}
    assert named - inside <= {name for item in items for name in item.slices}


@pytest.mark.parametrize(
    "words",
    [
        ("--init", "x.toml", "--for", "evel"),
        ("--init", "x.toml", "--for", ""),
        ("--init", "x.toml", "--for", "eval,"),
        ("--for", "eval"),
        ("--init", "x.toml", "y.toml"),
        ("--init", "--csv", "--json"),
    ],
)
def test_init_refuses_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words).exit_code == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no tolerance in it"]),
        ("tolerance = 3", ["no tolerance in it"]),
        ("[[tolerances]]\nmetric = 1", ["unknown key 'tolerances'", "did you mean 'tolerance'", "valid: schema"]),
        (GOOD + "silce = 'json'", ["unknown key 'silce'", "did you mean 'slice'", "min_clusters"]),
        (GOOD.replace("kl_nats", "kl_nat"), ["unknown metric 'kl_nat'", "did you mean 'kl_nats'", "db_match"]),
        ("[[tolerance]]\nmax = 1", ["metric is missing; valid: kl_nats"]),
        ('[[tolerance]]\nmetric = "pass"', ["no limit"]),
        (GOOD + "max_difference = 1", ["limits of several kinds"]),
        (GOOD + "min = 1", ["from 1 to 0.02 no value lies"]),
        (GOOD.replace("0.02", '"0.02"'), ["max is '0.02', a number expected"]),
        (GOOD.replace("0.02", "true"), ["max is True, a number expected"]),
        (GOOD.replace("0.02", "inf"), ["which limits nothing"]),
        (GOOD.replace("max = 0.02", "max_ratio = 0"), ["a ratio lies above 0"]),
        (GOOD + "confidence = 95", ["confidence is 95, from 0.5 to below 1"]),
        (GOOD + "min_clusters = -1", ["min_clusters is -1"]),
        (GOOD + "min_samples = 1.5", ["min_samples is 1.5"]),
        (GOOD + "slice = []", ["slice is []"]),
        (GOOD + "slice = [{}]", ["slice is [{}]"]),
        (GOOD + 'record = "evil"', ["record is 'evil'; valid: compare, eval"]),
        (GOOD + "why = 3", ["why is no text"]),
        (GOOD + GOOD, ["tolerances 1 and 2 limit the same"]),
        ("name = 3\n" + GOOD, ["name is no text"]),
        ('schema = "other/1"\n' + GOOD, ["schema is 'other/1'"]),
        ("[[tolerance]\n", ["no TOML"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_would_be_valid(tmp_path: Path, text: str, words: list[str]) -> None:
    message = mistakes(tmp_path, text)
    for word in words:
        assert word in message, (word, message)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = (
        'nmae = "x"\n' + '[[tolerance]]\nmetric = "kl"\nslice = 1.5\n' + '[[tolerance]]\nmetric = "pass"\nlimit = 3\n'
    )
    message = mistakes(tmp_path, text).splitlines()
    assert len(message) == 6, message
    assert [line.split(":")[1].strip() for line in message] == [
        "unknown key 'nmae' (did you mean 'name'?); valid", *["tolerance 1"] * 3, *["tolerance 2"] * 2,
    ]  # fmt: skip


def test_a_mistake_ends_with_exit_code_2_and_no_verdict(tmp_path: Path) -> None:
    paths = write(tmp_path, a=compare(measure("kl_nats", 0.01)), t=GOOD.replace("kl_nats", "nonsense"))
    done = run(paths[0], "-t", paths[1])
    assert done.exit_code == 2 and done.stdout == ""
    assert run(paths[0], "-t", tmp_path / "none.toml").exit_code == 2


def test_a_metric_that_a_record_has_may_be_named_though_no_list_has_it(tmp_path: Path) -> None:
    paths = write(tmp_path, a=evaluation(measure("my_own_check", 0.9, 0.01)), t=GOOD.replace("kl_nats", "my_own_check"))
    assert run(paths[0], "-t", paths[1]).exit_code == 1
    assert "unknown metric" in mistakes(tmp_path, GOOD.replace("kl_nats", "my_own_check"))


def test_the_file_s_confidence_and_least_numbers_hold_unless_a_tolerance_has_its_own(tmp_path: Path) -> None:
    text = (
        "confidence = 0.9\nmin_clusters = 3\nmin_samples = 7\n"
        + GOOD
        + "confidence = 0.99\n"
        + GOOD.replace("kl_", "kl_p99_")
    )
    (path,) = write(tmp_path, t=text)
    first, second = read_tolerances(path).tolerances
    assert (first.confidence, first.min_clusters, first.min_samples) == (0.99, 3, 7)
    assert (second.confidence, second.min_clusters) == (0.9, 3)


def test_every_metric_that_measuring_writes_is_known() -> None:
    from mlxquant.evals.items import CALL_CHECKS
    from mlxquant.records.metrics import DP_QUANTILES, KL_QUANTILES
    from mlxquant.results.tau2.figures import SCALES

    for name in (*KL_QUANTILES, *DP_QUANTILES, *CALL_CHECKS, *SCALES, "pass", "pass_hat_4", "ttft_s_p99"):
        assert metric_named(name), name
    difference, ratio = metric_named("same_top_difference"), metric_named("kl_nats_ratio")
    assert difference is not None and (difference.better, difference.low, difference.high) == ("higher", -1.0, 1.0)
    assert ratio is not None and (ratio.better, ratio.low, ratio.family) == ("lower", 0.0, "compare")
    assert len({m.name for m in METRICS}) == len(METRICS)
    assert run("--metrics").stdout.count("\n") == len(METRICS)


# --- what is written ---


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, ...]:
    """Records and tolerances with a check of every status, all names of which try to be markup."""
    record = compare(
        measure("kl_nats", 0.01, 0.002), measure("kl_nats", 0.01, 0.002, slice="a|b <i>@all</i> `x`"),
        measure("kl_nats", 0.02, 0.01, slice=HOSTILE), measure("kl_nats", 0.5, 0.1, slice="numeric"),
        measure("kl_nats", 0.001, 0.0005, slice="few", clusters=6),
    )  # fmt: skip
    record["candidates"][0]["name"] = HOSTILE
    text = GOOD + '[[tolerance]]\nmetric = "kl_nats"\nslice = "*"\nmax = 0.02\n' + GOOD + 'slice = "gone"\n'
    return tuple(write(tmp_path, record=record, t=text))


def test_the_text_has_every_status_and_fits_80_columns(judged: tuple[Path, ...]) -> None:
    done = run(judged[0], "-t", judged[1])
    assert done.exit_code == 1
    for status in ("PASS", "FAIL", "INCONCLUSIVE", "TOO FEW", "MISSING"):
        assert f"\n{status}" in done.stdout
    table = [line for line in done.stdout.splitlines() if re.match(r"(PASS|FAIL|INCONC|TOO|MISS)\S* +kl", line)]
    assert len(table) >= 6 and max(map(len, table)) <= 80


def test_json_is_the_record_and_o_writes_it(judged: tuple[Path, ...], tmp_path: Path) -> None:
    done = run(judged[0], "-t", judged[1], "--json", "-o", tmp_path / "v.json")
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "v.json").read_text()) | {"date": record["date"]}
    assert record["schema"] == "mlxquant.validate/1" and record["verdict"] == "FAIL"
    assert record["candidates"][0]["counts"] == {"PASS": 2, "INCONCLUSIVE": 1, "FAIL": 1, "TOO FEW": 1, "MISSING": 1}


def test_markdown_is_one_table_whose_cells_stay_cells(judged: tuple[Path, ...], tmp_path: Path) -> None:
    run(judged[0], "-t", judged[1], "--markdown", tmp_path / "v.md")
    lines = (tmp_path / "v.md").read_text().splitlines()
    assert lines[0] == "## mlxquant validate: ❌ FAIL"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 8 for row in rows)
    assert not re.search(r"(?<!\\)[<@]", "".join(rows))


def test_junit_is_valid_and_counts_as_the_verdict_does(judged: tuple[Path, ...], tmp_path: Path) -> None:
    run(judged[0], "-t", judged[1], "--junit", tmp_path / "v.xml")
    root = ET.parse(tmp_path / "v.xml").getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    assert {k: suite.attrib[k] for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "1", "errors": "3", "skipped": "0",
    }  # fmt: skip
    cases = suite.findall("testcase")
    assert len(cases) == 6 and all({"name", "classname", "time"} <= case.attrib.keys() for case in cases)
    assert [child.tag for case in cases for child in case].count("failure") == 1
    assert not suite.findall(".//skipped")
    for element in root.iter():
        required, optional, children = JUNIT[element.tag]
        assert set(required) <= element.attrib.keys() <= {*required, *optional}, element.tag
        assert {child.tag for child in element} <= set(children), element.tag
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])


def test_a_place_that_cannot_be_written_is_told(judged: tuple[Path, ...], tmp_path: Path) -> None:
    done = run(judged[0], "-t", judged[1], "--junit", tmp_path / "no" / "v.xml")
    assert done.exit_code == 3 and "cannot be written" in done.output


# --- since ---


def here(**changed: Any) -> dict[str, Any]:
    """What this machine and stack are, with something changed."""
    return {"machine": describe_machine() | changed, "versions": describe_versions()}


def test_since_an_unchanged_stack_nothing_must_be_measured_again(tmp_path: Path) -> None:
    (path,) = write(tmp_path, mlxquant={"schema": "mlxquant.manifest/1", **here()})
    done = run("--since", tmp_path)
    assert done.exit_code == 0 and "nothing has to be measured again" in done.stdout
    assert run("--since", path).exit_code == 0


def test_another_system_asks_for_speeds_another_mlx_for_everything(tmp_path: Path) -> None:
    (path,) = write(tmp_path, a={"schema": "mlxquant.manifest/1", **here(os="macOS 1.0")})
    done = run("--since", path, "--json")
    assert done.exit_code == 1
    assert [a["figures"] for a in json.loads(done.stdout)["again"]] == ["speed"]
    made = here()
    made["versions"] = made["versions"] | {"mlx": "0.1"}
    (path,) = write(tmp_path, b={"schema": "mlxquant.manifest/1", **made})
    record = json.loads(run("--since", path, "--json").stdout)
    assert {a["figures"] for a in record["again"]} == {"speed", "quality"}
    assert any(c.startswith("mlxquant compare") for a in record["again"] for c in a["commands"])


def test_since_tells_records_and_tolerances_that_rest_on_what_changed(tmp_path: Path) -> None:
    text = GOOD + '[[tolerance]]\nmetric = "decode_tok_s"\nmin_ratio = 0.9\n[[tolerance]]\nmetric = "bytes"\nmax = 9\n'
    manifest, old, new, file = write(
        tmp_path,
        m={"schema": "mlxquant.manifest/1", **here()},
        old=bench(**here(os="macOS 1.0")),
        new=compare(**here()),
        t=text,
    )
    record = json.loads(run("--since", manifest, old, new, "-t", file, "--json").stdout)
    assert [(r["file"], r["again"]) for r in record["records"]] == [("old.json", ["speed"]), ("new.json", [])]
    assert [t["metric"] for t in record["tolerances"]] == ["decode_tok_s"]


def test_since_something_that_names_no_stack_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, a={"schema": "mlxquant.plan/1"})
    done = run("--since", path)
    assert done.exit_code == 3 and "no machine or versions" in done.output
