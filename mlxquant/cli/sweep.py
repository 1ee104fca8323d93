"""`mlxquant sweep`: recipes at fewer and fewer bits, where each exceeds a tolerance, and the smallest inside all."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from ..words.text import counted
from . import FAILED, INTERRUPTED, OPEN
from .bars import pass_bar, progress_bar
from .calibrating import (
    PassDocuments,
    candidates_encoding,
    check_pass_documents,
    convert_words,
    pass_document_options,
)
from .compare import PassArguments
from .options import (
    calibration_option,
    check_calibration,
    check_forms,
    csv_option,
    dtype_option,
    in_form,
    json_option,
    opened_calibration,
    output_option,
    recipe_files,
)
from .printing import echo, warn

if TYPE_CHECKING:
    from ..sweep.folder import SweepFolder
    from ..sweep.run import Evaluating, Trial
    from ..validate import Tolerances

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class SweepArguments(PassArguments):
    """The command line of `sweep`, but for SOURCE."""

    recipes: tuple[str, ...]
    bits: str
    group_sizes: str | None
    sets: tuple[str, ...]
    unaligned: str | None
    tolerances: Path
    earlier: tuple[Path, ...]
    few: int
    baseline: str | None
    suites: tuple[str, ...]
    calls: str
    tasks: int
    mixed_machines: bool
    as_json: bool
    as_csv: bool
    output: Path | None


@click.command()
@click.argument("source", metavar="[SOURCE]", required=False)
@click.option("--recipes", multiple=True, metavar="RECIPE,…", help="Recipes to try at each of --bits; again for more.")
@click.option("--bits", default="8,6,5,4,3,2", show_default=True, metavar="N,…",
              help="For each recipe that does not name its own (gates-8bit:bits=4).")  # fmt: skip
@click.option("--group-size", "group_sizes", metavar="N,…", help="For every recipe; several multiply the candidates.")
@click.option("--set", "sets", multiple=True, metavar="MATCH:ACTION", help="A rule before all others, as in convert.")
@click.option(
    "--unaligned",
    type=click.Choice(["error", "keep"]),
    help="As in convert: what to do where the group size does not divide.",
)
@click.option("--method", help="For every recipe that names none: rtn, mse, imatrix or gptq, as in convert.")
@calibration_option
@pass_document_options
@click.option(
    "-t",
    "--tolerances",
    type=_PATH,
    required=True,
    metavar="FILE",
    help="Tolerance file, as validate --init writes one.",
)
@click.option("--from", "earlier", multiple=True, type=_PATH, metavar="RECORD",
              help="Judge earlier records: compare's, and others of the same candidates.")  # fmt: skip
@click.option("--data", default="builtin", show_default=True, metavar="FILE", help="Texts: JSONL, or the built-in set.")
@click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Cut longer documents to N tokens.")
@click.option("--margin", type=float, metavar="NATS", help="The smallest difference in KL that matters.  [0.001]")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Confidence level of every interval.")
@click.option("--second-half", is_flag=True, help="Score each document's second half only, as llama.cpp does.")
@click.option("--chunk", type=click.IntRange(1), default=2048, show_default=True, help="Tokens at once in a layer.")
@click.option("--compute", type=click.Choice(["float32", "bfloat16", "float16", "served"]), default="float32",
              show_default=True, help="Computing dtype of the pass, or as builds are served.")  # fmt: skip
@dtype_option
@click.option("--allow-nonfinite", is_flag=True, help="Go on with NaN, infinity and overflowing groups.")
@click.option("--eval", "few", type=click.IntRange(0), default=0, metavar="N",
              help="Convert the N best candidates and run eval's suites on them too.")  # fmt: skip
@click.option("--baseline", metavar="URL|BUILD", help="What to evaluate against; by default the source, unquantized.")
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME", help="With --eval: a suite; again for several.  [tool-loop]"
)
@click.option(
    "--calls", default="5,10,20", show_default=True, metavar="N,…", help="With --eval: lengths of loops, in tool calls."
)
@click.option(
    "--tasks", type=click.IntRange(1), default=10, show_default=True, help="With --eval: loops of each length."
)
@click.option("--work", type=_PATH, metavar="FOLDER", help="Keep records and builds there, to resume and to reuse.")
@click.option("--fresh", is_flag=True, help="Throw away what --work holds and start over.")
@click.option("--mixed-machines", is_flag=True, help="Judge records of different machines together, with a warning.")
@json_option
@csv_option("candidate")
@output_option("Write the record there too; must not exist.")
def command(source: str | None, **options: Any) -> None:
    """Find the smallest recipe inside every tolerance, and where each other one exceeds a tolerance.

    Every recipe at every --bits is judged against full precision in one pass over the weights, as `compare` does it,
    then judged against the tolerances, as `validate` does it. PASS alone is inside. Exit code 0 where a recipe is
    recommended, 1 where every one is outside, 4 where none is inside but some are not settled.

    \b
    mlxquant validate --init tolerances.toml
    mlxquant sweep ./checkpoint --recipes gates-8bit,uniform-8bit -t tolerances.toml -o sweep.json
    mlxquant sweep ./checkpoint --recipes gates-8bit --bits 6,5,4 --eval 2 --work work -t tolerances.toml
    mlxquant sweep ./checkpoint --recipes gates-8bit --method mse --bits 4,3,2 -t tolerances.toml
    mlxquant sweep --from compare.json --from eval.json -t tolerances.toml
    mlxquant report sweep.json -o report.html
    """
    arguments = SweepArguments(**options)
    check_forms(arguments)
    earlier = arguments.earlier
    written = None if arguments.output is None else OutputFile("-o", arguments.output)
    if written is not None:
        inputs = [*_inputs(source, arguments), *(("--from", path) for path in earlier)]
        check_outputs([written], inputs, None if earlier else arguments.work)
    if earlier and (source is not None or arguments.recipes or arguments.few):
        raise UsageError("--from judges records; it measures nothing, so give no SOURCE, --recipes or --eval with it")
    record = _judged(arguments) if earlier else _measured(source, arguments)
    if record is None:
        return  # another rank tells
    from ..records.files import record_text
    from ..report.sweep import sweep_text

    text = record_text(record)
    try:
        if written is not None:
            written.write(f"{text}\n")
    finally:  # what took hours is shown also where the disk takes no record
        echo(in_form(record, lambda: sweep_text(record), arguments))
    if record["recommendation"]["name"] is None:
        sys.exit(FAILED if all(c["verdict"] == "FAIL" for c in record["candidates"]) else OPEN)
    name = source or str(record["source"].get("name", "SOURCE"))
    if (words := convert_command(record, name, arguments)) is not None:
        echo(f"Next: {words}", err=True)


def _judged(arguments: SweepArguments) -> dict[str, Any]:
    from ..sweep import sweep

    return sweep(arguments.earlier, arguments.tolerances, mixed_machines=arguments.mixed_machines)


def _measured(source: str | None, arguments: SweepArguments) -> dict[str, Any] | None:
    """Measure in the work folder, or in one that goes away, and judge; None where another rank tells."""
    if source is None:
        raise UsageError("SOURCE is missing: a checkpoint's folder or a Hub id; or --from RECORD")
    from ..stream.ranks import launched
    from ..sweep.folder import SweepFolder
    from ..sweep.run import UNQUANTIZED, load_trials, tolerances_before

    tolerances = tolerances_before(arguments.tolerances, evaluated=arguments.few > 0)
    trials, notes = load_trials(_words(arguments), **_overrides(arguments))
    recipes = [trial.recipe for trial in trials]
    check_calibration(arguments.calibration, recipes)
    on_documents = check_pass_documents(arguments, recipes)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlxquant-sweep-")))
        try:
            folder = SweepFolder(work, arguments.fresh)
            names = [UNQUANTIZED, *(trial.name for trial in trials)] if arguments.few else []
            folder.check(_inputs(source, arguments), names)
            stack.enter_context(folder.claimed(shared=launched()))
            return _swept(source, trials, tolerances, notes, folder, arguments, on_documents=on_documents)
        except KeyboardInterrupt:
            advice = f"the same command goes on from {work}" if arguments.work else "nothing is kept without --work"
            echo(f"mlxquant: stopped; {advice}", err=True)
            sys.exit(INTERRUPTED)


def _inputs(source: str | None, arguments: SweepArguments) -> list[tuple[str, Path]]:
    """What is read, as far as it lies on the disk."""
    from ..sweep import split_words

    named = [("the source", source), ("--data", arguments.data), ("--baseline", arguments.baseline),
             ("--calibration-data", arguments.calibration_data),
             ("--tolerances", arguments.tolerances), ("--calibration", arguments.calibration)]  # fmt: skip
    recipes = recipe_files(word for words in arguments.recipes for word in split_words(words))
    paths = [(name, Path(word)) for name, word in [*named, *recipes] if word and word != "builtin"]
    return [(name, path) for name, path in paths if path.exists()]


def _swept(
    source: str,
    trials: Sequence[Trial],
    tolerances: Tolerances,
    notes: Sequence[str],
    folder: SweepFolder,
    arguments: SweepArguments,
    *,
    on_documents: bool,
) -> dict[str, Any] | None:
    from ..source.hub.open import open_source
    from ..stream.options import CompareOptions
    from ..sweep import sweep
    from ..sweep.run import best_few, compare_all, evaluate_best, needed

    how = _evaluating(arguments) if arguments.few else None
    pass_options = CompareOptions(
        compute=arguments.compute,
        chunk=arguments.chunk,
        dtype=arguments.dtype,
        allow_nonfinite=arguments.allow_nonfinite,
    )
    opened = open_source(source, weights=True)
    encoding = candidates_encoding(arguments, opened) if on_documents else None
    echo(f"mlxquant: {counted(len(trials), 'candidate')} in one pass", err=True)
    with pass_bar() as watch:
        compared = compare_all(
            opened,
            trials,
            arguments.question(),
            needed(pass_options, tolerances),
            folder,
            watch,
            calibration=opened_calibration(arguments.calibration, opened),
            encoding=encoding,
            warn=warn,
        )
    if compared is None:
        return None
    record = sweep([compared], arguments.tolerances, notes=notes)
    if how is None:
        return record
    names = best_few(record, arguments.few)
    if not names:
        unplayed = "nothing was evaluated: every candidate is outside a tolerance already"
        return sweep([compared], arguments.tolerances, notes=[*notes, unplayed])
    echo(f"mlxquant: evaluating {', '.join(names)}", err=True)
    at = source if opened.revision is None or opened.folder else f"{opened.name}@{opened.revision}"  # a branch moves on
    evaluated, remarks = evaluate_best(
        [t for t in trials if t.name in names], how, lambda: open_source(at, weights=True), folder, encoding
    )
    return sweep([compared, evaluated], arguments.tolerances, notes=[*notes, *remarks])


def _evaluating(arguments: SweepArguments) -> Evaluating:
    """How the best few are evaluated, checked before anything is measured."""
    from ..evals.opening import EvalTarget, open_sides
    from ..evals.run import EvalSettings
    from ..evals.store.make import FEWEST_CALLS, MOST_CALLS
    from ..evals.suites.catalog import Choice, open_suites
    from ..sweep.run import Evaluating
    from .options import parse_numbers

    calls = parse_numbers(arguments.calls, "--calls")
    for n in calls:
        if not FEWEST_CALLS <= n <= MOST_CALLS:
            raise UsageError(f"--calls {n}: a tool loop has {FEWEST_CALLS} to {MOST_CALLS} calls")
    choice = Choice(tuple(sorted(set(calls))), arguments.tasks)
    baseline = arguments.baseline
    return Evaluating(
        suites=open_suites(arguments.suites or ["tool-loop"], choice),
        settings=EvalSettings(confidence=arguments.confidence),
        dtype=arguments.dtype,
        baseline=open_sides([EvalTarget("baseline", baseline)], 600.0)[0] if baseline else None,
        writing=progress_bar,
        playing=partial(progress_bar, "trial"),
        calibration=arguments.calibration,
    )


def _words(arguments: SweepArguments) -> list[str]:
    """Every recipe at every bits, in the one word that `compare` knows it by."""
    from ..sweep import split_words, variations

    recipes = [word for words in arguments.recipes for word in split_words(words)]
    return variations(recipes, _numbers(arguments.bits, "--bits"), _group_sizes(arguments))


def _overrides(arguments: SweepArguments) -> dict[str, Any]:
    sizes = _group_sizes(arguments)
    alone = sizes[0] if len(set(sizes)) == 1 else None
    return {
        "group_size": alone, "sets": arguments.sets, "unaligned": arguments.unaligned, "method": arguments.method,
    }  # fmt: skip


def _group_sizes(arguments: SweepArguments) -> tuple[int, ...]:
    return _numbers(arguments.group_sizes, "--group-size") if arguments.group_sizes else ()


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from .options import parse_numbers

    return parse_numbers(text, option)


def convert_command(record: Mapping[str, Any], source: str, documents: PassDocuments) -> str | None:
    """The command that makes the recommended build, on the same documents; None where its recipe is a file.

    Where a recipe's file lies is not recorded.
    """
    from ..plan.recipe.recipe import available

    chosen = next((c for c in record["candidates"] if c["name"] == record["recommendation"]["name"]), None)
    recipe = (chosen or {}).get("recipe")
    if not recipe or recipe["name"] not in {entry.name for entry in available()}:
        return None
    changes = [o if o.startswith("--") else f"--set {shlex.quote(o)}" for o in recipe.get("overrides") or []]
    needed = map(shlex.quote, convert_words(documents, changes))
    return " ".join(["mlxquant convert", shlex.quote(source), "-r", recipe["name"], *changes, *needed, "-o BUILD"])
