"""`mlxquant convert`: from a checkpoint to one build or several, with progress on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError, UsageError
from ..words.units import parse_memory, show_bytes
from . import INTERRUPTED
from .bars import progress_bar
from .calibrating import Asked, check_documents, document_options, encoders_of
from .convert_texts import next_lines, opening_text
from .mlx_lm_words import MlxLmWords, mlx_lm_options, take, without_format
from .options import (
    calibrated,
    calibration_option,
    carried,
    check_calibration,
    dtype_option,
    json_option,
    keep_options,
    output_option,
    override_options,
    refuse_no_vision,
    shipped,
)
from .printing import echo

if TYPE_CHECKING:
    from ..builds.write.convert import Converted, ConvertOptions
    from ..kernels import ColumnWeights, Encoder
    from ..layout.layout import Layout
    from ..plan.plan import Plan
    from ..plan.recipe.recipe import Recipe
    from ..publish.lm_studio import Models
    from ..source.checkpoint import Checkpoint


@click.command()
@click.argument("source", metavar="SOURCE", required=False)
@click.option("-r", "--recipe", "recipes", multiple=True, metavar="RECIPE",
              help="A shipped recipe's name or a .toml file's path, also with changes: gates-8bit:bits=4. Several make"
              " as many builds from one reading, each in OUT/RECIPE.")  # fmt: skip
@override_options
@calibration_option
@document_options
@output_option("The build's folder; must not exist. With several recipes the folder above.", metavar="OUT", name="out")
@click.option(
    "--to",
    "place",
    type=click.Choice(["lmstudio"]),
    help="Place the build in LM Studio's folder of models; OUT, if given, is NAME or PUBLISHER/NAME there.",
)
@dtype_option
@keep_options
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where mlx computes."
)
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers; by default one for each core.")
@click.option("--max-memory", metavar="SIZE", help="Use fewer workers than --jobs if they would need more than this.")
@click.option("--no-audit", is_flag=True, help="Do not sum the quantization error.")
@click.option("--no-hash", is_flag=True, help="Do not take SHA-256 of the files and checksums of the tensors.")
@click.option("--allow-nonfinite", is_flag=True, help="Store NaN, infinity and overflowing groups as mlx does.")
@click.option("--trust-remote-code", is_flag=True,
              help="Copy the source's *.py files into the build. mlxquant runs none of them.")  # fmt: skip
@click.option("--keep-source", is_flag=True, help="Keep all shards of a Hub id in the usual cache, not only a few.")
@click.option("--fresh", is_flag=True, help="Throw an unfinished OUT.partial away and start over.")
@mlx_lm_options
@json_option
def command(
    source: str | None,
    recipes: tuple[str, ...],
    out: Path | None,
    place: str | None,
    calibration: Path | None,
    data: str | None,
    propagate: bool | None,
    keep_vision: bool | None,
    keep_mtp: bool,
    provider: str | None,
    keep_source: bool,
    as_json: bool,
    **words: Any,
) -> None:
    """Write the MLX build that a recipe asks for, or one for each of several recipes.

    OUT appears only when it is complete. What an interrupted run has finished stays in OUT.partial; the same
    command goes on from there. Several recipes share one reading, and one download, of the source.

    A Hub id is downloaded while it is converted: shards lie in OUT.partial until what they hold is made, so the disk
    needs room for the builds and a few of them. Shards that the usual cache has are used where they are.

    mlx_lm.convert's own command line is taken too.

    \b
    mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit -o Qwen3.5-122B-8bit
    mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit --to lmstudio
    mlxquant convert ./checkpoint -r gates-8bit -r gates-8bit:bits=4 -o builds
    mlxquant convert ./checkpoint -r gates-4bit --set "role=lm_head:bits=6" -o build
    mlxquant convert ./checkpoint -r gates-4bit --method gptq --data calls.jsonl -o build
    mlxquant convert ./checkpoint -r none --dtype float32 -o reference
    mlxquant convert Qwen/Qwen3.5-122B-A10B@main -r gates-8bit --keep-source -o build
    mlxquant convert --hf-path ./checkpoint --mlx-path build -q --q-bits 8
    """
    own = {name: words.pop(name) for name in _OWN}
    typed = take(words)  # what is left changes the recipe
    typed.check()
    request = _request(typed, source, recipes, out, place, words)
    check_documents(data, calibration, propagate, request.recipes)
    check_calibration(calibration, request.recipes.values())
    from ..layout.layout import read_layout
    from ..plan.plan import make_plan
    from ..source.hub.open import open_source

    options = _options(**own)
    opened = open_source(_begun(request, fresh=options.fresh), weights=True, keep=keep_source)
    unseeing = keep_vision is False
    if keep_vision is None and request.models is not None:
        from ..publish.lm_studio import vision_of

        keep_vision, why = vision_of(opened, provider)
        echo(f"mlxquant: {why}", err=True)
    keep = carried(keep_vision=keep_vision, keep_mtp=keep_mtp)
    layout = read_layout(opened, dtype=options.dtype, keep=keep, provider=provider)
    if unseeing:
        refuse_no_vision(layout)
    plans = {out: make_plan(layout, recipe, opened) for out, recipe in request.recipes.items()}

    documents = Asked(data, calibration, propagate, keep_source)
    encoders = partial(encoders_of, plans, layout, opened, options, documents)
    results = _convert(request, plans, opened, layout, options, calibrated(calibration, layout, opened), encoders)
    _report(request, plans, results, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be made: recipes by OUT; `models` is LM Studio's folder where the builds go there."""

    source: str
    recipes: Mapping[Path, Recipe]
    models: Models | None


def _request(
    typed: MlxLmWords,
    argument: str | None,
    recipes: Sequence[str],
    option: Path | None,
    place: str | None,
    overrides: Mapping[str, Any],
) -> _Request:
    """Put together what the command line says in one form or the other. Raises UsageError, RecipeError."""
    from ..plan.recipe.variation import load_variations, name_of
    from ..source.index import plain_name

    source, out = typed.source(argument), typed.out(option)
    meant = typed.recipe()
    if not recipes and meant is None:
        raise UsageError(f"a recipe is missing: give -r with one of {', '.join(shipped())}, or a .toml file")
    if recipes and typed.quantize:
        raise UsageError(f"-q is the recipe mlx-lm-default: give it or -r {recipes[0]}, not both")
    if out is None and place is None:
        raise click.UsageError("Missing option '-o' / '--output' / '--out'.")
    if note := typed.note():
        echo(f"mlxquant: {note}", err=True)
    words = recipes or [str(meant)]
    if not recipes and not typed.quantize:  # mlx_lm.convert too takes no notice of --q-bits without -q
        overrides = without_format(overrides)
    loaded = load_variations(words, **overrides)
    names = [name_of(word, recipe) for word, recipe in zip(words, loaded, strict=True)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"-r {twice}: is given twice; each build needs a name of its own")
    models = None
    if place is not None:
        from ..publish.lm_studio import build_name, models_folder
        from ..publish.lm_studio import place as place_in

        models = models_folder()
        outs = place_in(models, option, [build_name(_base_name(source), name) for name in names])
    else:
        assert out is not None
        wrong = next((name for name in names if not plain_name(name.replace(":", ""))), None)  # gates-8bit:bits=4
        if len(names) > 1 and wrong is not None:
            raise UsageError(f"-r: {wrong!r}: each recipe's build gets a folder of its name; change `name` in its file")
        outs = [out] if len(names) == 1 else [out / name for name in names]
    return _Request(source, dict(zip(outs, loaded, strict=True)), models)


def _base_name(source: str) -> str:
    """What a source is called by itself: the last part of its path or Hub id, without a revision."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source.partition("@")[0].rpartition("/")[2]


def _convert(
    request: _Request,
    plans: Mapping[Path, Plan],
    opened: Checkpoint,
    layout: Layout,
    options: ConvertOptions,
    columns: ColumnWeights | None,
    encoders: Callable[[], Mapping[Path, Encoder]],
) -> list[Converted]:
    """Say what every build is, and write them all."""
    from ..builds.side_files import read_sides, side_notes
    from ..builds.write.convert import convert_together

    notes = [*opened.notes, *(request.models.notes if request.models else ())]
    trust = options.trust_remote_code
    for plan in plans.values():
        notes += side_notes(opened, read_sides(opened, plan, trust_remote_code=trust), trust_remote_code=trust)
    for note in dict.fromkeys(notes):
        echo(f"mlxquant: {note}", err=True)
    for warning in dict.fromkeys(w for plan in plans.values() for w in plan.warnings):
        echo(f"mlxquant: warning: {warning}", err=True)
    if opened.folder is None and opened.revision is not None:
        size = show_bytes(sum(opened.files.values()))
        echo(f"mlxquant: {opened.name} at commit {opened.revision[:12]}: {size}, downloaded as needed", err=True)
    if len(plans) > 1:
        for out, plan in plans.items():
            echo(f"mlxquant: {_sizes(out, plan)}", err=True)
    try:
        with progress_bar() as watch:
            results = convert_together(
                opened, layout, plans, options, watch, columns=columns, encoders=encoders(),
                opening=lambda opening: echo(f"mlxquant: {opening_text(opening)}", err=True),
            )  # fmt: skip
    except KeyboardInterrupt:
        echo(f"mlxquant: stopped; {_kept_work([*plans])}", err=True)
        sys.exit(INTERRUPTED)
    return results


def _sizes(out: Path, plan: Plan) -> str:
    totals = plan.totals
    return (
        f"{out}: {show_bytes(totals['bytes'])}, {totals['bpw']:.4f} bits per weight,"
        f" {len(plan.protected)} modules protected"
    )


def _report(request: _Request, plans: Mapping[Path, Plan], results: Sequence[Converted], *, as_json: bool) -> None:
    """Print what was made: the manifests, or a line for each build and what to do next."""
    from ..builds.manifest import MANIFEST
    from ..publish.lm_studio import models_folder

    if as_json:
        texts = [(result.out / MANIFEST).read_text().rstrip("\n") for result in results]
        echo(texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]")
        return
    for result in results:
        taken_over = f", {show_bytes(result.resumed_bytes)} taken over" if result.resumed_bytes else ""
        echo(f"{_sizes(result.out, plans[result.out])}; {result.seconds:.1f} s{taken_over}")
    try:
        models = (request.models or models_folder()).folder
    except OutputError:  # a disk that is not connected; nothing was asked of it
        models = Path("~/.lmstudio/models")
    for line in next_lines([result.out for result in results], models, placed=request.models is not None):
        echo(line, err=True)


_OWN = (
    "dtype", "device", "jobs", "max_memory", "no_audit", "no_hash", "allow_nonfinite", "trust_remote_code", "fresh",
)  # fmt: skip


def _options(
    *, jobs: int | None, max_memory: str | None, no_audit: bool, no_hash: bool, **others: Any
) -> ConvertOptions:
    from ..builds.write.convert import ConvertOptions
    from ..kernels.mlx import require_device

    require_device(others["device"])
    return ConvertOptions(
        audit=not no_audit,
        hash=not no_hash,
        threads=jobs or os.cpu_count() or 1,
        max_memory=None if max_memory is None else parse_memory(max_memory),
        **others,
    )


def _begun(request: _Request, *, fresh: bool) -> str:
    """SOURCE, at the commit that unfinished work was begun at if none is asked for: a branch may have moved since."""
    from ..builds.write.partial import Partial
    from ..source.hub.open import unpinned

    repository = unpinned(request.source)
    if fresh or repository is None:
        return request.source
    commit = next((c for out in request.recipes if (c := Partial(out).begun_at(repository))), None)
    if commit is None:
        return request.source
    echo(f"mlxquant: going on at commit {commit[:12]}; --fresh starts over with the newest", err=True)
    return f"{repository}@{commit}"


def _kept_work(outs: Sequence[Path]) -> str:
    """What is left of an interrupted run, in words."""
    from ..builds.write.partial import Partial

    folders = [folder for folder in (Partial(out).folder for out in outs) if folder.exists()]
    if folders:
        return f"what is finished is kept in {', '.join(map(str, folders))}, the same command goes on from there"
    return "nothing was finished, nothing is left behind"
