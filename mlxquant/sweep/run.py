"""What a sweep measures: all candidates in one streamed pass, then the best few as real builds beside the baseline.

Nothing is measured twice while the work folder stands (`folder`). `divergence` and `evals` measure, `builds` converts;
this module only says what, and where the results are kept. What they mean for the choice is in `record`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..builds.write.hashing import sha256
from ..disk import files as disk
from ..disk.journal import differences
from ..errors import OutputError
from ..plan.recipe.variation import load_variations, name_of
from ..records.files import record_text
from ..source.stamps import source_signature
from ..validate.judge import FAIL, MISSING, PASS
from ..validate.tolerances import Tolerances, read_tolerances
from ..words.progress import Watch, unwatched
from ..words.text import listed
from .folder import ASKED, SweepFolder

if TYPE_CHECKING:
    from ..calibrate.candidates import EncodedCandidates
    from ..calibrate.record import Calibration
    from ..divergence.record import Question
    from ..evals.items import Suite
    from ..evals.run import EvalSettings
    from ..evals.sides import EvalSide
    from ..plan.recipe.recipe import Recipe
    from ..source.checkpoint import Checkpoint
    from ..stream.options import CompareOptions

_ROUTING = ("own", "router")
_FORCED = ("teacher-forced", "kl_through_routing_nats")


@dataclass(frozen=True)
class Trial:
    """A recipe to try, by the name under which all records know it."""

    name: str
    recipe: Recipe


# The baseline's name, where it is the source itself
UNQUANTIZED = "unquantized"


def load_trials(words: Sequence[str], **overrides: Any) -> tuple[list[Trial], list[str]]:
    """Load recipes (see `variations`); of those that decide the same the first is kept, and a note names the others.

    Raises RecipeError.
    """
    trials: dict[str, Trial] = {}
    notes = []
    for word, recipe in zip(words, load_variations(words, **overrides), strict=True):
        name = name_of(word, recipe)
        if (same := trials.get(recipe.sha256)) is not None:
            notes.append(f"{name} gives the same formats as {same.name} and was not tried again")
        else:
            trials[recipe.sha256] = Trial(name, recipe)
    return list(trials.values()), notes


def tolerances_before(path: Path, *, evaluated: bool) -> Tolerances:
    """Read tolerances before anything is measured, so that no mistake in them costs a pass.

    A suite's own figures are known when it was played, so with an evaluation their names are taken on trust here.
    Raises ToleranceError.
    """
    return read_tolerances(path, None if evaluated else ())


def needed(options: CompareOptions, tolerances: Tolerances) -> CompareOptions:
    """Leave out of a pass what no tolerance asks for, and add what one does: layers apart, and forced routing."""
    wanted = {value for t in tolerances.tolerances for value in (t.metric, dict(t.where).get("case"))}
    return replace(
        options,
        own=bool(wanted & {*_ROUTING, "*"}),
        teacher_forced_routing=options.teacher_forced_routing or bool(wanted & set(_FORCED)),
    )


def compare_all(
    source: Checkpoint,
    trials: Sequence[Trial],
    question: Question,
    options: CompareOptions,
    folder: SweepFolder,
    progress: Watch = unwatched,
    *,
    calibration: Calibration | None = None,
    encoding: EncodedCandidates | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """Judge all trials in one pass, unless the folder has the answer; its path, None where another rank tells.

    `calibration`, `encoding` and `warn` are as of `run_comparison`.
    Raises OutputError where the folder holds another question's answer, and what `run_comparison` raises.
    """
    from ..divergence.record import run_comparison
    from ..stream.candidates import Candidate

    request = json.loads(json.dumps(_request(source, trials, question, options, calibration, encoding)))
    note = folder.path / ASKED
    if not folder.fresh and folder.comparison.is_file():
        if changed := list(differences(folder.request(), request)):
            raise OutputError(
                f"{folder.path}: holds the answer to another question; choose another folder, or --fresh:\n"
                + listed(changed, limit=5)
            )
        return folder.comparison
    if folder.fresh:
        folder.empty()
    folder.keep(note, json.dumps(request, indent=1))
    options = replace(options, work=folder.passing, fresh=folder.fresh)
    candidates = [Candidate(t.name, recipe=t.recipe) for t in trials]
    record, tells = run_comparison(
        source, candidates, question, options, progress, calibration=calibration, encoding=encoding, warn=warn
    )
    if not tells:
        return None
    folder.keep(folder.comparison, record_text(record))
    return folder.comparison


def best_few(record: Mapping[str, Any], count: int) -> list[str]:
    """The candidates to evaluate: those inside all that was measured so far, then those still open; smallest first.

    What is outside a tolerance already cannot be recommended, whatever it would play. What was not measured yet
    (`MISSING`) does not count, since it is what the evaluation is for.
    """

    def order(candidate: Mapping[str, Any]) -> tuple[Any, ...]:
        still_open = sum(n for status, n in candidate["counts"].items() if status not in (PASS, MISSING))
        return still_open, candidate["bytes"] or 0

    left = [c for c in record["candidates"] if FAIL not in c["counts"]]
    return [c["name"] for c in sorted(left, key=order)[:count]]


@dataclass(frozen=True)
class Evaluating:
    """How the best few are evaluated. `baseline` stands for the source unquantized, where that cannot be run here.

    `writing`, `playing` give progress. `calibration` is the file for recipes whose method needs one.
    """

    suites: Sequence[Suite]
    settings: EvalSettings
    dtype: str | None
    baseline: EvalSide | None
    writing: Callable[[], AbstractContextManager[Watch]]
    playing: Callable[[], AbstractContextManager[Watch]]
    calibration: Path | None = None


def evaluate_best(
    trials: Sequence[Trial],
    how: Evaluating,
    open_source: Callable[[], Checkpoint],
    folder: SweepFolder,
    encoding: EncodedCandidates | None = None,
) -> tuple[Path, list[str]]:
    """Convert these and the baseline, play all suites through them, and keep the record. Gives notes, too.

    `open_source` opens the source anew for each build; `encoding` encoded the recipes that need documents. Raises what
    `convert` and `evaluate` raise.
    """
    from ..evals.run import EvalFiles, digest_of, evaluate

    dtype, notes = _dtype(how)
    sides = list(_sides(trials, how, open_source, dtype, folder, encoding))
    request = [[s.variant.name for s in sides], {s.name: digest_of(s) for s in how.suites}, how.settings.as_dict()]
    out = folder.evaluation(sha256(json.dumps(request).encode()))
    files = EvalFiles(out.with_name(f"{out.name}.partial"), folder.fresh)
    with how.playing() as watch:
        record = evaluate(sides, how.suites, how.settings, files, watch)
    folder.keep(out, record_text(record))
    return out, notes


def _dtype(how: Evaluating) -> tuple[str | None, list[str]]:
    """What is left unquantized is stored as: as asked, else float32 where mlx has no bf16 gather for the baseline."""
    from ..bench.local import device

    if how.dtype is not None or device()["device"] == "gpu":
        return how.dtype, []
    return "float32", [
        "evaluated on the CPU, where mlx gathers unquantized experts in float32 only: in these builds and in the"
        " baseline's everything unquantized is float32"
    ]


def _sides(
    trials: Sequence[Trial],
    how: Evaluating,
    open_source: Callable[[], Checkpoint],
    dtype: str | None,
    folder: SweepFolder,
    encoding: EncodedCandidates | None,
) -> Iterator[EvalSide]:
    """The baseline, then the trials, each a build loaded here under the candidate's name."""
    from ..builds.read.build import read_build
    from ..evals.loaded import LoadedModel
    from ..plan.recipe.recipe import load_recipe

    unquantized = Trial(UNQUANTIZED, load_recipe("none"))
    if how.baseline is not None:
        yield how.baseline
    for trial in trials if how.baseline is not None else (unquantized, *trials):
        out = folder.build(trial.name)
        with how.writing() as watch:
            _convert(trial, open_source, dtype, out, watch, how.calibration, encoding)
        yield LoadedModel(read_build(out), trial.name)


def _convert(
    trial: Trial,
    open_source: Callable[[], Checkpoint],
    dtype: str | None,
    out: Path,
    watch: Watch,
    calibration: Path | None,
    encoding: EncodedCandidates | None,
) -> None:
    from ..builds.methods import needs_columns
    from ..builds.write.convert import ConvertOptions, convert
    from ..calibrate.record import read_calibration
    from ..layout.layout import read_layout
    from ..plan.plan import make_plan

    disk.make_folder(out.parent)
    source = open_source()
    layout, options = read_layout(source, dtype=dtype), ConvertOptions(dtype=dtype, audit=False, reuse=True)
    plan = make_plan(layout, trial.recipe, source)
    if encoding is not None and encoding.wants(plan):
        encoder = encoding.for_build(open_source(), layout, plan, dtype=dtype)
        convert(source, layout, plan, out, options, watch, encoder=encoder)
        return
    columns = read_calibration(calibration, source, layout.modules) if calibration and needs_columns(plan) else None
    convert(source, layout, plan, out, options, watch, columns=columns)


def _request(
    source: Checkpoint,
    trials: Sequence[Trial],
    question: Question,
    options: CompareOptions,
    calibration: Calibration | None,
    encoding: EncodedCandidates | None,
) -> dict[str, Any]:
    """All that a comparison's record depends on, but the machine and its software, which the record names."""
    data = question.data
    is_file = not isinstance(data, str) and data.is_file()
    return {
        "source": source_signature(source),
        "candidates": {t.name: t.recipe.sha256 for t in trials},
        "data": sha256(disk.read_regular(Path(data))) if is_file else str(data),
        "question": {
            "margin": question.margin,
            "confidence": question.confidence,
            "second_half": question.second_half,
            "max_tokens": question.max_tokens,
        },
        "options": options.that_change_scores(),
        **({"calibration": sha256(disk.read_regular(calibration.path))} if calibration else {}),
        **({"encoding": dict(encoding.signature)} if encoding else {}),
    }
