"""A plan as text that fits a terminal of 80 columns: what each part becomes, what it weighs, what is kept and why.

Pure functions from a plan to lines; nothing is decided or counted here that the record does not hold.

Which builds fit a machine, as text that fits a terminal of 80 columns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..words.modules import ROLES, is_raw_router
from ..words.text import filled
from ..words.units import show_bytes, show_count

if TYPE_CHECKING:
    from ..plan.fits import Fit, Fits
    from ..plan.plan import Plan, PlannedModule


# --- plan ---


_INDENT = 12


def plan_text(plan: Plan) -> str:
    """Write a plan for a reader: head, table, totals, what is protected, dropped, noted and warned of."""
    parts = (_head(plan), part_table(plan.modules), _totals(plan), _kept(plan), _remarks(plan))
    return "\n\n".join(part for part in parts if part)


def part_table(modules: Sequence[PlannedModule]) -> str:
    """Write the table by role, layer type and format, in the order of the roles; 79 columns at most."""
    from tabulate import tabulate

    groups: dict[tuple[int, str, str], list[PlannedModule]] = defaultdict(list)
    for m in modules:
        groups[ROLES.index(m.module.role), short_layer(m.module.layer_type), short_format(m)].append(m)
    whole = sum(m.nbytes for m in modules)
    rows = []
    for (role, layer, fmt), members in sorted(groups.items(), key=lambda item: item[0][:2]):
        size = sum(m.nbytes for m in members)
        parameters = sum(m.module.parameters for m in members)
        cells = (f"{len(members):,}", show_count(parameters), fmt, show_bytes(size, 1), _percent(size, whole))
        rows.append((ROLES[role], layer, *cells))
    headers = ("role", "layer", "modules", "params", "format", "bytes", "share")
    align = ("left", "left", "right", "right", "left", "right", "right")
    return str(tabulate(rows, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True))


def short_layer(layer_type: str | None) -> str:
    """Shorten a layer type to a column's width. ``short_layer("full_attention") == "full"``."""
    return (layer_type or "-").removesuffix("_attention")


def short_format(planned: PlannedModule) -> str:
    """Name what a module is stored as: its format, or the dtype it keeps."""
    return str(planned.format) if planned.format else planned.module.weight.dtype.lower()


def source_text(source: Mapping[str, Any]) -> str:
    """Say in a line what a record's source is."""
    at = f" at {source['revision'][:12]}" if source["revision"] else ""
    read = "config alone" if source["kind"] == "config" else "headers of its shards"
    return f"{source['name']}{at} ({source['model_type']}, {source['layers']} layers; read from the {read})"


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Name a record's recipe with what changed it. ``"gates-8bit --group-size 32"``."""
    overrides = recipe.get("overrides")
    return " ".join(str(word) for word in (recipe.get("name"), *(overrides if isinstance(overrides, list) else ())))


def _head(plan: Plan) -> str:
    recipe = plan.recipe
    of = f"{recipe.name} is " if recipe.overrides else ""  # the summary knows nothing of what changes the recipe
    lines = (
        filled("source", source_text(plan.source)),
        filled("recipe", f"{recipe}: {of}{recipe.summary}"),
        filled("sha256", recipe.sha256),
    )
    return "\n".join(lines)


def _totals(plan: Plan) -> str:
    t = plan.totals
    size, source, active = t["bytes"], t["source_bytes"], t["active_bytes_per_token"]
    lines: list[tuple[str, int, str]] = [
        ("parameters", t["parameters"], ""),
        ("bytes", size, f"{show_bytes(size)}, {t['bpw']:.4f} bits per weight"),
        ("source", source, show_bytes(source)),
        ("active", t["active_parameters"], f"parameters that one token uses{_top_k(plan)}"),
        ("", active, f"bytes read to decode it, {show_bytes(active)}"),
    ]
    for name, entry in plan.carried_files().items():
        lines.append(("beside", entry["bytes"], f"{name}, {entry['tensors']:,} tensors that the model does not load"))
    wide = max(len(f"{amount:,}") for _, amount, _ in lines)
    return "\n".join(f"{label:<{_INDENT}}{amount:>{wide},}  {text}".rstrip() for label, amount, text in lines)


def _top_k(plan: Plan) -> str:
    shares = Counter(m.share for m in plan.modules if m.module.role == "expert")
    return f" ({', '.join(f'{k} of {n} experts' for k, n in shares)})" if len(shares) == 1 else ""


def _kept(plan: Plan) -> str:
    left = unaligned_text(m.module.role for m in plan.modules if m.decision.unaligned)
    return _protected(plan) + (f"\n{filled('unaligned', left)}" if left else "")


def _protected(plan: Plan) -> str:
    if not plan.protected:
        raw = sum(is_raw_router(m.module) for m in plan.modules)
        why = f"the {raw:,} routers stay at source precision anyway" if raw else "no rule keeps what mlx can quantize"
        return filled("protected", f"0 modules: {why}")
    groups: dict[tuple[str, str], list[PlannedModule]] = defaultdict(list)
    for m in plan.protected:
        groups[m.decision.rule or "", m.decision.reason].append(m)
    lines = [filled("protected", f"{len(plan.protected):,} modules that mlx can quantize and a rule keeps:")]
    for (rule, reason), members in groups.items():
        roles = Counter(m.module.role for m in members)
        counts = ", ".join(f"{n:,} {role}" for role, n in roles.items())
        lines.append(filled("", f"{counts}: {reason} [{rule}]"))
    return "\n".join(lines)


def unaligned_text(roles: Iterable[str]) -> str:
    """How many modules of which roles stay as they are for their width; nothing where there are none."""
    found = Counter(roles)
    if not found:
        return ""
    counts = ", ".join(f"{n:,} {role}" for role, n in found.items())
    noun, them = ("modules", "them") if found.total() > 1 else ("module", "it")
    return f"{counts} {noun} left unquantized: the group size does not divide {them}"


def _remarks(plan: Plan) -> str:
    return "\n".join(
        [
            *_dropped(plan),
            *(filled("note", note) for note in plan.notes),
            *(filled("warning", warning) for warning in plan.warnings),
        ]
    )


def _dropped(plan: Plan) -> Iterator[str]:
    kinds = plan.dropped["by_kind"]
    if kinds:
        counts = [f"{k['tensors']:,} {kind} tensors ({show_bytes(k['bytes'])})" for kind, k in kinds.items()]
        yield filled("dropped", f"{', '.join(counts)}, which mlx-lm's text model has no place for")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


# --- fits text ---


def fits_text(fits: Fits) -> str:
    """Write what fits for a reader: the memory and whose rule divides it, the context, a table, the best."""
    return "\n\n".join((_fits_head(fits), _table(fits), _verdict(fits)))


def _fits_head(fits: Fits) -> str:
    memory, (k, n) = fits.memory, fits.memory.share
    room = (
        f"{show_bytes(memory.total)}: {show_bytes(memory.usable)} for weights and cache, since macOS lets the GPU wire"
        f" {k}/{n} of the memory (2/3 below 36 GiB, 3/4 from there on; macOS 26 more), and"
        f" {show_bytes(memory.headroom)} headroom for the system. `sudo sysctl iogpu.wired_limit_mb=N` moves the limit."
    )
    how = "as mlx-lm's model makes it" if fits.cost.method == "model" else fits.cost.note or ""
    context = f"{fits.tokens:,} tokens of one sequence: {show_bytes(fits.context_bytes)} of KV and state cache, {how}"
    rest = "the working memory of a pass, up to a few GB while a long prompt is read"
    lines = [("source", source_text(fits.source)), ("memory", room), ("context", context), ("not counted", rest)]
    if fits.overrides:
        lines.insert(1, ("overrides", " ".join(fits.overrides)))
    return "\n".join(filled(label, text) for label, text in lines)


def _table(fits: Fits) -> str:
    from tabulate import tabulate

    rows = [_row(fit) for fit in fits.recipes]
    headers = ("recipe", "bpw", "weights", "with cache", "spare", "fits")
    align = ("left", "right", "right", "right", "right", "left")
    return str(tabulate(rows, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True))


def _row(fit: Fit) -> tuple[str, ...]:
    if fit.bytes is None or fit.needed is None or fit.spare is None:
        return fit.recipe, "-", "-", "-", "-", "cannot be had"
    sizes = (show_bytes(fit.bytes), show_bytes(fit.needed), _signed(fit.spare))
    return fit.recipe, f"{fit.bpw:.3f}", *sizes, "yes" if fit.fits else "no"


def _signed(n: int) -> str:
    return show_bytes(n) if n >= 0 else f"-{show_bytes(-n)}"


def _verdict(fits: Fits) -> str:
    lines = [filled("note", f"{', '.join(names)}: {problem}") for problem, names in _problems(fits).items()]
    possible = [fit for fit in fits.recipes if fit.needed is not None]
    if best := fits.best:
        text = f"{best.recipe}, the least quantized of these that fits" if len(fits.recipes) > 1 else best.recipe
        if pitfalls := [f.recipe for f in fits.recipes if f.fits and (f.bpw or 0) > (best.bpw or 0)]:
            text += f" ({', '.join(pitfalls)} stands here for comparison only)"
        lines.append(filled("best", text))
    elif possible:
        least = min(possible, key=lambda fit: fit.needed or 0)
        lines.append(
            filled("best", f"nothing fits: the smallest, {least.recipe}, is {_signed(-(least.spare or 0))} too large")
        )
    else:
        lines.append(filled("best", "nothing fits: no recipe suits this model"))
    return "\n".join(lines)


def _problems(fits: Fits) -> dict[str, list[str]]:
    """What keeps recipes from this model -> their names. The modules at fault stand in the record."""
    problems: dict[str, list[str]] = {}
    for fit in fits.recipes:
        if fit.reason:
            problems.setdefault(fit.reason, []).append(fit.recipe)
    return problems
