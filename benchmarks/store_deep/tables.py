"""Print the tables of audits/store-deep/README.md and docs/studies/store-deep.md from the records: Markdown.

    python benchmarks/store_deep/tables.py           prints them
    python benchmarks/store_deep/tables.py --write   puts them into the pages, after <!-- table: NAME -->

Figures are `estimate [interval]`. A test holds both pages to what this prints.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxquant.evals.figures import of_difference, pair_up
from mlxquant.records.measurements import measurement
from mlxquant.stats import rank_correlation, share_of_sums

FOLDER = Path(__file__).resolve().parents[2] / "audits" / "store-deep"
FAMILIES = {"gates-8bit": "gates", "deepseek-8bit": "agentic", "uniform-8bit": "uniform", "allocated": "allocated"}
BITS, METHODS = (8, 6, 5, 4, 3, 2), ("rtn", "imatrix", "gptq")
# differences in loops that the plan names: the second less the first
PAIRS = (
    ("gates-8", "agentic-8"), ("gates-4", "agentic-3"), ("gates-3", "agentic-3"), ("uniform-3", "gates-3"),
    ("gates-3", "gates-3-gptq"), ("gates-4", "gates-3-gptq"),
)  # fmt: skip
Record = Mapping[str, Any]


def load(name: str) -> dict[str, Any] | None:
    """Read a record of the study, if it is there."""
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def cell(figure: Record | None, scale: float = 1, digits: int = 2) -> str:
    """Write ``estimate [low, high]``."""
    if figure is None or figure["estimate"] is None:
        return "–"
    text = f"{figure['estimate'] * scale:.{digits}f}"
    if figure.get("low") is not None:
        text += f" [{figure['low'] * scale:.{digits}f}, {figure['high'] * scale:.{digits}f}]"
    return text.replace("-", "−")


def significant(figure: Record | None) -> str:
    """KL in thousandths of a nat, with the digits that its size asks for."""
    if figure is None:
        return "–"
    value = figure["estimate"] * 1000
    return cell(figure, 1000, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table whose figures stand on the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def parts(name: str) -> tuple[str, int, str]:
    """`gates-8bit:bits=4,group_size=64,method=gptq` as family, bits, method."""
    recipe, _, changes = name.partition(":")
    values = dict(change.split("=") for change in changes.split(",") if change)
    if recipe.startswith("roles-"):
        return "by role", int(recipe[6]), values.get("method", "mse")
    if recipe.startswith("allocated-"):  # allocated-3.57bpw, the bytes of gates at 3 bits
        return (
            "allocated",
            int(float(recipe.removeprefix("allocated-").removesuffix("bpw"))),
            values.get("method", "rtn"),
        )
    return FAMILIES.get(recipe, recipe), int(values.get("bits", 8)), values.get("method", "rtn")


def grid(records: Sequence[Record]) -> tuple[dict[tuple[str, int, str], Record], Record | None]:
    """Every cell of the grid that was measured, the first record's first; and the noise floor."""
    cells: dict[tuple[str, int, str], Record] = {}
    floor = None
    for record in records:
        for side in record["candidates"]:
            if side.get("kind") == "noise floor":
                floor = floor or side
            else:
                cells.setdefault(parts(str(side["name"])), side)
    return cells, floor


def quality(records: Sequence[Record]) -> str:
    """KL of every cell: a row a family and bits, a column a method."""
    cells, floor = grid(records)
    rows = []
    for family, bits in dict.fromkeys((f, b) for f, b, _ in cells):
        here = {m: cells.get((family, bits, m)) for m in METHODS}
        side = next(s for s in here.values() if s) if any(here.values()) else None
        if side is None:
            continue
        kl = [significant(measurement(s, "kl_nats")) if s else "–" for s in here.values()]
        flips = cell(measurement(here["rtn"] or side, "expert_set_changed"), 100, 1)
        said = cell(measurement(here["rtn"] or side, "same_top", slice="in:tool_call"), 100, 2)
        rows.append((f"{family} {bits}", f"{side['bytes']:,}", f"{side['bpw']:.2f}", *kl, said, flips))
    if floor:
        rows.append(("bf16 noise floor", "–", "–", significant(measurement(floor, "kl_nats")), "–", "–",
                     cell(measurement(floor, "same_top", slice="in:tool_call"), 100, 2),
                     cell(measurement(floor, "expert_set_changed"), 100, 1)))  # fmt: skip
    head = ("recipe, bits", "bytes", "bpw", *(f"KL, {m}" for m in METHODS), "same top in calls, %", "other experts, %")
    return table(head, rows)


def depths(records: Sequence[Record]) -> str:
    """KL by position, rounding."""
    cells, floor = grid(records)
    sides = [(f"{f} {b}", s) for (f, b, m), s in cells.items() if m == "rtn" and b in (8, 4, 3, 2)]
    sides += [("bf16 noise floor", floor)] if floor else []
    places = list(dict.fromkeys(m["depth"] for _, s in sides for m in s["measurements"]
                                if m["metric"] == "kl_nats" and "depth" in m))  # fmt: skip
    rows = [(name, *(significant(measurement(s, "kl_nats", depth=d)) for d in places)) for name, s in sides]
    return table(("recipe, bits", *(f"tokens {d}" for d in places)), rows)


def routing(record: Record) -> str:
    """Damage with the recipe's own routing, with the reference's, and the share that is gone."""
    rows = []
    for side in record["candidates"]:
        through, kl = measurement(side, "kl_through_routing_nats"), measurement(side, "kl_nats")
        if through and kl and side.get("kind") != "noise floor":
            share = {
                k: None if through[k] is None else through[k] / kl["estimate"] for k in ("estimate", "low", "high")
            }
            family, bits, _ = parts(str(side["name"]))
            forced = measurement(side, "kl_nats", case="teacher-forced")
            rows.append((f"{family} {bits}", significant(kl), significant(forced), cell(share, 100, 0)))
    return table(("recipe, bits", "KL, 10⁻³ nats", "with the reference's routing", "through routing, %"), rows)


def allocated(record: Record) -> str:
    """What allocation gave at the bytes of gates, on documents that chose nothing."""
    rows = []
    for budget in record["budgets"]:
        others = {str(c["name"]): c for c in budget["contestants"]}
        best, own = others[budget["best"]], budget["allocated"]
        bits = int(float(budget["asked"].removesuffix("bpw")))
        gates = others.get(f"gates-8bit:bits={bits},group_size=64")
        rows.append(
            (f"gates {bits}", f"{own['bytes']:,}", significant(gates["kl"]) if gates else "–", significant(own["kl"]),
             str(budget["best"]).partition(",")[0], significant(best["kl"]), significant(budget["difference"]))
        )  # fmt: skip
    head = ("bytes of", "bytes taken", "gates, KL", "allocated, KL", "best of the others", "its KL", "difference")
    return table(head, rows)


def loops(record: Record) -> str:
    """Loops by build: those without an error, calls right, the difference beside full precision, the median."""
    rows = []
    for side, survival in zip([record["baseline"], *record["candidates"]], record["survival"], strict=True):
        median = "more than half never" if survival["median"] is None else f"{survival['median']:g}"
        rows.append(
            (
                str(side["name"]),
                f"{survival['n'] - sum(survival['failed'])} of {survival['n']}",
                cell(measurement(side, "right_call"), 100, 2),
                cell(measurement(side, "right_call_difference"), 100, 2),
                cell(measurement(side, "pass"), 100, 0),
                median,
            )
        )
    head = ("build", "loops without an error", "calls right, %", "difference, points", "tasks done, %",
            "median first error")  # fmt: skip
    return table(head, rows)


def paired(record: Record) -> str:
    """Differences between builds that the plan names, paired by task and call, in points of calls right."""
    names = [str(side["name"]) for side in (record["baseline"], *record["candidates"])]
    rows = []
    for first, second in PAIRS:
        if first not in names or second not in names:
            continue
        a, b = ([t for t in record["trials"] if t["side"] == names.index(n)] for n in (first, second))
        measured = {"measurements": of_difference(*pair_up(a, b), suites=False, confidence=0.95)}
        difference = measurement(measured, "right_call_difference")
        wholes = measurement(measured, "pass_difference")
        rows.append((f"{second} less {first}", cell(difference, 100, 2), cell(wholes, 100, 0)))
    return table(("builds", "calls right, points", "tasks done, points"), rows)


def by_depth(record: Record) -> str:
    """Calls right by depth."""
    sides = [record["baseline"], *record["candidates"]]
    depths = list(dict.fromkeys(m["depth"] for m in sides[0]["measurements"] if "depth" in m))
    rows = [(str(s["name"]), *(cell(measurement(s, "right_call", depth=d), 100, 2) for d in depths)) for s in sides]
    return table(("build", *(f"calls {d}, %" for d in depths)), rows)


def rates(record: Record) -> str:
    """How often a call is the first that goes wrong, of those made so far without an error; and one after the first."""
    rows = []
    for number, side in enumerate((record["baseline"], *record["candidates"])):
        trials = [t for t in record["trials"] if t["side"] == number]
        failed = [t for t in trials if t["first_error"]]
        if not failed:
            continue
        until = [t["first_error"] or t["depth"] for t in trials]
        first = share_of_sums([t["first_error"] is not None for t in trials], until)
        later = [t for t in failed if t["first_error"] < t["depth"]]
        wrong = [sum("0" in signs for depth, signs, *_ in t["calls"] if depth > t["first_error"]) for t in later]
        again = share_of_sums(wrong, [t["depth"] - t["first_error"] for t in later]) if later else None
        rows.append(
            (str(side["name"]), str(len(failed)), cell(_as_figure(first), 100, 2), cell(_as_figure(again), 100, 2))
        )
    head = ("build", "loops with an error", "first error, % of calls until then", "wrong after it, % of calls")
    return table(head, rows)


FIGURES = (
    ("KL", "kl_nats", {}, 1), ("KL within calls", "kl_nats", {"slice": "in:tool_call"}, 1),
    ("same top token", "same_top", {}, -1), ("same top token within calls", "same_top", {"slice": "in:tool_call"}, -1),
    ("other experts", "expert_set_changed", {}, 1),
)  # fmt: skip


def build_parts(name: str) -> tuple[str, int, str]:
    """`gates-3-gptq` as family, bits, method."""
    words = name.replace("by-role", "by role").split("-")
    usual = "mse" if words[0] == "by role" else "rtn"
    return words[0], int(words[1]), words[2] if len(words) > 2 else usual


def foretold(compared: Sequence[Record], played: Sequence[Record]) -> str:
    """Rank correlation of each figure with the share of calls wrong, over all builds played."""
    cells, _ = grid(compared)
    sides = [(cells.get(build_parts(str(s["name"]))), s) for r in played for s in r["candidates"]]
    known = [(scored, side) for scored, side in sides if scored is not None]
    rows = []
    for words, metric, where, sign in FIGURES:
        values = [sign * (measurement(scored, metric, **where) or {})["estimate"] for scored, _ in known]
        wrong = [-(measurement(side, "right_call") or {})["estimate"] for _, side in known]
        rows.append((words, str(len(known)), cell(_as_figure(rank_correlation(values, wrong)))))
    return table(("figure", "builds", "rank correlation with calls wrong"), rows)


def _as_figure(interval: Any) -> Record | None:
    return None if interval is None else interval.as_dict()


def tables() -> Iterator[tuple[str, str]]:
    """Every table by its name, of the records that are there."""
    compared = [record for name in ("compare.json", "compare-more.json") if (record := load(name))]
    if compared:
        yield "quality", quality(compared)
    if forced := load("compare-forced.json"):
        yield "positions", depths([*compared, forced])
        yield "routing", routing(forced)
    if record := load("allocate.json"):
        yield "allocated", allocated(record)
    if played := load("eval.json"):
        yield "loops", loops(played)
        yield "paired", paired(played)
        yield "depth", by_depth(played)
        yield "rates", rates(played)
    more = load("eval-more.json")
    if more:
        yield "loops of more builds", loops(more)
    compared = [*compared, *([forced] if forced else [])]  # cells of the first record that has them
    if compared and played:
        yield "foretold", foretold(compared, [played, *([more] if more else [])])


PAGES = (FOLDER / "README.md", FOLDER.parents[1] / "docs" / "studies" / "store-deep.md")
MARKS = re.compile(r"<!-- table: ([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """A page with each of its tables as the records have it."""
    known = dict(tables())

    def put(mark: re.Match[str]) -> str:
        text = known.get(mark[1])
        return f"<!-- table: {mark[1]} -->\n\n{text}\n\n<!-- end -->" if text else mark[0]

    return MARKS.sub(put, page)


def main() -> None:
    """Print them, or write them into the pages."""
    if "--write" in sys.argv[1:]:
        for page in PAGES:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, text in tables():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
