"""What a person types as A or B of `diff`: a build's folder, a plan or audit record, or a recipe for a source.

A path that exists wins; a name that is none is a shipped recipe's. Every side comes out as a record, so that any
two of them can be compared. Records alone are read without mlx; it is imported where a build or a recipe is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordError, UsageError
from ..plan.recipe.files import available
from ..plan.recipe.variation import load_variation, name_of, split_variation
from ..records.diff import check_side
from ..records.files import read_record
from ..records.loading import known_as
from ..source.checkpoint import Checkpoint
from ..words.text import nearest

if TYPE_CHECKING:
    from ..builds.read.build import Build
    from ..layout.layout import Layout


@dataclass(frozen=True)
class DiffSide:
    """One side of a comparison: its name, its plan or audit record, and the build where there is one."""

    name: str
    record: dict[str, Any]
    build: Build | None = None


@dataclass
class _Source:
    """The checkpoint that recipes are applied to, opened and laid out once, when first asked for."""

    open: Callable[[], Checkpoint]

    @cached_property
    def laid_out(self) -> tuple[Checkpoint, Layout]:
        from ..layout.layout import read_layout

        checkpoint = self.open()
        return checkpoint, read_layout(checkpoint)


def read_sides(a: str, b: str, source: Callable[[], Checkpoint] | None) -> tuple[DiffSide, DiffSide]:
    """Find out what A and B are, and read them; `source` opens what recipes are applied to.

    Raises UsageError where a recipe has no source, a source no recipe, or a word means nothing.
    """
    kinds = [kind_of(text) for text in (a, b)]
    if source is None and "recipe" in kinds:
        which = a if kinds[0] == "recipe" else b
        raise UsageError(f"{which} is a recipe, which needs a model to apply to: give --source SOURCE")
    if source is not None and "recipe" not in kinds:
        raise UsageError("--source goes with recipes; neither A nor B is one")
    opened = _Source(source) if source is not None else None
    left, right = (_read(text, kind, opened) for text, kind in zip((a, b), kinds, strict=True))
    if left.name == right.name:
        left, right = (DiffSide(f"{s.name} ({x})", s.record, s.build) for s, x in ((left, "a"), (right, "b")))
    return left, right


def kind_of(text: str) -> str:
    """Say whether a word is a `build`, a `record` or a `recipe`. Raises UsageError where it is none."""
    path = Path(text).expanduser()
    if path.is_dir():
        return "build"
    recipe = split_variation(text)[0]
    if recipe.endswith(".toml"):
        return "recipe"
    if path.is_file():
        return "record"
    names = [shipped.name for shipped in available()]
    if recipe in names:
        return "recipe"
    raise UsageError(
        f"{text}: no such folder or file, and no shipped recipe{nearest(text, names)}; give a build's folder,"
        f" a plan or audit record (.json), or a recipe: {', '.join(names)}, or a .toml file"
    )


def _read(text: str, kind: str, source: _Source | None) -> DiffSide:
    path = Path(text).expanduser()
    if kind == "build":
        from ..builds.facts import active_bytes
        from ..builds.read.build import read_build
        from .audit import audit_build

        build = read_build(path)
        record = audit_build(build)
        record["totals"]["active_bytes_per_token"] = active_bytes(build)
        return DiffSide(build.name, record, build)
    if kind == "record":
        record = read_record(path)
        if record["schema"].startswith("mlxquant.manifest/"):
            raise RecordError(f"{path}: a build's manifest; give the build's folder instead")
        check_side(record, text)
        return DiffSide(known_as(path), record)
    assert source is not None, "checked by read_sides"
    from ..plan.plan import make_plan

    recipe = load_variation(text)
    checkpoint, layout = source.laid_out
    return DiffSide(name_of(text, recipe), make_plan(layout, recipe, checkpoint).as_dict())
