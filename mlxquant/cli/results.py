"""`mlxquant results`: result files of other harnesses, paired by question and trial; `mlxquant tau2` is the same."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs, record_of
from ..errors import MlxquantError, RecordError, UsageError
from .options import check_forms, csv_option, in_form, json_option, output_option
from .printing import echo

if TYPE_CHECKING:
    from ..results.items import ResultSet
    from ..results.tau2 import Results

TAU2 = "tau2"


@dataclass(frozen=True, kw_only=True)
class ResultsArguments:
    """The command line of `results`."""

    results: tuple[Path, ...]
    names: tuple[str, ...]
    baseline_build: str | None
    candidate_builds: tuple[str, ...]
    cluster: str | None
    slices: tuple[str, ...]
    drop: tuple[str, ...]
    confidence: float
    as_json: bool
    as_csv: bool
    output: Path | None


@click.command()
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="Name of a run in the tables; once for each, in order."
)
@click.option("--baseline-build", metavar="FOLDER", help="The build that the first run measured, to name its recipe.")
@click.option("--candidate-build", "candidate_builds", metavar="FOLDER", multiple=True,
              help="The same for the later runs, one for each.")  # fmt: skip
@click.option("--cluster", metavar="FIELD", help="Field of an item's metadata that names what several items share.")
@click.option("--slice", "slices", metavar="FIELD", multiple=True, help="Field of an item's metadata to slice by.")
@click.option(
    "--drop",
    multiple=True,
    metavar="REASON",
    help="τ²: also leave out simulations that ended this way, such as context_window_exceeded.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    default=0.95,
    show_default=True,
    help="Confidence level of every interval.",
)
@json_option
@csv_option("measurement")
@output_option("Write the record here too; an earlier one is replaced, any other file is not.")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Compare result files of other harnesses: scores, slices and trials, paired, each with its interval.

    RESULTS is a file or folder of lm-evaluation-harness (samples_*.jsonl), inspect_ai (.eval, .json), BFCL v4 (score/
    and result/), EvalPlus (eval_results.json), oMLX (an export), τ²-bench or τ-bench; .gz too. What wrote it is seen in
    the file. Every later run is compared with the first, paired by question and trial.

    \b
    mlxquant results base/samples_gsm8k.jsonl 4bit/samples_gsm8k.jsonl
    mlxquant results logs/base logs/4bit --cluster passage --candidate-build build-4bit -o results.json
    mlxquant results base/results.json agentic/results.json --name base --name agentic
    """
    arguments = ResultsArguments(**options)
    check_forms(arguments)
    _check(arguments)
    if _are_tau2(arguments.results, always=context.info_name == TAU2):
        _tau2(arguments)
    else:
        _results(arguments)


def _check(arguments: ResultsArguments) -> None:
    names, later = arguments.names, len(arguments.results) - 1
    if len(set(names)) < len(names):
        raise UsageError("--name: two RESULTS of one name; give each its own")
    if len(arguments.candidate_builds) > max(later, 1):
        raise UsageError(f"--candidate-build {arguments.candidate_builds[-1]}: more of these than later RESULTS")
    if arguments.output is not None:
        named = [("RESULTS", path) for path in arguments.results if path.is_file()]
        check_outputs([_output(arguments.output)], named)


def _output(path: Path) -> OutputFile:
    return OutputFile("-o", path, record_of("(?:results|tau2)"))


def _are_tau2(paths: Sequence[Path], *, always: bool) -> bool:
    """Whether the files are τ²-bench's. Raises UsageError where some are and some are not."""
    from ..results.tau2 import recognises

    mine = [path for path in paths if recognises(path)]
    if always and len(mine) == len(paths):
        return True
    if not mine:
        return always and not any(_is_known(path) for path in paths)
    if len(mine) < len(paths) and (others := [path for path in paths if path not in mine and _is_known(path)]):
        raise UsageError(f"{others[0]}: not of τ²-bench, as {mine[0]} is; compare results of one harness")
    return True


def _is_known(path: Path) -> bool:
    from ..results.reading import recognises

    return recognises(path)


def _write(arguments: ResultsArguments, record: Mapping[str, Any], text: str) -> None:
    from ..records.files import record_text

    if arguments.output is not None:
        _output(arguments.output).write(f"{record_text(record)}\n")
    echo(in_form(record, lambda: text, arguments))


def _builds(arguments: ResultsArguments, runs: int) -> list[Mapping[str, Any] | None]:
    """What each run's build is, as far as it is named; of a single run, either option names it."""
    named = [arguments.baseline_build, *arguments.candidate_builds]
    if runs == 1:
        named = [arguments.baseline_build or next(iter(arguments.candidate_builds), None)]
    if not any(named):
        return []
    from ..builds.facts import describe_build
    from ..builds.read.build import read_build

    builds = [read_build(folder) if folder else None for folder in named]
    return [None if build is None else {**describe_build(build), "build": build.name} for build in builds]


# --- harnesses that share one record ---


def _results(arguments: ResultsArguments) -> None:
    from ..report.results import results_text
    from ..results.reader import Fields
    from ..results.reading import read_result_sets
    from ..results.record import make_results_record

    if arguments.drop:
        raise UsageError("--drop is for τ²-bench's simulations")
    fields = Fields(arguments.cluster, arguments.slices)
    sets = [each for path in arguments.results for each in read_result_sets(path, fields)]
    builds = _builds(arguments, len(sets))
    record = make_results_record(_named(sets, arguments.names), confidence=arguments.confidence, builds=builds)
    _write(arguments, record, results_text(record))


def _named(sets: Sequence[ResultSet], names: Sequence[str]) -> list[ResultSet]:
    if names and len(names) != len(sets):
        runs = "".join(f"; run {i + 1} is {each.name}" for i, each in enumerate(sets[:4]))
        raise UsageError(f"--name is given {len(names)} times for {len(sets)} runs{runs}; give one for each, or none")
    return [replace(each, name=names[i] if names else each.name) for i, each in enumerate(sets)]


# --- τ²-bench ---


def _tau2(arguments: ResultsArguments) -> None:
    from ..report.tau2 import tau2_text
    from ..results.tau2 import make_record, read_results

    results, names = arguments.results, arguments.names
    if arguments.cluster or arguments.slices:
        raise UsageError("--cluster and --slice are for other harnesses; τ²-bench's figures are clustered by task")
    if names and len(names) != len(results):
        raise UsageError(f"--name is given {len(names)} times for {len(results)} RESULTS; give one for each, or none")
    read, failed = [], list[MlxquantError]()
    for number, path in enumerate(results):
        try:
            read.append(read_results(path, names[number] if names else None))
        except RecordError as error:
            if number == 0 or len(results) == 1:
                raise
            failed.append(error)
    dropped = {"infrastructure_error", *arguments.drop}
    builds = _builds(arguments, len(read))
    record = make_record(_told_apart(read), dropped=dropped, confidence=arguments.confidence, builds=builds)
    _write(arguments, record, tau2_text(record))
    for problem in failed:
        echo(f"mlxquant: left out: {problem}", err=True)
    if failed:
        sys.exit(RecordError.exit_code)


def _told_apart(read: list[Results]) -> list[Results]:
    """Number the names that stand twice: two runs called results.json in folders of one name."""
    seen: dict[str, int] = {}
    named = []
    for results in read:
        seen[results.name] = seen.get(results.name, 0) + 1
        again = seen[results.name]
        named.append(results if again == 1 else replace(results, name=f"{results.name} ({again})"))
    return named
