"""`mlxquant report`: one page from any mix of records. What a browser does with it: test_report_browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.records.loading import load
from mlxquant.report.page.page import make_report
from tests.report.parsed_page import Parsed
from tests.report.report_records import PAPER, audit, bench, errors, hostile, kept, module, record, unknown, write

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)])


def page_of(*paths: Path, **options: Any) -> str:
    return make_report([load(path) for path in paths], **options)


# --- what the page says ---


def test_the_papers_two_plans_stand_side_by_side_with_what_sets_them_apart() -> None:
    page = page_of(*PAPER)
    for figure in (
        "117.32 GiB",
        "119.54 GiB",
        "8.2525",
        "8.4093",
        "125,966,246,400",
        "+2,392,227,840",
        "+50",
        "+0.1567",
    ):
        assert figure in page, figure
    parsed = Parsed(page)
    assert [a["data-side"] for a in parsed.all("table", role="grid")] == ["0", "1"]
    assert "K and V are written to the cache and read at every later token" in page
    assert "3..48 step 4" in page


def test_the_precision_map_shows_every_matrix_once_and_marks_what_is_kept() -> None:
    parsed = Parsed(page_of(*PAPER))
    cells = [a for t, a in parsed.tags if t == "td" and "data-r" in a]
    plans = [json.loads(path.read_text())["modules"] for path in PAPER]
    matrices = [m for modules in plans for m in modules if len(m["shape"]) > 1]
    assert len(cells) == len(matrices) == 2 * 650
    marked = Counter(str(a["class"]).split()[0] for a in cells)
    assert marked == Counter({"keep": 96 + 146, "q8": sum(bool(m["format"]) for m in matrices), "raw": 2 * 36})


def test_cells_point_to_the_lines_of_the_table_that_hold_their_reasons() -> None:
    parsed = Parsed(page_of(*PAPER))
    rows = {str(a["id"]) for a in parsed.all("tr") if a.get("id")}
    assert len(rows) == 879
    for _, attributes in parsed.tags:
        for number in str(attributes.get("data-r") or "").split():
            assert f"m1-r{number}" in rows


@pytest.mark.slow
def test_builds_of_different_models_get_sections_of_their_own(tmp_path: Path) -> None:
    small = write(tmp_path, a__audit=audit(8), b__audit=audit(4))
    parsed = Parsed(page_of(*PAPER, *small))
    assert [a["id"] for a in parsed.all("section", class_="model")] == ["m1", "m2"]
    assert len(parsed.all("table", role="grid")) == 4


def test_a_diff_that_is_given_is_shown_once(tmp_path: Path) -> None:
    made = CliRunner().invoke(main, ["diff", *map(str, PAPER), "--json"])
    (given,) = write(tmp_path, step__diff=json.loads(made.stdout))
    page = page_of(*PAPER, given)
    assert page.count('<section class="diff">') == 1
    assert "gates-8bit → deepseek-8bit" in page and "What changes from" not in page


def test_errors_are_drawn_by_role_and_by_layer_with_words_for_who_cannot_see_them(tmp_path: Path) -> None:
    parsed = Parsed(page_of(*write(tmp_path, a=audit(8), b=audit(4))))
    labels = [str(a["aria-label"]) for a in parsed.all("figure", role="img")]
    assert len(labels) == 3
    assert labels[0].startswith(
        "Relative RMS error by role: expert: A 0.600 %, modules from 0.600 % to 0.600 %, B 9.60 %"
    )
    assert "attention modules by layer: A from 0.600 % (layer 0) to 0.870 % (layer 3)" in labels[2]


def test_a_measurement_shows_rates_with_intervals_ratios_and_what_failed(tmp_path: Path) -> None:
    page = page_of(*write(tmp_path, speed__bench=bench()))
    assert "40.9 ± 0.47" in page and "32.9 ± 0.47" in page
    assert "M3 Ultra, 28 cores, 256 GiB, macOS 26.1" in page
    assert re.search(r"0\.8\d\d\d \[0\.8\d\d\d, 0\.8\d\d\d\]", page)
    assert "not measured: 5 × memory: not enough" in page
    assert "busy: something else ran" in page
    labels = [str(a["aria-label"]) for a in Parsed(page).all("figure", role="img")]
    assert "tg16: base 40.9 ± 0.47, agentic 32.9 ± 0.47" in labels[0]
    assert labels[-1].startswith("ratio of tokens per second to base, round by round: tg16: agentic 0.8")


def test_a_prediction_stands_beside_what_was_published(tmp_path: Path) -> None:
    published = {"where": "Ahmed 2026", "decode_tok_s": 37.8, "prefill_tok_s": 38.8}
    chip = {"chip": "M3 Ultra", "bandwidth_gbs": 819, "source": "Apple", "decode_ceiling_tok_s": {"0": [86.37, 73.55]}}
    record = {
        "schema": "mlxquant.predict/1", "builds": [{"name": "base", "published": published}, {"name": "agentic"}],
        "chips": [chip],
    }  # fmt: skip
    page = page_of(*write(tmp_path, p=record))
    assert "decode at most, 0 tokens in the cache" in page and "86.4" in page and "73.5" in page
    assert "published: Ahmed 2026" in page and "37.8" in page


def test_a_record_of_an_unknown_schema_is_a_note_and_its_top_level(tmp_path: Path) -> None:
    page = page_of(*write(tmp_path, later=unknown()))
    assert "has no section for <code>mlxquant.later/7</code>" in page
    assert "0.511" in page and "by_task: refund" in page and "… and 10 more." in page


def test_provenance_tells_versions_source_recipe_machine_and_hash(tmp_path: Path) -> None:
    paths = write(tmp_path, a__audit=audit(), speed=bench())
    page = page_of(*paths)
    for path in paths:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in page
    assert "org/Model at 0123abcd, headers" in page and "f" * 64 in page
    assert "mlx 0.32.4, mlx-lm 0.32.2" in page


def test_what_changed_a_recipe_is_said_in_the_builds_card(tmp_path: Path) -> None:
    changed = audit(recipe={"name": "mine", "sha256": "f" * 64, "overrides": ["--group-size 32"]})
    assert "mine:group_size=32" in page_of(*write(tmp_path, a__audit=changed))


def test_what_disagrees_in_a_build_is_said_in_its_card(tmp_path: Path) -> None:
    page = page_of(
        *write(tmp_path, bad=audit() | {"disagreements": ["lm_head: config says 4-bit, the shards hold 8-bit"]})
    )
    assert "✕ 1 disagreement between" in page and "the shards hold 8-bit" in page


def test_modules_that_differ_by_a_number_alone_share_a_cell_where_there_are_too_many() -> None:
    from mlxquant.report.page.builds import find_models
    from mlxquant.report.page.precision_map import draw_maps

    names = [f"model.layers.0.mlp.experts.{i}.up_proj" for i in range(64)]
    modules = [module(name, role="expert") for name in names]
    (model,) = find_models([loaded(record(modules))])
    (stack,) = draw_maps(model).stacks
    assert [c.name for c in stack.columns] == ["up_proj"]
    cell = stack.maps[0][1][0].cells[0]
    assert cell is not None and len(cell.rows) == 64


def test_a_vision_tower_has_a_map_of_its_own() -> None:
    from mlxquant.report.page.builds import find_models
    from mlxquant.report.page.precision_map import draw_maps

    modules = [module("language_model.model.layers.0.q_proj"), module("vision_tower.blocks.0.qkv", role="vision")]
    (model,) = find_models([loaded(record(modules))])
    assert [s.title for s in draw_maps(model).stacks] == ["language_model.model.layers", "vision_tower.blocks"]


def loaded(content: dict[str, Any]) -> Any:
    from mlxquant.records.loading import Loaded

    return Loaded("x", "x.json", "0" * 64, content)


# --- what the page must not do ---


def test_nothing_in_a_record_becomes_markup_script_or_template(tmp_path: Path) -> None:
    evil = hostile()
    page = page_of(*write(tmp_path, one=evil[0], two=evil[1], three=evil[2]), title=str(evil[2]["schema"]))
    parsed = Parsed(page)
    assert len([a for a in parsed.all("script") if "type" not in a]) == 1 and not parsed.all("img")
    assert "<script>document" not in page
    assert "{{ 7*7 }}" in page and "49" not in re.sub(r"<[^>]*>", "", page.partition("<h1>")[2].partition("</h1>")[0])
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    page.encode()


def test_the_page_asks_the_network_for_nothing_and_says_so_to_the_browser(tmp_path: Path) -> None:
    page = page_of(*PAPER, *write(tmp_path, a=audit(), speed=bench(), later=unknown()))
    parsed = Parsed(page)
    policy = str(parsed.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"])
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policy
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:,")), attributes
    assert not re.search(r"@import|url\((?!#)", page.replace("url(&#", ""))


def test_ids_are_unique_and_every_reference_has_its_target(tmp_path: Path) -> None:
    parsed = Parsed(page_of(*PAPER, *write(tmp_path, a=audit(), b=audit(4), s1=bench(), s2=bench())))
    ids = Counter(str(a["id"]) for _, a in parsed.tags if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    for _, attributes in parsed.tags:
        for name in ("href", "xlink:href", "aria-labelledby"):
            target = str(attributes.get(name) or "#content").removeprefix("#")
            assert target in ids or target.startswith("data:"), attributes


@pytest.mark.slow
def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    paths = [*PAPER, *write(tmp_path, a=audit(), speed=bench())]
    assert page_of(*paths) == page_of(*paths)


def test_a_page_of_1500_modules_is_quick_and_small(tmp_path: Path) -> None:
    (path,) = write(tmp_path, large=audit(layers=250))
    start = time.perf_counter()
    page = page_of(path)
    assert time.perf_counter() - start < 10
    assert len(page) < 1_500_000


def test_the_report_needs_no_mlx_and_draws_without_an_extra(tmp_path: Path) -> None:
    names = ("mlx", "mlx.core", "mlx_lm", "numba", "scipy", "matplotlib")
    script = f"import sys\nfor n in {names}: sys.modules[n] = None\nfrom mlxquant.cli import main; main()"
    words = ["report", *map(str, PAPER), "-o", str(tmp_path / "r.html")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "KiB, from 2 records" in done.stdout


FAR_APART = (errors(1e-300), {"relative_rms_error": 1e300})
ODD = {
    "empty": record([]),
    "no layers": record([module("lonely", layer=None, layer_type=None)]),
    "vectors only": record([module("norm", shape=[128], format=None)]),
    "exact": record([module(f"m.layers.{i}.x", layer=i, errors=errors(0.0)) for i in range(3)]),
    "unmeasured": record([module("m.layers.0.x", errors={"relative_rms_error": None})]),
    "far apart": record([module(f"m.layers.{i}.x", layer=i, errors=e) for i, e in enumerate(FAR_APART)]),
    "mxfp4": record([module("m.layers.0.x", format={"bits": 4, "group_size": 32, "mode": "mxfp4"})]),
    "fp8": record([kept("m.layers.0.x", dtype="F8_E4M3")]),
    "odd place": record([module("x.0.y", layer=9999)], source=None, recipe=None),
    "no values": record([module("m.layers.0.x", parameters=0, shape=[0, 4], bytes=0)]),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD.keys())
def test_odd_records_make_a_page_too(tmp_path: Path, content: dict[str, Any]) -> None:
    Parsed(page_of(*write(tmp_path, odd=content)))


# --- the command ---


def test_the_command_writes_the_page_and_says_how_large_it_is(tmp_path: Path) -> None:
    result = run(*PAPER, "-o", tmp_path / "r.html", "--title", "Two <builds>")
    assert result.exit_code == 0
    assert re.search(r"r\.html: \d+ KiB, from 2 records\n$", result.stdout)
    assert "<h1>Two &lt;builds&gt;</h1>" in (tmp_path / "r.html").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_builds_folder_stands_for_its_audit(tmp_path: Path) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    write(folder, audit=audit())
    assert load(folder).name == "build" and load(folder).file == "build/audit.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("nonsense", "a JSON record expected"),
        ("[1, 2]", "it names no schema"),
        ('{"schema": 3}', "it names no schema"),
        ("[" * 100_000, "a JSON record expected"),
        (json.dumps(record([module("a") | {"path": 3}])), "modules[0].path: a text expected, 3 found"),
        (json.dumps(unknown() | {"schema": "mlxquant.eval/7"}), "this version of mlxquant reads mlxquant.eval/1"),
        (json.dumps(record([module("a", layer=10**9)])), "modules[0].layer: 9999 or less expected, 1000000000 found"),
        (json.dumps(record([module("a", bytes=10**30)])), "none of more than 64 bits is a figure"),
        (json.dumps(record([module("a", shape=["<b>"])])), 'modules[0].shape[0]: a whole number expected, "<b>" found'),
        (
            json.dumps(bench() | {"results": [{"test": "tg", "build": 7}]}),
            "results[0].build: one of the record's 2 builds expected, 7 found",
        ),
        (
            json.dumps(bench() | {"results": [{"test": "tg", "build": 0, "tok_s": {"mean": 1}}]}),
            "results[0].tok_s.min: a number expected, nothing found",
        ),
        (json.dumps({"schema": "mlxquant.diff/1"}), "a: a table expected, nothing found"),
        (
            json.dumps({"schema": "mlxquant.predict/1", "builds": [{"name": "x"}]}),
            "chips: a list expected, nothing found",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_written(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    result = run(path, "-o", tmp_path / "r.html")
    assert (result.exit_code, message in result.stderr) == (3, True), result.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "Missing argument"),
        ([PAPER[0]], 2, "Missing option '-o'"),
        ([ROOT / "tests", "-o", "x.html"], 3, "a folder without audit.json; write one: mlxquant audit"),
        ([PAPER[0], "-o", "no/such/folder/x.html"], 3, "no/such/folder/x.html: cannot be written"),
    ],
)
def test_wrong_words_are_told_apart(words: list[object], code: int, message: str) -> None:
    result = run(*words)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
