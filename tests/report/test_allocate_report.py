"""What the report shows of an allocation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from tests.support.browser import chromium
from tests.sweep.sweep_records import comparison, member
from tests.validate.validate_records import DATE, MACHINE, SOURCE, VERSIONS, measure


def kl(estimate: float, half: float = 1e-5) -> dict[str, Any]:
    """A figure of the check."""
    return {k: v for k, v in measure("kl_nats", estimate, half).items() if k != "metric"}


def side(name: str, nbytes: int, estimate: float | None) -> dict[str, Any]:
    """A contestant; its hash is made of its name."""
    figure = None if estimate is None else kl(estimate)
    return {"name": name, "sha256": name.encode().hex().ljust(64, "0"), "bytes": nbytes, "bpw": 4.0, "kl": figure}


def choice(bits: int, nbytes: int, damage: float) -> dict[str, Any]:
    return {"format": {"bits": bits, "group_size": 64, "mode": "affine"}, "bytes": nbytes, "kl_nats": damage,
            "measured": True}  # fmt: skip


GROUPS = [
    {"name": f"expert mlp.down_proj, layers {n}", "role": "expert", "layers": [n], "modules": [f"layers.{n}.down_proj"],
     "choices": [choice(4, 1000, 0.001), choice(6, 1500, 0.0002)]}
    for n in range(3)
]  # fmt: skip


def budget(asked: str, nbytes: int, *contestants: dict[str, Any], ships: str = "", damage: float = 0.001) -> Any:
    """A budget whose solver's recipe takes all of it: two layers at 6 bits, one at 4."""
    own = side(f"allocated-{asked}", nbytes, damage) | {
        "expected_kl_nats": 0.0014,
        "choices": [
            {"group": group["name"], **choice(*what)}
            for group, what in zip(GROUPS, ((6, 1500, 0.0002), (4, 1000, 0.001), (6, 1500, 0.0002)), strict=True)
        ],
    }
    best = min((c for c in contestants if c["kl"]), key=lambda c: c["kl"]["estimate"])
    return {
        "asked": asked, "bytes": nbytes, "allocated": own, "contestants": list(contestants), "best": best["name"],
        "difference": kl(damage - best["kl"]["estimate"]), "ships": ships or own["name"], "why": "so it was",
        "recipe": [],
    }  # fmt: skip


def allocation(*budgets: dict[str, Any], **options: Any) -> dict[str, Any]:
    """An allocation of three layers of experts, with a frontier that ends where everything is kept."""
    asked = {"method": "rtn", "measured_with": "rtn", "bits": [4, 6], "group_sizes": [64]} | options
    return {
        "schema": "mlxquant.allocate/1", "mlxquant": "0.1.0", "date": DATE, "machine": MACHINE, "versions": VERSIONS,
        "source": SOURCE, "options": asked, "fixed_bytes": 100, "probes": 6, "groups": GROUPS,
        "data": {"name": "calls.jsonl", "sha256": "0", "shares": {"calibrate": 0, "allocate": 5, "check": 50}},
        "frontier": [{"bytes": b, "kl_nats": d} for b, d in ((3100, 0.003), (4100, 0.0014), (9000, 0.0))],
        "budgets": list(budgets),
    }  # fmt: skip


def page(folder: Path, *records: dict[str, Any]) -> str:
    paths = [folder / f"{i}.json" for i in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        path.write_text(json.dumps(record))
    done = CliRunner().invoke(main, ["report", *map(str, paths), "-o", str(folder / "r.html")])
    assert done.exit_code == 0, done.output
    return (folder / "r.html").read_text()


UNIFORM, MIXED = side("uniform-8bit:bits=4", 3100, 0.004), side("mixed-4-6", 4000, 0.002)


def whole() -> Any:
    """A budget that holds the model as it is."""
    entry = budget("30bpw", 9000, UNIFORM)
    entry["allocated"] |= {"kl": None, "expected_kl_nats": 0.0}
    return entry | {"contestants": [], "best": None, "difference": None, "why": "nothing is quantized"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two allocations, the second judged with gptq, and of a comparison with a build by one of theirs."""
    lost = budget("3.5bpw", 3200, UNIFORM, ships=UNIFORM["name"], damage=0.0041)
    bad = side("<script>alert(1)</script>", 4000, None) | {"stand_in_kl": kl(0.07)}
    return page(
        tmp_path_factory.mktemp("allocation"),
        comparison(member("mixed", 4, name="built", recipe={"name": "mixed-4-6", "sha256": MIXED["sha256"]})),
        allocation(budget("4.5bpw", 4100, UNIFORM, MIXED), lost, whole()),
        allocation(budget("4.5bpw", 4100, UNIFORM, bad), method="gptq", checked_with="gptq"),
    )


def test_the_chart_has_the_frontier_and_who_was_judged_with_what_ships_in_a_ring(text):
    first = text[text.index('<svg class="plot"', text.index('id="allocation"')) :]
    first = first[: first.index("</svg></figure>")]
    assert len(re.findall(r'<path class="f" d="M[^L"]+L[^L"]+"', first)) == 1, "two points, the one at zero left out"
    marks = re.findall(r'<g class="d k\d+ n\d+"><title>([^ ]+) [^<]+</title>(.*?)</g>', first)
    assert {name: ("<circle" in drawn, 'class="m"' in drawn) for name, drawn in marks} == {
        "allocated-4.5bpw": (True, True),
        "uniform-8bit:bits=4": (True, False),
        "mixed-4-6": (False, False),
        "allocated-3.5bpw": (False, True),
    }


def test_the_final_check_says_who_ships_at_each_budget_and_why(text):
    rows = re.findall(r'<td><span class="status (\w+)">.*?</td><td><span class="key [^"]+">([\w.:=-]+)<', text)
    assert rows[:3] == [
        ("pass", "allocated-4.5bpw"), ("open", "uniform-8bit:bits=4"), ("pass", "allocated-30bpw"),
    ]  # fmt: skip
    assert "−1.000<small>±0.010</small>" in text
    assert '<td class="why">nothing is quantized</td>' in text
    assert "Other records" not in text


def test_each_kind_of_module_has_a_row_for_each_of_its_formats(text):
    rows = re.findall(r'<tr><th scope="row">mlp.down_proj .*?</th><td class="nowrap">(.*?)</td><td>(.*?)</td>', text)
    assert rows == [("6 g64", "0, 2"), ("4 g64", "1")] * 3


def test_a_recipe_has_one_colour_in_an_allocation_and_in_a_comparison(text):
    keys = set(re.findall(r'class="key (k\d+ n\d+)">(?:<b>)?([\w.:=-]+)<', text))
    colours = {name: css for css, name in keys}
    assert len(colours) == len(keys), "a name has one colour"
    assert colours["built"] == colours["mixed-4-6"] != colours["uniform-8bit:bits=4"]


def test_what_only_a_stand_in_judged_is_in_the_table_and_a_name_is_never_markup(text):
    assert "<script>alert" not in text
    assert re.search(r"&lt;script&gt;alert\(1\)&lt;/script&gt;</span></th>.*70.000<small>", text)
    assert "with rtn in place of the method" in text


@pytest.mark.slow
def test_the_section_fits_a_phone_and_a_screen_without_a_complaint(tmp_path):
    page(tmp_path, allocation(budget("4.5bpw", 4100, UNIFORM, MIXED)))
    with chromium(tmp_path / "profile") as browser:
        for width, dark in ((1240, False), (320, True)):
            browser.open(tmp_path / "r.html", width=width, dark=dark)
            assert browser.ask("document.documentElement.scrollWidth") == width
            assert browser.complaints() == []
