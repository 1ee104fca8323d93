"""`mlxquant build`: from a checkpoint and texts to a build with a verdict, as one resumable run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError, UsageError
from ..words.units import parse_memory
from . import FAILED, INTERRUPTED, OPEN
from .allocating import AllocationArguments, allocation_options, options_of, with_budgets
from .bars import pass_bar, progress_bar
from .convert_texts import opening_text
from .options import dtype_option, json_option, output_option, source_argument
from .printing import echo, warn

if TYPE_CHECKING:
    from ..pipeline.documents import Purposes
    from ..pipeline.folder import BuildFolder
    from ..pipeline.forecast import Outline
    from ..pipeline.settings import BuildSettings
    from ..source.checkpoint import Checkpoint

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class BuildArguments(AllocationArguments):
    """The command line of `build`, but for SOURCE."""

    tolerances: Path | None
    jobs: int | None
    max_memory: str | None
    fresh: bool
    as_json: bool
    out: Path


@click.command()
@source_argument
@allocation_options
@click.option("-t", "--tolerances", type=_PATH, metavar="FILE",
              help="Limits of the verdict.  [validate --init's, and no worse than the best other recipe]")  # fmt: skip
@dtype_option
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers of convert; by default one for each core.")
@click.option("--max-memory", metavar="SIZE", help="Let convert use fewer workers than would need more than this.")
@click.option("--fresh", is_flag=True, help="Throw away what OUT.work and OUT.partial hold and start over.")
@json_option
@output_option("The build's folder; must not exist. Records and page are in OUT.work.", metavar="OUT", name="out",
               required=True)  # fmt: skip
def command(source: str, **options: Any) -> None:
    """Make the best build of as many bytes and judge it: the whole story, in one resumable run.

    Calibrate (where the method needs it), allocate, convert, compare with recipes of as many bytes, validate, report:
    each as the command of its name does it, on documents of its own. Killed anywhere, the same command goes on and
    ends with the same bytes. The records are in OUT.work until `mlxquant clean` removes them.

    Exit code 0 for PASS, 1 for FAIL, 4 for what is not settled; OUT is kept whatever the verdict.

    \b
    mlxquant build ./checkpoint --budget 96GB --data calls.jsonl -o build
    mlxquant build ./checkpoint --bpw 4.25 --method gptq --data calls.jsonl -o build
    mlxquant build ./checkpoint --bpw 3.5 --data a.jsonl --judge b.jsonl -o build
    """
    from ..pipeline.folder import BuildFolder

    arguments = BuildArguments(**options)
    word = _one_budget(arguments)
    folder = BuildFolder(arguments.out)
    folder.check(_inputs(source, arguments))
    record = _built(source, word, arguments, folder)
    _show(record, folder, as_json=arguments.as_json)
    if record["verdict"] != "PASS":
        sys.exit(FAILED if record["verdict"] == "FAIL" else OPEN)


def _one_budget(arguments: BuildArguments) -> str:
    words = arguments.words("build")
    if len(words) != 1:
        raise UsageError("build makes one build: give one budget; allocate takes several")
    return words[0]


def _inputs(source: str, arguments: BuildArguments) -> list[tuple[str, Path]]:
    """What is read, as far as it lies on the disk."""
    named = [("the source", source), ("--data", arguments.data), ("--judge", arguments.judge),
             ("--tolerances", arguments.tolerances)]  # fmt: skip
    paths = [(name, Path(value)) for name, value in named if value and value != "builtin"]
    return [(name, path) for name, path in paths if path.exists()]


def _check_name(folder: BuildFolder, source: Checkpoint) -> None:
    """Raise UsageError for an OUT that compare could not tell from what OUT is compared with."""
    from ..plan.recipe.recipe import available
    from ..validate.evidence import NOISE_FLOOR

    name = folder.out.resolve().name
    taken = {
        **{shipped.name: "a shipped recipe" for shipped in available()},
        source.name: "the source", NOISE_FLOOR: "compare's noise floor",
    }  # fmt: skip
    if (called := taken.get(name, taken.get(name.partition(":")[0]) if ":" in name else None)) is not None:
        raise UsageError(
            f"{folder.out}: {called} has this name in the comparison; choose another OUT, such as {name}-build"
        )


def _limits(path: Path | None) -> bytes | None:
    """The user's tolerances, read before anything is measured. Raises ToleranceError."""
    if path is None:
        return None
    from ..disk.files import read_regular
    from ..validate import read_tolerances

    read_tolerances(path)
    return read_regular(path)


def _built(source: str, word: str, arguments: BuildArguments, folder: BuildFolder) -> dict[str, Any]:
    """Read everything, say what it will take, and run the steps."""
    from ..pipeline.documents import read_purposes
    from ..pipeline.forecast import check_room
    from ..pipeline.record import Steps
    from ..pipeline.run import BuildRun
    from ..pipeline.settings import Showing, request_of
    from ..source.hub.open import open_source

    limits = _limits(arguments.tolerances)
    at = _begun(source, folder, fresh=arguments.fresh)
    opened = open_source(at, weights=True, keep=True)
    if opened.folder is None and opened.revision is not None:
        at = f"{opened.name}@{opened.revision}"  # a branch may move on between the steps
    settings, outline = _settings(opened, word, arguments, limits)
    purposes = read_purposes(arguments.data, arguments.judge, calibrates=settings.options.calibrates)
    texts = purposes.texts()
    steps = Steps(folder, request_of(opened, purposes, texts, settings), fresh=arguments.fresh)
    if os.path.lexists(folder.out) and not steps.has("allocate"):
        raise OutputError(f"{folder.out}: exists already; choose another OUT, or remove it first")
    if not steps.has("compare"):
        _check_name(folder, opened)
    expected = steps.record.get("expected")
    if not steps.has("report"):
        expected = _expected(opened, settings, outline, purposes, expected)
        check_room(expected, folder.held_bytes(), folder.out)
    with folder.claimed(fresh=arguments.fresh):
        steps.begin(texts, expected)
        showing = Showing(
            lambda text: echo(f"mlxquant: {text}", err=True), warn, pass_bar, progress_bar,
            lambda opening: echo(f"mlxquant: {opening_text(opening)}", err=True),
        )  # fmt: skip
        run = BuildRun(folder, steps, settings, lambda: open_source(at, weights=True, keep=True), showing)
        try:
            return run.run()
        except KeyboardInterrupt:
            folders = [path for path in (folder.path, folder.partial) if path.exists()]
            echo(
                f"mlxquant: stopped at {run.at}; what is finished is kept in {' and '.join(map(str, folders))}, the"
                " same command goes on from there",
                err=True,
            )
            sys.exit(INTERRUPTED)


def _begun(source: str, folder: BuildFolder, *, fresh: bool) -> str:
    """SOURCE, at the commit that the work was begun at if none is asked for: a branch may have moved since."""
    from ..pipeline.record import commit_of
    from ..source.hub.open import unpinned

    repository = unpinned(source)
    commit = None if fresh or repository is None else commit_of(folder, repository)
    if commit is None:
        return source
    echo(f"mlxquant: going on at commit {commit[:12]}; --fresh starts over with the newest", err=True)
    return f"{repository}@{commit}"


def _settings(
    opened: Checkpoint, word: str, arguments: BuildArguments, limits: bytes | None
) -> tuple[BuildSettings, Callable[[Mapping[str, int]], Outline]]:
    """What is asked for, and what it takes once the tokens of each purpose are known."""
    from ..allocate.run import check_budgets, groups_and_plan, width_of
    from ..builds.write.convert import ConvertOptions
    from ..layout.layout import read_layout
    from ..pipeline.forecast import Outline, free_bytes, missing_bytes
    from ..pipeline.settings import BuildSettings

    asked = options_of(arguments)
    layout = read_layout(opened, dtype=arguments.dtype)
    groups, plan = groups_and_plan(opened, layout, asked)
    options = with_budgets(asked, [word], arguments, plan, layout)
    check_budgets(groups, plan, options)
    convert = ConvertOptions(
        threads=arguments.jobs or os.cpu_count() or 1,
        max_memory=None if arguments.max_memory is None else parse_memory(arguments.max_memory),
        fresh=arguments.fresh,
    )
    settings = BuildSettings(options, arguments.max_tokens, arguments.dtype, limits, convert)
    free, width = free_bytes(arguments.out), width_of(layout)
    return settings, lambda tokens: Outline(
        plan, groups, options, tokens, width, free, missing_bytes(opened, arguments.out)
    )


def _expected(
    opened: Checkpoint, settings: BuildSettings, outline: Callable[[Mapping[str, int]], Outline], purposes: Purposes,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Say what the build will take, as its first run worked it out; gives it for the record."""
    from ..pipeline.documents import ENOUGH
    from ..pipeline.forecast import forecast
    from ..report.build import expected_text
    from ..stream.speed import measure_speeds

    known = outline(purposes.tokens(opened, settings.max_tokens))
    if earlier is None:
        expected = forecast(known, measure_speeds(settings.options.measured_with)).as_dict(purposes.counts())
    else:  # the disk alone is another now
        expected = {**earlier, "download_bytes": known.download, "free_bytes": known.free}
    echo(expected_text(expected), err=True)
    for purpose in purposes.few():
        warn(f"fewer than {ENOUGH} documents to {purpose}: its intervals may not settle anything; give more --data")
    return expected


def _show(record: dict[str, Any], folder: BuildFolder, *, as_json: bool) -> None:
    from ..pipeline.folder import VERDICT
    from ..records.files import read_record, record_text
    from ..report.build import build_text
    from ..report.verdict import verdict_text

    if as_json:
        echo(record_text(record))
        return
    echo(
        f"{verdict_text(read_record(folder.file(VERDICT)))}\n\n{build_text(record, str(folder.out), str(folder.path))}"
    )
