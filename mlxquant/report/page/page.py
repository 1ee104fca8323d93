"""The page itself: sections from records, put into the template with its style and script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ...records.loading import (
    ALLOCATE,
    BENCH,
    COMPARE,
    DIFF,
    EVAL,
    PREDICTIONS,
    RESULTS,
    ROLLOUT,
    SIDES,
    SWEEP,
    TAU2,
    VALIDATE,
    Loaded,
)
from ...records.modules import relative_error
from ...words.text import percent_digits, some
from ...words.units import show_bytes, show_count
from .allocate import allocation
from .bench import prediction, throughput
from .builds import MapSide, Model, by_reason, by_role, figures, find_models
from .candidates import Cast, legend
from .charts import Line, Plot, Tracks, by_layer, mark_path, ranges
from .compare import quality
from .eval import evaluation
from .foretold import foretold
from .harness import harness_runs
from .others import differences, is_unknown, provenance, show_diff, unknown
from .pairs import pair_data
from .precision_map import draw_maps, table_of
from .rollout import rolled_out
from .sweep import swept
from .verdict import agent_runs, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATE, _STYLE, _SCRIPTS = "page.html.jinja", "page.css", ("page.js", "pairs.js")

# How a page begins, by which an earlier one is known.
BEGINNING = rb'(?s)<!doctype html>.{0,2000}<meta name="generator" content="mlxquant '


def make_report(records: Sequence[Loaded], title: str | None = None) -> str:
    """Write the page."""
    from markupsafe import Markup

    from ... import __version__

    diffs = _of(records, DIFF)
    models = find_models(loaded for loaded in records if loaded.schema in SIDES)
    cast = Cast(records, models)
    style, script = _text(_STYLE), "\n".join(map(_text, _SCRIPTS))
    template = _environment().get_template(_TEMPLATE)
    page: str = template.render(
        title=title or _title(models, records, cast),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        candidates=[candidate.number for candidate in cast.all],
        models=[_model(model, diffs, cast) for model in models],
        diffs=[show_diff(loaded.record) for loaded in diffs],
        benches=[throughput(loaded, cast) for loaded in _of(records, BENCH)],
        comparisons=[quality(loaded, i, cast) for i, loaded in enumerate(_of(records, COMPARE), 1)],
        verdicts=[verdict(loaded, cast) for loaded in _of(records, VALIDATE)],
        allocations=[allocation(loaded, i, cast) for i, loaded in enumerate(_of(records, ALLOCATE), 1)],
        sweeps=[swept(loaded, i, cast) for i, loaded in enumerate(_of(records, SWEEP), 1)],
        evaluations=[evaluation(loaded, i, cast) for i, loaded in enumerate(_of(records, EVAL), 1)],
        foretellings=foretold(_of(records, COMPARE), _of(records, EVAL), cast),
        agents=[
            *(agent_runs(loaded) for loaded in _of(records, TAU2)),
            *(harness_runs(loaded) for loaded in _of(records, RESULTS)),
        ],
        rollouts=[rolled_out(loaded) for loaded in _of(records, ROLLOUT)],
        predictions=[prediction(loaded) for loaded in _of(records, *PREDICTIONS)],
        pairs=pair_data(records, models, cast),
        others=list(unknown([loaded for loaded in records if is_unknown(loaded)])),
        provenance=provenance(records),
    )
    # a title from the command line may hold bytes that are no text
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    """Where templates are read, compiled once a process."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": show_bytes, "count": show_count, "error": percent_digits}
    environment.globals |= {"mark_path": mark_path}
    return environment


def _of(records: Sequence[Loaded], *schemas: str) -> list[Loaded]:
    return [loaded for loaded in records if loaded.schema in schemas]


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _title(models: Sequence[Model], records: Sequence[Loaded], cast: Cast) -> str:
    """The models that the records are of; the candidates where none is named; file names where neither is."""
    sources = [
        source["name"] for r in records if isinstance(source := r.record.get("source"), Mapping) and source.get("name")
    ]
    named = [model.title for model in models] or sources or [c.name for c in cast.all] or [r.name for r in records]
    return some(list(dict.fromkeys(map(str, named))))


def _model(model: Model, diffs: Sequence[Loaded], cast: Cast) -> dict[str, Any]:
    roles = by_role(model)
    return {
        "id": f"m{model.number}",
        "title": model.title,
        "facts": model.facts,
        "sides": [
            {"letter": s.letter, "name": s.name, "kind": s.kind, "css": cast.of(s.record).css} for s in model.sides
        ],
        "cards": figures(model),
        "maps": draw_maps(model),
        "diffs": list(differences(model, diffs)),
        "roles": roles,
        "reasons": by_reason(model),
        "measured": any(side["errors"] for line in roles for side in line["sides"]),
        "legend": legend(
            [(f"{s.letter} {s.name}", cast.of(s.record)) for s in model.sides],
            {cast.of(s.record).number for s in model.sides},
        ),
        "charts": list(_error_charts(model, roles, cast)),
        "table": table_of(model),
    }


def _error_charts(model: Model, roles: Sequence[Mapping[str, Any]], cast: Cast) -> Iterator[Tracks | Plot]:
    """A chart of all roles, and one by layer of each role that has errors in several layers."""
    rows = [
        (
            str(line["role"]),
            [x for s, side in zip(model.sides, line["sides"], strict=True) if (x := _line(s, side, cast))],
        )
        for line in roles
    ]
    rows = [(role, lines) for role, lines in rows if lines]
    if not rows:
        return
    words = "; ".join(f"{role}: {', '.join(line.words for line in lines)}" for role, lines in rows)
    yield ranges("by role", f"Relative RMS error by role: {words}", rows)
    points = {role: [_by_layer(side.modules.values(), role) for side in model.sides] for role, _ in rows}
    flat = [error for sides in points.values() for side in sides for _, error in side]
    limits = (min(flat, default=0.0), max(flat, default=0.0))
    for role, sides in points.items():
        if len({layer for side in sides for layer, _ in side}) > 1:
            label = f"Relative RMS error of {role} modules by layer: " + "; ".join(_worst(model, sides))
            series = [(cast.of(side.record), layers) for side, layers in zip(model.sides, sides, strict=True)]
            yield by_layer(f"{role}, by layer", label, series, limits)


def _line(model_side: MapSide, side: Mapping[str, Any], cast: Cast) -> Line | None:
    """Least, pooled and worst error of a role's modules; None without one above zero, which no logarithm has."""
    errors = [e for e in side["errors"] if e > 0]
    if not errors:
        return None
    least, pooled, worst = min(errors), side["error"] or max(errors), max(errors)
    texts = [percent_digits(e) for e in (least, pooled, worst)]
    words = f"{model_side.letter} {texts[1]}, modules from {texts[0]} to {texts[2]}"
    return Line(cast.of(model_side.record), pooled, least, worst, words)


def _by_layer(modules: Any, role: str) -> list[tuple[int, float]]:
    errors = ((m["layer"], relative_error(m)) for m in modules if m["role"] == role and m["layer"] is not None)
    return [(layer, error) for layer, error in errors if error]


def _worst(model: Model, series: Sequence[Sequence[tuple[int, float]]]) -> Iterator[str]:
    for side, points in zip(model.sides, series, strict=True):
        if points:
            low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
            least, most = f"{percent_digits(low[1])} (layer {low[0]})", f"{percent_digits(high[1])} (layer {high[0]})"
            yield f"{side.letter} from {least} to {most}"
