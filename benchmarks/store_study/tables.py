"""Print the tables of audits/store-moe/README.md, and the project's README's of it, from the records: Markdown.

    python benchmarks/store_study/tables.py

Figures are `estimate [interval]`. A test holds both pages to what this prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxquant.records.measurements import measurement

FOLDER = Path(__file__).resolve().parents[2] / "audits" / "store-moe"
Record = Mapping[str, Any]


def load(name: str) -> dict[str, Any]:
    """Read a record of the study."""
    record: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return record


def cell(found: Record | None, scale: float = 1, digits: int = 2) -> str:
    """Write ``estimate [low, high]``."""
    if found is None:
        return "–"
    text = f"{found['estimate'] * scale:.{digits}f}"
    if found.get("low") is None:
        return text
    return f"{text} [{found['low'] * scale:.{digits}f}, {found['high'] * scale:.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table whose figures stand on the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def short(name: str) -> str:
    """Write `gates-8bit:bits=4` as it is read: gates-only at 4 bits."""
    recipe, _, bits = name.partition(":bits=")
    names = {"gates-8bit": "gates", "uniform-8bit": "uniform", "deepseek-8bit": "agentic"}
    return f"{names[recipe]} {bits or 8}" if recipe in names else name


def quality(record: Record) -> str:
    """What each recipe costs, token by token."""
    rows = []
    for side in record["candidates"]:
        rows.append(
            (
                short(side["name"]),
                f"{side['bytes']:,}" if side.get("bytes") else "–",
                f"{side['bpw']:.2f}" if side.get("bpw") else "–",
                cell(measurement(side, "kl_nats"), 1000, 3),
                cell(measurement(side, "same_top"), 100, 2),
                cell(measurement(side, "expert_set_changed", case="router"), 100, 1),
                cell(measurement(side, "expert_set_changed", case="own"), 100, 1),
                cell(measurement(side, "expert_set_changed"), 100, 1),
            )
        )
    head = ("recipe, bits", "bytes", "bpw", "KL, 10⁻³ nats", "same top, %", "sets changed by the router alone, %",
            "by the layer, %", "in all, %")  # fmt: skip
    return table(head, rows)


def forced(record: Record) -> str:
    """Damage with the recipe's own routing, and with the reference's."""
    rows = [
        (
            short(side["name"]),
            cell(measurement(side, "kl_nats"), 1000, 2),
            cell(measurement(side, "kl_nats", case="teacher-forced"), 1000, 2),
        )
        for side in record["candidates"]
    ]
    return table(("recipe, bits", "KL, 10⁻³ nats", "with the reference's routing"), rows)


def loops(record: Record) -> Iterator[Sequence[str]]:
    """Agent loops, beside full precision."""
    base = record["baseline"]
    yield (
        "full precision",
        cell(measurement(base, "right_call"), 100, 1),
        "–",
        cell(measurement(base, "state_equal"), 100, 1),
        cell(measurement(base, "valid_call"), 100, 1),
        str(record["survival"][0]["median"]),
    )
    for side, survival in zip(record["candidates"], record["survival"][1:], strict=True):
        yield (
            side["name"],
            cell(measurement(side, "right_call"), 100, 1),
            cell(measurement(side, "right_call_difference"), 100, 1),
            cell(measurement(side, "state_equal"), 100, 1),
            cell(measurement(side, "valid_call"), 100, 1),
            str(survival["median"]),
        )


def deep(record: Record) -> str:
    """Calls with nothing wrong by depth, and the differences beside full precision."""
    sides = record["candidates"]
    rows = []
    for depth in dict.fromkeys(m["depth"] for m in record["baseline"]["measurements"] if "depth" in m):
        found = measurement(record["baseline"], "right_call", depth=depth)
        if found is not None:
            differences = [cell(measurement(side, "right_call_difference", depth=depth), 100, 1) for side in sides]
            rows.append((depth, str(found["n"]), f"{found['estimate'] * 100:.1f}", *differences))
    return table(("call number", "calls", "full precision, %", *(side["name"] for side in sides)), rows)


def overview(compared: Record, played: Record) -> str:
    """The few rows that the project's README shows: a recipe's KL beside its build's loops."""
    pairs = {"deepseek-8bit": "deepseek-8", **{f"gates-8bit:bits={bits}": f"gates-{bits}" for bits in (8, 4, 3, 2)}}
    recipes, builds = ({side["name"]: side for side in record["candidates"]} for record in (compared, played))
    rows = [
        (
            short(recipe),
            f"{recipes[recipe]['bytes']:,}",
            cell(measurement(recipes[recipe], "kl_nats"), 1000, 3),
            cell(measurement(recipes[recipe], "expert_set_changed"), 100, 1),
            cell(measurement(builds[build], "right_call"), 100, 1),
            cell(measurement(builds[build], "right_call_difference"), 100, 1),
        )
        for recipe, build in pairs.items()
    ]
    head = ("recipe, bits", "bytes", "KL, 10⁻³ nats", "other experts, %", "calls right, %", "difference")
    return table(head, rows)


def tables() -> dict[str, str]:
    """Every table by its name."""
    head = ("build", "calls right, %", "difference", "store as expected, %", "a call at all, %", "median first error")
    return {
        "quality": quality(load("compare.json")),
        "forced": forced(load("compare-forced.json")),
        "loops": table(head, list(loops(load("eval.json")))),
        "deep": deep(load("eval-deep.json")),
        "overview": overview(load("compare.json"), load("eval.json")),
    }


def main() -> None:
    """Print them."""
    for name, text in tables().items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
