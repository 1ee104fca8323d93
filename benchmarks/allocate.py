"""What allocated bits give at the bytes of uniform 4 and 3 bits and at 2.5 bits per weight, on a trained model.

    python -m benchmarks.allocate WORK store [-o benchmarks/results/allocate_store.json]
    python -m benchmarks.allocate WORK text --texts RUN [-o benchmarks/results/allocate_text.json]

Every module is a group. Its KL alone is measured on allocation documents, and the solver chooses under each budget. All
recipes are judged in one pass on documents that chose nothing, beside uniform bits and the shipped recipes of at most
the same bytes: encoded by `rtn`, and by `gptq` in builds that a third set of documents calibrates. A rival shows what
the measure is worth: bits by each module's output error (the relative squared error of its own outputs, one input
column by itself), solved under the same budget.

RUN is the folder that text_moe/corpus.py made. WORK keeps documents, what is measured, and builds; interrupted, the
same command goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.allocate.contest import contestants
from mlxquant.allocate.folder import AllocateFolder
from mlxquant.allocate.groups import ModuleGroup, groups_of
from mlxquant.allocate.measure import KlSums, Probe, measure
from mlxquant.allocate.recipe import read_back, recipe_text
from mlxquant.allocate.rounds import allocate_in_rounds
from mlxquant.allocate.solve import Allocation, Option, allocate
from mlxquant.calibrate.record import Calibration
from mlxquant.calibrate.run import run_calibration
from mlxquant.divergence.texts.documents import Document, read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.evals.store.model import write_store_moe
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.plan.plan import PlannedModule, make_plan
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.records.head import describe_machine, describe_versions, utc_date
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.stats import skewed_ratio
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from mlxquant.stream.weights import Views

from .method_study.models import write_dialogues

TEXT_MODEL = Path(__file__).parent / "text_moe" / "checkpoint"
# The store world's dialogues: first seed, and tasks by their calls
CALIBRATING, ALLOCATING, JUDGING = (2_000_000, {5: 24}), (3_000_000, {5: 24}), (7_000_000, {5: 16, 10: 6})
# Of the text model's documents, by hash: part, first, last; and how many characters of each
TEXTS = {"calibrate": ("calibrate", 0, 32), "allocate": ("calibrate", 32, 48), "judge": ("judge", 0, 24)}
CHARACTERS = 2000
WIDTH, ALL_MODULES = 128, 400
UNIFORM = {"4 bits": "gates-8bit:bits=4,group_size=64", "3 bits": "gates-8bit:bits=3,group_size=64"}
LEAST = ("2.5 bpw", 2.5, "gates-8bit:bits=2,group_size=64")  # which takes some 3 % more bytes: none is smaller
BY_KL = "by KL"
RANKED = 6  # modules whose KL alone is measured by gptq too


@dataclass(frozen=True)
class Budget:
    """Bytes of all tensors; `uniform` is the uniform recipe that builds of these bytes are measured against."""

    name: str
    nbytes: int
    uniform: str


@dataclass
class Case:
    """A model with its documents, groups, and the folder that keeps what was done."""

    work: Path
    source: Checkpoint
    layout: Layout
    groups: list[ModuleGroup]
    fixed: int
    parameters: int

    def data(self, purpose: str) -> Path:
        """The file with the documents of a purpose."""
        return self.work / f"{purpose}.jsonl"

    def documents(self, purpose: str) -> list[Document]:
        """The documents of a purpose."""
        return list(read_documents(self.data(purpose), open_tokenizer(self.source)).documents)

    def budgets(self) -> list[Budget]:
        """Those that are asked about."""
        own = [
            Budget(name, int(make_plan(self.layout, load_variation(word), self.source).totals["bytes"]), word)
            for name, word in UNIFORM.items()
        ]
        name, bpw, word = LEAST
        return [*own, Budget(name, int(bpw * self.parameters / 8), word)]


def open_case(work: Path, kind: str, runs: Path | None) -> Case:
    """Write what the case needs, and read it."""
    work.mkdir(parents=True, exist_ok=True)
    folder = TEXT_MODEL
    if kind == "store":
        folder = work / "store-moe"
        if not folder.exists():
            write_store_moe(folder)
        for purpose, (seed, tasks) in zip(TEXTS, (CALIBRATING, ALLOCATING, JUDGING), strict=True):
            write_dialogues(work / f"{purpose}.jsonl", seed, tasks)
    elif not all((work / f"{purpose}.jsonl").exists() for purpose in TEXTS):
        if runs is None:
            raise SystemExit("text: --texts RUN expected, the folder that text_moe/corpus.py made")
        _write_texts(work, runs)
    source = open_checkpoint(folder)
    layout = read_layout(source)
    plan = make_plan(layout, load_recipe("none"), source)
    groups = groups_of(plan.modules, limit=ALL_MODULES)
    free = {path for group in groups for path in group.paths}
    fixed = sum(p.nbytes for p in plan.modules if p.module.path not in free)
    return Case(work, source, layout, groups, fixed, int(plan.totals["parameters"]))


def _write_texts(work: Path, runs: Path) -> None:
    documents = [json.loads(line) for line in (runs / "texts.jsonl").read_text("utf-8").splitlines()]
    documents.sort(key=lambda document: document["sha256"])
    for purpose, (part, first, last) in TEXTS.items():
        own = [document for document in documents if document["part"] == part][first:last]
        lines = [json.dumps({"id": d["sha256"][:12], "text": d["text"][:CHARACTERS]}) + "\n" for d in own]
        (work / f"{purpose}.jsonl").write_text("".join(lines), "utf-8")


# --- the damage of every choice ---


def by_kl(case: Case) -> tuple[list[list[Option]], list[Allocation]]:
    """What every choice does to the output, alone, by `rtn`, and the allocations of all budgets."""
    folder = AllocateFolder(case.work / "alone")
    documents, budgets = case.documents("allocate"), case.budgets()

    def measured(groups: Sequence[ModuleGroup], probes: Sequence[Probe]) -> dict[str, float]:
        return measure(case.source, groups, documents, width=WIDTH, probes=probes, folder=folder)

    def chosen(groups: Sequence[ModuleGroup], tables: Sequence[Sequence[Option]]) -> list[Allocation]:
        return [allocate(groups, tables, budget.nbytes - case.fixed) for budget in budgets]

    solved = allocate_in_rounds(case.groups, measured, chosen)  # every module is a group: none is cut
    return solved.options, solved.allocations


def by_output_error(case: Case) -> list[list[Option]]:
    """What every choice does to the module's own outputs: their relative squared error, one input column by itself."""
    columns = calibrated(case).columns(case.layout)
    views = Views(case.source, case.layout.views, None)
    tables = []
    for group in case.groups:
        total = dict.fromkeys((choice.format for choice in group.choices), 0.0)
        for planned in group.modules:
            name = _weight(planned)
            raw = views.read([name])[name]
            weight = raw.array(raw.dtype)
            sets = columns.of(planned.module.path)
            h = mx.ones((1, 1, weight.shape[-1])) if sets is None else mx.array(sets[0])[:, None, :]
            base = float(mx.sum(h * weight.astype(mx.float32) ** 2))
            for fmt in total:
                if fmt is not None:
                    packed = mx.quantize(weight, group_size=fmt.group_size, bits=fmt.bits)
                    error = weight.astype(mx.float32) - mx.dequantize(
                        *packed, group_size=fmt.group_size, bits=fmt.bits
                    ).astype(mx.float32)
                    total[fmt] += float(mx.sum(h * error**2)) / base
        tables.append([Option(choice, total[choice.format], measured=True) for choice in group.choices])
    return tables


def _weight(planned: PlannedModule) -> str:
    """The view that a module's weight is made of."""
    return next(out.source for out in planned.arrays() if out.name.endswith(".weight"))


def calibrated(case: Case) -> Calibration:
    """Mean squares of what enters every module, on calibration documents."""
    path = case.work / "inputs.cal"
    if not path.exists():
        read = read_documents(case.data("calibrate"), open_tokenizer(case.source))
        result = run_calibration(case.source, read.documents, read.described(path.name), CompareOptions())
        assert result is not None
        path.write_bytes(result[0])
    return Calibration(path, case.source)


# --- recipes and builds ---


def written(case: Case, budget: Budget, allocation: Allocation, kind: str) -> tuple[Path, Recipe]:
    """An allocation's recipe, in a file."""
    name = f"{kind.replace(' ', '-')}-{slug(budget)}"
    text = recipe_text(name, f"bits allocated {kind} at the bytes of {budget.name}", case.groups, allocation)
    path = case.work / f"{name}.toml"
    path.write_text(text, "utf-8")
    nbytes = case.fixed + allocation.nbytes
    return path, read_back(text, case.groups, allocation, case.layout, case.source, nbytes)


def built(case: Case, name: str, recipe: str | Path, *changes: str, method: str) -> Path:
    """The build of a recipe by a method, made with `mlxquant convert` if it is not there."""
    out = case.work / name
    if not out.exists():
        data = ["--data", str(case.data("calibrate"))] if method == "gptq" else []
        command = [sys.executable, "-m", "mlxquant", "convert", str(case.source.folder), "-r", str(recipe), *changes]
        subprocess.run([*command, "--method", method, *data, "-o", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


def slug(budget: Budget) -> str:
    """A budget's name in file names."""
    return budget.name.replace(" ", "-")


# --- judging ---


def judged(case: Case, name: str, candidates: Sequence[Candidate], purpose: str = "judge") -> dict[str, Any]:
    """KL sums by document of every candidate, and the scored tokens by document; kept under a name."""
    path = case.work / f"{name}.json"
    kept: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"kl": {}}
    todo = [candidate for candidate in candidates if candidate.name not in kept["kl"]]
    if not todo:
        return kept
    documents = case.documents(purpose)
    sums = KlSums(len(todo), len(documents))
    compare(case.source, todo, documents, sums, CompareOptions(own=False, noise_floor=False))
    kept["tokens"] = sums.tokens_scored[0].tolist()
    kept["kl"] |= {candidate.name: row.tolist() for candidate, row in zip(todo, sums.kl, strict=True)}
    path.write_text(json.dumps(kept), "utf-8")
    return kept


def share(kept: dict[str, Any], name: str, base: str) -> dict[str, Any]:
    """KL of one as a share of another's, paired by document, with its interval at 95 %."""
    own = skewed_ratio(kept["kl"][name], kept["kl"][base])
    return {"share": own.estimate, "low": own.low, "high": own.high}


def ranks_agree(case: Case, tables: Sequence[Sequence[Option]]) -> dict[str, Any]:
    """Rank correlation between the KL of modules alone by `rtn` and by `gptq`, at 3 bits and groups of 64.

    The modules are spread evenly over their order by `rtn`'s KL.
    """
    alone = [
        (option.damage, number)
        for number, options in enumerate(tables)
        for option in options
        if option.measured and str(option.choice) == "3-bit g64"
    ]
    alone.sort()
    picked = [alone[round(i * (len(alone) - 1) / (RANKED - 1))] for i in range(min(RANKED, len(alone)))]
    candidates = []
    for _, number in picked:
        group = case.groups[number]
        path = case.work / f"probe-{number}.toml"
        paths = json.dumps(list(group.paths))
        rule = f'match = {{ path = {paths} }}\nbits = 3\ngroup_size = 64\nmethod = "gptq"\nreason = "alone"\n'
        head = 'name = "probe"\nsummary = "one module alone"\nquantize = false\n\n[[rules]]\n'
        path.write_text(head + rule, "utf-8")
        candidates.append(Candidate(group.label, build=built_alone(case, number, path)))
    kept = judged(case, "ranks", candidates, "allocate")
    tokens = sum(kept["tokens"])
    rows = [
        {"module": case.groups[n].label, "rtn": damage, "gptq": sum(kept["kl"][case.groups[n].label]) / tokens}
        for damage, n in picked
    ]
    order = [np.argsort(np.argsort([row[method] for row in rows])) for method in ("rtn", "gptq")]
    return {"modules": rows, "rank_correlation": float(np.corrcoef(*order)[0, 1])}


def built_alone(case: Case, number: int, recipe: Path) -> Path:
    """The build that quantizes one group alone by `gptq`."""
    out = case.work / f"probe-{number}"
    if not out.exists():
        command = [sys.executable, "-m", "mlxquant", "convert", str(case.source.folder), "-r", str(recipe)]
        command += ["--data", str(case.data("calibrate")), "-o", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


# --- the record ---


def rows_of(
    case: Case, budget: Budget, by_damage: Allocation, by_error: Allocation, *, builds: bool
) -> tuple[list[Candidate], list[dict[str, Any]]]:
    """The candidates of a budget, and what is known of each before it is judged; uniform `rtn` is the first.

    `builds` makes those that `gptq` encodes, too.
    """
    candidates, rows = [], []

    def enter(kind: str, method: str, recipe: Recipe, build: Path | None = None) -> None:
        name = f"{budget.name}: {kind}, {method}"
        candidates.append(Candidate(name, build=build) if build else Candidate(name, recipe))
        nbytes = int(make_plan(case.layout, recipe, case.source).totals["bytes"])
        rows.append({"kind": kind, "method": method, "bytes": nbytes, "candidate": name})

    uniform = load_variation(f"{budget.uniform},method=rtn")
    enter("uniform", "rtn", uniform)
    path, recipe = written(case, budget, by_damage, BY_KL)
    enter(BY_KL, "rtn", recipe)
    enter("by output error", "rtn", written(case, budget, by_error, "by output error")[1])
    if builds:
        enter(BY_KL, "gptq", recipe, built(case, f"{path.stem}-gptq", path, method="gptq"))
        build = built(case, f"uniform-{slug(budget)}-gptq", *uniform_words(budget), method="gptq")
        enter("uniform", "gptq", uniform, build)
    for other in contestants(case.layout, case.source, budget.nbytes, method="rtn", group_sizes=(64,)):
        enter(other.name, "rtn", other.recipe)
    return candidates, rows


def uniform_words(budget: Budget) -> list[str]:
    """The words of a uniform recipe on a command line: its name, then options."""
    name, _, changes = budget.uniform.partition(":")
    return [name, *(word for pair in changes.split(",") for word in f"--{pair.replace('_', '-')}".split("="))]


def contest(kept: dict[str, Any], rows: Sequence[dict[str, Any]], nbytes: int) -> dict[str, Any]:
    """The best recipe of at most the budget's bytes that was not allocated, and the allocated one's share of its KL."""
    others = [row for row in rows if row["method"] == "rtn" and not row["kind"].startswith("by ")]
    fitting = [row for row in others if row["bytes"] <= nbytes]
    if not fitting:
        return {"best_contestant": None, "of_best_contestant": None}
    best = min(fitting, key=lambda row: row["kl_nats"])
    own = next(row["candidate"] for row in rows if row["kind"] == BY_KL)
    return {"best_contestant": best["kind"], "of_best_contestant": share(kept, own, best["candidate"])}


def record(work: Path, kind: str, runs: Path | None, *, builds: bool, ranks: bool) -> dict[str, Any]:
    """All of it."""
    case = open_case(work, kind, runs)
    began = time.monotonic()
    options, allocations = by_kl(case)
    choices = sum(option.measured for own in options for option in own if option.choice.format is not None)
    print(f"{len(case.groups)} groups, {choices} choices measured in {time.monotonic() - began:.0f} s", flush=True)
    errors = by_output_error(case)
    entered = [
        (budget, *rows_of(case, budget, best, allocate(case.groups, errors, budget.nbytes - case.fixed), builds=builds))
        for budget, best in zip(case.budgets(), allocations, strict=True)
    ]
    kept = judged(case, "judged", [candidate for _, candidates, _ in entered for candidate in candidates])
    tokens = sum(kept["tokens"])
    budgets = []
    for budget, _, rows in entered:
        base = rows[0]["candidate"]
        for row in rows:
            row |= {"kl_nats": sum(kept["kl"][row["candidate"]]) / tokens, **share(kept, row["candidate"], base)}
            uniform = next(r["candidate"] for r in rows if r["kind"] == "uniform" and r["method"] == row["method"])
            row["of_uniform_same_method"] = share(kept, row["candidate"], uniform)
        budgets.append(
            {"name": budget.name, "bytes": budget.nbytes, "rows": rows, **contest(kept, rows, budget.nbytes)}
        )
    return {
        "what": f"KL of the {kind} model's builds at equal bytes, allocated and uniform", "date": utc_date(),
        "machine": describe_machine(), "versions": describe_versions(),
        "documents": {purpose: len(case.documents(purpose)) for purpose in TEXTS}, "judged_tokens": tokens,
        "groups": len(case.groups), "choices_measured": choices, "budgets": budgets,
        "ranks": ranks_agree(case, options) if ranks else None,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown: all by KL, by output error and uniform, and the best contestant."""
    lines = [
        "| bytes of | recipe | method | bytes | KL, mnat | share of uniform `rtn` | of uniform by the same method |",
        "|---|---|---|--:|--:|---|---|",
    ]
    for budget in result["budgets"]:
        for row in budget["rows"]:
            if row["kind"] not in ("uniform", BY_KL, "by output error", budget["best_contestant"]):
                continue
            plain = row["kind"] == "uniform" and row["method"] == "rtn"
            same = _within(row["of_uniform_same_method"]) if row["method"] != "rtn" and row["kind"] == BY_KL else ""
            lines.append(
                f"| {budget['name']} | {row['kind']} | `{row['method']}` | {row['bytes']:,} |"
                f" {1e3 * row['kl_nats']:.3g} | {'1.000' if plain else _within(row)} | {same} |"
            )
    return "\n".join(lines)


def _within(share: dict[str, Any]) -> str:
    """A share with its interval."""
    return f"{share['share']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"


def main() -> None:
    """Measure, write the record, print the table."""
    parser = argparse.ArgumentParser(description="KL of allocated recipes at equal bytes.")
    parser.add_argument("work", type=Path)
    parser.add_argument("kind", choices=("store", "text"))
    parser.add_argument("--texts", type=Path, help="the folder that text_moe/corpus.py made")
    parser.add_argument("--rtn-only", action="store_true", help="make no builds, so measure nothing of gptq")
    parser.add_argument("--ranks", action="store_true", help="build modules alone by gptq, too")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    result = record(
        arguments.work, arguments.kind, arguments.texts, builds=not arguments.rtn_only, ranks=arguments.ranks
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
