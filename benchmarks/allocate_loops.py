"""What agent loops make of allocated and uniform builds of the store model, at equal bytes.

    python -m benchmarks.allocate WORK store
    python -m benchmarks.allocate_loops WORK [-o benchmarks/results/allocate_loops.json]

WORK is the folder of `benchmarks.allocate`, whose recipes and builds are played: uniform and allocated by KL, by `rtn`
and by `gptq`. A budget's four builds and full precision play the same loops of 5 calls. Differences are paired by loop,
between an allocated build and the uniform one of its method, and between each build and full precision. Full precision
is wrong in a quarter of its calls, so a changed build may gain some: calls lost and gained are counted apart.

It judges calls, not tokens: what the KL of the same builds is, `benchmarks.allocate` says. A budget is played once;
where builds changed, delete WORK/loops-N to have them played anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mlxquant.evals.figures import of_difference, pair_up
from mlxquant.records.head import describe_machine, describe_versions, utc_date

from .allocate import BY_KL, Budget, Case, built, open_case, slug, uniform_words
from .method_study.judging import CALLS, FIRST_SEED, play, right

METHODS = ("rtn", "gptq")
CONFIDENCE = 0.95


def builds_of(case: Case, budget: Budget) -> list[tuple[str, str, Path]]:
    """Kind, method and folder of a budget's builds, each kind of all methods in turn."""
    recipe = case.work / f"{BY_KL.replace(' ', '-')}-{slug(budget)}.toml"
    words = {"uniform": uniform_words(budget), BY_KL: [str(recipe)]}
    return [
        (kind, method, built(case, f"{kind.replace(' ', '-')}-{slug(budget)}-{method}", *words[kind], method=method))
        for method in METHODS
        for kind in words
    ]


def rows_of(case: Case, budget: Budget, tasks: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What full precision and each build of a budget get right, and how the builds differ."""
    builds = builds_of(case, budget)
    work = case.work / f"loops-{tasks}"
    played = play(case.source.folder, [path for _, _, path in builds], tasks, work / slug(budget), work / "baseline")
    trials = [[t for t in played["trials"] if t["side"] == side] for side in range(1 + len(builds))]
    rows: list[dict[str, Any]] = []
    for place, (kind, method, _) in enumerate(builds):
        row = {"kind": kind, "method": method, **right(played["candidates"][place])}
        row["of_full_precision"] = difference(trials[0], trials[1 + place]) | changed(played["candidates"][place])
        if kind == BY_KL:
            uniform = next(i for i, other in enumerate(builds) if other[:2] == ("uniform", method))
            row["of_uniform"] = difference(trials[1 + uniform], trials[1 + place])
        rows.append(row)
    return right(played["baseline"]), rows


def difference(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """The second's share of passed loops and of right calls less the first's, paired by loop, with intervals."""
    measured = of_difference(*pair_up(first, second), suites=False, confidence=CONFIDENCE)
    of_all = {m["metric"]: m for m in measured if not {"depth", "slice"} & set(m)}
    return {
        name: {k: of_all[f"{name}_difference"][k] for k in ("estimate", "low", "high")}
        for name in ("pass", "right_call")
    }


def changed(side: dict[str, Any]) -> dict[str, int]:
    """Calls that only full precision has right, and that only the build has."""
    calls = next(p for p in side["paired"] if p["metric"] == "right_call" and not {"depth", "slice"} & set(p))
    return {"calls_lost": calls["only_baseline"], "calls_gained": calls["only_candidate"]}


def record(work: Path, tasks: int) -> dict[str, Any]:
    """All of it."""
    case = open_case(work, "store", None)
    baseline, budgets = None, []
    for budget in case.budgets():
        baseline, rows = rows_of(case, budget, tasks)
        budgets.append({"name": budget.name, "rows": rows})
    return {
        "what": "agent loops of the store model's builds at equal bytes, allocated and uniform", "date": utc_date(),
        "machine": describe_machine(), "versions": describe_versions(), "calls": CALLS, "tasks": tasks,
        "first_seed": FIRST_SEED, "full_precision": baseline, "budgets": budgets,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown, in percent and points."""
    lines = [
        "| bytes of | recipe | method | loops passed | calls right, % | calls lost | gained |"
        " less full precision's, points | less uniform's by the same method, points |",
        "|---|---|---|--:|--:|--:|--:|---|---|",
    ]
    for budget in result["budgets"]:
        for row in budget["rows"]:
            passed, whole = row["pass"], row["of_full_precision"]
            lines.append(
                f"| {budget['name']} | {row['kind']} | `{row['method']}` | {round(passed['estimate'] * passed['n'])} of"
                f" {passed['n']} | {_percent(row['right_call'])} | {whole['calls_lost']} | {whole['calls_gained']} |"
                f" {_percent(whole['right_call'], '+')} |"
                f" {_percent(row['of_uniform']['right_call'], '+') if 'of_uniform' in row else ''} |"
            )
    return "\n".join(lines)


def _percent(share: dict[str, Any], sign: str = "") -> str:
    ends = "" if share["low"] is None else f" [{100 * share['low']:{sign}.1f}, {100 * share['high']:{sign}.1f}]"
    return f"{100 * share['estimate']:{sign}.1f}{ends}"


def main() -> None:
    """Play, write the record, print the table."""
    parser = argparse.ArgumentParser(description="Agent loops of allocated and uniform builds at equal bytes.")
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", type=int, default=10, help="loops of 5 calls")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    result = record(arguments.work, arguments.tasks)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
