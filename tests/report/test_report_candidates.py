"""Who is who on the page: one number a candidate, whatever records call it, and the figures of any two."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

from mlxquant.records.loading import Loaded
from mlxquant.report.page.builds import find_models
from mlxquant.report.page.candidates import Cast
from mlxquant.report.page.page import make_report
from mlxquant.report.page.pairs import pair_data
from mlxquant.report.page.verdict import verdict
from tests.report.report_records import audit, bench
from tests.validate.validate_records import RECIPE, compare, evaluation, measure


def loaded(record: dict[str, Any], file: str = "x.json") -> Loaded:
    return Loaded(file.removesuffix(".json"), file, "0" * 64, record)


def numbers(*records: dict[str, Any]) -> dict[str, int]:
    """The number of each name of a candidate on the page of these records."""
    cast = Cast([loaded(record) for record in records], [])
    return {name: c.number for c in cast.all for name in c.names}


def test_records_that_call_a_recipe_differently_speak_of_one_candidate() -> None:
    known = numbers(compare(measure("kl_nats", 0.01)), evaluation(measure("pass", 0.5)))
    assert known["gates-8bit"] == known["build-8"] != known["bf16"]


def test_a_build_is_known_by_its_manifest_where_recipes_are_not_told() -> None:
    speeds = bench()
    speeds["builds"][0] |= {"manifest_sha256": "b" * 64}
    known = numbers(evaluation(measure("pass", 0.5)), speeds)
    assert known["base"] == known["build-8"] != known["agentic"]


def test_two_builds_of_one_recipe_are_two_candidates() -> None:
    again = evaluation(measure("pass", 0.5), side={"name": "build-9", "manifest_sha256": "c" * 64})
    known = numbers(compare(measure("kl_nats", 0.01)), evaluation(measure("pass", 0.5)), again)
    assert known["gates-8bit"] == known["build-8"] != known["build-9"]


def test_two_sides_of_one_record_are_never_one_candidate() -> None:
    record = compare(measure("kl_nats", 0.01))
    record["candidates"].append({**record["candidates"][0], "name": "again"})
    known = numbers(record)
    assert known["again"] != known["gates-8bit"]


def test_a_plan_and_the_build_of_it_stand_side_by_side_in_colours_of_their_own() -> None:
    models = find_models([loaded(audit(), "a.json"), loaded(audit(), "b.json")])
    cast = Cast([], models)
    assert len({cast.of(side.record).number for side in models[0].sides}) == 2
    assert [side.name for side in models[0].sides] == ["mine (a)", "mine (b)"]


def pairs_of(*records: dict[str, Any]) -> list[dict[str, Any]]:
    every = [loaded(record, f"{i}.json") for i, record in enumerate(records)]
    data = pair_data(every, [], Cast(every, []))
    assert data is not None
    return list(json.loads(gzip.decompress(base64.b64decode(data["packed"]))))


def test_two_candidates_have_the_difference_that_a_comparison_measured_in_pairs() -> None:
    record = compare(measure("kl_nats", 0.01), measure("kl_nats_difference", -0.02, 0.001, against="other"))
    beside = [{"against": "other", "verdict": "better"}]
    other = {**record["candidates"][0], "name": "other", "recipe": None, "measurements": [measure("kl_nats", 0.03)]}
    record["candidates"] = [record["candidates"][0] | {"beside": beside}, other]
    (data,) = pairs_of(record)
    first, second, entries = data["pairs"][0]
    names = numbers(record)
    assert (first, second) == (names["other"], names["gates-8bit"])
    assert entries == [["kl_nats", "", "better", -0.02, 0.001]]
    assert data["why"].startswith("compare pairs any two candidates in KL")


def test_a_figure_without_interval_keeps_the_digits_that_its_differences_need() -> None:
    record = compare(measure("kl_nats", 0.01))
    record["candidates"] = [record["candidates"][0] | {"name": n, "recipe": None, "bpw": bpw} for n, bpw in
                            (("a", 8.409312), ("b", 8.252512))]  # fmt: skip
    (data,) = pairs_of(record)
    (row,) = (row for row in data["rows"] if data["metrics"][row[0]][0] == "bpw")
    assert row[-2:] == [[8.409312], [8.252512]]


def test_an_evaluation_pairs_each_candidate_with_its_baseline_and_says_so() -> None:
    record = evaluation(measure("pass", 0.5), measure("pass_difference", -0.1, 0.05), before=(measure("pass", 0.6),))
    (data,) = pairs_of(record)
    names = numbers(record)
    assert data["pairs"][0][:2] == [names["bf16"], names["build-8"]]
    assert "with the baseline alone" in data["why"]


def test_the_data_of_the_page_cannot_end_its_element() -> None:
    record = evaluation(measure("pass", 0.5, slice="</script><img>"), before=(measure("pass", 0.6),))
    every = [loaded(record)]
    data = pair_data(every, [], Cast(every, []))
    assert data is not None and re.fullmatch(r"[\w+/=]+", data["packed"])


def test_the_page_is_called_after_models_and_candidates_not_after_files() -> None:
    title = make_report([loaded(compare(measure("kl_nats", 0.01)) | _WHOLE, "kept-2026.json")])
    assert "<h1>org/Model</h1>" in title
    speeds = make_report([loaded(bench(), "kept-2026.json")])
    assert "<h1>base, agentic</h1>" in speeds


_WHOLE: dict[str, Any] = {"data": {}, "pass": {}, "margin_nats": 0.001}


def test_checks_of_one_status_stand_with_the_one_farthest_beyond_its_limit_first() -> None:
    def check(metric: str, estimate: float) -> dict[str, Any]:
        return {
            "candidate": "c", "status": "FAIL", "metric": metric, "limit": "≤ 0.02", "low_limit": None,
            "high_limit": 0.02, "estimate": estimate, "low": None, "high": None,
        }  # fmt: skip

    record = {
        "schema": "mlxquant.validate/1", "verdict": "FAIL", "tolerances": {}, "candidates": [{"name": "c"}],
        "checks": [check("small", 0.03), check("large", 0.9), check("middle", 0.1)],
    }  # fmt: skip
    rows = verdict(loaded(record), Cast([], []))["candidates"][0]["rows"]
    assert [row["what"] for row in rows] == ["large", "middle", "small"]


def test_a_verdict_has_the_colour_of_the_candidate_that_it_judged_whatever_it_calls_it() -> None:
    cast = Cast([loaded(compare(measure("kl_nats", 0.01)))], [])
    judged = {"name": "another", "identity": {"recipe_sha256": RECIPE["sha256"]}, "verdict": "PASS"}
    record = {"schema": "mlxquant.validate/1", "verdict": "PASS", "tolerances": {}, "checks": []}
    laid_out = verdict(loaded(record | {"candidates": [judged, {"name": "stranger"}]}), cast)
    (candidate,) = (c for c in cast.all if RECIPE["name"] in c.names)
    assert [c["key"] for c in laid_out["candidates"]] == [candidate.css, ""]


def test_chips_that_cannot_hold_a_build_show_no_speed_of_it() -> None:
    def chip(name: str, memory: int, *fits: bool) -> dict[str, Any]:
        rates = {"0": [10.0, 5.0]}
        return {"chip": name, "memory_gib": memory, "fits": list(fits), "decode_ceiling_tok_s": rates}

    record = {
        "schema": "mlxquant.predict/2", "builds": [{"name": "small"}, {"name": "large"}],
        "chips": [chip("M1", 16, False, False), chip("M3 Max", 128, True, False), chip("M3 Ultra", 512, True, True)],
    }  # fmt: skip
    page = make_report([loaded(record)])
    assert "they are sold with: M1, 16 GB." in page
    assert page.count("does not fit") == 1
    assert '<th scope="row">M1' not in page


def test_recipes_are_named_in_the_legend_as_the_record_names_them() -> None:
    assert RECIPE["name"] in numbers(compare(measure("kl_nats", 0.01)))
