"""What a browser does with a report: it renders, sorts, filters, walks by keyboard, prints, and asks nobody."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxquant.records.loading import load
from mlxquant.report.page.page import make_report
from tests.report.report_records import AUDITS, PAPER, audit, bench, hostile, unknown, write
from tests.support.browser import Browser, chromium

pytestmark = pytest.mark.slow
RECIPE = {"name": "mine", "overrides": ["--group-size 32"]}
SHOWN = "[...document.querySelectorAll('#{0} .sortable tbody tr')].filter(r => !r.hidden)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    small = write(folder, a__audit=audit(8), b__audit=audit(4), speed=bench(), later=unknown())
    evil = write(folder, e1=hostile()[0], e2=hostile()[1], e3=hostile()[2])
    found = {}
    builds = write(
        folder, **{f"build-{i}__audit": audit(8 - i % 7, recipe=RECIPE | {"sha256": f"{i:064x}"}) for i in range(14)}
    )
    for name, paths in (("report", [*PAPER, *small]), ("hostile", evil), ("builds", builds)):
        found[name] = folder / f"{name}.html"
        found[name].write_text(make_report([load(path) for path in paths]), encoding="utf-8")
    return found


@pytest.fixture
def page(browser: Browser, pages: dict[str, Path]) -> Browser:
    browser.open(pages["report"])
    return browser


def shown(page: Browser, model: str = "m1") -> list[str]:
    return list(page.ask(f"{SHOWN.format(model)}.map(r => r.querySelector('.path').textContent)"))


def count(page: Browser, model: str = "m1") -> str:
    return str(page.ask(f"document.querySelector('#{model} output').value"))


def type_into(page: Browser, name: str, value: Any, model: str = "m1") -> None:
    """Set one of the filters, as a person's input would."""
    kind = "checked" if isinstance(value, bool) else "value"
    field = page.find(f"#{model} form [name={name}]")
    page.ask(f"arguments[0].{kind} = arguments[1]", field, value)
    page.ask("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", field)


@pytest.mark.parametrize("name", ["report", "hostile"])
@pytest.mark.parametrize("dark", [False, True])
def test_the_console_stays_silent_and_nothing_is_asked_of_the_network(
    browser: Browser, pages: dict[str, Path], name: str, dark: bool
) -> None:
    browser.complaints(), browser.requests()
    browser.open(pages[name], dark=dark)
    browser.ask("document.querySelectorAll('button').forEach(b => b.click())")
    assert browser.complaints() == []
    assert browser.requests() == []
    assert "owned" not in str(browser.ask("document.title")).partition("<")[0]


def test_a_script_that_gets_into_the_page_after_all_is_not_run(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    planted = tmp_path / "planted.html"
    text = pages["report"].read_text(encoding="utf-8")
    evil = "<script>document.title = 'owned'</script><img src='http://192.0.2.1/x.png' onerror='document.title = 1'>"
    planted.write_text(text.replace("<main", evil + "<main"), encoding="utf-8")
    browser.open(planted)
    assert "mlxquant report" in str(browser.ask("document.title"))
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_keyboard_focus_on_a_cell_shows_what_it_is_and_why(page: Browser) -> None:
    page.ask("document.querySelectorAll('#m1 .map')[1].querySelector('td[tabindex=\"0\"]').focus()")
    assert "embed_tokens" in page.find("#tip .path").text
    page.press("arrow_down")
    assert page.ask("document.activeElement.getAttribute('aria-describedby')") == "tip"
    assert page.find("#tip .path").text == "language_model.model.layers.3.self_attn.q_proj"
    assert page.find("#tip .stored").text == "bf16, protected"
    assert page.find("#tip .reason").text.startswith("K and V are written to the cache")
    page.press("arrow_right")
    assert page.find("#tip .path").text.endswith("layers.3.self_attn.k_proj")
    page.press("escape")
    assert not page.find("#tip").is_displayed()


def test_the_reason_stays_at_its_cell_when_walking_scrolls_the_page(page: Browser) -> None:
    page.ask("document.querySelector('#m1 .map td[data-c=\"7\"]').focus()")
    page.press(*["page_down"] * 5)
    assert page.ask("scrollY") > 0
    assert page.find("#tip .path").text.endswith("layers.40.linear_attn.in_proj_z") or page.find("#tip").is_displayed()
    assert page.ask(
        "(t => t.bottom <= innerHeight && t.top >= 0)(document.getElementById('tip').getBoundingClientRect())"
    )


def test_a_map_is_one_stop_for_the_tab_key(page: Browser) -> None:
    maps = page.ask("document.querySelectorAll('.map').length")
    assert page.ask("document.querySelectorAll('.map td[tabindex=\"0\"]').length") == maps
    page.ask("document.querySelector('#m1 .map td[tabindex=\"0\"]').focus()")
    page.press("tab")
    assert page.ask("document.activeElement.closest('.map') === document.querySelectorAll('#m1 .map')[1]")


def test_up_and_down_keep_the_column(page: Browser) -> None:
    page.ask("document.querySelector('#m2 .map td[data-c=\"2\"]').focus()")
    columns = []
    for _ in range(3):
        page.press("arrow_down")
        columns.append(page.find("#tip .path").text.rpartition(".")[2])
    assert columns == ["v_proj"] * 3


def test_pointing_at_a_cell_shows_the_reason_and_marks_it_on_both_sides(page: Browser) -> None:
    page.point_at("#m1 .map[data-side='0'] tbody tr:nth-child(5) td[data-c='0']")
    assert page.find("#tip .path").text == "language_model.model.layers.3.self_attn.q_proj"
    assert page.find("#tip .reason").text == "no rule matches: the default, 8-bit g128"
    assert page.ask("document.querySelectorAll('#m1 td.twin').length") == 2
    box = page.ask("(b => [b.left, b.top, b.right, b.bottom])(document.getElementById('tip').getBoundingClientRect())")
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= 1240 and box[3] <= 1000


def test_the_map_can_be_coloured_by_error(page: Browser) -> None:
    colour = 'getComputedStyle(document.querySelector(\'#m2 .map[data-side="1"] td[data-c="3"]\')).backgroundColor'
    before = page.ask(colour)
    page.click("#m2 input[value=error]")
    assert page.ask(colour) != before
    assert page.find("#m2 .errors").is_displayed() and not page.find("#m2 .bits").is_displayed()


def test_the_table_sorts_by_any_column_and_back(page: Browser) -> None:
    type_into(page, "role", "attention", "m2")
    page.click("#m2 .sortable thead tr:last-child th:nth-child(7) button")
    errors = page.ask(f"{SHOWN.format('m2')}.map(r => Number(r.cells[6].dataset.v))")
    assert errors == sorted(errors) and len(set(errors)) > 4
    page.click("#m2 .sortable thead tr:last-child th:nth-child(7) button")
    assert page.ask(f"{SHOWN.format('m2')}.map(r => Number(r.cells[6].dataset.v))") == errors[::-1]
    assert page.ask("document.querySelectorAll('#m2 [aria-sort=descending]').length") == 1
    page.click("#m2 .sortable thead tr:last-child th:nth-child(1) button")
    assert shown(page, "m2") == sorted(shown(page, "m2"))


def test_sorting_goes_by_numbers_not_by_digits(page: Browser) -> None:
    page.click("#m1 .sortable thead tr:last-child th:nth-child(6) button")
    sizes = [int(text.replace(",", "")) for text in page.ask(f"{SHOWN.format('m1')}.map(r => r.cells[5].textContent)")]
    assert sizes == sorted(sizes)


def test_the_table_filters_by_text_role_format_and_marks(page: Browser) -> None:
    assert count(page) == "879 of 879 modules" and len(shown(page)) == 50
    type_into(page, "text", "SELF_ATTN.q_proj")
    assert count(page) == "12 of 879 modules" and len(shown(page)) == 12
    type_into(page, "text", "picks experts")
    assert count(page) == "96 of 879 modules"
    type_into(page, "text", "")
    type_into(page, "kept", True)
    assert count(page) == "146 of 879 modules"
    type_into(page, "differs", True)
    assert count(page) == "50 of 879 modules"
    type_into(page, "role", "lm_head")
    assert shown(page) == ["language_model.lm_head"]
    type_into(page, "stored", "8-bit g128")
    assert count(page) == "1 of 879 modules"
    type_into(page, "text", "no such module")
    assert shown(page) == []


def test_all_lines_are_there_at_one_click(page: Browser) -> None:
    page.click("#m1 .more button")
    assert len(shown(page)) == 879


def test_return_in_a_filter_does_not_leave_the_page(page: Browser) -> None:
    page.click("#m1 input[type=search]")
    page.press("q", "return")
    assert page.ask("document.querySelectorAll('section.model').length") == 2


@pytest.mark.parametrize("name", ["report", "hostile"])
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_needs_no_scrolling_sideways(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    browser.open(pages[name], width=width, height=844)
    assert browser.ask("document.documentElement.scrollWidth") == width
    assert browser.ask("[...document.querySelectorAll('main *')].every(e => e.closest('.scroll')"
                       f" || e.getBoundingClientRect().right <= {width} + 1)")  # fmt: skip


def test_the_papers_map_fits_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], width=390, height=844)
    assert browser.ask(
        "[...document.querySelectorAll('#m1 .map')].every(m => m.scrollWidth <= m.parentElement.clientWidth)"
    )


def test_on_a_phone_the_reason_stands_at_the_bottom(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], width=390, height=844)
    cell = browser.find("#m1 .map td[data-c='7']")
    browser.ask("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell)
    cell.click()
    box = browser.ask("(b => [b.left, b.right, b.bottom])(document.getElementById('tip').getBoundingClientRect())")
    assert box[0] >= 0 and box[1] <= 390 and 800 < box[2] <= 844


def test_print_has_the_colours_but_no_controls(page: Browser) -> None:
    pdf = page.pdf()
    pages_of_pdf = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert pdf.startswith(b"%PDF") and 4 <= pages_of_pdf <= 20
    page.media("print")
    assert not page.find("#m1 form").is_displayed() and not page.find("nav").is_displayed()
    assert page.find("#m1 .printed").text == "879 of 879 modules, of which 50 are printed"
    assert page.ask("getComputedStyle(document.querySelector('.q8')).printColorAdjust") == "exact"


CONTRAST = """(() => {
  const light = (c) => {
    const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
      .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
  };
  const back = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/^rgba\\(.*, 0\\)$/.test(c)) return c;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  for (const e of document.querySelectorAll("p, td, th, dt, dd, small, a, h2, span.letter, label, figcaption, b")) {
    if (!e.textContent.trim() || !e.checkVisibility() || e.matches(".keep, .keep *")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = `${e.tagName}.${e.className}`;
    if (ratio < 4.5) found[name] = Math.round(ratio * 100) / 100;
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("mode", ["bits", "error"])
def test_text_stands_out_from_what_is_behind_it(
    browser: Browser, pages: dict[str, Path], dark: bool, mode: str
) -> None:
    browser.open(pages["report"], dark=dark)
    browser.click(f"#m2 input[value={mode}]")
    assert browser.ask(CONTRAST) == {}


def test_without_script_all_lines_and_maps_are_there(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    plain = tmp_path / "plain.html"
    text = pages["report"].read_text(encoding="utf-8")
    plain.write_text(text[: text.rindex("<script>")] + "</body></html>", encoding="utf-8")
    browser.open(plain)
    assert (
        len(browser.ask("[...document.querySelectorAll('#m1 .sortable tbody tr')].filter(r => r.checkVisibility())"))
        == 879
    )
    assert not browser.find("#m1 form").is_displayed()


# --- candidates: who is drawn, any two of them ---


@pytest.fixture(scope="module")
def fourteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the kept study: fourteen candidates compared, seven evaluated, a sweep of thirteen."""
    study = AUDITS.parent / "store-moe"
    page = tmp_path_factory.mktemp("study") / "study.html"
    records = [load(study / f"{name}.json") for name in ("compare", "eval", "sweep")]
    page.write_text(make_report(records), encoding="utf-8")
    return page


def colours(page: Browser, name: str) -> set[str]:
    """The colours of a candidate's marks all over the page."""
    number = page.ask(
        "[...document.querySelectorAll('.legend-of label')].find(l => l.textContent.trim() === arguments[0])"
        ".querySelector('input').value",
        name,
    )
    return set(
        page.ask(
            "[...document.querySelectorAll(`.chart .d.n${arguments[0]} .m, .key.n${arguments[0]}`)].map(e =>"
            " e.matches('.key') ? getComputedStyle(e, '::before').backgroundColor : getComputedStyle(e).fill)",
            number,
        )
    )


def test_a_candidate_has_one_colour_on_the_whole_page(browser: Browser, fourteen: Path) -> None:
    browser.open(fourteen)
    names = ["gates-8bit:bits=8", "uniform-8bit:bits=8", "gates-8bit:bits=4", "deepseek-8bit"]
    found = [colours(browser, name) for name in names]
    assert all(len(each) == 1 for each in found), found
    assert len(set.union(*found)) == 4


def test_the_reader_chooses_who_is_drawn_in_all_sections_at_once(browser: Browser, fourteen: Path) -> None:
    browser.open(fourteen)
    shown = "[...document.querySelectorAll('#quality .panel:first-child .d')].filter(e => e.checkVisibility()).length"
    assert browser.ask(shown) >= 3 * 3
    before = browser.ask(shown)
    browser.ask("document.querySelector('#quality .legend-of input:not(:checked)').click()")
    assert browser.ask(shown) == before + 3
    value = browser.ask("document.querySelector('#quality .legend-of input').value")
    assert browser.ask(f"[...document.querySelectorAll('.legend-of [value=\"{value}\"]')].every(b => b.checked)")
    browser.ask(
        "[...document.querySelectorAll('#quality .legend-of button')].find(b => b.textContent == 'none').click()"
    )
    assert browser.ask(shown) == 0


def until(page: Browser, condition: str) -> None:
    """Wait until something holds: the figures are unpacked after the page has come."""
    end = time.monotonic() + 10
    while not page.ask(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def test_any_two_candidates_stand_side_by_side_with_what_was_measured_in_pairs(
    browser: Browser, fourteen: Path
) -> None:
    browser.open(fourteen)
    choose = (
        "(([a, b]) => {{ for (const [n, t] of [['first', a], ['second', b]]) {{ const s = document.querySelector("
        "`#pair [name=${{n}}]`); s.value = [...s.options].find(o => o.textContent.startsWith(t)).value; }}"
        " document.querySelector('#pair form').dispatchEvent(new Event('input')); }})({})"
    )
    until(browser, "document.querySelector('#pair table') !== null")
    browser.ask(choose.format("['gates-8bit:bits=4', 'gates-8bit:bits=3']"))
    until(browser, "document.querySelector('#pair th:nth-child(2)').textContent.startsWith('A gates-8bit:bits=4')")
    row = "[...document.querySelectorAll('#pair tr')].find(r => r.cells[0].textContent.startsWith('kl_nats')).innerText"
    there = str(browser.ask(row)).split()
    assert "B" in there and "worse" in there and "+0.01" in " ".join(there)
    browser.ask(choose.format("['gates-8bit:bits=3', 'gates-8bit:bits=4']"))
    until(browser, "document.querySelector('#pair th:nth-child(2)').textContent.startsWith('A gates-8bit:bits=3')")
    back = str(browser.ask(row)).split()
    assert "better" in back and "−0.01" in " ".join(back)
    assert "eval pairs each candidate with the baseline alone" in browser.find("#pair").text


@pytest.mark.parametrize("width", [390, 1280])
def test_fourteen_candidates_need_no_scrolling_sideways(browser: Browser, fourteen: Path, width: int) -> None:
    browser.open(fourteen, width=width, height=900)
    assert browser.ask("document.documentElement.scrollWidth") == width
    overlaps = """[...document.querySelectorAll('svg.axis, svg.plot')].filter((svg) => {
      const boxes = [...svg.querySelectorAll('text:not(.d text)')].map((t) => t.getBoundingClientRect());
      return boxes.some((a, i) => boxes.some((b, j) => j > i && a.width && b.width && a.left < b.right - 1
        && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3));
    }).length"""
    assert browser.ask(overlaps) == 0
    if width == 1280:
        assert browser.ask(CUT) == []


CUT = """[...document.querySelectorAll('.scroll')]
  .filter((s) => s.checkVisibility() && s.scrollWidth > s.clientWidth + 2)
  .map((s) => `${s.scrollWidth} of ${s.clientWidth}: ${s.innerText.slice(0, 80)}`)"""


def test_no_table_is_cut_on_paper(browser: Browser, fourteen: Path, pages: dict[str, Path]) -> None:
    for page in (fourteen, pages["report"], pages["builds"]):
        browser.open(page, width=703, height=1000)
        browser.media("print")
        browser.ask("[...document.querySelectorAll('details')].forEach((d) => { d.open = true; })")
        assert browser.ask(CUT) == []


def test_paper_has_what_is_folded_away_on_the_screen_and_heads_of_tables_on_every_page(
    browser: Browser, fourteen: Path
) -> None:
    browser.open(fourteen)
    until(browser, "document.querySelector('#pair table') !== null")
    folded = "document.querySelectorAll('section:not(#pair) > details:not([open])').length"
    before = browser.ask(folded)
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert before > 0 and browser.ask(folded) == 0
    browser.media("print")
    assert browser.ask("[...document.querySelectorAll('button')].filter(b => b.getClientRects().length).length") == 0
    browser.ask("dispatchEvent(new Event('afterprint'))")
    assert browser.ask(folded) == before
