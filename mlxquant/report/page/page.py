"""The page itself: sections from records, put into the template with its style and script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from ...records.loading import BENCH, COMPARE, DIFF, EVAL, PREDICTIONS, SIDES, SWEEP, TAU2, VALIDATE, Loaded
from ...records.modules import relative_error
from ...words.text import percent_digits, some
from ...words.units import show_bytes, show_count
from .bench import prediction, throughput
from .builds import Model, by_reason, by_role, figures, find_models
from .charts import available, error_by_layer, error_ranges
from .compare import quality
from .eval import evaluation
from .others import differences, is_unknown, provenance, show_diff, unknown
from .precision_map import draw_maps, table_of
from .sweep import swept
from .verdict import agent_runs, verdict

_TEMPLATE, _STYLE, _SCRIPT = "page.html.jinja", "page.css", "page.js"

# How a page begins, by which an earlier one is known.
BEGINNING = rb'(?s)<!doctype html>.{0,2000}<meta name="generator" content="mlxquant '


def make_report(records: Sequence[Loaded], title: str | None = None) -> str:
    """Write the page. Needs jinja2; draws charts where matplotlib is installed."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    from ... import __version__

    draw = available()
    diffs = _of(records, DIFF)
    models = find_models(loaded for loaded in records if loaded.schema in SIDES)
    style, script = (_text(name) for name in (_STYLE, _SCRIPT))
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": show_bytes, "count": show_count, "error": percent_digits}
    page: str = environment.get_template(_TEMPLATE).render(
        title=title or _title(models, records),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        svg=Markup,
        drawn=draw,
        models=[_model(model, diffs, draw=draw) for model in models],
        diffs=[show_diff(loaded.record) for loaded in diffs],
        benches=[throughput(loaded, i, draw=draw) for i, loaded in enumerate(_of(records, BENCH), 1)],
        comparisons=[quality(loaded, i, draw=draw) for i, loaded in enumerate(_of(records, COMPARE), 1)],
        verdicts=[verdict(loaded) for loaded in _of(records, VALIDATE)],
        sweeps=[swept(loaded, i, draw=draw) for i, loaded in enumerate(_of(records, SWEEP), 1)],
        evaluations=[evaluation(loaded, i, draw=draw) for i, loaded in enumerate(_of(records, EVAL), 1)],
        agents=[agent_runs(loaded) for loaded in _of(records, TAU2)],
        predictions=[prediction(loaded) for loaded in _of(records, *PREDICTIONS)],
        others=list(unknown([loaded for loaded in records if is_unknown(loaded)])),
        provenance=provenance(records),
    )
    # a title from the command line may hold bytes that are no text
    return page.encode("utf-8", "replace").decode("utf-8")


def _of(records: Sequence[Loaded], *schemas: str) -> list[Loaded]:
    return [loaded for loaded in records if loaded.schema in schemas]


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _title(models: Sequence[Model], records: Sequence[Loaded]) -> str:
    named = list(dict.fromkeys(model.title for model in models)) or [loaded.name for loaded in records]
    return some(named)


def _model(model: Model, diffs: Sequence[Loaded], *, draw: bool) -> dict[str, Any]:
    roles = by_role(model)
    return {
        "id": f"m{model.number}",
        "title": model.title,
        "facts": model.facts,
        "sides": [{"letter": s.letter, "name": s.name, "kind": s.kind} for s in model.sides],
        "cards": figures(model),
        "maps": draw_maps(model),
        "diffs": list(differences(model, diffs)),
        "roles": roles,
        "reasons": by_reason(model),
        "measured": any(side["errors"] for line in roles for side in line["sides"]),
        "pictures": list(_error_charts(model, roles)) if draw else [],
        "table": table_of(model),
    }


def _error_charts(model: Model, roles: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """A chart of all roles, and one by layer of each role that has errors in several layers."""
    ranges = [(line["role"], [_spread(side) for side in line["sides"]]) for line in roles]
    ranges = [(role, spreads) for role, spreads in ranges if any(spreads)]
    if not ranges:
        return
    yield {
        "title": "by role",
        "svg": error_ranges(ranges, f"m{model.number}-roles"),
        "label": "Relative RMS error by role: "
        + "; ".join(_range_words(model, role, spreads) for role, spreads in ranges),
    }
    points = {role: [_by_layer(side.modules.values(), role) for side in model.sides] for role, _ in ranges}
    flat = [error for sides in points.values() for side in sides for _, error in side]
    limits = (min(flat, default=0.0), max(flat, default=0.0))
    for i, (role, sides) in enumerate(points.items()):
        if len({layer for side in sides for layer, _ in side}) > 1:
            yield {
                "title": f"{role}, by layer",
                "svg": error_by_layer(sides, limits, f"m{model.number}-layers-{i}"),
                "label": f"Relative RMS error of {role} modules by layer: " + "; ".join(_worst(model, sides)),
            }


def _spread(side: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Least, pooled and worst error of a role's modules; None without one above zero, which no logarithm has."""
    errors = [e for e in side["errors"] if e > 0]
    if not errors:
        return None
    return min(errors), side["error"] or max(errors), max(errors)


def _by_layer(modules: Any, role: str) -> list[tuple[int, float]]:
    errors = ((m["layer"], relative_error(m)) for m in modules if m["role"] == role and m["layer"] is not None)
    return [(layer, error) for layer, error in errors if error]


def _range_words(model: Model, role: str, spreads: Sequence[tuple[float, float, float] | None]) -> str:
    sides = [
        f"{side.letter} {pooled}, modules from {least} to {worst}"
        for side, spread in zip(model.sides, spreads, strict=True)
        if spread
        for least, pooled, worst in [map(percent_digits, spread)]
    ]
    return f"{role}: {', '.join(sides)}"


def _worst(model: Model, series: Sequence[Sequence[tuple[int, float]]]) -> Iterator[str]:
    for side, points in zip(model.sides, series, strict=True):
        if points:
            low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
            least, most = f"{percent_digits(low[1])} (layer {low[0]})", f"{percent_digits(high[1])} (layer {high[0]})"
            yield f"{side.letter} from {least} to {most}"
