"""The report's sections for verdicts and agent benchmarks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import RecordError
from mlxquant.records.loading import load
from mlxquant.report.page.page import make_report
from mlxquant.results.tau2 import make_record, read_results
from mlxquant.validate import read_evidence, validate
from tests.report.parsed_page import Parsed
from tests.report.report_records import HOSTILE
from tests.results.tau2.tau2_files import results, simulation
from tests.results.tau2.tau2_files import write as write_results
from tests.validate.validate_records import compare, measure, write

LIMITS = '[[tolerance]]\nmetric = "kl_nats"\nslice = ["json", "code", "gone"]\nmax = 0.02\nwhy = "because"\n'


def verdict(folder: Path, name: str = "gates-8bit") -> dict[str, Any]:
    record = compare(measure("kl_nats", 0.01, 0.002, slice="json"), measure("kl_nats", 0.09, 0.01, slice="code"))
    record["candidates"][0]["name"] = name
    paths = write(folder, record=record, t=LIMITS.replace("because", json.dumps(name.replace("\ud800", ""))[1:-1]))
    return validate([read_evidence(paths[0])], paths[1])


def agents(folder: Path, name: str = "base") -> dict[str, Any]:
    tasks = [f"t{i}" for i in range(8)]
    a = write_results(folder / "a.json", results([simulation(t, 0) for t in tasks]))
    b = write_results(folder / "b.json", results([simulation(t, 0, float(t > "t2")) for t in tasks] + [{"id": name}]))
    return make_record([read_results(a, name), read_results(b, "agentic")])


def page_of(folder: Path, **records: Any) -> str:
    return make_report([load(path) for path in write(folder, **records)])


def test_a_verdict_s_checks_stand_worst_first_with_what_would_settle_them(tmp_path: Path) -> None:
    page = page_of(tmp_path, v=verdict(tmp_path))
    section = page.partition('<section id="verdict">')[2].partition("</section>")[0]
    assert section.index("code") < section.index("gone") < section.index("slice json")
    assert 'class="status fail">FAIL' in section and 'class="status open">MISSING' in section
    assert "measured at slice: json, code" in section and "2606.19558" in page


def test_agent_benchmarks_stand_as_the_paper_s_table_with_differences(tmp_path: Path) -> None:
    page = page_of(tmp_path, t=agents(tmp_path))
    assert "agentic less base" in page and "pass^1" in page and "−37.5 [" in page
    assert "task_id is missing" in page


@pytest.mark.parametrize("make", [verdict, agents])
def test_nothing_in_them_becomes_markup(tmp_path: Path, make: Any) -> None:
    parsed = Parsed(page_of(tmp_path, x=make(tmp_path, HOSTILE)))
    assert not [a for t, a in parsed.tags if t == "img" or any(key.startswith("on") for key in a)]
    assert len([a for a in parsed.all("script") if "type" not in a]) == 1


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (verdict, "verdict"), (verdict, "candidates"), (verdict, "checks"), (verdict, "tolerances"),
        (agents, "candidates"), (agents, "confidence"),
    ],
)  # fmt: skip
def test_a_record_that_lacks_what_the_page_counts_on_is_refused(tmp_path: Path, make: Any, path: str) -> None:
    record = copy.deepcopy(make(tmp_path))
    record[path] = 7 if path != "confidence" else None
    (file,) = write(tmp_path, broken=record)
    with pytest.raises(RecordError, match="expected"):
        load(file)
