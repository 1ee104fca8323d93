"""`mlxquant eval`: the same prompts through a baseline and its candidates, and what differs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk import files as disk
from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from ..words.secrets import redact, secret_from
from .bars import progress_bar
from .options import check_forms, csv_option, in_form, json_option, output_option
from .printing import echo

if TYPE_CHECKING:
    from ..evals.items import Suite
    from ..evals.run import EvalSettings
    from ..evals.sides import EvalSide


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """The command line of `eval`."""

    baseline: str
    candidates: tuple[str, ...]
    baseline_model: str | None
    candidate_models: tuple[str, ...]
    baseline_build: str | None
    candidate_builds: tuple[str, ...]
    baseline_key_env: str | None
    candidate_key_env: str | None
    suites: tuple[str, ...]
    calls: str
    tasks: int
    first_seed: int | None
    trials: int
    temperature: float
    top_p: float | None
    seed: int
    max_tokens: int | None
    draft: bool
    chat_template_args: str | None
    timeout: float
    retries: int
    confidence: float
    trace: Path | None
    trace_content: bool
    fresh: bool
    as_json: bool
    as_csv: bool
    output: Path | None


@click.command()
@click.option("--baseline", metavar="URL|BUILD", required=True, help="What to compare with: a server, or a folder.")
@click.option("--candidate", "candidates", metavar="URL|BUILD", required=True, multiple=True,
              help="What to judge; again for several.")  # fmt: skip
@click.option("--baseline-model", metavar="NAME", help="The model's name on the server, if it lists several.")
@click.option("--candidate-model", "candidate_models", metavar="NAME", multiple=True,
              help="The same for candidates, one for each that is a server.")  # fmt: skip
@click.option("--baseline-build", metavar="FOLDER", help="The build that the server serves, to name its recipe.")
@click.option(
    "--candidate-build",
    "candidate_builds",
    metavar="FOLDER",
    multiple=True,
    help="The same for candidates, one for each.",
)
@click.option("--baseline-key-env", metavar="VAR", help="The environment variable with the server's key.")
@click.option("--candidate-key-env", metavar="VAR", help="The same for candidates.")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME|FILE",
    help="tool-loop, tool-loop-deep, contracts, one kind of those, or a file; again for several.  [tool-loop]",
)
@click.option("--calls", default="5,10,20", show_default=True, metavar="N,…", help="Lengths of loops, in tool calls.")
@click.option("--tasks", type=int, default=10, show_default=True, help="Loops of each length.")
@click.option("--first-seed", type=int, help="Where the seeds of loops begin.  [1000000]")
@click.option("--trials", type=int, default=1, show_default=True, help="Times that each item is run.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="Sampling temperature; 0 is greedy.")
@click.option("--top-p", type=float, help="Sample from the tokens that make up this share of probability.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of sampling (plus the trial's number) and of the order.",
)
@click.option("--max-tokens", type=int, help="Tokens of one answer at most.  [each suite's own]")
@click.option("--draft", is_flag=True,
              help="Let builds read expected answers along: the same answers, loops in less time.")  # fmt: skip
@click.option("--chat-template-args", metavar="JSON", help="""Such as '{"enable_thinking": false}'.""")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for a server's whole answer.")
@click.option("--retries", type=int, default=3, show_default=True, help="Times to ask again after transport errors.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Confidence level of every interval.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add a line of JSON for every request, as OpenTelemetry names its fields, to a new file or an earlier trace.",
)
@click.option("--trace-content", is_flag=True, help="Write prompts and answers into the trace too.")
@click.option("--fresh", is_flag=True, help="Discard what an interrupted run left in FILE.partial.")
@json_option
@csv_option("measurement")
@output_option("Write the record there too, which must not exist; the run can then be interrupted.")
def command(**options: Any) -> None:
    """Judge candidates against a baseline: agent loops at depth, contracts, serving figures.

    Both sides get the same prompts in turn: OpenAI-compatible servers, or builds loaded here. A server that cannot
    be reached is no failure of the model. Run the same command again to go on after an interruption.

    \b
    mlxquant eval --baseline bf16 --candidate build-4bit --calls 5,20,50 -o eval.json
    mlxquant eval --baseline http://127.0.0.1:8080/v1 --candidate http://127.0.0.1:8081/v1 \\
        --candidate-build build-4bit --tasks 50 --trace requests.jsonl -o eval.json
    """
    from ..evals.identity import answers_as, same_sides
    from ..evals.run import EvalFiles, evaluate
    from ..records.files import record_text
    from ..report.eval import eval_text

    arguments = EvalArguments(**options)
    check_forms(arguments)
    output = arguments.output
    _check_files(arguments)
    settings, suites = _settings(arguments), _suites(arguments)
    files = EvalFiles(_partial(output), arguments.fresh, arguments.trace, arguments.trace_content)
    sides = _sides(arguments)
    if sys.stderr.isatty():  # who watches may stop here; all others read it at the end
        _warn(same_sides(sides))
    with progress_bar("trial") as watch:
        record = evaluate(sides, suites, settings, files, watch)
    _check_measured(record)
    _warn([*same_sides(sides), *answers_as(record)])
    if output is not None:
        _publish(output, record_text(record))
    echo(in_form(record, lambda: eval_text(record), arguments))


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        echo(f"mlxquant: {redact(text)}", err=True)


def _settings(arguments: EvalArguments) -> EvalSettings:
    from ..evals.asking import Sampling
    from ..evals.run import EvalSettings
    from ..words.strict_json import read_json

    template = None
    if arguments.chat_template_args:
        try:
            template = read_json(arguments.chat_template_args)
        except ValueError:
            template = None
        if not isinstance(template, dict):
            raise UsageError(f"--chat-template-args {arguments.chat_template_args[:80]!r}: a JSON object expected")
    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.seed, template, arguments.draft)
    return EvalSettings(sampling, arguments.trials, arguments.retries, confidence=arguments.confidence)


def _suites(arguments: EvalArguments) -> list[Suite]:
    from ..evals.suites.catalog import Choice, open_suites
    from .options import parse_numbers

    calls = parse_numbers(arguments.calls, "--calls")
    for name, value in (
        ("--calls", min(calls)),
        ("--tasks", arguments.tasks),
        ("--max-tokens", arguments.max_tokens),
    ):
        if value is not None and not 0 < value < 1 << 31:
            raise UsageError(f"{name}: {str(value)[:24]}: a number above 0 expected, and below 2**31")
    choice = Choice(tuple(sorted(set(calls))), arguments.tasks, arguments.first_seed, arguments.max_tokens)
    return open_suites(arguments.suites or ["tool-loop"], choice)


def _sides(arguments: EvalArguments) -> list[EvalSide]:
    """The baseline and the candidates; names that are equal are numbered apart."""
    from ..evals.opening import EvalTarget, open_sides

    key = secret_from(arguments.candidate_key_env, "--candidate-key-env")
    models, builds = list(arguments.candidate_models), list(arguments.candidate_builds)
    baseline = EvalTarget(
        "baseline", arguments.baseline, arguments.baseline_model, arguments.baseline_build,
        secret_from(arguments.baseline_key_env, "--baseline-key-env"),
    )  # fmt: skip
    targets = [baseline]
    for where in arguments.candidates:
        served = where.startswith(("http://", "https://"))
        model, build = (names.pop(0) if served and names else None for names in (models, builds))
        targets.append(EvalTarget("candidate", where, model, build, key if served else None))
    if models or builds:
        left = "--candidate-model" if models else "--candidate-build"
        raise UsageError(f"{left} {(models or builds)[0]}: more of these than candidates that are servers")
    return open_sides(targets, arguments.timeout)


def _partial(output: Path | None) -> Path | None:
    return output.with_name(output.name + ".partial") if output is not None else None


def _check_files(arguments: EvalArguments) -> None:
    """Refuse files that cannot be written, or must not be, before anything is asked."""
    from ..disk.journal import check_run
    from ..evals.trace import BEGINNING, check_trace

    output, trace = arguments.output, arguments.trace
    outputs = [OutputFile("-o", output)] if output is not None else []
    outputs += [OutputFile("--trace", trace, BEGINNING)] if trace is not None else []
    named = [("--baseline", arguments.baseline), ("--baseline-build", arguments.baseline_build)]
    named += [("--candidate", word) for word in arguments.candidates]
    named += [("--candidate-build", word) for word in arguments.candidate_builds]
    named += [("--suite", word) for word in arguments.suites if Path(word).is_file()]
    partial = [("the unfinished run", path)] if (path := _partial(output)) is not None else []
    check_outputs(outputs, [*((name, word) for name, word in named if word), *partial])
    if path is not None:
        check_run(path)
    if trace is not None:
        check_trace(trace)


def _publish(output: Path, text: str) -> None:
    """Write the record whole, then remove what kept the run."""
    OutputFile("-o", output).write(f"{text}\n")
    partial = _partial(output)
    assert partial is not None
    disk.remove(partial)


def _check_measured(record: dict[str, Any]) -> None:
    """Raise MeasurementError where a candidate has nothing in common with the baseline."""
    from ..errors import MeasurementError

    for candidate in record["candidates"]:
        if not candidate["paired"]:
            first = next(
                (trial["failure"]["message"] for trial in record["trials"] if trial["failure"]), "none was asked"
            )
            raise MeasurementError("unmeasured", f"{candidate['name']}: no item was answered on both sides: {first}")
