"""Documents that recipes are encoded on: which need them, where they come from, and the encoders they go through."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from ..errors import UsageError
from ..words.formats import BY_LAYER, DISTILL, GPTQ, IMATRIX
from ..words.progress import Progress, Watch
from ..words.text import counted
from ..words.units import parse_memory, show_bytes
from .bars import pass_bar
from .convert_texts import time_text
from .options import _Function
from .printing import echo

if TYPE_CHECKING:
    from ..builds.write.convert import ConvertOptions
    from ..calibrate.candidates import EncodedCandidates
    from ..calibrate.compensating import Compensating, Documents
    from ..calibrate.room import Room
    from ..layout.layout import Layout
    from ..plan.plan import Plan
    from ..plan.recipe.recipe import Recipe
    from ..source.checkpoint import Checkpoint

BUILTIN = "builtin"


def document_options(function: _Function) -> _Function:
    """Add where documents come from, `data`, and how they go through the layers, `propagate`."""
    options = (
        click.option(
            "--data",
            metavar="FILE",
            help="Texts that the methods imatrix, gptq and distill measure a layer's inputs on: JSONL, or builtin,"
            " which is the default.",
        ),
        click.option(
            "--propagate/--no-propagate",
            default=None,
            help="With gptq, send the texts on through each layer as encoded, or through the source's, the default.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def pass_document_options(function: _Function) -> _Function:
    """The same for a pass that judges: `calibration_data`, `propagate`, and `max_memory` of what encodes."""
    options = (
        click.option(
            "--calibration-data",
            metavar="FILE",
            help="Other texts, that the methods imatrix and gptq measure a layer's inputs on: JSONL, or builtin, which"
            " is the default.",
        ),
        click.option(
            "--propagate/--no-propagate",
            default=None,
            help="With gptq, send these texts on through each layer as encoded, or through the source's, the default.",
        ),
        click.option(
            "--max-memory",
            metavar="SIZE",
            help="With gptq, take a layer's inputs in parts if they would need more than this.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


class PassDocuments(Protocol):
    """What a command line that judges says of documents that recipes are encoded on."""

    @property
    def calibration(self) -> Path | None:
        """A calibration file."""

    @property
    def calibration_data(self) -> str | None:
        """The documents."""

    @property
    def propagate(self) -> bool | None:
        """Whether they go on through encoded layers."""

    @property
    def max_memory(self) -> str | None:
        """What encoding may take."""

    @property
    def allow_nonfinite(self) -> bool:
        """Whether weights may be NaN or infinite."""


def check_pass_documents(asked: PassDocuments, recipes: Sequence[Recipe]) -> bool:
    """Whether a recipe is encoded on documents. Raises UsageError for what was typed and would change nothing."""
    from ..calibrate.candidates import needs_data

    wanting = [recipe for recipe in recipes if needs_data(recipe, has_columns=asked.calibration is not None)]
    refused_later = any(DISTILL in recipe.methods for recipe in recipes)  # the pass says what to do in its place
    for option, value in (("--calibration-data", asked.calibration_data), ("--max-memory", asked.max_memory)):
        if value is not None and not (wanting or refused_later):
            raise UsageError(
                f"{option} {value}: no recipe here is encoded on texts; add method={GPTQ} to one, or leave it out"
            )
    if asked.propagate is not None and not any(GPTQ in recipe.methods for recipe in recipes):
        raise UsageError(f"--propagate: no recipe here has the method {GPTQ}; add it to one, or leave --propagate out")
    if asked.max_memory is not None:
        parse_memory(asked.max_memory)
    return bool(wanting)


def convert_words(asked: PassDocuments, changes: Sequence[str]) -> list[str]:
    """What `convert` is told of documents to write the build that a pass judged, of a recipe with these `changes`."""
    methods = {method for method in (GPTQ, IMATRIX) if any(method in change for change in changes)}
    if not methods:  # shipped recipes have none of these by themselves
        return []
    if GPTQ not in methods and asked.calibration is not None:
        return ["--calibration", str(asked.calibration)]
    data = [] if asked.calibration_data is None else ["--data", asked.calibration_data]
    return [*data, *(["--propagate"] if asked.propagate and GPTQ in methods else [])]


def candidates_encoding(asked: PassDocuments, opened: Checkpoint, *, speaks: bool = True) -> EncodedCandidates:
    """What encodes the recipes of a pass that need documents; says on stderr what it takes, if it `speaks`."""
    from ..calibrate.candidates import EncodedCandidates
    from ..calibrate.compensating import PROPAGATE

    def say(text: str) -> None:
        if speaks:
            echo(text, err=True)

    documents = _documents(opened, asked.calibration_data, "--calibration-data", say)
    return EncodedCandidates(
        documents,
        threads=os.cpu_count() or 1,
        propagate=PROPAGATE if asked.propagate is None else asked.propagate,
        has_columns=asked.calibration is not None,
        allow_nonfinite=asked.allow_nonfinite,
        max_memory=None if asked.max_memory is None else parse_memory(asked.max_memory),
        reopen=lambda: reopened(opened),
        tell=lambda room: say(f"mlxquant: encoding within the pass, {within_text(room, documents)}"),
    )


def reopened(source: Checkpoint, *, keep: bool = False) -> Checkpoint:
    """A source opened once more, for a pass that reads it by itself; `keep` is as of `open_source`."""
    from ..source.hub.open import open_source

    name = str(source.folder) if source.folder is not None else f"{source.name}@{source.revision}"
    return open_source(name, weights=True, keep=keep)


def room_text(room: Room, documents: Documents) -> str:
    """What a pass over documents takes, in words."""
    learning = f", then {show_bytes(room.learning)} to learn it" if room.learning else ""
    return (
        f"{_counted(documents)}: at most {show_bytes(room.total)} of memory, of which {show_bytes(room.layer)} for a"
        f" layer and {show_bytes(room.inputs)} for what enters it{_rounds(room)}{learning}"
    )


def within_text(room: Room, documents: Documents) -> str:
    """The same of a pass that also judges, whose own memory is not counted here."""
    return (
        f"{_counted(documents)}: a layer takes at most {show_bytes(room.layer)} of memory, what enters it"
        f" {show_bytes(room.inputs)}{_rounds(room)}, workers {show_bytes(room.workers)}"
    )


def _counted(documents: Documents) -> str:
    return f"{documents.described['tokens']:,} tokens of {documents.described['count']:,} documents"


def _rounds(room: Room) -> str:
    return f" in {room.rounds} rounds a layer at most" if room.rounds > 1 else ""


def check_documents(
    data: str | None, calibration: Path | None, propagate: bool | None, recipes: Mapping[Path, Recipe]
) -> None:
    """Raise UsageError where what was typed does not fit the recipes' methods."""
    methods = {method for recipe in recipes.values() for method in recipe.methods}
    if data is not None and not methods & {*BY_LAYER, IMATRIX}:
        raise UsageError(
            f"--data {data}: no recipe here needs texts; add --method {IMATRIX}, {GPTQ} or {DISTILL}, or leave it out"
        )
    if data is not None and calibration is not None:
        raise UsageError(f"--calibration {calibration}: --data measures the same; give one of them")
    if calibration is not None and (needing := [method for method in BY_LAYER if method in methods]):
        raise UsageError(
            f"--calibration {calibration}: has mean squares only, and the method {needing[0]} needs the documents"
            " themselves; give --data FILE instead"
        )
    if propagate is not None and DISTILL in methods:
        raise UsageError(f"--propagate: the method {DISTILL} sends the texts both ways; leave it out")
    if propagate is not None and GPTQ not in methods:
        raise UsageError(f"--propagate: no recipe here has the method {GPTQ}; add --method {GPTQ}, or leave it out")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of documents; `keep_source` is for what the pass downloads."""

    data: str | None
    calibration: Path | None
    propagate: bool | None
    keep_source: bool

    def wants(self, plan: Plan) -> bool:
        """Whether a plan's modules are encoded on documents that no calibration file stands for."""
        methods = {m.decision.method for m in plan.modules if m.format}
        return not methods.isdisjoint(BY_LAYER) or (IMATRIX in methods and self.calibration is None)


def encoders_of(
    plans: Mapping[Path, Plan], layout: Layout, opened: Checkpoint, options: ConvertOptions, asked: Asked
) -> dict[Path, Compensating]:
    """The encoders of plans that need documents, by OUT; says on stderr what they take.

    The source is opened anew for each, whose pass reads it by itself.
    """
    wanting = {out: plan for out, plan in plans.items() if asked.wants(plan)}
    if not wanting:
        return {}
    from ..calibrate.compensating import PROPAGATE, Compensating

    documents, propagate = _documents(opened, asked.data, "--data", partial(echo, err=True)), asked.propagate
    encoders = {}
    for out, plan in wanting.items():
        encoders[out] = Compensating(
            reopened(opened, keep=asked.keep_source), layout, plan, documents,
            propagate=PROPAGATE if propagate is None else propagate, threads=options.threads, dtype=options.dtype,
            allow_nonfinite=options.allow_nonfinite, max_memory=options.max_memory, fresh=options.fresh,
            watching=_watching, tell=_tell,
        )  # fmt: skip
        echo(f"mlxquant: one pass over the layers first, {room_text(encoders[out].room, documents)}", err=True)
    return encoders


def _tell(seconds: float, layers: int) -> None:
    """Say how long learning takes, as soon as a step tells."""
    from ..calibrate.learning import STEPS

    echo(
        f"mlxquant: learning takes {seconds:.2g} s a step, {STEPS} steps a layer: {time_text(layers * STEPS * seconds)}"
        f" for {counted(layers, 'layer')}",
        err=True,
    )


def _documents(source: Checkpoint, data: str | None, option: str, say: Callable[[str], None]) -> Documents:
    from ..calibrate.compensating import Documents
    from ..divergence.texts.documents import read_documents
    from ..divergence.texts.tokens import open_tokenizer

    if data is None:
        say(f"mlxquant: no {option}: the built-in texts are calibrated on; your own would fit your use better")
    read = read_documents(data or BUILTIN, open_tokenizer(source))
    return Documents(read.documents, read.described(Path(data or BUILTIN).name), option)


@contextmanager
def _watching() -> Iterator[Watch]:
    """Show the steps of the pass; say how long it takes as soon as a layer tells."""
    with pass_bar() as watch:
        spoken = False

        def watched(progress: Progress) -> None:
            nonlocal spoken
            watch(progress)
            left = progress.total - progress.done
            if not spoken and progress.seconds is not None and progress.done > 1:
                spoken = True
                echo(
                    f"mlxquant: {progress.item} took {progress.seconds:.1f} s, {left} steps are left:"
                    f" {time_text(left * progress.seconds)}",
                    err=True,
                )

        yield watched
