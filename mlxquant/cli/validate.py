"""`mlxquant validate`: the gate. Records against tolerances that were written before."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..disk.outputs import OutputFile, check_outputs, record_of
from ..errors import UsageError
from . import FAILED, OPEN
from .options import check_forms, csv_option, in_form, json_option, output_option
from .printing import echo

_PATH = click.Path(path_type=Path)
_DEFAULT = Path("tolerances.toml")


@dataclass(frozen=True, kw_only=True)
class ValidateArguments:
    """The command line of `validate`."""

    records: tuple[Path, ...]
    tolerances: Path | None
    candidates: tuple[str, ...]
    baseline_at: str | None
    mixed_machines: bool
    allow_same: bool
    init: bool
    kinds: str | None
    earlier: tuple[Path, ...]
    metrics: bool
    since: Path | None
    as_json: bool
    as_csv: bool
    output: Path | None
    markdown: Path | None
    junit: Path | None


@click.command()
@click.argument("records", metavar="[RECORD]...", nargs=-1, type=_PATH)
@click.option("-t", "--tolerances", metavar="FILE", type=_PATH, help="The TOML file to judge by.")
@click.option(
    "--candidate", "candidates", multiple=True, metavar="NAME", help="Candidate to judge, if the records have several."
)
@click.option("--baseline-at", metavar="WHERE", help="Where the baseline is, to roll back to: a path, URL or revision.")
@click.option("--mixed-machines", is_flag=True, help="Judge records of different machines together, with a warning.")
@click.option("--allow-same", is_flag=True, help="Judge a candidate that is its own baseline: a noise floor run.")
@click.option("--init", is_flag=True, help="Write a commented tolerance file (RECORD: its name), and judge nothing.")
@click.option("--for", "kinds", metavar="KIND,…",
              help="With --init: limits for what these measure: compare, eval, bench, results,"
                   " tau2, rollout.  [compare]")  # fmt: skip
@click.option("--from", "earlier", multiple=True, type=_PATH, metavar="RECORD",
              help="With --init: use the slices, depths and tests of this record, and its kind.")  # fmt: skip
@click.option("--metrics", is_flag=True, help="List the figures that a tolerance may name.")
@click.option("--since", metavar="MANIFEST", type=_PATH,
              help="List what to measure again since this build was made, or since these RECORDs.")  # fmt: skip
@json_option
@csv_option("check")
@output_option("Write the record here too; an earlier one is replaced, any other file is not.")
@click.option(
    "--markdown",
    "--md",
    metavar="FILE",
    type=_PATH,
    help="Write the verdict as Markdown, for a pull request; replaces an earlier one only.",
)
@click.option(
    "--junit", metavar="FILE", type=_PATH, help="Write the verdict as JUnit XML, for CI; replaces an earlier one only."
)
def command(**options: Any) -> None:
    """Judge a build by its records: within the tolerances, outside, or not settled.

    RECORD is what compare, eval, results, rollout, bench, plan or audit wrote, all of one build, source and machine.
    PASS needs every interval within its tolerance. Exit code 0 for PASS, 1 for FAIL, 4 for what is not settled:
    INCONCLUSIVE, TOO FEW or MISSING, and no FAIL.

    \b
    mlxquant validate --init tolerances.toml --for compare,eval
    mlxquant validate compare.json eval.json bench.json -t tolerances.toml
    mlxquant validate eval.json -t tolerances.toml --markdown verdict.md --junit verdict.xml
    mlxquant validate --since build eval.json -t tolerances.toml
    """
    arguments = ValidateArguments(**options)
    check_forms(arguments)
    if arguments.init + arguments.metrics + (arguments.since is not None) > 1:
        raise UsageError("--init, --metrics and --since exclude each other; give one")
    if (arguments.kinds is not None or arguments.earlier) and not arguments.init:
        raise UsageError("--for and --from go with --init, which writes a tolerance file")
    if arguments.as_csv and arguments.since is not None:
        raise UsageError("--csv is of a verdict; --since has --json")
    if arguments.init:
        _init(arguments)
    elif arguments.metrics:
        _list_metrics()
    elif arguments.since is not None:
        _since(arguments.since, arguments)
    elif arguments.tolerances is None:
        raise UsageError(f"no tolerances: give -t FILE; mlxquant validate --init {_DEFAULT} writes one")
    else:
        _judge(arguments.tolerances, arguments)


def _judge(tolerances: Path, arguments: ValidateArguments) -> None:
    from ..records.files import record_text
    from ..report.verdict import verdict_text
    from ..report.verdict_exports import JUNIT_BEGINNING, MARKDOWN_BEGINNING, verdict_junit, verdict_markdown
    from ..validate import read_evidence, validate

    outputs = {
        option: OutputFile(option, path, earlier)
        for option, path, earlier in (
            ("-o", arguments.output, record_of("validate")),
            ("--markdown", arguments.markdown, MARKDOWN_BEGINNING),
            ("--junit", arguments.junit, JUNIT_BEGINNING),
        )
        if path is not None
    }
    inputs = [*(("RECORD", path) for path in arguments.records), ("--tolerances", tolerances)]
    check_outputs(list(outputs.values()), inputs)
    record = validate(
        [read_evidence(path) for path in arguments.records],
        tolerances,
        candidates=arguments.candidates,
        baseline_at=arguments.baseline_at,
        mixed_machines=arguments.mixed_machines,
        allow_same=arguments.allow_same,
    )
    text = record_text(record)
    forms = {"-o": f"{text}\n", "--markdown": verdict_markdown(record), "--junit": verdict_junit(record)}
    for option, output in outputs.items():
        output.write(forms[option])
    echo(in_form(record, lambda: verdict_text(record), arguments))
    if record["verdict"] != "PASS":
        sys.exit(FAILED if record["verdict"] == "FAIL" else OPEN)


def _init(arguments: ValidateArguments) -> None:
    """Write the file; one that is there is somebody's work and stays."""
    from ..validate import read_evidence, template_text

    if len(arguments.records) > 1:
        raise UsageError("--init writes one file; give one name, and records by --from")
    path = arguments.records[0] if arguments.records else _DEFAULT
    output = OutputFile("--init", path)
    check_outputs([output], [("--from", record) for record in arguments.earlier])
    records = [read_evidence(record) for record in arguments.earlier]
    kinds = [] if arguments.kinds is None else [kind.strip() for kind in arguments.kinds.split(",")]
    kinds = kinds or list(dict.fromkeys(record.kind for record in records)) or ["compare"]
    output.write(template_text(kinds, records))
    echo(
        f"{path}: written, with limits for {', '.join(kinds)}; set its numbers before you measure, and keep it under"
        " version control",
        err=True,
    )


def _list_metrics() -> None:
    from ..records.metrics import METRICS

    for metric in METRICS:
        name = metric.shown or metric.name
        echo(f"{name:<29} {metric.meaning}; {metric.best} ({metric.family})")


def _since(manifest: Path, arguments: ValidateArguments) -> None:
    from ..records.files import record_text
    from ..report.load import since_text
    from ..validate.since import since

    records, tolerances = arguments.records, arguments.tolerances
    written = None if arguments.output is None else OutputFile("-o", arguments.output, record_of("since"))
    if written is not None:
        rules = [("--tolerances", tolerances)] if tolerances is not None else []
        check_outputs([written], [("--since", manifest), *(("RECORD", path) for path in records), *rules])
    record = since(manifest, records, tolerances)
    text = record_text(record)
    if written is not None:
        written.write(f"{text}\n")
    echo(text if arguments.as_json else since_text(record))
    if record["again"]:
        sys.exit(FAILED)
